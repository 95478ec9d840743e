//! Replacing all rows of a range of one family by staged ones, as a redo.
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
//! from under pinned views as well, and its end is inclusive: a neighbour's first key could go with
//! them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, IngestExternalFileOptions, WriteBatch,
};

use super::{
    super::durable_file::failed as io_failed,
    Cursor as _, Direction, Error, Family, KeyRange,
    cursor::{self, RocksCursor},
    family,
    stage::{self, Seal},
    status::failed,
};

/// Replaces the rows of `range` by those staged in `dir`.
pub(super) fn replace_range(
    db: &DB,
    of: Family,
    range: &KeyRange,
    dir: &Path,
) -> Result<(), Error> {
    let links = link_files(range, dir)?;
    clear(db, of, range)?;
    ingest(db, of, links)
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
pub(super) fn clear(db: &DB, of: Family, range: &KeyRange) -> Result<(), Error> {
    if !has_rows(db, of, range)? {
        // What removed them may be unsynced, but comes before any later write: if a power cut takes
        // it, it takes the removal of whatever makes the caller repeat this as well.
        return Ok(());
    }
    let rows = family(db, of);
    let mut batch = WriteBatch::default();
    batch.delete_range_cf(rows, &range.start[..], range.end_key());
    db.write(batch).map_err(|e| failed("clear the range", e))?;
    // Reads the old rows and writes nothing, as they are all dead: cheaper than to write the new
    // ones twice. That it may fail costs no more than that.
    let mut options = CompactOptions::default();
    // The oldest files of the neighbours need not be read for their expired rows now.
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Skip);
    db.compact_range_cf_opt(rows, Some(&range.start[..]), Some(range.end_key()), &options);
    Ok(())
}

fn has_rows(db: &DB, of: Family, range: &KeyRange) -> Result<bool, Error> {
    let iter = db.raw_iterator_cf_opt(family(db, of), cursor::read_options(range));
    Ok(RocksCursor::new(iter, range, Direction::Forward).next()?.is_some())
}

/// Moves the files behind `links` into the instance, all or none.
pub(super) fn ingest(db: &DB, of: Family, links: Vec<PathBuf>) -> Result<(), Error> {
    if links.is_empty() {
        return Ok(());
    }
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    db.ingest_external_file_cf_opts(family(db, of), &options, links)
        .map_err(|e| failed("take in staged files", e))
}
