#!/usr/bin/env bash
# Everything that is measured on a GPU, in two calls.
#
#   scripts/gpu.sh reference         on any machine: 20 steps of the demo on the CPU in float32 and bfloat16, for comparison
#   scripts/gpu.sh measure [OUT]     on a machine with a GPU: all figures, as OUT/gpu.json and on standard output
#
# `measure` needs the program without the feature `cpu` and no network: it is built where cargo is, else $SWITCHYARD names one that was
# built elsewhere. The plugin is that of JAX (package jax-cuda13-pjrt or jax-cuda12-pjrt) with NVIDIA's libraries, in any Python on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

steps=20
reference=runs/gpu-reference
data=(src docs README.md)
# Batches of switch-base-8 are cut to what one card holds beside its state; the tokenizer of the text is bytes.
base=(graphs/switch-base-8.json --set data.tokenizer.kind=bytes --set model.compute_dtype=bfloat16)

say() { printf '\n=== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

train() { # folder device arguments...
  local folder=$1 device=$2
  shift 2
  rm -rf "$folder"
  "$switchyard" train "$@" --data "${data[@]}" --steps "$steps" --out "$folder" --device "$device"
}

curves() { # folder device: the demo in both types, where the two devices must agree to rounding
  train "$1/demo-f32" "$2" graphs/demo.json --set model.compute_dtype=float32
  train "$1/demo-bf16" "$2" graphs/demo.json --set model.compute_dtype=bfloat16
}

build_without_cpu() {
  if [ -n "${SWITCHYARD-}" ]; then
    switchyard=$SWITCHYARD
  elif command -v cargo >/dev/null; then
    say "building without the feature cpu"
    cargo build --release --no-default-features --target-dir target/no-cpu
    switchyard=target/no-cpu/release/switchyard
  else
    die "no cargo here: build with --no-default-features elsewhere and set SWITCHYARD"
  fi
  "$switchyard" --version >/dev/null || die "$switchyard does not run here"
}

# NVIDIA's libraries lie in Python packages, where the plugin does not look by itself.
find_libraries() {
  local site
  site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  [ -d "$site/nvidia" ] || { echo "no NVIDIA packages in $site: the system's are taken" >&2; return; }
  local folders
  folders=$(find -L "$site/nvidia" -maxdepth 3 -type d -name lib | paste -sd:)
  export LD_LIBRARY_PATH=$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  local cuda
  for cuda in "$site"/nvidia/cu13 "$site"/nvidia/cuda_nvcc; do
    [ ! -d "$cuda" ] || export XLA_FLAGS="${XLA_FLAGS-} --xla_gpu_cuda_data_dir=$cuda"
  done
}

measure() {
  local out=${1:-runs/gpu}
  mkdir -p "$out"
  build_without_cpu
  find_libraries
  say "devices and the peak of one matrix product"
  "$switchyard" doctor --device cuda --matmul 8192 --json | tee "$out/doctor.json"
  say "the demo, $steps steps"
  curves "$out" cuda
  say "switch-base-8 in bfloat16, $steps steps"
  train "$out/base8" cuda "${base[@]}"
  "$switchyard" inspect "$out/base8/artifact" --program train_step --json >"$out/base8.inspect.json"
  python3 scripts/gpu_figures.py "$out" "$reference" | tee "$out/gpu.json"
}

case ${1-} in
  reference)
    switchyard=${SWITCHYARD:-target/release/switchyard}
    curves "$reference" cpu
    # What travels to the other machine: the curves alone.
    rm -rf "$reference"/*/{checkpoints,artifact,events}
    ;;
  measure) measure "${2-}" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
