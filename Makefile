# setup   the native XLA library, into .runtime (or $SWITCHYARD_RUNTIME)
# build   release programs in target/release
# demo    trains graphs/demo.json on this project's own text, or on DATA="file folder ..."
# test    all tests
# bench   the training step beside its matrix products
# lint    formatting and clippy, warnings denied
# clean   removes build output and runs; the XLA library in .runtime stays

SHELL := /bin/bash
DATA ?= src docs README.md
DEMO ?= runs/demo

.PHONY: setup build demo test bench lint clean

setup:
	scripts/setup.sh

build: setup
	cargo build --release

demo: build
	rm -rf $(DEMO)
	target/release/switchyard train graphs/demo.json --data $(DATA) --steps 600 --out $(DEMO)

test: setup
	cargo test

bench: setup
	cargo bench --bench step

lint: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

clean:
	cargo clean
	rm -rf runs
