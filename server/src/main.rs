//! The `flotilla-server` binary.
fn main() {}
