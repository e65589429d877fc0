-- emulated: the builder runs programs of this processor by emulation, as its slave says.
ALTER TABLE builder_processor ADD COLUMN emulated BOOLEAN NOT NULL DEFAULT FALSE;
