.PHONY: help run test bench stress fmt clippy

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: ## build and start the whole system on 127.0.0.1, data in ./data
	cargo run --release -- dev

test: ## everything that must hold: format, lints, tests, documentation
	cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings && cargo test --workspace && cargo doc --workspace --no-deps

bench: ## measure the real program
	cargo bench --workspace

stress: ## the tests of the whole cluster, optimised
	cargo test --release -p cstore-integration-tests

fmt: ## format
	cargo fmt --all

clippy: ## lints, as errors
	cargo clippy --workspace --all-targets -- -D warnings
