//! A real apt-get behind the gate, and its speed.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use super::support::*;
use crate::gate::{CacheSettings, Fetched, Limits, Settings};

/// A flat repository of packages `name`, each of about `bytes`.
fn repository(dir: &Path, names: &[&str], bytes: usize) {
    let mut packages = String::new();
    for name in names {
        let tree = dir.join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: 1:1.0+x~1\nArchitecture: all\nMaintainer: A <a@b.test>\n\
             Description: a test\n"
        );
        fs::write(tree.join("DEBIAN/control"), &control).unwrap();
        fs::write(tree.join("data"), noise(name, bytes)).unwrap();
        // The names of the archive: without the epoch.
        let file = format!("{name}_1.0+x~1_all.deb");
        let made = Command::new("dpkg-deb")
            .args(["-Znone", "--root-owner-group", "-b"])
            .arg(&tree)
            .arg(dir.join(&file))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        fs::remove_dir_all(&tree).unwrap();
        let deb = fs::read(dir.join(&file)).unwrap();
        packages += &format!(
            "{control}Filename: ./{file}\nSize: {}\nSHA256: {}\n\n",
            deb.len(),
            sha256(&deb)
        );
    }
    fs::write(dir.join("Packages"), &packages).unwrap();
    let hash = sha256(packages.as_bytes());
    let by_hash = dir.join("by-hash/SHA256");
    fs::create_dir_all(&by_hash).unwrap();
    fs::write(by_hash.join(&hash), &packages).unwrap();
    let release = format!(
        "Date: Sun, 22 Nov 2026 11:32:28 UTC\nAcquire-By-Hash: yes\nSHA256:\n {hash} {} Packages\n",
        packages.len()
    );
    fs::write(dir.join("Release"), release).unwrap();
}

/// Bytes that differ for each name.
fn noise(name: &str, bytes: usize) -> Vec<u8> {
    let mut state = name
        .bytes()
        .fold(88_172_645_463_325_252_u64, |state, byte| {
            state.wrapping_mul(31) + u64::from(byte)
        });
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Serves the files of `dir` below `/repo/`.
fn serve(dir: PathBuf) -> Server {
    Server::with(move |stream, head| send(&dir, stream, head).is_ok())
}

fn send(dir: &Path, stream: &mut TcpStream, head: &str) -> std::io::Result<()> {
    let target = head.split(' ').nth(1).unwrap();
    let target = target
        .strip_prefix(&format!("http://{NAME}:"))
        .map_or(target, |rest| &rest[rest.find('/').unwrap()..]);
    let name = target.replace("%2b", "+").replace("%7e", "~");
    let path = dir.join(name.trim_start_matches("/repo/"));
    let Ok(mut file) = fs::File::open(&path).and_then(|file| {
        let regular = file.metadata()?.is_file();
        regular
            .then_some(file)
            .ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let length = file.metadata()?.len();
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
    std::io::copy(&mut file, stream).map(drop)
}

/// The state of an apt of its own.
struct Apt {
    dir: tempfile::TempDir,
}

impl Apt {
    fn new(source: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in [
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "etc/apt/auth.conf.d",
            "etc/apt/trusted.gpg.d",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/log/apt",
        ] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("status"), "").unwrap();
        fs::write(dir.path().join("etc/apt/sources.list"), source).unwrap();
        // apt may fetch as user _apt.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), open).unwrap();
        Self { dir }
    }

    fn run(&self, proxy: Option<u16>, args: &[&str]) -> Output {
        let dir = self.dir.path();
        let mut command = Command::new("apt-get");
        command
            .current_dir(dir)
            .env_clear()
            .env("LANG", "C")
            .env("PATH", std::env::var("PATH").unwrap())
            .env("APT_CONFIG", "/dev/null")
            .arg(format!("-oDir={}", dir.display()))
            .arg(format!("-oDir::State::status={}/status", dir.display()))
            .arg("-oDir::Bin::methods=/usr/lib/apt/methods")
            .args(["-oAPT::Sandbox::User=root", "-oAcquire::Retries=0", "-qq"])
            .args(["-oAcquire::Languages=none", "-oAPT::Update::Error-Mode=any"]);
        if let Some(port) = proxy {
            command.arg(format!("-oAcquire::http::Proxy=http://127.0.0.1:{port}"));
        }
        command.args(args).output().unwrap()
    }

    /// Removes what was fetched.
    fn forget(&self) {
        let apt = Self::new("");
        for folder in ["var/lib/apt/lists", "var/cache/apt"] {
            fs::remove_dir_all(self.dir.path().join(folder)).unwrap();
            let empty = apt.dir.path().join(folder);
            fs::rename(empty, self.dir.path().join(folder)).unwrap();
        }
    }
}

fn text(output: &Output) -> String {
    let streams = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&streams).into_owned()
}

#[test]
fn apt_updates_and_downloads_through_the_gate_and_its_cache() {
    let repo = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..25).map(|n| format!("package{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    repository(repo.path(), &names, 50_000);
    let server = serve(repo.path().to_path_buf());
    let source = format!("deb [trusted=yes] {} ./\n", server.url("/repo"));
    let cache = tempfile::tempdir().unwrap();
    for build in 0..2 {
        let mut settings = settings();
        settings.cache = Some(CacheSettings {
            dir: cache.path().to_path_buf(),
            limit: 1 << 30,
            reserve: 0,
        });
        let site = Site::start(&[&source], settings);
        let apt = Apt::new(&source);
        let updated = apt.run(Some(site.port), &["update"]);
        assert!(updated.status.success(), "{}", text(&updated));
        let list = fs::read_to_string(repo.path().join("Packages")).unwrap();
        let field = |stanza: &str, name: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().to_owned()
        };
        let files: Vec<(String, String, u64)> = list
            .split_terminator("\n\n")
            .map(|stanza| {
                let size = field(stanza, "Size: ").parse().unwrap();
                (field(stanza, "Filename: "), field(stanza, "SHA256: "), size)
            })
            .collect();
        let files = files.iter();
        site.gate
            .know(files.map(|(name, sha256, size)| (name.as_str(), sha256.as_str(), *size)));
        let download = [&["download"], names.as_slice()].concat();
        let downloaded = apt.run(Some(site.port), &download);
        assert!(downloaded.status.success(), "{}", text(&downloaded));
        for name in &names {
            // apt puts the epoch into the name.
            let file = apt.dir.path().join(format!("{name}_1%3a1.0+x~1_all.deb"));
            let original = repo.path().join(format!("{name}_1.0+x~1_all.deb"));
            assert!(
                fs::read(file).unwrap() == fs::read(original).unwrap(),
                "{name}"
            );
        }
        let debs: Vec<bool> = site
            .gate
            .record()
            .iter()
            .filter_map(|fetched| match fetched {
                Fetched::File {
                    url, from_cache, ..
                } => url.ends_with(".deb").then_some(*from_cache),
                Fetched::Tunnel { .. } => None,
            })
            .collect();
        assert_eq!(debs, vec![build == 1; names.len()]);
        assert_eq!(site.gate.refused(), Vec::<String>::new());
        assert_eq!(site.gate.failed(), Vec::<String>::new());
    }
}

#[test]
fn apt_shows_the_reason_of_a_refusal() {
    let repo = tempfile::tempdir().unwrap();
    repository(repo.path(), &["a"], 10);
    let server = serve(repo.path().to_path_buf());
    let site = Site::start(&["http://other.test/"], settings());
    let plain = format!("deb [trusted=yes] {} ./\n", server.url("/repo"));
    let tls = "deb [trusted=yes] https://deb.test/repo ./\n".to_owned();
    for (source, reason) in [
        (&plain, "is not an archive of this build"),
        (&tls, "deb.test:443 is not an archive of this build"),
    ] {
        let updated = Apt::new(source).run(Some(site.port), &["update"]);
        assert!(!updated.status.success());
        assert!(text(&updated).contains(reason), "{}", text(&updated));
    }
    site.gate.close();
    let updated = Apt::new(&plain).run(Some(site.port), &["update"]);
    let reason = "403  the build has begun: no network";
    assert!(text(&updated).contains(reason), "{}", text(&updated));
    assert_eq!(server.connections(), 0);
}

/// Measures `apt-get update` and 100 MB of packages, with the gate and without, in pairs: from a
/// server on loopback, or from the archive of `GATE_SOURCE`, a line of apt's sources, the packages
/// `GATE_PACKAGES`.
#[test]
#[ignore = "measures; run it alone, in a release build"]
fn speed_of_apt_through_the_gate() {
    let repo = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..100).map(|n| format!("package{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Ok(source) = std::env::var("GATE_SOURCE") else {
        repository(repo.path(), &names, 1_000_000);
        let server = serve(repo.path().to_path_buf());
        // Without the gate, the server is apt's proxy: apt cannot resolve its name.
        let source = format!("deb [trusted=yes] {} ./\n", server.url("/repo"));
        return measure(&source, &names, Some(server.port), &settings());
    };
    let packages = std::env::var("GATE_PACKAGES").unwrap();
    let packages: Vec<&str> = packages.split_whitespace().collect();
    let mut settings = Settings::new(Limits::default());
    let host = source.split('/').nth(2).unwrap();
    settings.private = vec![host.parse().unwrap()];
    measure(&source, &packages, None, &settings);
}

/// Prints the times of all pairs and their ratios; `direct` is the proxy without the gate.
fn measure(source: &str, packages: &[&str], direct: Option<u16>, settings: &Settings) {
    const PAIRS: usize = 11;
    let apt = Apt::new(source);
    let time = |proxy: Option<u16>| {
        apt.forget();
        let begun = Instant::now();
        let updated = apt.run(proxy, &["update"]);
        assert!(updated.status.success(), "{}", text(&updated));
        let downloaded = apt.run(proxy, &[&["download"], packages].concat());
        assert!(downloaded.status.success(), "{}", text(&downloaded));
        let time = begun.elapsed();
        for entry in fs::read_dir(apt.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                fs::remove_file(path).unwrap();
            }
        }
        time
    };
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let site = Site::start(&[source], settings.clone());
        let proxy = Some(site.port);
        // Each goes first in half of the pairs.
        let (without, with) = if pair % 2 == 0 {
            (time(direct), time(proxy))
        } else {
            let with = time(proxy);
            (time(direct), with)
        };
        eprintln!("without {without:?}, with {with:?}");
        assert!(!site.gate.record().is_empty());
        ratios.push(with.as_secs_f64() / without.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    eprintln!("ratios {ratios:.3?}\nmedian {:.3}", ratios[PAIRS / 2]);
}
