# `make` lists the targets. Longer recipes are scripts in .ci/.
CARGO   ?= cargo
PREFIX  ?= /usr
DESTDIR ?=
TARGET   = $(or $(CARGO_TARGET_DIR),target)
BINARY   = $(TARGET)/release/buildd-slave
SHARE    = $(DESTDIR)$(PREFIX)/share

.DEFAULT_GOAL := help
.PHONY: help demo test setup try-setup check fmt clippy doc unit fuzz it hostile farm real bench \
	build install deb source copyright packages-test systems clean
# `test` runs its parts in order, so that the cheap ones fail first.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

demo: setup build ## run a farm on this host that builds two Debian packages; results in demo/
	@.ci/demo $(BINARY)

test: try-setup ## run all of: check, unit, it, hostile, farm, real; print the time of each
	@MAKE='$(MAKE)' .ci/timed check unit it hostile farm real

setup: ## install the packages that builds need, and add the user buildd (root or sudo)
	@.ci/setup

# If the installation fails, the tests that do not need it still run; `real` names those it skips.
try-setup:
	@.ci/setup tests || echo '*** NOT INSTALLED: the packages listed above ***'

check: fmt clippy doc ## check formatting, lints and documentation; warnings are errors

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --document-private-items --locked

unit: ## run unit and property tests
	$(CARGO) test --locked --bin buildd-slave

it: ## run integration tests of the binary, without a chroot
	$(CARGO) test --locked --test architecture
	$(CARGO) test --locked --test suites integration::

# `unit` runs each fuzz test briefly.
fuzz: ## fuzz all parsers for FUZZ_SECONDS (60); failing inputs go to target/fuzz/
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) $(CARGO) test --locked --bin buildd-slave fuzz_ -- \
		--nocapture --test-threads 6

# Each attack lasts BUILDD_ATTACK_SECONDS (10) and mostly waits, so they run in parallel.
hostile: ## attack the daemon with up to 2,000 concurrent clients
	$(CARGO) test --locked --test suites hostile:: -- --test-threads 8

# These tests mostly wait for each other's processes.
farm: ## test librarian, master and slaves together, on SQLite and on PostgreSQL
	$(CARGO) test --locked --test suites farm:: -- --test-threads 6

real: ## build real packages in a chroot (needs root or sudo, and the network)
	@.ci/real

# Not part of `test`: measurements need an idle host.
bench: ## compare speed with Debian's tools, in a table; BENCH="echo send 9" runs two rows 9 times
	@.ci/bench $(BENCH)

build: ## build the release binary
	$(CARGO) build --release --locked
	@touch $(BINARY)

# root often has no cargo: `make build` and then `sudo make install` does not need it.
$(BINARY): Cargo.toml Cargo.lock $(shell find src -type f)
	@command -v $(CARGO) >/dev/null || { \
		echo '$@ is missing or older than src/: run make build as a user who has cargo'; exit 1; }
	@$(MAKE) --no-print-directory build

install: $(BINARY) ## install program, manual, configuration and systemd units below DESTDIR
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/buildd-slave
	rm -rf $(TARGET)/manual
	$(BINARY) internal manual $(TARGET)/manual
	install -d $(SHARE)/man/man1 $(SHARE)/man/man5
	install -m 644 $(TARGET)/manual/man1/*.1 $(SHARE)/man/man1
	install -m 644 $(TARGET)/manual/man5/*.5 $(SHARE)/man/man5
	install -D -m 644 -t $(SHARE)/bash-completion/completions $(TARGET)/manual/completions/bash/*
	install -D -m 644 -t $(SHARE)/zsh/vendor-completions $(TARGET)/manual/completions/zsh/*
	install -D -m 644 -t $(SHARE)/fish/vendor_completions.d $(TARGET)/manual/completions/fish/*
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in debian/*.service; do \
		sed 's,/usr/bin,$(PREFIX)/bin,' "$$unit" \
			>$(DESTDIR)$(PREFIX)/lib/systemd/system/"$${unit##*/}" || exit 1; \
	done
	test -e $(DESTDIR)/etc/buildd-slave/buildd-slave.conf || \
		install -D -m 644 buildd-slave.conf $(DESTDIR)/etc/buildd-slave/buildd-slave.conf

deb: ## build the Debian packages with this host's cargo; they go to target/deb/
	@CARGO='$(CARGO)' .ci/deb

source: ## make a Debian source package that builds without a network, in target/source/
	@CARGO='$(CARGO)' .ci/dsc

copyright: ## write the crates of Cargo.lock into debian/copyright
	@rm -rf target/vendor
	@CARGO='$(CARGO)' .ci/vendor target/vendor
	@.ci/copyright target/vendor >target/copyright
	@rm -rf target/vendor
	@mv target/copyright debian/copyright

packages-test: ## install, upgrade, remove and purge the packages of `make deb` in new chroots
	@.ci/packages

systems: ## boot Debian 13 with systemd, install the packages of `make deb` and try them (root)
	@.ci/systems

clean: ## remove target/ and demo/
	$(CARGO) clean
	rm -rf demo
