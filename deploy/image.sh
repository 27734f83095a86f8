#!/usr/bin/env bash
# Builds the image CSTORE_IMAGE. BIN_STAGE says where its program comes from: `build` (compiled in the image of the Rust
# project) or `prebuilt` (dist/cstore). Unset: `build` when that image is there or can be pulled, else the program is
# built with cargo here, statically linked, so that it runs on whatever C library the image has.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${CSTORE_IMAGE:-cstore:dev}
rust_image=${RUST_IMAGE:-rust:1.95-bookworm}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)

docker buildx version >/dev/null 2>&1 || { echo "image: docker with buildx is needed" >&2; exit 69; }
if [ -z "${BIN_STAGE:-}" ]; then
  if docker image inspect "$rust_image" >/dev/null 2>&1 || timeout 60 docker pull -q "$rust_image" >/dev/null 2>&1; then
    BIN_STAGE=build
  elif command -v cargo >/dev/null; then
    echo "image: $rust_image cannot be had, building the program with cargo"
    target=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS="-C target-feature=+crt-static" \
      cargo build --profile dist --locked --target "$target" -p cstore --bin cstore
    install -D "${CARGO_TARGET_DIR:-target}/$target/dist/cstore" dist/cstore
    BIN_STAGE=prebuilt
  else
    echo "image: neither the image $rust_image nor cargo is here; one of them must build the program" >&2
    exit 69
  fi
fi
docker buildx build --load -q -f deploy/Dockerfile -t "$image" --build-arg "BIN_STAGE=$BIN_STAGE" \
  --build-arg "RUST_IMAGE=$rust_image" --build-arg "VERSION=$version" . >/dev/null
size=$(docker image inspect -f '{{.Size}}' "$image")
echo "image: $image ($BIN_STAGE), $((size / 1000000)) MB"
