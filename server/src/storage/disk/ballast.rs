//! Space held back for emergencies: a file whose blocks are allocated and never written.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::{super::durable_file::failed, Error};

/// The file `BALLAST` of a data directory.
///
/// An empty file means that the ballast was given back and is owed; so a restart in an emergency
/// does not make the device look emptier than it is.
pub(super) struct Ballast {
    path: PathBuf,
    wanted_bytes: u64,
    held_bytes: u64,
    owed: bool,
}

impl Ballast {
    /// The ballast that an earlier run left in `dir`.
    pub(super) fn find(dir: &Path, wanted_bytes: u64) -> Result<Self, Error> {
        let path = dir.join("BALLAST");
        let len = match path.metadata() {
            Ok(metadata) => Some(metadata.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed("look at", &path, &e)),
        };
        let mut ballast =
            Self { path, wanted_bytes, held_bytes: len.unwrap_or(0), owed: len == Some(0) };
        if ballast.held_bytes > 0 && ballast.held_bytes != wanted_bytes {
            // Configured anew: start over.
            ballast.remove()?;
        }
        Ok(ballast)
    }

    /// Bytes in place.
    pub(super) fn held(&self) -> u64 {
        self.held_bytes
    }

    /// Bytes given back, to be taken again when there is room.
    pub(super) fn owed(&self) -> u64 {
        if self.owed { self.wanted_bytes } else { 0 }
    }

    /// Gives the space back to the file system.
    pub(super) fn give_back(&mut self) -> Result<(), Error> {
        if self.held_bytes > 0 {
            self.empty()?;
            self.owed = true;
        }
        Ok(())
    }

    /// Takes the space if it is not held and fits into `spare_bytes`.
    pub(super) fn take(&mut self, spare_bytes: u64) -> Result<(), Error> {
        let wanted = self.wanted_bytes;
        if self.held_bytes > 0 || wanted == 0 || wanted > spare_bytes {
            return Ok(());
        }
        let file = self.open()?;
        match fallocate(&file, FallocateFlags::empty(), 0, wanted) {
            Ok(()) => {
                self.held_bytes = wanted;
                self.owed = false;
                Ok(())
            }
            // A file system that cannot allocate goes without ballast.
            Err(Errno::OPNOTSUPP) => {
                self.wanted_bytes = 0;
                self.remove()
            }
            // Somebody else was faster: what was allocated goes back, and a later poll tries again.
            Err(Errno::NOSPC | Errno::DQUOT) if self.owed => self.empty(),
            Err(Errno::NOSPC | Errno::DQUOT) => self.remove(),
            Err(e) => Err(failed("allocate", &self.path, &e.into())),
        }
    }

    fn remove(&mut self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(|e| failed("remove", &self.path, &e))?;
        self.held_bytes = 0;
        self.owed = false;
        Ok(())
    }

    fn empty(&mut self) -> Result<(), Error> {
        let file = self.open()?;
        file.set_len(0)
            .and_then(|()| file.sync_all())
            .map_err(|e| failed("empty", &self.path, &e))?;
        self.held_bytes = 0;
        Ok(())
    }

    fn open(&self) -> Result<File, Error> {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.path)
            .map_err(|e| failed("open", &self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const SIZE: u64 = 4 << 20;

    #[test]
    fn ballast_takes_real_blocks_and_gives_them_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("BALLAST");
        let blocks = || file.metadata().unwrap().blocks() * 512;
        let mut ballast = Ballast::find(dir.path(), SIZE).unwrap();
        ballast.take(SIZE - 1).unwrap();
        assert!(!file.exists() && ballast.owed() == 0, "no room: none taken, none owed");
        ballast.take(SIZE).unwrap();
        assert!(blocks() >= SIZE && ballast.held() == SIZE);
        ballast.give_back().unwrap();
        assert_eq!((blocks(), ballast.held(), ballast.owed()), (0, 0, SIZE));
        let mut again = Ballast::find(dir.path(), SIZE).unwrap();
        assert_eq!((again.held(), again.owed()), (0, SIZE), "a restart remembers the debt");
        again.take(u64::MAX).unwrap();
        assert_eq!((again.held(), again.owed()), (SIZE, 0));
        assert_eq!(Ballast::find(dir.path(), SIZE).unwrap().held(), SIZE);
    }

    #[test]
    fn ballast_of_another_size_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        Ballast::find(dir.path(), SIZE).unwrap().take(SIZE).unwrap();
        let mut smaller = Ballast::find(dir.path(), SIZE / 2).unwrap();
        assert_eq!((smaller.held(), smaller.owed()), (0, 0));
        smaller.take(SIZE).unwrap();
        assert_eq!(dir.path().join("BALLAST").metadata().unwrap().len(), SIZE / 2);
    }
}
