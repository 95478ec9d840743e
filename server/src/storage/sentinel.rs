//! How far the log had got, told by a file that RocksDB does not know.
//!
//! RocksDB opens a log that was cut short as if it had always been that short: it has no memory of
//! the end. Rows that were fsynced and acknowledged may have been in the part that is gone, and a
//! peer that votes without them can undo a commit. So a small file beside the instances records a
//! sequence number that the log is known to have reached, about once a second and at a clean stop.
//! At start a log below it has lost something, and the node must not take part as before (see
//! quarantine in docs/architecture.md); it must look before it records anything new. What was lost
//! since the last record goes unnoticed: the price of not paying a second fsync for each write.

use std::path::Path;

use super::{durable_file, engine::Error};

const FILE: &str = "SENTINEL";

/// Content of the file: one line of text, `log_sequence=N crc32c=XXXXXXXX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// A sequence number of the log instance.
    ///
    /// Durability: read before a synced write or a `sync` of the log which then returned success;
    /// otherwise a power cut makes an innocent log look damaged.
    pub log_sequence: u64,
}

impl Sentinel {
    /// The record in the data directory `dir`, `None` if there never was one.
    ///
    /// # Errors
    /// `Corrupt` when the file is damaged: treat the log as damaged too.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE);
        let Some(bytes) = durable_file::read(&path)? else { return Ok(None) };
        Self::decode(&bytes).map(Some).ok_or_else(|| Error::Corrupt {
            message: format!("sentinel {} is damaged", path.display()),
        })
    }

    /// Replaces the record; it survives a power cut when this returns.
    ///
    /// # Errors
    /// A failed write; the old record is then still there.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        durable_file::replace(&dir.join(FILE), self.encode().as_bytes())
    }

    fn encode(&self) -> String {
        let body = format!("log_sequence={}", self.log_sequence);
        format!("{body} crc32c={:08x}\n", crc32c::crc32c(body.as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let digits = text.strip_prefix("log_sequence=")?.split_once(' ')?.0;
        let sentinel = Self { log_sequence: digits.parse().ok()? };
        // One way to write each record, so that any other byte is damage.
        (sentinel.encode() == text).then_some(sentinel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinel_is_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Sentinel::read(dir.path()).unwrap(), None);
        for log_sequence in [0, 1, u64::MAX, 7] {
            let sentinel = Sentinel { log_sequence };
            sentinel.write(dir.path()).unwrap();
            assert_eq!(Sentinel::read(dir.path()).unwrap(), Some(sentinel));
        }
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        Sentinel { log_sequence: 123_456 }.write(dir.path()).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                damaged.push(bytes);
            }
        }
        for bytes in damaged {
            std::fs::write(&path, &bytes).unwrap();
            let error = Sentinel::read(dir.path()).unwrap_err();
            assert!(matches!(&error, Error::Corrupt { message } if message.contains("SENTINEL")));
        }
    }
}
