//! RocksDB's statuses as our errors.

use std::path::Path;

use rocksdb::ErrorKind;

use super::{Error, Kind};

/// What the caller was doing, and what RocksDB said.
pub(super) fn failed(doing: &str, status: rocksdb::Error) -> Error {
    let text = status.as_ref();
    let full = text.contains("No space left on device") || text.contains("Disk quota exceeded");
    let message = format!("{doing}: {text}");
    match status.kind() {
        ErrorKind::Corruption => Error::Corrupt { message },
        _ if full => Error::Full { message },
        _ => Error::Io { message },
    }
}

/// As [`failed`], for an open, where a missing file is damage too.
pub(super) fn failed_open(kind: Kind, dir: &Path, status: rocksdb::Error) -> Error {
    let doing = format!("open {kind} instance {}", dir.display());
    let text = status.as_ref();
    if text.contains("create_if_missing is false") || text.contains("No such file or directory") {
        return Error::Corrupt { message: format!("{doing}: files are missing: {text}") };
    }
    if text.contains("lock") && status.kind() == ErrorKind::IOError {
        return Error::Io { message: format!("{doing}: {OPEN_ELSEWHERE}: {text}") };
    }
    failed(&doing, status)
}

const OPEN_ELSEWHERE: &str = "it is open elsewhere";

/// Whether an opening failed only because another process has the directory open: with the end of that
/// process it will succeed.
#[must_use]
pub fn is_open_elsewhere(error: &Error) -> bool {
    matches!(error, Error::Io { message } if message.contains(OPEN_ELSEWHERE))
}
