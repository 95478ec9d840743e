//! The `kvctl` binary.
fn main() {}
