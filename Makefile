# setup   the native XLA library, into .runtime (or $SWITCHYARD_RUNTIME)
# build   release programs in target/release
# demo    trains graphs/demo.json on this project's own text, or on DATA="file folder ..."
# test    all tests, with XLA's CPU also as a plugin (63 MB more)
# tpu     fetches libtpu (137 MB) and compiles small programs for TPUs with it
# cuda    fetches XLA's CUDA compiler (232 MB) and compiles small programs for GPUs with it
# scale   the table of docs/scale.md: presets compiled for TPUs and GPUs, minutes each
# bench   the training step beside its matrix products
# bench-peers the same model in JAX and PyTorch in turns with ours; rewrites the table of docs/performance.md
# bench-tpu   the step of the JAX peer and ours compiled for TPUs by libtpu, minutes each; rewrites the TPU table of docs/performance.md
# oracles every derivative rule, whole models and optimizers against JAX
# parity  imported models against Hugging Face transformers; rewrites the table of docs/parity.md
# lint    formatting and clippy, warnings denied
# clean   removes build output and runs; the XLA library in .runtime stays

SHELL := /bin/bash
DATA ?= src docs README.md
DEMO ?= runs/demo
PYTHON ?= python3
ORACLES := tests/oracles
CASES := target/oracles
PEERS := benches/peers

.PHONY: setup build demo test tpu cuda scale bench bench-peers bench-tpu oracles parity lint clean

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

cuda:
	scripts/setup.sh --with-cuda-compiler
	SWITCHYARD_REQUIRE_CUDA=1 cargo test --test aot gpu

scale: build
	scripts/setup.sh --with-libtpu --with-cuda-compiler
	scripts/scale.sh

bench: setup
	cargo bench --bench step

bench-peers: build $(PEERS)/.venv/done
	set -e; for size in small switch-base-8; do \
	  $(PEERS)/.venv/bin/python $(PEERS)/compare.py target/release/switchyard target/peers docs/performance.md $$size; \
	done
	set -e; for experts in 8 16 32 64 128 256; do \
	  $(PEERS)/.venv/bin/python $(PEERS)/compare.py target/release/switchyard target/peers docs/performance.md demo-$$experts-experts \
	    "jax gather" "jax scatter"; \
	done

bench-tpu: build $(PEERS)/.venv/done
	scripts/setup.sh --with-libtpu
	$(PEERS)/.venv/bin/python $(PEERS)/compare_tpu.py target/release/switchyard .runtime/tpu/libtpu.so target/peers docs/performance.md \
	  v5e:1x1 v5e:4x4 v5p:1x1x1 v5p:2x2x4

# Each folder has an environment of its own, made from its pinned requirements.
%/.venv/done: %/requirements.txt
	$(PYTHON) -m venv $*/.venv
	$*/.venv/bin/pip install --quiet --require-hashes -r $<
	touch $@

oracles: build $(ORACLES)/.venv/done
	mkdir -p $(CASES)
	SWITCHYARD_ORACLES=$(abspath $(CASES)) cargo test --release --test oracles -- --ignored
	$(ORACLES)/.venv/bin/python $(ORACLES)/check.py $(CASES) target/release/switchyard

parity: build $(ORACLES)/parity/.venv/done
	XLA_FLAGS=--xla_backend_optimization_level=0 $(ORACLES)/parity/.venv/bin/python $(ORACLES)/parity/check.py target/release/switchyard target/parity docs/parity.md

lint: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

clean:
	cargo clean
	rm -rf runs
