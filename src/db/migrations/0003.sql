-- nonce: the random part of the cookie, new with each claim. NULL in attempts of older versions.
ALTER TABLE build_queue ADD COLUMN nonce TEXT;
