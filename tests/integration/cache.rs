//! The file cache: eviction, files that stay, damaged files, and disks that are full or read-only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::support::mounts::{may_mount, mount_tmpfs, set_read_only, unmount_all};
use crate::support::{Daemon, FileServer, Site, run, send, sha1};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The content of a file: `len` bytes that are all `letter`.
fn blob(letter: char, len: usize) -> Vec<u8> {
    vec![letter as u8; len]
}

/// A server of such files at `/LETTER/LEN/HOW`; `HOW` is `length`, `chunks` or `close`.
fn server() -> FileServer {
    FileServer::start(|head, stream| {
        let path: Vec<&str> = head.split(' ').nth(1).unwrap().split('/').collect();
        let body = blob(path[1].chars().next().unwrap(), path[2].parse().unwrap());
        let begin = |stream: &mut std::net::TcpStream, header: &str| {
            write!(stream, "HTTP/1.1 200 OK\r\n{header}\r\n")
        };
        // A daemon without space for the file hangs up.
        let _ = match path[3] {
            "chunks" => begin(stream, "Transfer-Encoding: chunked\r\n").and_then(|()| {
                for chunk in body.chunks(100_000) {
                    write!(stream, "{:x}\r\n", chunk.len())?;
                    stream.write_all(chunk)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")
            }),
            "close" => {
                begin(stream, "Connection: close\r\n").and_then(|()| stream.write_all(&body))
            }
            _ => {
                send(stream, "200 OK", &body);
                Ok(())
            }
        };
    })
}

/// A daemon's cache, filled from a server.
struct Cache {
    daemon: Daemon,
    files: FileServer,
}

impl Cache {
    fn start(site: Site) -> Self {
        Self {
            daemon: Daemon::start_in(site),
            files: server(),
        }
    }

    fn ensure(&self, letter: char, len: usize, how: &str) -> Json {
        let url = self.files.url(&format!("{letter}/{len}/{how}"));
        let sum = sha1(&blob(letter, len));
        let params = [json!(sum), json!(url), json!(""), json!("")];
        self.daemon.ok("ensurepresent", &params)
    }

    /// Fetches a file that fits.
    fn fetch(&self, letter: char, len: usize) -> String {
        assert_eq!(
            self.ensure(letter, len, "length"),
            json!([true, "Download"])
        );
        sha1(&blob(letter, len))
    }

    /// Asks for a file that does not fit; returns the reason.
    fn refused(&self, letter: char, len: usize, how: &str) -> String {
        let answer = self.ensure(letter, len, how);
        assert_eq!(answer[0], false, "{answer}");
        answer[1].as_str().unwrap().to_owned()
    }

    /// Runs a build, which frees files that were fetched before it.
    fn run_a_build(&self) {
        self.daemon
            .on("sbuild", "printf x > $work/h.bin; changes h.bin");
        self.daemon.build_to_end("passing", json!({}));
        self.daemon.clean();
    }

    fn has(&self, sum: &str) -> bool {
        let sum = json!(sum);
        let answer = self
            .daemon
            .ok("ensurepresent", &[sum, json!(null), json!(""), json!("")]);
        assert_eq!(answer[1], "No URL");
        answer[0].as_bool().unwrap()
    }
}

fn is_there(folder: &Path, sum: &str) -> bool {
    folder.join(sum).exists()
}

/// Checks that every file of the cache is named by its hash, and that none is half-written.
fn check_sums(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name != ".daemon" {
            assert_eq!(sha1(&fs::read(entry.path()).unwrap()), name);
        }
    }
}

#[test]
fn a_full_cache_evicts_the_least_recently_used_file() {
    let cache = Cache::start(Site::new("[limits]\ncache_size = 10000\nreserve = 1"));
    let folder = cache.daemon.path("home/filecache");
    let [a, b, c] = ['a', 'b', 'c'].map(|letter| cache.fetch(letter, 3000));
    // The next build may need all three.
    let reason = cache.refused('d', 3000, "length");
    assert_eq!(
        reason,
        "Error keeping the file: no room for 3000 bytes: [limits] cache_size is 10000, of which \
         9000 are in use"
    );
    cache.run_a_build();
    assert_eq!(cache.daemon.get(&format!("/filecache/{a}")).status, 200);
    let d = cache.fetch('d', 3000);
    let left = [&a, &b, &c, &d].map(|sum| is_there(&folder, sum));
    assert_eq!(left, [true, false, true, true]);
    // A file larger than the whole cache evicts nothing.
    cache.run_a_build();
    cache.refused('e', 10_001, "chunks");
    assert!(is_there(&folder, &d));
    check_sums(&folder);
}

#[test]
fn inputs_and_results_of_a_build_are_not_evicted() {
    let site = Site::new("[limits]\ncache_size = 10000\nreserve = 1");
    let mut cache = Cache::start(site);
    let folder = cache.daemon.path("home/filecache");
    let inputs = [cache.daemon.chroot(), cache.daemon.dsc()];
    let old = cache.fetch('o', 5000);
    let script = "hold; head -c 6000 /dev/zero > $work/h.bin; changes h.bin";
    cache.daemon.on("sbuild", script);
    cache.daemon.build("b1", json!({}));
    cache.daemon.wait_at("sbuild");
    for restarted in [false, true] {
        if restarted {
            cache.daemon.kill();
            cache.daemon.restart();
        }
        cache.refused('x', 9990, "length");
        assert!(inputs.iter().all(|sum| is_there(&folder, sum)));
    }
    // Results evict files that can be fetched again.
    cache.daemon.let_go("sbuild");
    let status = cache.daemon.wait_over();
    assert_eq!(
        status["build_status"],
        "BuildStatus.OK",
        "{}",
        cache.daemon.log()
    );
    assert!(!is_there(&folder, &old));
    let result = status["filemap"]["h.bin"].as_str().unwrap().to_owned();
    for restarted in [false, true] {
        if restarted {
            cache.daemon.kill();
            cache.daemon.restart();
        }
        cache.refused('x', 9000, "close");
        assert_eq!(
            cache.daemon.get(&format!("/filecache/{result}")).body.len(),
            6000
        );
    }
    cache.daemon.clean();
    cache.fetch('x', 9900);
    check_sums(&folder);
}

/// Downloads compete for space while the results are copied into the cache.
#[test]
fn results_are_not_evicted_while_they_are_gathered() {
    let cache = Cache::start(Site::new("[limits]\ncache_size = 60000\nreserve = 1"));
    let script = "cd $work; for n in 1 2 3 4 5 6 7 8 9; do for m in 0 1 2; do \
                  head -c 1000 /dev/zero | tr '\\0' $n > $n$m.bin; echo $m >> $n$m.bin; done; done; \
                  cd ..; hold; changes $(cd $work; ls *.bin)";
    cache.daemon.on("sbuild", script);
    cache.daemon.build("b1", json!({}));
    cache.daemon.wait_at("sbuild");
    cache.daemon.let_go("sbuild");
    let mut sizes = (1..).map(|number| 9000 + number);
    while cache.daemon.state() == "BUILDING" {
        for letter in ['x', 'y', 'z'] {
            cache.ensure(letter, sizes.next().unwrap(), "length");
        }
    }
    let status = cache.daemon.wait_over();
    assert_eq!(
        status["build_status"],
        "BuildStatus.OK",
        "{}",
        cache.daemon.log()
    );
    let files = status["filemap"].as_object().unwrap();
    assert_eq!(files.len(), 28);
    for sum in files.values() {
        let answer = cache
            .daemon
            .get(&format!("/filecache/{}", sum.as_str().unwrap()));
        assert_eq!(answer.status, 200);
    }
    check_sums(&cache.daemon.path("home/filecache"));
}

#[test]
fn results_larger_than_the_cache_are_builderfail() {
    let cache = Cache::start(Site::new("[limits]\ncache_size = 10000\nreserve = 1"));
    let before = cache.daemon.names("home/filecache");
    let script =
        "head -c 6000 /dev/zero | tee $work/h.bin | tr '\\0' x > $work/i.bin; changes h.bin i.bin";
    cache.daemon.on("sbuild", script);
    let status = cache.daemon.build_to_end("b1", json!({}));
    assert_eq!(status["build_status"], "BuildStatus.BUILDERFAIL");
    let log = cache.daemon.log();
    assert!(
        log.contains("no room for 6000 bytes: [limits] cache_size is 10000"),
        "{log}"
    );
    assert_eq!(cache.daemon.names("home/filecache"), before);
    cache.daemon.clean();
    cache.daemon.check_usable();
}

#[test]
fn a_file_changed_on_disk_is_detected() {
    let mut cache = Cache::start(Site::new(""));
    let folder = cache.daemon.path("home/filecache");
    let truncate = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::write(path, "a chr").unwrap();
    };
    for restarted in [true, false] {
        // By `ensurepresent`.
        let sum = cache.fetch('a', 3000);
        let path = folder.join(&sum);
        if restarted {
            cache.daemon.stop();
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, blob('b', 3000)).unwrap();
        if restarted {
            cache.daemon.restart();
        }
        assert_eq!(cache.ensure('a', 3000, "length"), json!([true, "Download"]));
        assert_eq!(fs::read(&path).unwrap(), blob('a', 3000));
        fs::remove_file(&path).unwrap();

        // By `GET`, for a result that waits.
        let status = cache.daemon.build_to_end("b1", json!({}));
        let sum = status["filemap"]["hello_1_i386.deb"].as_str().unwrap();
        if restarted {
            cache.daemon.stop();
        }
        truncate(&folder.join(sum));
        if restarted {
            cache.daemon.restart();
        }
        assert_eq!(cache.daemon.get(&format!("/filecache/{sum}")).status, 404);
        cache.daemon.clean();

        // By `build`, for its chroot.
        let chroot = cache.daemon.chroot();
        if restarted {
            cache.daemon.stop();
        }
        truncate(&folder.join(&chroot));
        if restarted {
            cache.daemon.restart();
        }
        let answer = cache
            .daemon
            .ok("build", &cache.daemon.parameters("b2", json!({})));
        assert_eq!(answer[0], "BuilderStatus.UNKNOWNSUM");
        assert!(!cache.has(&chroot) && !is_there(&folder, &chroot));
        let damaged = format!("{} is damaged", folder.join(&chroot).display());
        assert!(cache.daemon.said().contains(&damaged));
        assert_eq!(cache.daemon.add_file(b"a chroot"), chroot);
    }
    cache.daemon.check_usable();
}

#[test]
fn a_second_daemon_on_one_cache_does_not_start() {
    let daemon = Daemon::start("");
    let cache = daemon.path("home/filecache");
    let second = Site::new(&format!("filecache = {}", cache.display()));
    let config = second.config();
    let (code, said) = run(second.command(&["serve", "--config", config.to_str().unwrap()]));
    assert_eq!(code, Some(1), "{said}");
    let pid = daemon.read("home/filecache/.daemon");
    let expect = format!(
        "another daemon (pid {pid}) has the file cache {}",
        cache.display()
    );
    assert!(said.contains(&expect), "{said}");
    daemon.check_usable();
}

/// A file system of 8 MiB in memory.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts it, or says loudly that it cannot.
    fn mount() -> Option<Self> {
        let may = may_mount("a cache on a full disk");
        may.then(|| {
            let dir = tempfile::tempdir().unwrap();
            mount_tmpfs(dir.path(), 8 << 10);
            Self { dir }
        })
    }

    /// Makes a site that has its cache there.
    fn site(&self, limits: &str) -> Site {
        let folder = self.cache();
        let site = Site::new(&format!(
            "filecache = {}\n[limits]\n{limits}",
            folder.display()
        ));
        fs::create_dir(&folder).unwrap();
        for input in [site.chroot(), site.dsc()] {
            let from = site.path("home/filecache").join(&input);
            fs::copy(from, folder.join(&input)).unwrap();
        }
        site.give(&folder);
        site
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Leaves `kib` KiB free, by a file outside the cache.
    fn fill_but(&self, kib: usize) {
        self.empty();
        let found = nix::sys::statvfs::statvfs(self.dir.path()).unwrap();
        let free = usize::try_from(found.blocks_available() * found.fragment_size()).unwrap();
        fs::write(self.ballast(), vec![0; free - kib * KIB]).unwrap();
    }

    fn empty(&self) {
        let _ = fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount_all(self.dir.path());
    }
}

#[test]
fn a_full_disk_refuses_files_and_recovers() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let cache = Cache::start(disk.site("reserve = 1M"));
    let folder = disk.cache();
    let before = fs::read_dir(&folder).unwrap().count();
    disk.fill_but(3 * 1024);
    for how in ["length", "chunks", "close"] {
        // The cache can evict only the inputs of builds, which are small.
        let reason = cache.refused('a', 2 * MIB + 64 * KIB, how);
        assert!(
            reason.contains("[limits] reserve keeps 1048576"),
            "{reason}"
        );
        cache.fetch('b', MIB);
        fs::remove_file(folder.join(sha1(&blob('b', MIB)))).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), before, "{how}");
    }
    cache.daemon.fail_a_build_on_the_full_disk(&disk);
    disk.empty();
    for (letter, how) in [('a', "length"), ('b', "chunks"), ('c', "close")] {
        let answer = cache.ensure(letter, MIB, how);
        assert_eq!(answer, json!([true, "Download"]), "{how}");
    }
    // The cache evicts all unneeded files for one that fits on the disk at all.
    cache.run_a_build();
    cache.ensure('d', 6 * MIB, "chunks");
    check_sums(&folder);
    cache.daemon.check_usable();
}

impl Daemon {
    fn fail_a_build_on_the_full_disk(&self, disk: &SmallDisk) {
        self.on(
            "sbuild",
            "head -c 3000000 /dev/zero > $work/h.bin; changes h.bin",
        );
        let status = self.build_to_end("full", json!({}));
        assert_eq!(status["build_status"], "BuildStatus.BUILDERFAIL");
        assert!(
            self.log().contains("no room for 3000000 bytes: "),
            "{}",
            self.log()
        );
        check_sums(&disk.cache());
        self.clean();
        self.reset();
    }
}

#[test]
fn a_download_that_does_not_fit_on_the_disk_leaves_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let cache = Cache::start(disk.site("reserve = 1\nfetch_retries = 0"));
    let folder = disk.cache();
    // The last build of this test needs both inputs.
    assert!(cache.has(&cache.daemon.chroot()) && cache.has(&cache.daemon.dsc()));
    let before = fs::read_dir(&folder).unwrap().count();
    disk.fill_but(512);
    for how in ["length", "chunks", "close"] {
        cache.refused('a', 4 * MIB, how);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), before, "{how}");
    }
    disk.empty();
    cache.fetch('a', 4 * MIB);
    check_sums(&folder);
    cache.daemon.check_usable();
}

#[test]
fn a_read_only_cache_serves_files_and_refuses_new_ones() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let mut cache = Cache::start(disk.site("reserve = 1"));
    let kept = cache.fetch('a', 3000);
    set_read_only(disk.dir.path(), true);
    let reason = cache.refused('b', 3000, "length");
    assert!(reason.contains("Read-only file system"), "{reason}");
    // Files in the cache can still be read.
    assert!(cache.has(&kept));
    assert_eq!(
        cache.daemon.get(&format!("/filecache/{kept}")).body.len(),
        3000
    );
    cache.daemon.stop();
    let config = cache.daemon.config();
    let (code, said) = run(cache
        .daemon
        .command(&["serve", "--config", config.to_str().unwrap()]));
    assert_eq!(code, Some(1), "{said}");
    let place = disk.cache().display().to_string();
    assert!(
        said.contains(&place) && said.contains("Read-only file system"),
        "{said}"
    );
    set_read_only(disk.dir.path(), false);
    cache.daemon.restart();
    cache.fetch('b', 3000);
}

#[test]
fn other_users_cannot_read_the_file_cache() {
    let site = Site::new("");
    let cache = site.path("home/filecache");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    let _daemon = Daemon::start_in(site);
    let mode = fs::metadata(&cache).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
