//! The rows of the sample data of 2008 that the seed scenario uses (docs/farm.md §5).

use super::support::Farm;

/// Inserts the rows with the ids of the sample data. Both builders are disabled, and no
/// architecture has a chroot. `bob` is the URL of the builder bob.
pub(crate) fn insert(farm: &Farm, bob: &str) {
    farm.migrate();
    farm.db.execute(&format!(
        "INSERT INTO processor (id, name, family) VALUES
           (1, '386', 'x86'), (2, 'amd64', 'amd64'), (3, 'hppa', 'hppa');
         INSERT INTO distribution (id, name) VALUES (1, 'ubuntu'), (3, 'debian'), (8, 'ubuntutest');
         INSERT INTO series (id, distribution_id, name, version, status, nominated_arch_tag) VALUES
           (1, 1, 'warty', '4.10', 4, 'i386'), (3, 1, 'hoary', '5.04', 2, 'i386'),
           (10, 1, 'breezy-autotest', '6.6.6', 1, NULL), (5, 3, 'woody', '3.0', 4, NULL),
           (13, 8, 'hoary-test', '2005', 3, NULL);
         INSERT INTO arch_series (id, series_id, arch_tag, processor_id) VALUES
           (1, 1, 'i386', 1), (6, 3, 'i386', 1), (7, 5, 'i386', 1), (8, 10, 'i386', 1),
           (9, 13, 'i386', 1), (10, 13, 'amd64', 2), (11, 3, 'hppa', 3), (12, 1, 'hppa', 3);
         INSERT INTO archive (id, distribution_id, name, purpose, base_url) VALUES
           (1, 1, 'primary', 1, 'http://ftpmaster.internal/ubuntu');
         INSERT INTO library_content (id, size, sha1, sha256, md5, created_at) VALUES
           (1, 178859, '378b3498ead213d35a82033a6e9196014a5ef25c', '', '', 1087898400000),
           (3, 9922560, 'd31cb0c9dc0dd1e1e1e1e1e1e1e1e1e1e1e1e1e1', '', '', 1087898400000),
           (4, 2028, 'a15a0a15a0a15a0a15a0a15a0a15a0a15a0a15a0', '', '', 1087898400000);
         INSERT INTO library_alias (id, content_id, filename, mimetype, created_at) VALUES
           (1, 1, 'netapplet-1.0.0.tar.gz', 'application/x-gtar', 1087898400000),
           (3, 3, 'mozilla-firefox_0.9.dsc', 'text/plain', 1087898400000),
           (4, 4, 'alsa-utils_1.0.9a-4.dsc', 'text/plain', 1087898400000);
         INSERT INTO source (id, name, version, component, section, urgency, arch_hint,
                             upload_archive_id, created_at) VALUES
           (14, 'mozilla-firefox', '0.9', 'main', 'web', 1, 'any', 1, 1097798400000),
           (33, 'alsa-utils', '1.0.9a-4', 'main', 'sound', 1, 'any', 1, 1118826840000);
         INSERT INTO source_file (source_id, alias_id, filetype) VALUES (14, 3, 3), (33, 4, 3);
         INSERT INTO publication (source_id, series_id, archive_id, pocket, component, status,
                                  created_at) VALUES
           (14, 3, 1, 0, 'main', 2, 1097798400000), (33, 3, 1, 0, 'main', 2, 1118826840000);
         INSERT INTO builder (id, name, url, title, owner, virtualized, manual, builderok,
                              created_at) VALUES
           (1, 'bob', '{bob}', 'Bob The Builder', 'launchpad', FALSE, FALSE, FALSE, 1118826252820),
           (2, 'frog', '{FROG}', 'The frog builder', 'launchpad', TRUE, FALSE, FALSE,
            1118826252820);
         INSERT INTO builder_processor (builder_id, processor_id) VALUES (1, 1), (2, 1);
         INSERT INTO build (id, source_id, arch_series_id, archive_id, pocket, processor_id, state,
                            created_at) VALUES
           (8, 14, 6, 1, 0, 1, 6, 1118826852820), (11, 33, 6, 1, 0, 1, 0, 1118826852820);
         INSERT INTO build_queue (id, build_id, status, processor_id, lastscore, created_at,
                                  builder_id, buildstart, logtail) VALUES
           (1, 8, 1, 1, 1, 1118826852820, 1, 1118827212820, '{TAIL}'),
           (2, 11, 0, 1, 10, 1118826852820, NULL, NULL, NULL)",
    ));
    farm.db.skip_ids(&[
        "processor",
        "distribution",
        "series",
        "arch_series",
        "archive",
        "library_content",
        "library_alias",
        "source",
        "publication",
        "builder",
        "build",
        "build_queue",
    ]);
}

pub(crate) const TAIL: &str = "Dummy sampledata entry, not processing";
/// The URL of the builder frog, where no slave listens.
pub(crate) const FROG: &str = "http://localhost:9221/";
