//! Compiles the .proto files without `protoc`, and keeps the descriptors for gRPC reflection.

#![expect(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 8] = [
    "kv.proto",
    "flotilla/v1/region.proto",
    "flotilla/v1/errors.proto",
    "flotilla/v1/kv.proto",
    "flotilla/v1/command.proto",
    "flotilla/v1/raft.proto",
    "flotilla/v1/cluster.proto",
    "flotilla/v1/placement.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
