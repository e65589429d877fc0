-- What the builds of an archive are asked for. build_profiles: names separated by blanks.
ALTER TABLE archive ADD COLUMN build_debug_symbols BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE archive ADD COLUMN build_profiles TEXT NOT NULL DEFAULT '';
