#!/usr/bin/env bash
# Provides the native XLA library and libclang that crate `xla` builds with, without root, through pip.
#
#   scripts/setup.sh [--with-libtpu] [--with-cuda-compiler] [--with-cpu-plugin] [--check]
#
#   --with-libtpu         also fetch libtpu (137 MB), for compiling ahead of time for TPUs
#   --with-cuda-compiler  also fetch XLA's CUDA plugin and NVIDIA's assembler (232 MB), for compiling ahead of time for GPUs
#   --with-cpu-plugin     also fetch XLA's CPU as a PJRT plugin (63 MB), which the tests of plugins run on
#   --check               fetch nothing; exit code 1 if something is missing or damaged
#
# Everything goes to `.runtime` in this checkout, or to the folder $SWITCHYARD_RUNTIME, which several checkouts can
# share; `.runtime` is then a link to it. A library that the environment names in $XLA_EXTENSION_DIR is used as it
# is, and so is $LIBCLANG_PATH. Running it again does nothing, or finishes what was interrupted.
#
# Needs Linux on x86_64, g++ with binutils, and Python 3.8 or later with pip (any: the wheels' own version is
# spelled out). Fetches 299 MB and takes 730 MB of disk; the wheels are deleted when they have been unpacked.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recipe=$root/scripts/xla
recipe_version=1 # raise when what is made from the wheels changes
link=$root/.runtime
runtime=${SWITCHYARD_RUNTIME:-$link}

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

with_libtpu=0 with_cuda_compiler=0 with_cpu_plugin=0 check_only=0
for option in "$@"; do
  case $option in
    --with-libtpu) with_libtpu=1 ;;
    --with-cuda-compiler) with_cuda_compiler=1 ;;
    --with-cpu-plugin) with_cpu_plugin=1 ;;
    --check) check_only=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $option (--help lists them)" ;;
  esac
done

need() {
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    die "the XLA library is only fetched for Linux x86_64, this is $(uname -s) $(uname -m): set XLA_EXTENSION_DIR, or build with --no-default-features"
  local tool
  for tool in "$cxx" python3 strip sha256sum; do
    command -v "$tool" >/dev/null || die "$tool is needed and not on PATH"
  done
  python3 -m pip --version >/dev/null 2>&1 || die "pip is needed: python3 -m pip does not run"
}

# --- the parts: what each is called in wheels.txt ------------------------------

wheel() { # part -> "project version file sha256 megabytes"
  awk -v part="$1" '$1 == part { print $2, $3, $4, $5, $6 }' "$recipe/wheels.txt"
}

# What a part was made from. Another stamp means that it is made again.
stamp() { echo "recipe $recipe_version: $(wheel "$1")"; }

# Where a part keeps its stamp and manifest; crate `xla`'s object cache reads the one of the library.
stamp_file() { if [ "$1" = xla ]; then echo .stamp; else echo ".stamp-$1"; fi; }

# Whether a part is there and whole. Runs in the runtime folder.
healthy() {
  local file; file=$(stamp_file "$1")
  [ -f "$file" ] && [ "$(cat "$file")" = "$(stamp "$1")" ] || return 1
  python3 "$recipe/unpack.py" check "$file.manifest" || return 1
  [ "$1" != xla ] || lib/abi_test >/dev/null
}

fetch() { # part: leaves its wheel in wheels/
  local project version file digest megabytes platform abi
  read -r project version file digest megabytes <<<"$(wheel "$1")"
  mkdir -p wheels
  if [ -f "wheels/$file" ] && sha256sum --status -c <<<"$digest  wheels/$file"; then
    return
  fi
  rm -f "wheels/$file"
  say "fetching $file ($megabytes MB)"
  platform=${file##*-} platform=${platform%%.*} # the first of several
  abi=${file%-*} abi=${abi##*-}
  printf '%s==%s --hash=sha256:%s\n' "$project" "$version" "$digest" >wheels/requirement.txt
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --implementation cp --python-version 3.11 --abi "$abi" --platform "$platform" \
    --dest wheels --requirement wheels/requirement.txt ||
    die "pip could not fetch $file; run this again, what is complete is kept"
  sha256sum --status -c <<<"$digest  wheels/$file" || die "wheels/$file has another sha256 than $digest"
}

# --- making a part in new/, then moving it to its place ---------------------------

make_xla() {
  say "stripping and linking the XLA library"
  strip --strip-unneeded new/lib/libtensorflow_*.so.2
  cp -r "$recipe/include/." new/include/
  # Four functions that the wheel's library declares and does not have: the registry of PJRT plugins.
  local tensorflow=(-l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2)
  "$cxx" -std=c++17 -w -DNDEBUG -DLLVM_ON_UNIX=1 -DLLVM_VERSION_STRING= -Inew/include -O1 -fPIC -shared \
    "$recipe/pjrt_registry.cc" -o new/lib/libpjrt_registry.so -Lnew/lib "${tensorflow[@]}" \
    -Wl,-rpath,'$ORIGIN' -Wl,-soname,libpjrt_registry.so -Wl,--no-undefined -ldl
  # A linker script under the name that the crate links. The registry comes first: it overrides GetCApiClient.
  echo 'INPUT(libpjrt_registry.so libtensorflow_cc.so.2 libtensorflow_framework.so.2)' >new/lib/libxla_extension.so
  "$cxx" -std=c++17 -O1 -Inew/include "$recipe/abi_test.cc" -o new/lib/abi_test -Lnew/lib -Wl,--no-as-needed \
    -l:libpjrt_registry.so "${tensorflow[@]}" -Wl,-rpath,'$ORIGIN' -ldl
  new/lib/abi_test || die "the library does not match the headers in scripts/xla/include"
}

# The folders that a part is made of; nothing else is in them.
folders() {
  case $1 in
    xla) echo include lib licenses ;;
    clang) echo clang ;;
    libtpu) echo tpu ;;
    cpu-plugin) echo cpu-plugin ;;
    cuda-plugin) echo cuda/plugin ;;
    cuda-nvcc) echo cuda/bin ;;
    cuda-nvvm) echo cuda/nvvm ;;
  esac
}

install_part() {
  local part=$1 file wheel_file folder made
  file=$(stamp_file "$part")
  read -r _ _ wheel_file _ <<<"$(wheel "$part")"
  [ "$(df -Pm . | awk 'NR == 2 { print $4 }')" -gt 2000 ] || die "2 GB of free space are needed at $PWD"
  fetch "$part"
  say "unpacking $wheel_file"
  rm -rf new && mkdir new
  python3 "$recipe/unpack.py" "$part" "wheels/$wheel_file" new
  [ "$part" != xla ] || make_xla
  # From here to the new stamp the part counts as missing.
  rm -f "$file" "$file.manifest"
  read -ra made <<<"$(folders "$part")"
  for folder in "${made[@]}"; do
    rm -rf "$folder"
    mkdir -p "$(dirname "$folder")"
    mv "new/$folder" "$folder"
  done
  find new -depth -type d -empty -delete
  python3 "$recipe/unpack.py" manifest "${made[@]}" >"$file.manifest"
  stamp "$part" >"$file"
  rm -rf wheels/"$wheel_file" wheels/requirement.txt
  rmdir --ignore-fail-on-non-empty wheels
}

# --- a library that the user brings ------------------------------------------------

use_given_library() {
  local name
  for name in include lib; do
    [ -d "$XLA_EXTENSION_DIR/$name" ] || die "XLA_EXTENSION_DIR=$XLA_EXTENSION_DIR has no folder $name"
    if [ -d "$name" ] && [ ! -L "$name" ]; then
      die "$PWD/$name holds another library: remove $PWD, or unset XLA_EXTENSION_DIR"
    fi
    [ $check_only = 1 ] || ln -sfn "$(cd "$XLA_EXTENSION_DIR/$name" && pwd)" "$name"
  done
  say "XLA library of XLA_EXTENSION_DIR=$XLA_EXTENSION_DIR"
}

# --- one run ---------------------------------------------------------------------------

cxx=${XLA_CXX:-g++}
if [ "$runtime" != "$link" ]; then
  [ ! -d "$link" ] || [ -L "$link" ] ||
    die "$link is a folder, but SWITCHYARD_RUNTIME=$runtime asks for a link: remove one of the two"
  [ $check_only = 1 ] || { mkdir -p "$runtime" && ln -sfn "$(cd "$runtime" && pwd)" "$link"; }
fi
[ $check_only = 1 ] || mkdir -p "$runtime"
[ -d "$runtime" ] || die "$runtime is missing: run \`make setup\`"
cd "$runtime"

parts=()
given=${XLA_EXTENSION_DIR-}
if [ -n "$given" ] && [ "$(realpath -m "$given")" != "$(realpath -m .)" ]; then
  use_given_library
else
  parts+=(xla)
fi
[ -n "${LIBCLANG_PATH-}" ] && [ "$(realpath -m "$LIBCLANG_PATH")" != "$(realpath -m clang/lib)" ] || parts+=(clang)
[ $with_libtpu = 0 ] || parts+=(libtpu)
[ $with_cuda_compiler = 0 ] || parts+=(cuda-plugin cuda-nvcc cuda-nvvm)
[ $with_cpu_plugin = 0 ] || parts+=(cpu-plugin)

missing=()
for part in "${parts[@]}"; do
  healthy "$part" 2>/dev/null || missing+=("$part")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ $check_only = 0 ] || die "missing or damaged in $PWD: ${missing[*]}: run \`make setup\`"
  need
  # The lock lives in the kernel, not in the file: a copy of this folder is not locked.
  exec 9>.lock
  ! command -v flock >/dev/null || flock 9
  for part in "${missing[@]}"; do
    healthy "$part" 2>/dev/null || install_part "$part" # another run may have made it meanwhile
  done
fi
say "ready in $PWD ($(du -sm . | cut -f1) MB)"
