#!/usr/bin/env bash
# Builds statically linked programs into dist/: for each target an archive with program, completions, manual page, unit of
# systemd and licence, and the checksums of all archives. A target whose toolchain is missing is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
out=dist
made=()
mkdir -p "$out"

has_target() { # target, linker
  rustc --print target-libdir --target "$1" 2>/dev/null | while read -r dir; do [ -d "$dir" ] && echo yes; done | grep -q yes &&
    command -v "$2" >/dev/null
}

build() { # target, linker, name of the architecture
  if ! has_target "$1" "$2"; then
    echo "SKIP dist for $3: the toolchain lacks the target $1, or the linker $2 is missing"
    return
  fi
  local name="cstore-$version-linux-$3" variable
  variable="CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$1")_LINKER"
  env "$variable=$2" RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --profile dist --locked --target "$1" -p cstore --bin cstore
  rm -rf "${out:?}/$name"
  install -D -m 0755 "${CARGO_TARGET_DIR:-target}/$1/dist/cstore" "$out/$name/cstore"
  install -m 0644 LICENSE README.md deploy/systemd/cstore.service "$out/$name/"
  # Completions and the manual page are those of the program of this machine.
  if "$out/$name/cstore" --version >/dev/null 2>&1; then
    mkdir -p "$out/completions"
    for shell in bash zsh fish; do "$out/$name/cstore" completions "$shell" >"$out/completions/cstore.$shell"; done
    "$out/$name/cstore" man >"$out/completions/cstore.1"
  fi
  [ ! -d "$out/completions" ] || cp -r "$out/completions" "$out/$name/"
  tar -C "$out" -czf "$out/$name.tar.gz" --owner=0 --group=0 --sort=name "$name"
  rm -rf "${out:?}/$name"
  made+=("$name.tar.gz")
}

linker() { [ "$(uname -m)" = "$1" ] && echo cc || echo "$1-linux-gnu-gcc"; }
build x86_64-unknown-linux-gnu "$(linker x86_64)" amd64
build aarch64-unknown-linux-gnu "$(linker aarch64)" arm64
rm -rf "$out/completions"
[ "${#made[@]}" -gt 0 ] || { echo "dist: nothing could be built" >&2; exit 69; }
(cd "$out" && sha256sum "${made[@]}" >SHA256SUMS)
printf 'made %s\n' "${made[@]/#/$out/}" "$out/SHA256SUMS"
