//! Looking through the files that RocksDB writes record by record, before it opens them.
//!
//! Its logs and manifests are blocks of records, each with a checksum over its kind and content, but not over
//! its length. RocksDB believes that length first, and the kind as well, so one flipped bit there is not told as
//! damage:
//!
//! - A length that reaches past the end of the file is taken for a record that a power cut tore, and that
//!   record and all behind it (up to 32 KiB) are dropped without a word.
//! - A kind that becomes one of a recycled file (which ours never are) is taken for what was in the file before,
//!   and the file for ended; or, past its first record, it is looked at again and again, and the opening never ends.
//!
//! So each record is held against its checksum here, and one whose length is wrong against the length that it would
//! be right with. What a power cut leaves, a record that ends with the file before all of it was written, is no damage.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{super::durable_file::failed, Error, Kind};

const BLOCK_BYTES: usize = 32 << 10;
/// Checksum, length, kind.
const HEADER_BYTES: usize = 7;
/// Kinds of records in files that are written anew over old ones.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// What is no record and was never written: some file systems leave it after a power cut.
const NOTHING: u8 = 0;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// The length of a record is not the one that it was written with.
    Length,
    /// A record is of a kind that is never written.
    Kind,
    /// A record is not what was written.
    Content,
}

/// Refuses an instance with a damaged manifest, or with a log that RocksDB would not recover as `kind` wants.
///
/// A log of `data` may be damaged: then it comes back to what is before that. But it must be told.
///
/// # Errors
/// `Corrupt` with file and place.
pub(super) fn check(dir: &Path, kind: Kind) -> Result<(), Error> {
    let listed = |e: io::Error| failed("list directory", dir, &e);
    for file in fs::read_dir(dir).map_err(listed)? {
        let path = file.map_err(listed)?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            // In `data` what RocksDB notices by itself ends the recovery.
            let may_be = |damage| kind == Kind::Data && damage != Damage::Kind;
            check_file(&path, kind, may_be)?;
        }
    }
    match manifest(dir)? {
        Some(path) => check_file(&path, kind, |_| false),
        None => Ok(()), // RocksDB says what is missing
    }
}

/// The manifest in use.
fn manifest(dir: &Path) -> Result<Option<PathBuf>, Error> {
    let path = dir.join("CURRENT");
    match fs::read(&path) {
        Ok(name) => {
            let name = name.strip_suffix(b"\n").and_then(|name| std::str::from_utf8(name).ok());
            let name = name.filter(|name| name.starts_with("MANIFEST-") && !name.contains('/'));
            Ok(name.map(|name| dir.join(name)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", &path, &e)),
    }
}

fn check_file(path: &Path, kind: Kind, may_be: impl Fn(Damage) -> bool) -> Result<(), Error> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // RocksDB knows whether it is needed.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("open", path, &e)),
    };
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut begin = 0;
    loop {
        block.clear();
        let read = file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block);
        let read = read.map_err(|e| failed("read", path, &e))?;
        if let Err((at, damage)) = check_block(&block)
            && !may_be(damage)
        {
            return Err(Error::Corrupt {
                message: format!(
                    "open {kind} instance: {}: the record at byte {} is damaged ({damage:?})",
                    path.display(),
                    begin + at
                ),
            });
        }
        if read < BLOCK_BYTES {
            return Ok(());
        }
        begin += read;
    }
}

/// Looks through a block; one that is not full is the last of its file.
fn check_block(block: &[u8]) -> Result<(), (usize, Damage)> {
    let mut at = 0;
    // What is too small for a header is filled up with zeros.
    while let Some((header, rest)) = block[at..].split_first_chunk::<HEADER_BYTES>() {
        let &[c0, c1, c2, c3, l0, l1, kind] = header;
        let checksum = unmask(u32::from_le_bytes([c0, c1, c2, c3]));
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        if *header == [NOTHING; HEADER_BYTES] && rest.iter().all(|byte| *byte == NOTHING) {
            return Ok(());
        }
        if RECYCLED.contains(&kind) {
            return Err((at, Damage::Kind));
        }
        let of_kind = crc32c::crc32c(&[kind]);
        match rest.get(..length) {
            Some(content) if crc32c::crc32c_append(of_kind, content) == checksum => {
                at += HEADER_BYTES + length;
            }
            Some(_) => return Err((at, Damage::Content)),
            // It is whole with another length: then nothing was torn off.
            None if block.len() == BLOCK_BYTES || is_whole(of_kind, rest, checksum) => {
                return Err((at, Damage::Length));
            }
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Whether some beginning of `rest` has this checksum.
fn is_whole(of_kind: u32, rest: &[u8], checksum: u32) -> bool {
    let mut so_far = of_kind;
    so_far == checksum
        || rest.iter().any(|byte| {
            so_far = crc32c::crc32c_append(so_far, std::slice::from_ref(byte));
            so_far == checksum
        })
}

/// RocksDB stores checksums so that a checksum over one of them is no weak one.
fn unmask(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_left(15)
}
