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
