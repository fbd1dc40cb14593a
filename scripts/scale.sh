#!/usr/bin/env bash
# Compiles presets for TPUs and GPUs ahead of time and writes the table of docs/scale.md.
#
#   scripts/scale.sh [FOLDER]
#
# One row per line of scripts/scale.txt. Reports stay in FOLDER (runs/scale by default) as JSON; a row whose report is there
# is not compiled again. Needs the compilers (scripts/setup.sh --with-libtpu --with-cuda-compiler), no TPU or GPU, and minutes of two cores per row.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-runs/scale}
switchyard=${SWITCHYARD:-target/release/switchyard}
mkdir -p "$folder"

# name preset topology overrides...
while read -r name preset topology overrides; do
  case $name in '' | '#'*) continue ;; esac
  report=$folder/$name.json
  if [ ! -s "$report" ]; then
    options=()
    for override in $overrides; do
      case $override in
        mesh=*) options+=(--mesh "${override#mesh=}") ;;
        *) options+=(--set "$override") ;;
      esac
    done
    echo "$name: $preset for $topology ..." >&2
    # 1: it does not fit, which is a row too.
    "$switchyard" aot "graphs/$preset.json" --topology "$topology" --json "${options[@]}" >"$report.part" ||
      [ -s "$report.part" ] || { echo "$name failed" >&2; continue; }
    mv "$report.part" "$report"
  fi
done <scripts/scale.txt

python3 scripts/scale_table.py "$folder" docs/scale.md
