//! A directory for one test.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::say;

/// A directory that is removed when the test passed and kept, with its path printed, when it failed.
pub struct Scratch {
    directory: Option<TempDir>,
}

impl Scratch {
    /// A fresh directory, named for the running test.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let directory = tempfile::Builder::new()
            .prefix(&format!("flotilla-{test}-"))
            .tempdir()
            .expect("make a directory for the test");
        Self { directory: Some(directory) }
    }

    /// Where it is.
    ///
    /// # Panics
    /// After [`Scratch::keep`].
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.as_ref().expect("the directory is given up only at the end").path()
    }

    /// Leaves the directory behind for a person to look at.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.directory.take().map(TempDir::keep)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(path) = self.keep()
        {
            say(format!("the test failed; its files are in {}", path.display()));
        }
    }
}
