.PHONY: help run test stress bench trace-demo fmt clippy

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: ## build and start the whole system on 127.0.0.1, data in ./data
	cargo run --release -- dev

test: ## everything that must hold: format, lints, tests, documentation
	bash .ci/test

stress: ## 50 clients at once, twice, every file read back
	cargo test -p cstore-integration-tests --test it stress_

bench: ## measure the real program, print a table, write bench-results/
	cargo run --release -p cstore-integration-tests --bin bench

trace-demo: ## upload and download one file over four services and print the traces
	cargo run -p cstore-integration-tests --bin trace-demo

fmt: ## format
	cargo fmt --all

clippy: ## lints, as errors
	cargo clippy --workspace --all-targets -- -D warnings
