.DEFAULT_GOAL := run
.PHONY: run check fmt watch test test-deploy docs documents soak bench clean up down help

## Show what can be made
help:
	@awk '/^## /{if (!text) text = substr($$0, 4)} /^[a-z][a-z-]*:/{if (text) {sub(":.*", ""); printf "make %-10s %s\n", $$0, text} text = ""}' $(MAKEFILE_LIST)

## Build and start the product on its embedded database with the example study, on http://127.0.0.1:8000
run:
	cargo run --locked -- demo

## Check format and lints of the program, without tests; under a minute when only a few files have changed
check:
	cargo fmt --all -- --check
	cargo clippy --workspace --locked -- -D warnings

## Format all Rust code
fmt:
	cargo fmt --all

## Check again after each change of a file, until Ctrl-C
watch:
	@bash .ci/watch

## Install what the tests need, start private servers, run every check, stop them
test:
	bash tests/run

## Images and docker-compose with a real Docker engine, for half an hour or more (docs/guide/deploy-compose.md)
test-deploy:
	bash tests/deploy/real/run $(ARGS)

## Build the documents as a site into target/docs; open target/docs/index.html
docs:
	bash .ci/site/build

## Write the documents that the program generates: docs/reference/settings.md and .env.example
documents:
	cargo build --locked
	target/debug/studygovernor settings --markdown > docs/reference/settings.md
	target/debug/studygovernor settings --env > .env.example

## Nights in which everything goes wrong, for SOAK_SECONDS (an hour) or SOAK_ROUNDS, from SOAK_SEED
soak:
	bash tests/soak

## Measure: transitions a second, lists, memory, start (see docs/benchmarks.md)
bench:
	bash benches/run

## A Kubernetes cluster for development in Docker; then `tilt up` (docs/guide/develop-on-kubernetes.md). PORT=8080 where 80 is taken
up:
	@PORT=$(PORT) charts/dev/up

## Delete the cluster of `make up` with everything in it
down:
	@charts/dev/down

.PHONY: install uninstall deb release

## Install the program, manual pages, completions and documents below PREFIX; with SYSTEMD=yes the units too. BINARY names one that is built.
## Run `make release` as yourself before `sudo make install`
install:
	@test -n "$(BINARY)" || ! command -v cargo >/dev/null || $(MAKE) --no-print-directory release
	@BINARY="$(BINARY)" PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" SYSTEMD="$(SYSTEMD)" .ci/install install

## Remove what `make install` put there, with the same PREFIX and DESTDIR; the study and its settings stay
uninstall:
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" .ci/install uninstall

## A Debian package in target/debian (docs/guide/deploy-debian.md); BINARY names a program that is built
deb:
	@test -n "$(BINARY)" || $(MAKE) --no-print-directory release
	@BINARY="$(BINARY)" .ci/debian/build

## Build the program with optimization
release:
	cargo build --locked --release --bin studygovernor

## Delete everything that was built
clean:
	cargo clean
