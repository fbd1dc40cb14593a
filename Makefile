# setup   the native XLA library, into .runtime (or $SWITCHYARD_RUNTIME)
# build   release programs in target/release
# demo    trains graphs/demo.json on this project's own text, or on DATA="file folder ..."
# test    all tests, with XLA's CPU also as a plugin (63 MB more)
# tpu     fetches libtpu (137 MB) and compiles small programs for TPUs with it
# scale   the table of docs/scale.md: presets compiled for TPUs, minutes each
# bench   the training step beside its matrix products
# lint    formatting and clippy, warnings denied
# clean   removes build output and runs; the XLA library in .runtime stays

SHELL := /bin/bash
DATA ?= src docs README.md
DEMO ?= runs/demo

.PHONY: setup build demo test tpu scale bench lint clean

setup:
	scripts/setup.sh

build: setup
	cargo build --release

demo: build
	rm -rf $(DEMO)
	target/release/switchyard train graphs/demo.json --data $(DATA) --steps 600 --out $(DEMO)

test:
	scripts/setup.sh --with-cpu-plugin
	SWITCHYARD_REQUIRE_PLUGINS=1 cargo test

tpu:
	scripts/setup.sh --with-libtpu
	SWITCHYARD_REQUIRE_TPU=1 cargo test --test aot

scale: build
	scripts/setup.sh --with-libtpu
	scripts/scale.sh

bench: setup
	cargo bench --bench step

lint: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

clean:
	cargo clean
	rm -rf runs
