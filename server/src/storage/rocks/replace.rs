//! Replacing all rows of a range by staged ones, as a redo.
//!
//! Three steps, each harmless to repeat: link the staged files to names of their own, clear the
//! range, let RocksDB take the links in. RocksDB gives the files a sequence number above that of
//! the range's removal, so that the new rows are seen and the old ones are not. The staged files
//! themselves stay until the stage is dropped.
//!
//! The range's removal is driven down to the oldest files before the new ones come, so that these
//! land beneath all others and are not written once more; a range without rows needs no removal.
//!
//! Whole files of old rows could be removed at once (`DeleteFilesInRange`), but that takes them
//! from under pinned views as well. So it is done only where they cannot be read: to merge a damaged file would
//! end the instance, at every start again, and a region is replaced because its rows are damaged. Where a damaged
//! file is shared with neighbours the replacement fails.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, IngestExternalFileOptions, WriteBatch,
};

use super::{
    super::durable_file::failed as io_failed,
    Cursor as _, Direction, Error, KeyRange,
    cursor::{self, RocksCursor},
    options::DEFAULT,
    stage::{self, Seal},
    status::failed,
};

/// Replaces the rows of `range` by those staged in `dir`.
pub(super) fn replace_range(db: &DB, range: &KeyRange, dir: &Path) -> Result<(), Error> {
    let links = link_files(range, dir)?;
    clear(db, range)?;
    ingest(db, links)
}

/// Gives each staged file a second name, for RocksDB to take.
///
/// # Errors
/// Nothing is changed in the map when the stage is incomplete, damaged, or holds other rows than
/// those of `range`.
pub(super) fn link_files(range: &KeyRange, dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let seal = Seal::read(dir)?;
    if seal.files > 0 && !(range.contains(&seal.first) && range.contains(&seal.last)) {
        let message = format!("stage {} has rows outside of the range", dir.display());
        return Err(Error::Io { message });
    }
    (0..seal.files).map(|number| link_file(dir, number)).collect()
}

fn link_file(dir: &Path, number: u32) -> Result<PathBuf, Error> {
    let link = dir.join(format!("ingest-{number:04}.sst"));
    match fs::remove_file(&link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(io_failed("remove", &link, &e));
        }
        _ => {}
    }
    let file = stage::file(dir, number);
    match fs::hard_link(&file, &link) {
        Ok(()) => Ok(link),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let message = format!("staged file {} is missing", file.display());
            Err(Error::Corrupt { message })
        }
        Err(e) => Err(io_failed("link", &file, &e)),
    }
}

/// Removes the rows of `range`.
pub(super) fn clear(db: &DB, range: &KeyRange) -> Result<(), Error> {
    if !has_rows(db, range)? {
        // What removed them may be unsynced, but comes before any later write: if a power cut takes
        // it, it takes the removal of whatever makes the caller repeat this as well.
        return Ok(());
    }
    let can_be_read = reads_whole(db, range)?;
    let mut batch = WriteBatch::default();
    batch.delete_range(&range.start[..], range.end_key());
    db.write(batch).map_err(|e| failed("clear the range", e))?;
    if !can_be_read {
        tracing::warn!("rows that are replaced are damaged; their files are removed unread");
        // Its end is inclusive.
        let last = before(range.end_key());
        db.delete_file_in_range(&range.start[..], &last[..])
            .map_err(|e| failed("remove damaged files", e))?;
        // What is left over the range of a file with neighbours would be read with the new rows.
        return first_row(db, range).map(drop);
    }
    // Reads the old rows and writes nothing, as they are all dead: cheaper than to write the new
    // ones twice. That it may fail costs no more than that.
    let mut options = CompactOptions::default();
    // The oldest files of the neighbours need not be read for their expired rows now.
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Skip);
    db.compact_range_opt(Some(&range.start[..]), Some(range.end_key()), &options);
    Ok(())
}

/// Also when they cannot be read.
fn has_rows(db: &DB, range: &KeyRange) -> Result<bool, Error> {
    match first_row(db, range) {
        Err(Error::Corrupt { .. }) => Ok(true),
        found => found,
    }
}

/// Whether there is one.
fn first_row(db: &DB, range: &KeyRange) -> Result<bool, Error> {
    let iter = db.raw_iterator_opt(cursor::read_options(range));
    Ok(RocksCursor::new(iter, range, Direction::Forward).next()?.is_some())
}

/// Whether all files with rows of `range` can be read, which is what merging them does.
fn reads_whole(db: &DB, range: &KeyRange) -> Result<bool, Error> {
    let files = db.live_files().map_err(|e| failed("list the files", e))?;
    let (mut start, mut end) = (range.start.clone(), Bytes::copy_from_slice(range.end_key()));
    for file in files.into_iter().filter(|file| file.column_family_name == DEFAULT) {
        let (Some(first), Some(last)) = (file.start_key, file.end_key) else { continue };
        if last[..] >= range.start[..] && first[..] < *range.end_key() {
            start = start.min(first.into());
            // Behind the file's last key.
            end = end.max([&last[..], &[0]].concat().into());
        }
    }
    let whole = KeyRange::new(start, end);
    let mut options = cursor::read_options(&whole);
    options.fill_cache(false);
    let mut cursor = RocksCursor::new(db.raw_iterator_opt(options), &whole, Direction::Forward);
    loop {
        match cursor.next() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(true),
            Err(Error::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// A key before `end`, and not before any that ends so.
pub(super) fn before(end: &[u8]) -> Vec<u8> {
    let mut last = end.to_vec();
    match last.pop() {
        None | Some(0) => {}
        Some(byte) => {
            last.push(byte - 1);
            last.extend([0xff; 8]);
        }
    }
    last
}

/// Moves the files behind `links` into the instance, all or none.
pub(super) fn ingest(db: &DB, links: Vec<PathBuf>) -> Result<(), Error> {
    if links.is_empty() {
        return Ok(());
    }
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    db.ingest_external_file_opts(&options, links).map_err(|e| failed("take in staged files", e))
}
