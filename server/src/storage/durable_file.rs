//! Files and directories that survive a power cut.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::engine::Error;

/// An I/O error in words: what was being done, to what.
pub(super) fn failed(doing: &str, path: &Path, source: &io::Error) -> Error {
    let message = format!("{doing} {}: {source}", path.display());
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { message },
        _ => Error::Io { message },
    }
}

/// Makes the names in `dir` survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| failed("sync directory", dir, &e))
}

/// Creates `dir` with its parents, all of them to survive a power cut.
pub(super) fn create_dir_all(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent_of(dir);
    create_dir_all(parent)?;
    match fs::create_dir(dir) {
        Ok(()) => sync_dir(parent),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed("create directory", dir, &e)),
    }
}

/// Removes `dir` and all below it; nothing if it does not exist.
pub(super) fn remove_dir_all(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove directory", dir, &e)),
        _ => Ok(()),
    }
}

/// Puts `bytes` under `path` so that a reader finds the old content or the new, whole, whatever
/// happens; and the new after this has returned.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = with_suffix(path, ".new");
    // Durability: the content before the name, the name before the return.
    File::create(&fresh)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(|e| failed("write", &fresh, &e))?;
    fs::rename(&fresh, path).map_err(|e| failed("rename into place", path, &e))?;
    sync_dir(parent_of(path))
}

/// The content of a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path, &e)),
    }
}

/// The directory that holds the name of `path`.
pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// `path` with `suffix` added to its last part.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}
