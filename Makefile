.PHONY: run test docs soak bench clean up down

## Build and start the product on its embedded database with the example study, on http://127.0.0.1:8000
run:
	cargo run --locked -- demo

## Install what the tests need, start private servers, run every check, stop them
test:
	bash tests/run

## Build the documents as a site into target/docs; open target/docs/index.html
docs:
	bash .ci/site/build

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

release:
	cargo build --locked --release --bin studygovernor

clean:
	cargo clean
