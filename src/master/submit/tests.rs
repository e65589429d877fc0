//! Submissions on both database engines: accepted, repeated and refused.

use super::*;
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::model::{BuildState, PublishingStatus, Retention, SeriesStatus, Urgency};
use crate::master::rows::archives;

const NOW: i64 = 1_700_000_000_000;
const SUBMITTER: &str = "someone";

/// A series with i386 (nominated) and amd64, each with a chroot, and hppa without one.
struct Site<'a> {
    db: &'a Db,
    series: Series,
}

impl<'a> Site<'a> {
    fn new(db: &'a Db) -> Self {
        let series = db
            .write(|tx| {
                let distribution_id = series::ensure_distribution(tx, "ubuntu")?;
                let mut series = Series {
                    id: 0,
                    distribution_id,
                    distribution: "ubuntu".to_owned(),
                    name: "hoary".to_owned(),
                    version: String::new(),
                    status: SeriesStatus::Development,
                    nominated: Some("i386".to_owned()),
                };
                series.id = series::add(tx, &series)?;
                archives::add(tx, &archive(distribution_id, "primary"))?;
                let chroot = alias(tx, "chroot.tar.gz", "c0")?;
                for tag in ["i386", "amd64", "hppa"] {
                    let processor = series::add_processor(tx, tag, tag)?;
                    let arch = series::add_architecture(tx, series.id, tag, processor, false)?;
                    if tag != "hppa" {
                        series::set_chroot(tx, arch, Pocket::Release, chroot, NOW)?;
                    }
                }
                Ok(series)
            })
            .unwrap();
        Self { db, series }
    }

    fn submission(&self, version: &str, hint: &str) -> Submission {
        let archives = self.db.read(archives::all).unwrap();
        let archive = archives[0].clone();
        let part = |name: String, sha1: String| SourceFile {
            name,
            sha1,
            size: 400 << 10,
            alias: None,
        };
        Submission {
            source: Source {
                name: "hello".to_owned(),
                version: version.to_owned(),
                component: "main".to_owned(),
                section: "devel".to_owned(),
                urgency: Urgency::Low,
                arch_hint: hint.to_owned(),
                indep_hint: None,
                archive: archive.id,
                creator_email: None,
            },
            binaries: vec!["hello-bin".to_owned()],
            files: vec![
                part(format!("hello_{version}.dsc"), format!("dsc{version}")),
                part("hello_2.orig.tar.gz".to_owned(), "orig".to_owned()),
            ],
            series: self.series.clone(),
            archive,
            pocket: Pocket::Release,
            restrictions: None,
        }
    }

    /// Checks a submission, stores missing files in the librarian, and submits.
    fn submit(&self, submission: &mut Submission) -> Result<Outcome, String> {
        let given = submission.files.clone();
        let checked = self.db.read(|tx| {
            submission.files.clone_from(&given);
            submission.check(tx)
        });
        checked.map_err(|error| error.to_string())?;
        let sent = submission
            .files
            .iter_mut()
            .filter(|part| part.alias.is_none());
        for part in sent {
            let alias = self.db.write(|tx| alias(tx, &part.name, &part.sha1));
            part.alias = Some(alias.unwrap());
        }
        self.submit_unchecked(submission)
    }

    fn submit_unchecked(&self, submission: &Submission) -> Result<Outcome, String> {
        let submitted = self
            .db
            .write(|tx| submission.submit(tx, Rules::Y2008, SUBMITTER, NOW));
        submitted.map_err(|error| error.to_string())
    }

    fn change(&self, sql: &str) {
        assert!(
            self.db.write(|tx| tx.execute(sql, &[])).unwrap() > 0,
            "{sql}"
        );
    }

    fn statuses(&self) -> Vec<PublishingStatus> {
        let sql = "SELECT status FROM publication ORDER BY id";
        let rows = self.db.read(|tx| tx.query(sql, &[])).unwrap();
        rows.iter().map(|row| row.get(0).unwrap()).collect()
    }
}

fn archive(distribution_id: i64, name: &str) -> Archive {
    Archive {
        id: 0,
        distribution_id,
        distribution: "ubuntu".to_owned(),
        owner: String::new(),
        name: name.to_owned(),
        purpose: ArchivePurpose::Primary,
        private: false,
        virtualized: false,
        enabled: true,
        relative_score: 0,
        base_url: String::new(),
        has_secret: false,
        debug_symbols: false,
        profiles: String::new(),
        retention: Retention::default(),
    }
}

fn alias(tx: &mut Tx<'_>, name: &str, sha1: &str) -> Result<i64, Error> {
    let sql = "
        INSERT INTO library_content (size, sha1, sha256, md5, created_at)
        VALUES ($1, $2, '', '', 0) RETURNING id";
    let content: i64 = tx.query_one(sql, &params![400 << 10, sha1])?.get(0)?;
    let sql = "
        INSERT INTO library_alias (content_id, filename, mimetype, created_at)
        VALUES ($1, $2, 'text/plain', 0) RETURNING id";
    tx.query_one(sql, &params![content, name])?.get(0)
}

/// Shows builds as `amd64 i386+all`.
fn shown(outcome: &Outcome) -> String {
    let word = |build: &Build| {
        let all = if build.arch_indep { "+all" } else { "" };
        format!("{}{all}", build.name.arch_tag)
    };
    outcome
        .builds
        .iter()
        .map(word)
        .collect::<Vec<_>>()
        .join(" ")
}

fn reasons(left_out: &[LeftOut]) -> Vec<String> {
    let line = |one: &LeftOut| format!("{}: {}", one.tag, one.reason);
    left_out.iter().map(line).collect()
}

#[test]
fn a_source_gets_a_scored_build_for_each_architecture() {
    both(|db| {
        let site = Site::new(db);
        let outcome = site.submit(&mut site.submission("2-1", "any all")).unwrap();
        assert_eq!(shown(&outcome), "amd64 i386+all");
        assert_eq!(outcome.new.len(), 2);
        assert_eq!(
            reasons(&outcome.left_out),
            ["hppa: it has no chroot for RELEASE"]
        );
        for build in &outcome.builds {
            let job = build.job.as_ref().unwrap();
            assert_eq!((build.state, job.score), (BuildState::NeedsBuild, 4005));
            // 800 KiB at 6 KiB a second.
            assert_eq!(job.estimated_ms, 3 * 60_000);
            assert_eq!(build.component.as_deref(), Some("main"));
        }
        assert_eq!(site.statuses(), [PublishingStatus::Published]);
        let events = db
            .read(|tx| events::of_build(tx, outcome.new[0], 9))
            .unwrap();
        assert_eq!(events[0].message, "submitted by someone");
    });
}

#[test]
fn a_repeated_submission_adds_new_architectures_and_refuses_other_content() {
    both(|db| {
        let site = Site::new(db);
        let mut submission = site.submission("2-1", "any all");
        let first = site.submit(&mut submission).unwrap();
        let again = site.submit(&mut submission).unwrap();
        assert!(again.known && again.new.is_empty() && again.superseded.is_empty());
        assert_eq!(shown(&again), shown(&first));
        assert_eq!(site.statuses(), [PublishingStatus::Published]);

        // hppa has a chroot now.
        site.change(
            "INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
             SELECT t.id, 0, a.id, 0 FROM arch_series t, library_alias a
             WHERE t.arch_tag = 'hppa' AND a.filename = 'chroot.tar.gz'",
        );
        site.change("UPDATE series SET nominated_arch_tag = 'hppa'");
        submission.series.nominated = Some("hppa".to_owned());
        let later = site.submit(&mut submission).unwrap();
        assert_eq!((later.new.len(), later.left_out.len()), (1, 0));
        // Architecture-independent packages are built once, whichever tag is nominated now.
        assert_eq!(shown(&later), "amd64 hppa i386+all");

        let mut other = site.submission("2-1", "any all");
        other.files[1].sha1 = "other".to_owned();
        let error = site.submit(&mut other).unwrap_err();
        let expect = "hello 2-1: primary already has this version, with a different \
                      hello_2.orig.tar.gz; use a new version";
        assert_eq!(error, expect);
        other.files.pop();
        assert!(
            site.submit(&mut other)
                .unwrap_err()
                .contains("with more files")
        );
    });
}

#[test]
fn a_newer_version_supersedes_an_older_one() {
    both(|db| {
        let site = Site::new(db);
        let old = site.submit(&mut site.submission("2-9", "i386")).unwrap();
        let mut submission = site.submission("2-10", "i386");
        let new = site.submit(&mut submission).unwrap();
        assert_eq!(new.superseded, ["2-9"]);
        let statuses = [PublishingStatus::Superseded, PublishingStatus::Published];
        assert_eq!(site.statuses(), statuses);
        let ended = db.read(|tx| builds::view(tx, old.new[0])).unwrap().unwrap();
        assert_eq!(ended.state, BuildState::Superseded);
        assert!(ended.job.is_none());
        let why = "the source is no longer published";
        assert_eq!(ended.reason.as_deref(), Some(why));
        let events = db.read(|tx| events::of_build(tx, ended.id, 1)).unwrap();
        assert_eq!(
            (events[0].kind.as_str(), events[0].message.as_str()),
            ("ended", "SUPERSEDED: the source is no longer published")
        );
        // Both versions share the file in the librarian.
        let aliases = db
            .read(|tx| sources::files(tx, new.builds[0].source))
            .unwrap();
        let orig = submission
            .files
            .iter()
            .find(|part| part.sha1 == "orig")
            .unwrap();
        assert_eq!(aliases[1].alias, orig.alias.unwrap());
        let old_files = db
            .read(|tx| sources::files(tx, old.builds[0].source))
            .unwrap();
        assert_eq!(aliases[1].alias, old_files[1].alias);

        let error = site
            .submit(&mut site.submission("2-9", "i386"))
            .unwrap_err();
        assert_eq!(
            error,
            "hello 2-9: the newer 2-10 is already published in hoary RELEASE"
        );
        // Another pocket does not matter.
        site.change("UPDATE series SET status = 4");
        let mut updates = site.submission("2-9", "i386");
        updates.series.status = SeriesStatus::Current;
        updates.pocket = Pocket::Updates;
        assert!(site.submit(&mut updates).unwrap().known);
    });
}

#[test]
fn a_source_that_cannot_be_built_is_refused_before_files_are_sent() {
    both(|db| {
        let site = Site::new(db);
        let refused = |submission: &mut Submission| {
            let error = site.submit(submission).unwrap_err();
            let sources = db
                .read(|tx| tx.query("SELECT id FROM source", &[]))
                .unwrap();
            assert!(sources.is_empty());
            error
        };
        let error = refused(&mut site.submission("2-1", "armhf"));
        assert_eq!(
            error,
            "hello 2-1: no architecture of ubuntu/hoary can build it (amd64: the source is for \
             armhf; hppa: it has no chroot for RELEASE; i386: the source is for armhf)"
        );
        let mut virtual_only = site.submission("2-1", "any");
        virtual_only.archive.virtualized = true;
        let error = refused(&mut virtual_only);
        assert!(
            error.contains("amd64: it has no virtual builders"),
            "{error}"
        );
        let mut closed = site.submission("2-1", "any");
        closed.pocket = Pocket::Updates;
        let error = refused(&mut closed);
        assert!(
            error.contains("is DEVELOPMENT and accepts no builds for UPDATES (open: RELEASE"),
            "{error}"
        );
        assert!(
            error.ends_with("`master series set ubuntu/hoary --status CURRENT`"),
            "{error}"
        );
        let error = refused(&mut site.submission("2-1", ""));
        assert!(error.contains("the Architecture field is empty"), "{error}");
    });
}

#[test]
fn packages_arch_specific_applies_except_to_ppas() {
    both(|db| {
        let site = Site::new(db);
        for (list, expect) in [
            ("%hello: i386", "i386+all"),
            ("%hello: !i386", "amd64+all"),
            // An entry for a binary package of the .dsc; the nominated tag stays allowed.
            ("hello-bin: amd64", "amd64 i386+all"),
            ("%other: hppa", "amd64 i386+all"),
        ] {
            let mut submission = site.submission("2-1", "any all");
            submission.restrictions = Some(ArchSpecific::parse(list).unwrap());
            let (chosen, _) = db.read(|tx| submission.choose(tx)).unwrap();
            let word = |(arch, all): &(ArchSeries, bool)| {
                format!("{}{}", arch.tag, if *all { "+all" } else { "" })
            };
            let words: Vec<String> = chosen.iter().map(word).collect();
            assert_eq!(words.join(" "), expect, "{list}");
        }
        let mut ppa = site.submission("2-1", "any all");
        ppa.restrictions = Some(ArchSpecific::parse("%hello: i386").unwrap());
        ppa.archive.purpose = ArchivePurpose::Ppa;
        let (chosen, left_out) = db.read(|tx| ppa.choose(tx)).unwrap();
        assert_eq!((chosen.len(), left_out.len()), (2, 1));
    });
}

#[test]
fn the_estimate_is_the_duration_of_the_last_build() {
    both(|db| {
        let site = Site::new(db);
        site.submit(&mut site.submission("2-1", "i386")).unwrap();
        site.change("UPDATE build SET state = 1, started_at = 1000, finished_at = 421000");
        site.change("DELETE FROM build_queue");
        let outcome = site.submit(&mut site.submission("2-2", "i386")).unwrap();
        assert_eq!(
            outcome.builds[0].job.as_ref().unwrap().estimated_ms,
            420_000
        );
    });
}

#[test]
fn a_superseded_version_that_still_has_a_publication_stays_in_the_queue() {
    both(|db| {
        let site = Site::new(db);
        let mut old = site.submission("2-9", "i386");
        let build = site.submit(&mut old).unwrap().new[0];
        // It is also in another pocket.
        site.change(
            "INSERT INTO publication
                 (source_id, series_id, archive_id, pocket, component, status, created_at)
             SELECT source_id, series_id, archive_id, 30, component, 1, 0 FROM publication",
        );
        site.submit(&mut site.submission("2-10", "i386")).unwrap();
        let state = |build| {
            let build = db.read(|tx| builds::view(tx, build)).unwrap().unwrap();
            (build.state, build.job.is_some())
        };
        assert_eq!(state(build), (BuildState::NeedsBuild, true));

        // Superseded, then published again.
        site.change("UPDATE publication SET status = 3");
        let ended = db.write(|tx| {
            let source = builds::view(tx, build)?.unwrap().source;
            let found = unbuildable::of_source(tx, source, old.series.id, old.archive.id)?;
            assert_eq!(found.len(), 1);
            unbuildable::end(tx, &found[0], NOW)
        });
        assert!(ended.unwrap());
        assert_eq!(state(build), (BuildState::Superseded, false));
        let again = site.submit(&mut old).unwrap();
        assert!(again.known);
        assert_eq!(again.new, [build]);
        assert_eq!(state(build), (BuildState::NeedsBuild, true));
    });
}

#[test]
fn nothing_is_submitted_to_an_obsolete_series() {
    both(|db| {
        let site = Site::new(db);
        let mut submission = site.submission("2-1", "any");
        submission.series.status = SeriesStatus::Obsolete;
        for purpose in ArchivePurpose::ALL {
            submission.archive.purpose = *purpose;
            let error = site.submit(&mut submission).unwrap_err();
            assert_eq!(
                error,
                "hello 2-1: ubuntu/hoary is OBSOLETE and accepts no builds; submit to another \
                 series, or reopen it with `master series set ubuntu/hoary --status SUPPORTED`"
            );
        }
    });
}
