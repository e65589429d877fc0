-- Every dispatch of a build is an attempt and stays one, so that a retry forgets nothing.
-- number: from 1 within its build. ended_at: NULL while the attempt runs. verdict: NULL while it
-- runs, and in attempts of older versions whose verdict is unknown. host: the master's host that
-- has the results. stages: names and durations, as in the log. counted: the attempt counts for the
-- limits of docs/farm.md §3.3; a retry by an operator clears it.
CREATE TABLE attempt (build_id BIGINT NOT NULL REFERENCES build(id), number INTEGER NOT NULL,
  builder_id BIGINT REFERENCES builder(id), cookie TEXT NOT NULL, host TEXT, started_at BIGINT NOT NULL,
  ended_at BIGINT, verdict SMALLINT, reason TEXT, stages TEXT, dependencies TEXT,
  log_alias_id BIGINT REFERENCES library_alias(id), upload_log_alias_id BIGINT REFERENCES library_alias(id),
  leaf TEXT, counted BOOLEAN NOT NULL DEFAULT TRUE, PRIMARY KEY (build_id, number));
CREATE INDEX attempt_builder ON attempt (builder_id, ended_at) WHERE builder_id IS NOT NULL;
CREATE INDEX attempt_log ON attempt (log_alias_id) WHERE log_alias_id IS NOT NULL;
CREATE INDEX attempt_upload_log ON attempt (upload_log_alias_id) WHERE upload_log_alias_id IS NOT NULL;
-- reason: why the build is in its state, if the state does not say it.
ALTER TABLE build ADD COLUMN reason TEXT;

-- The last attempt of each build that an older version dispatched.
INSERT INTO attempt (build_id, number, builder_id, cookie, started_at, ended_at, verdict, dependencies,
  log_alias_id, upload_log_alias_id, leaf)
SELECT b.id, 1, COALESCE(q.builder_id, b.builder_id), COALESCE(b.leaf,
    CASE WHEN q.attempt > 0 AND q.nonce IS NOT NULL
         THEN CAST(b.id AS TEXT) || '-' || CAST(q.id AS TEXT) || '.' || CAST(q.attempt AS TEXT) || '-' || q.nonce
         WHEN q.attempt > 0 THEN CAST(b.id AS TEXT) || '-' || CAST(q.id AS TEXT) || '.' || CAST(q.attempt AS TEXT)
         WHEN q.id IS NOT NULL THEN CAST(b.id AS TEXT) || '-' || CAST(q.id AS TEXT)
         ELSE '' END),
  COALESCE(q.buildstart, b.started_at, b.first_dispatched_at, b.created_at),
  CASE WHEN q.builder_id IS NOT NULL THEN NULL
       ELSE COALESCE(b.finished_at, b.started_at, b.first_dispatched_at, b.created_at) END,
  CASE WHEN q.builder_id IS NOT NULL THEN NULL
       WHEN b.state IN (1, 7, 8) THEN 0
       WHEN b.state = 2 AND b.log_alias_id IS NOT NULL THEN 1
       WHEN b.state = 3 THEN 2
       WHEN b.state = 4 THEN 3
       WHEN b.state = 10 THEN 7 END,
  b.dependencies, b.log_alias_id, b.upload_log_alias_id, b.leaf
FROM build b LEFT JOIN build_queue q ON q.build_id = b.id
WHERE q.builder_id IS NOT NULL OR b.started_at IS NOT NULL OR b.log_alias_id IS NOT NULL;
