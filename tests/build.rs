//! Compiles the few messages of etcd's API that the load generator needs.

#![expect(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=bench/proto");
    let descriptors = protox::compile(["etcd.proto"], ["bench/proto"])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
