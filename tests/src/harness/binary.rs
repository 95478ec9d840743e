//! Finding the programs under test.

use std::path::PathBuf;

/// The path of a program that was built into the directory of the running test, or into
/// `TEST_BIN_DIR` when that is set.
///
/// # Panics
/// When it is not there: `cargo test` of this crate alone does not build other crates' programs.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let path = place(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release --workspace` (or `make test`) first",
        path.display()
    );
    path
}

/// Whether a program was built.
pub(super) fn is_built(name: &str) -> bool {
    place(name).is_file()
}

fn place(name: &str) -> PathBuf {
    let directory = match std::env::var_os("TEST_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let this = std::env::current_exe().expect("the test knows its own path");
            // target/release/deps/story-0123 -> target/release
            let deps = this.parent().expect("a program lies in a directory");
            deps.parent().expect("cargo puts tests into `deps`").to_path_buf()
        }
    };
    directory.join(name)
}
