//! Runs one build, from the source files to the results, like a master with its slave.
//!
//! File cache and journal entry are in a temporary folder below `by-hand`, apart from the daemon's.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::commands::chroot;
use crate::commands::leftovers::HAND;
use crate::commands::site::Site;
use crate::dpkg::source::Source;
use crate::filecache::{self, Rules, Store};
use crate::pipeline::Stage;
use crate::pipeline::buildlog::Snapshot;
use crate::pipeline::journal::{EntryState, JournalEntry};
use crate::pipeline::leftovers;
use crate::pipeline::spec::{Settings, Spec};
use crate::protocol::{BuildArgs, BuildId, BuildRequest, BuildStatus, SourceFiles, Suite};
use crate::sys;
use crate::sys::cgroup::ResourceControl;
use crate::sys::locked_folder::LockedFolder;

use super::{Args, Error, follow, report};

/// Builds `source` and copies results and log to the output folder. Returns success only for the
/// verdict OK.
pub(super) fn build(site: &Site, source: &Source, args: &Args) -> Result<ExitCode, Error> {
    let begun = Instant::now();
    site.make_folders()?;
    let suite = match &args.suite {
        Some(suite) => suite.clone(),
        None => chroot::running_release()?,
    };
    let tarball = match &args.chroot {
        Some(tarball) => tarball.clone(),
        None => chroot::find_or_create(site, &suite)?,
    };
    let name = format!("{HAND}{}-{}", source.dsc.source, std::process::id());
    let build_id = BuildId::parse(&name).map_err(|error| Error::source(&args.dsc, error))?;
    let folder = BuildFolder::create(site.work_folder().join(name))?;
    let spec = folder.spec(site, source, &tarball, build_id, suite, args)?;
    let stages = std::iter::successors(Some(Stage::Init), |stage| {
        stage.next(true, &spec.request.args)
    });

    let signals = follow::signals().map_err(Error::at(folder.0.path()))?;
    let (run, shim) = JournalEntry::start(folder.0.path(), &spec, &ResourceControl::find())
        .map_err(Error::at(folder.0.path()))?;
    follow::follow(&run, shim, stages.count(), signals);
    let ending = match run.state().map_err(Error::at(run.path()))? {
        EntryState::Finished(ending) => ending,
        EntryState::Running | EntryState::Dead => {
            leftovers::finish_dead(&run, "the process that did the build died")
        }
    };

    let log = args.output.join(source.log_name(spec.arch()));
    let mut text = Snapshot::open(&run.log()).map_err(Error::at(&run.log()))?;
    report::copy(&mut text, &log)?;
    let results = report::copy_results(&spec.settings.filecache, &ending, &args.output)?;
    let shown = args.shown_as.as_ref().unwrap_or(&args.output);
    // The results are complete even if stdout is closed.
    let _ = report::print(&ending, &results, shown, &log, begun.elapsed());
    Ok(match ending.status {
        BuildStatus::Ok => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The folder of one build; removed when dropped.
struct BuildFolder(LockedFolder);

impl BuildFolder {
    fn create(path: PathBuf) -> Result<Self, Error> {
        let folder = LockedFolder::create(path.clone()).map_err(Error::at(&path))?;
        Ok(Self(folder))
    }

    /// Fills the file cache and returns the spec of the build.
    fn spec(
        &self,
        site: &Site,
        source: &Source,
        tarball: &Path,
        build_id: BuildId,
        suite: Suite,
        args: &Args,
    ) -> Result<Spec, Error> {
        let mut settings = Settings::of(&site.config);
        if let Some(arch) = chroot::architecture_of(tarball)? {
            settings.arch = arch;
        }
        settings.filecache = self.0.path().join("files");
        fs::create_dir(&settings.filecache).map_err(Error::at(&settings.filecache))?;
        let cache = Store::open(&settings.filecache, Rules::none())?;
        let mut files = Vec::new();
        for (path, name, listed) in source.files() {
            let mut file = File::open(&path).map_err(Error::at(&path))?;
            // The build checks all hashes; this one is checked before it starts.
            let hash = listed.and_then(|listed| listed.sha1.as_ref());
            let kept = cache
                .put(&mut file, None, hash)
                .map_err(|error| match error {
                    filecache::Error::Mismatch { .. } => {
                        Error::source(name.as_str().as_ref(), error)
                    }
                    other => other.into(),
                })?;
            files.push((name.clone(), kept));
        }
        let chroot = chroot::sha1(tarball)?;
        // A symlink suffices: the build reads the tarball at most once.
        let target = std::path::absolute(tarball).map_err(Error::at(tarball))?;
        let link = settings.filecache.join(chroot.as_str());
        symlink(target, &link).map_err(Error::at(&link))?;
        let key = |path: &PathBuf| {
            let key = fs::read(path).map_err(Error::at(path))?;
            Ok(BASE64_STANDARD.encode(key))
        };
        let args = BuildArgs {
            suite: Some(suite),
            arch_indep: args.arch_all || source.dsc.is_only_arch_all(),
            build_debug_symbols: args.debug_symbols,
            build_profiles: args.profile.clone(),
            archives: args.archive.clone(),
            trusted_keys: args.key.iter().map(key).collect::<Result<_, Error>>()?,
            ..BuildArgs::default()
        };
        let request = BuildRequest {
            build_id,
            chroot,
            files: SourceFiles::try_from(files)
                .map_err(|error| Error::source(&source.path, error))?,
            args,
        };
        Ok(Spec { request, settings })
    }
}

impl Drop for BuildFolder {
    fn drop(&mut self) {
        if let Err(error) = sys::fs::remove_tree(self.0.path()) {
            log::warn!("{error}");
        }
    }
}
