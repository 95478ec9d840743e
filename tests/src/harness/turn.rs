//! One cluster at a time.

use std::fs::File;

/// The right to run a cluster on this machine. Others wait until it is dropped.
///
/// A lock on a file, so that it also orders tests of different processes; the system releases it
/// when the holder dies.
pub struct Turn {
    _file: File,
}

impl Turn {
    /// Waits for the turn.
    ///
    /// # Panics
    /// When the lock file cannot be made.
    #[expect(clippy::disallowed_methods, reason = "the tests are no part of a simulation")]
    pub async fn take() -> Self {
        let waited = tokio::task::spawn_blocking(|| {
            let user = rustix::process::getuid().as_raw();
            let path = std::env::temp_dir().join(format!("flotilla-tests-{user}.lock"));
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
            file.lock().unwrap_or_else(|error| panic!("lock {}: {error}", path.display()));
            file
        });
        Self { _file: waited.await.expect("taking the turn does not panic") }
    }
}
