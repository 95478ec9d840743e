//! The `flotilla-operator` binary.
fn main() {}
