-- The farm's first schema (docs/farm.md §1.4), for SQLite and PostgreSQL alike.
-- {ID} becomes an identity column that never reuses a value: queue ids are part of cookies.
-- Times are milliseconds since 1970. Enumerations have the numbers of master/model.rs.

CREATE TABLE library_content (id {ID}, size BIGINT NOT NULL CHECK (size >= 0), sha1 TEXT NOT NULL,
  sha256 TEXT NOT NULL, md5 TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE INDEX library_content_sha1 ON library_content (sha1, size);
CREATE INDEX library_content_sha256 ON library_content (sha256);
CREATE TABLE library_alias (id {ID}, content_id BIGINT REFERENCES library_content(id),
  filename TEXT NOT NULL CHECK (filename <> '' AND filename NOT LIKE '%/%'), mimetype TEXT NOT NULL,
  restricted BOOLEAN NOT NULL DEFAULT FALSE, created_at BIGINT NOT NULL, expires_at BIGINT);
CREATE INDEX library_alias_content ON library_alias (content_id);
CREATE INDEX library_alias_expires ON library_alias (expires_at)
  WHERE expires_at IS NOT NULL AND content_id IS NOT NULL;
-- Each token grants access to one restricted file until it expires. Only its hash is stored.
CREATE TABLE library_token (alias_id BIGINT NOT NULL, token_sha256 TEXT NOT NULL, created_at BIGINT NOT NULL,
  PRIMARY KEY (alias_id, token_sha256));

CREATE TABLE processor (id {ID}, name TEXT NOT NULL UNIQUE, family TEXT NOT NULL);
CREATE TABLE distribution (id {ID}, name TEXT NOT NULL UNIQUE);
CREATE TABLE series (id {ID}, distribution_id BIGINT NOT NULL REFERENCES distribution(id), name TEXT NOT NULL,
  version TEXT NOT NULL DEFAULT '', status SMALLINT NOT NULL, nominated_arch_tag TEXT, UNIQUE (distribution_id, name));
CREATE TABLE arch_series (id {ID}, series_id BIGINT NOT NULL REFERENCES series(id), arch_tag TEXT NOT NULL,
  processor_id BIGINT NOT NULL REFERENCES processor(id), enabled BOOLEAN NOT NULL DEFAULT TRUE,
  supports_virtualized BOOLEAN NOT NULL DEFAULT FALSE, UNIQUE (series_id, arch_tag));
CREATE TABLE chroot (arch_series_id BIGINT NOT NULL REFERENCES arch_series(id), pocket SMALLINT NOT NULL DEFAULT 0,
  image_type SMALLINT NOT NULL DEFAULT 0, alias_id BIGINT REFERENCES library_alias(id), updated_at BIGINT NOT NULL,
  PRIMARY KEY (arch_series_id, pocket, image_type));
-- base_url: the archive's URL in apt's sources; if empty, the chroot keeps its own sources.
CREATE TABLE archive (id {ID}, distribution_id BIGINT NOT NULL REFERENCES distribution(id), owner TEXT NOT NULL DEFAULT '',
  name TEXT NOT NULL, purpose SMALLINT NOT NULL, private BOOLEAN NOT NULL DEFAULT FALSE,
  require_virtualized BOOLEAN NOT NULL DEFAULT FALSE, enabled BOOLEAN NOT NULL DEFAULT TRUE,
  relative_score INTEGER NOT NULL DEFAULT 0, base_url TEXT NOT NULL DEFAULT '', buildd_secret TEXT,
  UNIQUE (distribution_id, owner, name));
CREATE TABLE source (id {ID}, name TEXT NOT NULL, version TEXT NOT NULL, component TEXT NOT NULL,
  section TEXT NOT NULL DEFAULT '', urgency SMALLINT NOT NULL DEFAULT 1, arch_hint TEXT NOT NULL, indep_hint TEXT,
  upload_archive_id BIGINT NOT NULL REFERENCES archive(id), creator_email TEXT, signer_email TEXT,
  created_at BIGINT NOT NULL);
CREATE INDEX source_name ON source (name);
CREATE TABLE source_file (source_id BIGINT NOT NULL REFERENCES source(id),
  alias_id BIGINT NOT NULL REFERENCES library_alias(id), filetype SMALLINT NOT NULL, PRIMARY KEY (source_id, alias_id));
CREATE TABLE publication (id {ID}, source_id BIGINT NOT NULL REFERENCES source(id),
  series_id BIGINT NOT NULL REFERENCES series(id), archive_id BIGINT NOT NULL REFERENCES archive(id),
  pocket SMALLINT NOT NULL, component TEXT NOT NULL, status SMALLINT NOT NULL, created_at BIGINT NOT NULL);
CREATE INDEX publication_lookup ON publication (source_id, series_id, archive_id, id);
CREATE INDEX publication_series ON publication (series_id, status);
-- Binaries published in an archive. They end dep-waits.
CREATE TABLE published_binary (arch_series_id BIGINT NOT NULL REFERENCES arch_series(id),
  archive_id BIGINT NOT NULL REFERENCES archive(id), name TEXT NOT NULL, version TEXT NOT NULL,
  component TEXT NOT NULL, source_name TEXT NOT NULL, published_at BIGINT NOT NULL,
  PRIMARY KEY (arch_series_id, archive_id, name, version));

-- protocol: the form of the slave's status: 0 unknown, 1 array, 2 struct.
-- lease_*: the process that holds the lease, its expiry, and the number of take-overs.
CREATE TABLE builder (id {ID}, name TEXT NOT NULL UNIQUE, url TEXT NOT NULL UNIQUE, title TEXT NOT NULL DEFAULT '',
  description TEXT NOT NULL DEFAULT '', owner TEXT NOT NULL DEFAULT '', virtualized BOOLEAN NOT NULL DEFAULT FALSE,
  vm_host TEXT, vm_reset_protocol SMALLINT, manual BOOLEAN NOT NULL DEFAULT TRUE, active BOOLEAN NOT NULL DEFAULT TRUE,
  builderok BOOLEAN NOT NULL DEFAULT TRUE, failnotes TEXT, failure_count INTEGER NOT NULL DEFAULT 0,
  protocol SMALLINT NOT NULL DEFAULT 0, version TEXT, clean_status SMALLINT NOT NULL DEFAULT 1,
  clean_changed_at BIGINT NOT NULL DEFAULT 0, created_at BIGINT NOT NULL,
  lease_owner TEXT, lease_until BIGINT NOT NULL DEFAULT 0, lease_epoch BIGINT NOT NULL DEFAULT 0);
CREATE INDEX builder_lease ON builder (lease_until);
CREATE TABLE builder_processor (builder_id BIGINT NOT NULL REFERENCES builder(id),
  processor_id BIGINT NOT NULL REFERENCES processor(id), PRIMARY KEY (builder_id, processor_id));

-- leaf: the folder of its results, below incoming/.
CREATE TABLE build (id {ID}, source_id BIGINT NOT NULL REFERENCES source(id),
  arch_series_id BIGINT NOT NULL REFERENCES arch_series(id), archive_id BIGINT NOT NULL REFERENCES archive(id),
  pocket SMALLINT NOT NULL DEFAULT 0, processor_id BIGINT NOT NULL REFERENCES processor(id),
  arch_indep BOOLEAN NOT NULL DEFAULT FALSE, state SMALLINT NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 11),
  created_at BIGINT NOT NULL, first_dispatched_at BIGINT, started_at BIGINT, finished_at BIGINT, estimated_ms BIGINT,
  builder_id BIGINT REFERENCES builder(id), log_alias_id BIGINT REFERENCES library_alias(id),
  upload_log_alias_id BIGINT REFERENCES library_alias(id), dependencies TEXT, leaf TEXT,
  failure_count INTEGER NOT NULL DEFAULT 0, UNIQUE (arch_series_id, source_id, archive_id));
CREATE INDEX build_state ON build (state, id);
CREATE INDEX build_builder ON build (builder_id, finished_at) WHERE builder_id IS NOT NULL;
-- attempt: the number of claims; as part of the cookie it tells attempts at the same job apart.
-- not_before: a given-back job is not claimed before this time.
CREATE TABLE build_queue (id {ID}, build_id BIGINT NOT NULL UNIQUE REFERENCES build(id),
  status SMALLINT NOT NULL DEFAULT 0 CHECK (status BETWEEN 0 AND 3),
  processor_id BIGINT NOT NULL REFERENCES processor(id), virtualized BOOLEAN NOT NULL DEFAULT FALSE,
  lastscore INTEGER NOT NULL DEFAULT 0, manual BOOLEAN NOT NULL DEFAULT FALSE, created_at BIGINT NOT NULL,
  builder_id BIGINT REFERENCES builder(id), buildstart BIGINT, logtail TEXT, attempt INTEGER NOT NULL DEFAULT 0,
  estimated_ms BIGINT NOT NULL DEFAULT 0, not_before BIGINT NOT NULL DEFAULT 0, cancel_by BIGINT);
CREATE UNIQUE INDEX build_queue_one_job_per_builder ON build_queue (builder_id) WHERE builder_id IS NOT NULL;
CREATE INDEX build_queue_pick ON build_queue (virtualized, processor_id, lastscore DESC, id) WHERE status = 0;

CREATE TABLE event (id {ID}, at BIGINT NOT NULL, level SMALLINT NOT NULL, kind TEXT NOT NULL, builder_id BIGINT,
  build_id BIGINT, message TEXT NOT NULL);
CREATE INDEX event_builder ON event (builder_id, id);
CREATE INDEX event_build ON event (build_id, id);
-- Notifications to deliver, one JSON document each.
CREATE TABLE notification (id {ID}, build_id BIGINT NOT NULL REFERENCES build(id), created_at BIGINT NOT NULL,
  document TEXT NOT NULL);
-- Live master processes, and work that only one of them does at a time.
CREATE TABLE master_process (owner TEXT PRIMARY KEY, host TEXT NOT NULL, started_at BIGINT NOT NULL, seen_at BIGINT NOT NULL);
CREATE TABLE singleton (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until BIGINT NOT NULL);
