//! A wrong configuration stops the daemon before it does anything, and all mistakes are reported.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::support::{Daemon, Site, run};

fn check(site: &Site, args: &[&str]) -> (Option<i32>, String) {
    run(site.command(args))
}

fn config(site: &Site) -> String {
    site.config().to_str().unwrap().to_owned()
}

#[test]
fn check_config_accepts_a_good_configuration() {
    let site = Site::new("");
    let (code, said) = check(&site, &["check-config", &config(&site)]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let site = Site::new("bindport = x\nstatusform = yaml\nnosuchkey = 1\n[limits]\nhead = many");
    let file = config(&site);
    for args in [["check-config", &file, ""], ["serve", "--config", &file]] {
        let args: Vec<&str> = args.into_iter().filter(|word| !word.is_empty()).collect();
        let (code, said) = check(&site, &args);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        for key in [
            "[slave] bindport",
            "[slave] statusform",
            "[slave] nosuchkey",
            "[limits] head",
        ] {
            let reported = said
                .lines()
                .any(|line| line.contains(&file) && line.contains(key));
            assert!(reported, "{args:?}: no line about {key} in {said}");
        }
    }
    assert!(!site.path("home/journal").exists(), "no journal is created");
}

#[test]
fn the_environment_variable_names_the_configuration() {
    let site = Site::new("bindport = x");
    for args in [&["check-config"][..], &["serve"], &[]] {
        let mut command = site.command(args);
        command.env("BUILDD_SLAVE_CONFIG", site.config());
        let (code, said) = run(command);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.contains("[slave] bindport"), "{args:?}: {said}");
    }
}

#[test]
fn a_missing_configuration_is_reported_by_its_path() {
    let site = Site::new("");
    let absent = site.path("absent.conf").display().to_string();
    for args in [
        &["check-config", &absent][..],
        &["serve", "--config", &absent],
    ] {
        let (code, said) = check(&site, args);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.contains(&absent), "{args:?}: {said}");
    }
}

#[test]
fn missing_folders_and_programs_are_reported_together() {
    let site = Site::new("");
    let file = config(&site);
    let cache = site.path("not-mounted");
    site.configure(&format!("filecache = {}", cache.display()));
    fs::remove_file(site.path("bin/ogre")).unwrap();
    let (code, said) = check(&site, &["check-config", &file]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(cache.to_str().unwrap()), "{said}");
    assert!(
        said.contains("ogrepath"),
        "both mistakes are reported: {said}"
    );
    let (code, said) = check(&site, &["serve", "--config", &file]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(cache.to_str().unwrap()), "{said}");
    assert!(!said.contains("ready"), "{said}");
}

#[test]
fn the_daemon_creates_its_folders_for_its_user_alone() {
    let site = Site::new("");
    fs::remove_dir_all(site.path("home/filecache")).unwrap();
    let (code, said) = check(&site, &["check-config", &config(&site)]);
    assert_eq!(code, Some(0), "{said}");
    let daemon = Daemon::start_in(site);
    let home = daemon.path("home").metadata().unwrap();
    for folder in ["filecache", "journal"] {
        let about = daemon.path("home").join(folder).metadata().unwrap();
        assert_eq!(about.mode() & 0o7777, 0o700, "{folder}");
        assert_eq!(
            (about.uid(), about.gid()),
            (home.uid(), home.gid()),
            "{folder}"
        );
    }
    assert_eq!(daemon.state(), "IDLE");
}

#[test]
fn a_port_in_use_is_reported() {
    let first = Daemon::start("");
    let site = Site::new(&format!("\n[builder]\nbindport = {}", first.port));
    // A second section for the same keys is a mistake, so the port is written into the first.
    let text = fs::read_to_string(site.config()).unwrap();
    let text = text
        .replace("[builder]\n", "")
        .replace("bindport = 0\n", "");
    fs::write(site.config(), text).unwrap();
    let (code, said) = check(&site, &["serve", "--config", &config(&site)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&first.port.to_string()), "{said}");
}

#[test]
fn keys_of_the_reference_without_effect_are_logged_and_ignored() {
    let daemon = Daemon::start("ntphost = ntp.buildd\n[snapmanager]\nproxyport = 1");
    let said = daemon.said();
    assert!(
        said.contains("ntphost") && said.contains("snapmanager"),
        "{said}"
    );
    daemon.check_usable();
}

#[test]
fn the_shipped_configuration_passes_check_config() {
    let site = Site::new("");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("buildd-slave.conf");
    // The configured home may lack a file cache on this machine, so the site's is used.
    let home = format!("[slave]\nhome = {}\n", site.path("home").display());
    let text = fs::read_to_string(shipped)
        .unwrap()
        .replace("[slave]\n", &home);
    fs::write(site.config(), text).unwrap();
    let (code, said) = check(&site, &["check-config", &config(&site)]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_wrong_command_line_shows_the_usage_and_exits_with_2() {
    let site = Site::new("");
    for args in [
        &["frobnicate"][..],
        &["serve", "--frob"],
        &["serve", "extra"],
    ] {
        let (code, said) = check(&site, args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains("Usage: "), "{said}");
    }
}
