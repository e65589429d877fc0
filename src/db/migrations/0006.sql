-- What relations see of a published binary (docs/farm.md §2.15). architecture: empty in rows of
-- older versions, which means any.
ALTER TABLE published_binary ADD COLUMN architecture TEXT NOT NULL DEFAULT '';
ALTER TABLE published_binary ADD COLUMN multi_arch TEXT NOT NULL DEFAULT 'no';
-- The Provides of published binaries. provided_version: empty if there is none. qualifier: the
-- architecture that the entry names, else empty.
CREATE TABLE published_provides (arch_series_id BIGINT NOT NULL, archive_id BIGINT NOT NULL, name TEXT NOT NULL,
  version TEXT NOT NULL, provided TEXT NOT NULL, qualifier TEXT NOT NULL DEFAULT '',
  provided_version TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (arch_series_id, archive_id, provided, name, version, qualifier, provided_version),
  FOREIGN KEY (arch_series_id, archive_id, name, version)
    REFERENCES published_binary (arch_series_id, archive_id, name, version) ON DELETE CASCADE);
CREATE INDEX published_provides_by ON published_provides (arch_series_id, archive_id, name, version);
-- upload_started_at: the uploader may have taken the results. NULL before, and again after
-- `master retry --upload-only`.
ALTER TABLE attempt ADD COLUMN upload_started_at BIGINT;
-- What an archive keeps (docs/farm.md §3.12); 0 keeps everything. keep_attempts: attempts of a build
-- that has ended. keep_days: days that everything is kept at least. keep_versions: versions of a
-- source and of a binary package.
ALTER TABLE archive ADD COLUMN keep_attempts INTEGER NOT NULL DEFAULT 3;
ALTER TABLE archive ADD COLUMN keep_days INTEGER NOT NULL DEFAULT 90;
ALTER TABLE archive ADD COLUMN keep_versions INTEGER NOT NULL DEFAULT 3;
-- superseded_at: NULL while published, and in publications that an older version superseded.
ALTER TABLE publication ADD COLUMN superseded_at BIGINT;
-- Indexes for every foreign key, and for the order of every list (docs/farm.md §3.11).
DROP INDEX IF EXISTS build_state;
DROP INDEX IF EXISTS build_builder;
DROP INDEX IF EXISTS build_queue_pick;

-- Lists of builds: all by creation; those of a state by their end; of one architecture or builder.
CREATE INDEX IF NOT EXISTS build_created ON build (created_at, id);
CREATE INDEX IF NOT EXISTS build_state ON build (state, (COALESCE(finished_at, 0)), id);
CREATE INDEX IF NOT EXISTS build_arch_created ON build (arch_series_id, created_at, id);
CREATE INDEX IF NOT EXISTS build_arch_state ON build (arch_series_id, state, (COALESCE(finished_at, 0)), id);
CREATE INDEX IF NOT EXISTS build_builder ON build (builder_id, created_at, id) WHERE builder_id IS NOT NULL;
-- Builds that wait, in the order of their creation: for the chores.
CREATE INDEX IF NOT EXISTS build_waits ON build (id) WHERE state = 0;
CREATE INDEX IF NOT EXISTS build_dep_waits ON build (id) WHERE state = 3;
CREATE INDEX IF NOT EXISTS build_source ON build (source_id, archive_id);
CREATE INDEX IF NOT EXISTS build_archive ON build (archive_id, state, id);
CREATE INDEX IF NOT EXISTS build_processor ON build (processor_id);
CREATE INDEX IF NOT EXISTS build_log ON build (log_alias_id) WHERE log_alias_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS build_upload_log ON build (upload_log_alias_id) WHERE upload_log_alias_id IS NOT NULL;

-- The order of dispatch: of all jobs, and of those that a builder may claim. The estimated times
-- are in the index, so that the work ahead of a job is summed up without its rows. The expression
-- keeps the planner from the first index when a builder claims a job.
CREATE INDEX IF NOT EXISTS build_queue_order
  ON build_queue (status, (-CAST(lastscore AS BIGINT)), id, estimated_ms);
CREATE INDEX IF NOT EXISTS build_queue_pick
  ON build_queue (virtualized, processor_id, lastscore DESC, id, estimated_ms) WHERE status = 0;
CREATE INDEX IF NOT EXISTS build_queue_processor ON build_queue (processor_id);

CREATE INDEX IF NOT EXISTS event_at ON event (at);
CREATE INDEX IF NOT EXISTS notification_build ON notification (build_id);
CREATE INDEX IF NOT EXISTS library_token_created ON library_token (created_at);
CREATE INDEX IF NOT EXISTS arch_series_processor ON arch_series (processor_id);
CREATE INDEX IF NOT EXISTS chroot_alias ON chroot (alias_id);
CREATE INDEX IF NOT EXISTS source_archive ON source (upload_archive_id);
CREATE INDEX IF NOT EXISTS source_file_alias ON source_file (alias_id);
CREATE INDEX IF NOT EXISTS publication_archive ON publication (archive_id);
CREATE INDEX IF NOT EXISTS published_binary_archive ON published_binary (archive_id);
CREATE INDEX IF NOT EXISTS builder_processor_processor ON builder_processor (processor_id, builder_id);
