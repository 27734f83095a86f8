//! Compiles the .proto files without protoc and keeps the descriptor set for reflection.

use prost::Message as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 5] = [
        "cstore/v1/common.proto",
        "cstore/v1/namespace.proto",
        "cstore/v1/uploads.proto",
        "cstore/v1/cluster.proto",
        "cstore/v1/transfer.proto",
    ];
    println!("cargo:rerun-if-changed=cstore");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(
        out.join("cstore.v1.descriptors"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::MessageCodec")
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
