# One line a task; the longer ones are scripts in .ci/. `make` alone lists them.
CARGO   ?= cargo
PREFIX  ?= /usr
DESTDIR ?=
TARGET   = $(or $(CARGO_TARGET_DIR),target)
BINARY   = $(TARGET)/release/buildd-slave

.DEFAULT_GOAL := help
.PHONY: help demo test setup try-setup check fmt clippy doc unit fuzz it hostile farm real build install clean
# The order of `test` is the point of it: what is cheap fails first.
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: setup build ## a farm on this machine builds two Debian packages; results in demo/
	@.ci/demo $(BINARY)

test: try-setup check unit it hostile farm real ## everything: checks, unit and integration tests, attacks, the farm, real builds

setup: ## what this machine lacks for building packages: installs it, says why (root or sudo)
	@.ci/setup

# What needs none of it is tested all the same; `real` says what it does not run.
try-setup:
	@.ci/setup tests || echo '*** NOT INSTALLED: what is missing above ***'

check: fmt clippy doc ## formatting, lints and documentation, warnings refused

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --document-private-items --locked

unit: ## unit and property tests
	$(CARGO) test --locked --bin buildd-slave

it: ## integration tests: the real binary, no chroot
	$(CARGO) test --locked --test architecture --test integration

# `unit` does a little of it each time.
fuzz: ## damaged input for all that reads any, for FUZZ_SECONDS (60); finds go to target/fuzz/
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) $(CARGO) test --locked --bin buildd-slave fuzz_ -- --nocapture \
		--test-threads 6

# Most of an attack is waiting: each lasts BUILDD_ATTACK_SECONDS (10).
hostile: ## the daemon under attack, by up to 2,000 clients at a time
	$(CARGO) test --locked --test hostile -- --test-threads 8

# Much of it is waiting for each other.
farm: ## the farm: librarian, master and slaves, on SQLite and on a PostgreSQL of their own
	$(CARGO) test --locked --test farm -- --test-threads 4

real: ## real builds in a real chroot (root or sudo, and the network)
	@.ci/real

build: ## the release binary
	$(CARGO) build --release --locked

install: build ## binary, configuration and systemd units, below DESTDIR
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/buildd-slave
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in slave master; do \
		sed 's,/usr/bin,$(PREFIX)/bin,' debian/buildd-$$unit.service \
			>$(DESTDIR)$(PREFIX)/lib/systemd/system/buildd-$$unit.service || exit 1; \
	done
	test -e $(DESTDIR)/etc/buildd-slave/buildd-slave.conf || \
		install -D -m 644 buildd-slave.conf $(DESTDIR)/etc/buildd-slave/buildd-slave.conf

clean: ## target/ and demo/
	$(CARGO) clean
	rm -rf demo
