.PHONY: help run test flaky mutants mutation model up up-obs down logs ps reset demo stress chaos kills damage full-fs bench open-bench roll-bench lanes-bench lanes-proof lanes-sanitized image dist helm-test helm-live trace-demo data-fixture fmt clippy

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: ## build and start the whole system on 127.0.0.1, data in ./data; settings of .env
	@deploy/with-env.sh cargo run --release -- dev

test: ## everything that must hold: format, lints, tests, documentation, image, Compose, chart
	bash .ci/test

flaky: ## the tests N=10 times beside LOAD=2 busy loops: which failed how often; ARGS="-p cstore-log -- crash"
	@.ci/flaky

model: ## explore every order of steps of what master and disks judge of each other, then without each rule
	@cargo run --release -p cstore-model

mutants: ## break the code with each patch of integration-tests/mutants: do the tests notice? ONLY=log
	@.ci/mutants

mutation: ## the same with mutants of cargo-mutants, a part of them: SHARD=0/40 ONLY=log
	@.ci/mutation

up: ## start it with Docker Compose and wait until it is healthy
	@deploy/compose.sh up

up-obs: ## the same with Jaeger, Prometheus and Grafana
	@deploy/compose.sh up-obs

down: ## stop it; the data stay
	@deploy/compose.sh down

logs: ## follow its logs; S=gateway for one service
	@deploy/compose.sh logs --follow --tail 100 $(S)

ps: ## what runs
	@deploy/compose.sh ps

reset: ## stop it and remove all data; asks, unless FORCE=1
	@deploy/compose.sh reset

demo: ## store the same bytes twice, show what was saved and the trace
	@deploy/demo.sh

page-test: ## the web page in a headless Chromium, where there is one; pictures of it in target/page
	CSTORE_BROWSER=1 CSTORE_AXE="$$(.ci/axe)" cargo test -p cstore-integration-tests --test it page::

stress: ## 50 clients at once, twice, every file read back
	cargo test -p cstore-integration-tests --test it stress_

chaos: ## kill, stop, cut and stall every part under load; nothing acknowledged may be lost
	cargo test -p cstore-integration-tests --test it -- kills walk network drain

kills: ## kill -9 of all roles in turn under load, N=1000 times; nothing acknowledged may be lost
	CSTORE_KILLS="$${N:-1000}" cargo test -p cstore-integration-tests --test it -- many_kills:: --nocapture

damage: ## each structure of a data folder with each kind of damage, 280 cells; some by CSTORE_DAMAGE="footer flip"
	CSTORE_DAMAGE="$${CSTORE_DAMAGE:-all}" cargo test -p cstore-integration-tests --test it damage::

full-fs: ## fill and empty small file systems, tmpfs and ext4 of 24 to 800 MiB; some by CSTORE_FULL_FS="ext4 64 MiB"
	CSTORE_FULL_FS="$${CSTORE_FULL_FS:-all}" cargo test -p cstore-integration-tests --test it -- full_fs:: --nocapture

bench: ## medians and ratios: AGAINST="old/cstore weed weed:fsync weed:s3" PROGRAM= SETUPS= ROWS= ROUNDS=3 MIB= MEMORY=1 TRACING=
	cargo run --profile dist -p cstore-integration-tests --bin bench -- \
	  $(if $(PROGRAM),--program "$(PROGRAM)") $(if $(AGAINST),--against "$(AGAINST)") $(if $(SETUPS),--setups "$(SETUPS)") \
	  $(if $(ROWS),--rows "$(ROWS)") $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(MIB),--mib $(MIB)) $(if $(MEMORY),--memory) \
	  $(if $(TRACING),--tracing $(TRACING))

open-bench: ## opens of logs and storage disks of two sizes: processor time and peak memory; data in D=target/scale-bench
	cargo run --release -p cstore-integration-tests --bin scale-bench -- open $(D)

roll-bench: ## latency of 4 KiB uploads to an engine while segments fill, and while none does
	cargo run --release -p cstore-integration-tests --bin scale-bench -- roll $(D)

lanes-bench: ## MD5 of 1 to 64 blocks at once in GB/s, for all instructions that this processor has
	cargo run --release -p cstore-lanes --example throughput

lanes-proof: ## compare MD5 in lanes with md-5 for a million random blocks; CSTORE_SEED=1
	CSTORE_CASES="$${CSTORE_CASES:-1000000}" cargo test -p cstore-lanes -- --nocapture

lanes-sanitized: ## the tests of MD5 in lanes with AddressSanitizer
	@.ci/lanes-sanitized

dist: ## statically linked programs of this machine's toolchain, with checksums, in dist/
	@deploy/dist.sh

image: ## build the container image cstore:dev (CSTORE_IMAGE)
	@deploy/image.sh

helm-test: ## the chart without a cluster: every check and its outcome
	cargo test -p cstore-integration-tests --test it chart::

helm-live: ## the chart on the Kubernetes of $KUBECONFIG: install, break, upgrade, scale, remove
	@integration-tests/live/helm-live

trace-demo: ## upload and download one file over four services and print the traces
	cargo run -p cstore-integration-tests --bin trace-demo

data-fixture: ## before a format changes: pack data folders of this program for the tests; L=0.1.0-log1-disk2-meta1
	@cargo run -p cstore-integration-tests --bin data-fixture -- make "$(L)"

fmt: ## format
	cargo fmt --all

clippy: ## lints, as errors
	cargo clippy --workspace --all-targets -- -D warnings
