#!/bin/sh
# Runs the compiler that cargo asks for. Before crate `xla` is built, looks whether the XLA runtime is there:
# its own build script would panic with a message that names neither the cause nor the cure.
if [ "${CARGO_PKG_NAME-}" = xla ]; then
  for file in "${XLA_EXTENSION_DIR:=.runtime}/include/xla/pjrt/pjrt_client.h" \
    "$XLA_EXTENSION_DIR/lib/libxla_extension.so"; do
    if [ ! -s "$file" ]; then
      echo "error: the XLA runtime is missing or incomplete ($file): run \`make setup\`, or build with --no-default-features" >&2
      exit 1
    fi
  done
  if [ -n "${LIBCLANG_PATH-}" ] && [ ! -e "$LIBCLANG_PATH" ]; then
    echo "error: libclang is missing ($LIBCLANG_PATH): run \`make setup\`, or build with --no-default-features" >&2
    exit 1
  fi
fi
exec "$@"
