//! Harming disks on purpose, the way power cuts and old hardware do.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

/// The newest write-ahead log of the RocksDB in `directory`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn newest_wal(directory: &Path) -> PathBuf {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("list {}: {error}", directory.display()));
    let mut logs: Vec<PathBuf> = entries
        .map(|entry| entry.expect("list a directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    // Names are file numbers with leading zeros: their order is their age.
    logs.sort();
    logs.pop().unwrap_or_else(|| panic!("no write-ahead log in {}", directory.display()))
}

/// Adds the beginning of one more record, as if the machine had lost power while writing it.
///
/// The record was never complete, so it was never acknowledged: dropping it is right.
///
/// # Panics
/// When the file cannot be written.
pub fn tear_tail(wal: &Path) {
    // A record: checksum (4), length (2, little endian), kind (1; 1 is "whole"), payload.
    let mut torn = vec![0xAB, 0xCD, 0xEF, 0x01];
    torn.extend(600_u16.to_le_bytes());
    torn.push(1);
    torn.extend([0x5A; 40]);
    let mut file = OpenOptions::new().append(true).open(wal).expect("open a write-ahead log");
    file.write_all(&torn).expect("tear a write-ahead log");
}

/// Cuts the file to `numerator / denominator` of its length, as a disk does that lost what it had
/// confirmed. Answers how many bytes went.
///
/// # Panics
/// When the file cannot be written.
pub fn cut_short(path: &Path, numerator: u64, denominator: u64) -> u64 {
    let file = OpenOptions::new().write(true).open(path).expect("open a file to cut");
    let length = file.metadata().expect("ask for a file's length").len();
    let kept = length * numerator / denominator;
    file.set_len(kept).expect("cut a file");
    length - kept
}

/// Flips one bit at `numerator / denominator` of the file.
///
/// # Panics
/// When the file is empty or cannot be written.
pub fn flip_bit(path: &Path, numerator: usize, denominator: usize) {
    let mut bytes = fs::read(path).expect("read a file to damage");
    assert!(!bytes.is_empty(), "{} is empty", path.display());
    let at = (bytes.len() * numerator / denominator).min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("write a damaged file");
}

/// A copy of a directory with everything in it.
///
/// # Panics
/// When a file cannot be copied.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("list a directory") {
        let entry = entry.expect("list a directory");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("ask for a file's type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy a file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_does_what_it_says() {
        let directory = tempfile::tempdir().expect("make a directory");
        let older = directory.path().join("000007.log");
        let wal = directory.path().join("000012.log");
        fs::write(&older, b"old").expect("write");
        fs::write(&wal, vec![0_u8; 100]).expect("write");
        assert_eq!(newest_wal(directory.path()), wal);

        tear_tail(&wal);
        assert_eq!(fs::read(&wal).expect("read").len(), 147);
        assert_eq!(cut_short(&wal, 1, 3), 98);
        assert_eq!(fs::read(&wal).expect("read"), vec![0_u8; 49]);
        flip_bit(&wal, 1, 2);
        let damaged = fs::read(&wal).expect("read");
        assert_eq!(damaged.iter().filter(|byte| **byte != 0).count(), 1);

        let copy = directory.path().join("copy");
        fs::create_dir(directory.path().join("deep")).expect("make a directory");
        fs::write(directory.path().join("deep/file"), b"x").expect("write");
        copy_dir(&directory.path().join("deep"), &copy);
        assert_eq!(fs::read(copy.join("file")).expect("read"), b"x");
    }
}
