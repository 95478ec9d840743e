//! Sorted rows in files outside of the instance.
//!
//! A stage is a directory of SST files `0000.sst`, `0001.sst`, … and, once it is complete, a
//! [`Seal`] that says what is in them. Without its seal a stage is a leftover.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use bytes::{Buf as _, BufMut as _};
use flotilla_proto::range::END_OF_MAP;
use rocksdb::{Options, SstFileWriter};

use super::{
    super::{
        durable_file::{self, create_dir_all, failed as io_failed, remove_dir_all, sync_dir},
        engine::Stage,
    },
    Error, options,
    status::failed,
};

/// Bound: a file is cut at this size, so that what a writer and an ingest hold stays small.
const FILE_BYTES_MAX: u64 = 64 << 20;

const SEAL: &str = "done";

/// The writer borrows its options; they are the same for all.
static OPTIONS: LazyLock<Options> = LazyLock::new(options::staged_files);

/// What a complete stage holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) files: u32,
    pub(super) rows: u64,
    /// Empty, as `last`, when there are no rows.
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
}

impl Seal {
    /// The seal of the stage in `dir`.
    ///
    /// # Errors
    /// When there is none, or a damaged one.
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(SEAL);
        let Some(bytes) = durable_file::read(&path)? else {
            let message = format!("no complete stage in {}", dir.display());
            return Err(Error::StageLost { message });
        };
        Self::decode(&bytes).ok_or_else(|| Error::StageLost {
            message: format!("seal {} is damaged", path.display()),
        })
    }

    /// `[crc32c: 4][files: 4][rows: 8][length of first: 4][first][last]`
    fn encode(&self) -> Vec<u8> {
        let first_len = u32::try_from(self.first.len()).expect("a key is far below 4 GiB");
        let mut body = Vec::with_capacity(20 + self.first.len() + self.last.len());
        body.put_u32(0);
        body.put_u32(self.files);
        body.put_u64(self.rows);
        body.put_u32(first_len);
        body.put_slice(&self.first);
        body.put_slice(&self.last);
        let (crc, rest) = body.split_at_mut(4);
        crc.copy_from_slice(&crc32c::crc32c(rest).to_be_bytes());
        body
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let crc = bytes.try_get_u32().ok()?;
        if crc != crc32c::crc32c(bytes) {
            return None;
        }
        let files = bytes.try_get_u32().ok()?;
        let rows = bytes.try_get_u64().ok()?;
        let first_len = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        let (first, last) = bytes.split_at_checked(first_len)?;
        Some(Self { files, rows, first: first.to_vec(), last: last.to_vec() })
    }
}

/// Path of a stage's file.
pub(super) fn file(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:04}.sst"))
}

/// Directory of the stage `name`.
///
/// # Errors
/// When `name` is not `[a-z0-9-]+`.
pub(super) fn path(stages_dir: &Path, name: &str) -> Result<PathBuf, Error> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || !name.bytes().all(good) {
        return Err(Error::Io { message: format!("{name:?} cannot be the name of a stage") });
    }
    Ok(stages_dir.join(name))
}

/// Removes a stage; nothing if there is none.
pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    // Ordering: the seal first, so that what a crash leaves is not taken for a complete stage.
    match fs::remove_file(dir.join(SEAL)) {
        Ok(()) => sync_dir(dir)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_failed("remove the seal of", dir, &e)),
    }
    remove_dir_all(dir)
}

/// Names of the stages that exist, complete or not, sorted.
pub(super) fn list(stages_dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(stages_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_failed("list directory", stages_dir, &e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| io_failed("list directory", stages_dir, &e))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.retain(|name| path(stages_dir, name).is_ok_and(|dir| dir.is_dir()));
    names.sort();
    Ok(names)
}

/// Whether the stage in `dir` has its seal.
pub(super) fn is_complete(dir: &Path) -> Result<bool, Error> {
    let seal = durable_file::read(&dir.join(SEAL))?;
    Ok(seal.is_some_and(|bytes| Seal::decode(&bytes).is_some()))
}

pub(super) struct RocksStage {
    dir: PathBuf,
    /// The file being written, if any.
    writer: Option<SstFileWriter<'static>>,
    seal: Seal,
    file_bytes_max: u64,
}

impl RocksStage {
    pub(super) fn create(stages_dir: &Path, name: &str) -> Result<Self, Error> {
        let dir = path(stages_dir, name)?;
        remove(&dir)?;
        create_dir_all(&dir)?;
        let seal = Seal::default();
        Ok(Self { dir, writer: None, seal, file_bytes_max: FILE_BYTES_MAX })
    }

    /// Cuts files at another size, so that a test has several.
    #[cfg(test)]
    pub(super) fn cut_files_at(&mut self, bytes: u64) {
        self.file_bytes_max = bytes;
    }

    fn start_file(&mut self) -> Result<SstFileWriter<'static>, Error> {
        let path = file(&self.dir, self.seal.files);
        let writer = SstFileWriter::create(&OPTIONS);
        writer.open(&path).map_err(|e| failed("create a staged file", e))?;
        self.seal.files += 1;
        Ok(writer)
    }

    /// Durability: RocksDB syncs the file; its name is synced with the seal.
    fn finish_file(&mut self) -> Result<(), Error> {
        match self.writer.take() {
            Some(mut writer) => writer.finish().map_err(|e| failed("finish a staged file", e)),
            None => Ok(()),
        }
    }
}

impl Stage for RocksStage {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if (self.seal.rows > 0 && key <= &self.seal.last[..]) || key >= &END_OF_MAP[..] {
            return Err(Error::Io { message: "staged keys do not ascend".to_owned() });
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.start_file()?,
        };
        writer.put(key, value).map_err(|e| failed("stage a row", e))?;
        let full = writer.file_size() >= self.file_bytes_max;
        self.writer = Some(writer);
        if self.seal.rows == 0 {
            self.seal.first = key.to_vec();
        }
        self.seal.last.clear();
        self.seal.last.extend_from_slice(key);
        self.seal.rows += 1;
        if full { self.finish_file() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.finish_file()?;
        // Ordering: the names of the files before the seal that vouches for them.
        sync_dir(&self.dir)?;
        durable_file::replace(&self.dir.join(SEAL), &self.seal.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_seal_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal { files: 3, rows: 70_000, first: b"abc".to_vec(), last: b"xy".to_vec() };
        let good = seal.encode();
        assert_eq!(Seal::decode(&good), Some(seal));
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            fs::write(dir.path().join(SEAL), &bytes).unwrap();
            assert!(matches!(Seal::read(dir.path()), Err(Error::StageLost { .. })), "byte {at}");
            assert_eq!(Seal::decode(&good[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn stage_name_cannot_leave_its_directory() {
        for name in ["", ".", "..", "a/b", "A", "a b", "a.b"] {
            assert!(path(Path::new("stages"), name).is_err(), "{name:?}");
        }
        assert_eq!(path(Path::new("stages"), "region-7").unwrap(), Path::new("stages/region-7"));
    }
}
