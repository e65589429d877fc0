//! Finds the control groups of this process, in both versions.

use std::fs;
use std::path::{Path, PathBuf};

/// The groups of this process: in version 2, and in version 1 for memory and pids.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OwnGroups {
    pub(super) unified: Option<PathBuf>,
    /// Whether `unified` is the topmost group that this process can see: the host's root group, or
    /// the group of a container.
    pub(super) is_top: bool,
    pub(super) memory: Option<PathBuf>,
    pub(super) pids: Option<PathBuf>,
}

impl OwnGroups {
    pub(super) fn read() -> Self {
        let text = |name| fs::read_to_string(Path::new("/proc/self").join(name));
        Self::parse(
            &text("mountinfo").unwrap_or_default(),
            &text("cgroup").unwrap_or_default(),
        )
    }

    /// Parses the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn parse(mountinfo: &str, cgroup: &str) -> Self {
        // `ID:CONTROLLERS:PATH`; in version 2, CONTROLLERS is empty.
        let path_of = |controller: &str| {
            cgroup.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers
                    .split(',')
                    .any(|name| name == controller)
                    .then_some(path)
            })
        };
        // `ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS … - TYPE SOURCE OPTIONS`
        let folder = |kind: &str, controller: &str| {
            let path = path_of(controller)?;
            mountinfo.lines().find_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                let (left, right): (Vec<_>, Vec<_>) =
                    (left.split(' ').collect(), right.split([' ', ',']).collect());
                let found = right.first() == Some(&kind)
                    && (controller.is_empty() || right.contains(&controller));
                let below = Path::new(path).strip_prefix(left.get(3)?).ok()?;
                let folder = Path::new(left.get(4)?).join(below);
                // Joining an empty path leaves a trailing slash; collecting removes it.
                found.then(|| folder.components().collect())
            })
        };
        Self {
            unified: folder("cgroup2", ""),
            is_top: path_of("") == Some("/"),
            memory: folder("cgroup", "memory"),
            pids: folder("cgroup", "pids"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_are_found_in_both_versions() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = OwnGroups::parse(hybrid, "8:pids:/\n4:cpu,memory:/a/b\n0::/x\n");
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(own.memory, path("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(own.pids, path("/sys/fs/cgroup/pids"));
        assert_eq!(own.unified, path("/sys/fs/cgroup/unified/x"));

        let unit = "26 24 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let own = OwnGroups::parse(unit, "0::/system.slice/buildd-slave.service\n");
        let expected = "/sys/fs/cgroup/system.slice/buildd-slave.service";
        assert_eq!(own.unified, path(expected));
        assert_eq!((own.memory, own.pids), (None, None));

        // A container that sees only its own part of the hierarchy.
        let part = "26 24 0:22 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let own = OwnGroups::parse(part, "4:memory:/docker/1/in\n");
        assert_eq!(own.memory, path("/sys/fs/cgroup/memory/in"));
        assert_eq!(OwnGroups::parse("", "0::/\n").unified, None);
    }
}
