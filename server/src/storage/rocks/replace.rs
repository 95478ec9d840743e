//! Replacing all rows of a range of one family by staged ones, as a redo.
//!
//! Three steps, each harmless to repeat: link the staged files to names of their own, clear the
//! range, let RocksDB take the links in. RocksDB gives the files a sequence number above that of
//! the range's removal, so that the new rows are seen and the old ones are not. The staged files
//! themselves stay until the stage is dropped.
//!
//! The range's removal is driven down to the oldest files before the new ones come, so that these
//! land beneath all others and are not written once more; a range without rows needs no removal. That
//! is a compaction, which saves work and nothing else, and one that meets a damaged block, of a
//! neighbour's rows perhaps, ends all writes of the instance. So what it would read is read before it
//! where that is little, and a call that repeats an interrupted one goes without.
//!
//! Nor is what is replaced needed by anybody: that it cannot be read is no reason to keep it. RocksDB
//! looks at it all the same when it takes files in; where that fails, the staged rows are written one by
//! one.
//!
//! Whole files of old rows could be removed at once (`DeleteFilesInRange`), but that takes them
//! from under pinned views as well, and its end is inclusive: a neighbour's first key could go with
//! them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, IngestExternalFileOptions, ReadOptions,
    WriteBatch,
};

use super::{
    super::durable_file::{failed as io_failed, remove_dir_all},
    Attempt, Cursor as _, Direction, Error, Family, KeyRange,
    cursor::{self, RocksCursor},
    family, options,
    stage::{self, Seal},
    status::failed,
};

/// Bound: bytes of files that are read before a compaction reads them. Where there are more it goes ahead: it is as likely
/// to meet damage as all those that RocksDB does by itself, and is not repeated.
const READ_FIRST_BYTES_MAX: u64 = 1 << 30;

/// Bound: bytes of staged rows that are written at once, when they are not taken in as files.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Replaces the rows of `range` by those staged in `dir`.
pub(super) fn replace_range(
    db: &DB,
    of: Family,
    range: &KeyRange,
    dir: &Path,
    attempt: Attempt,
) -> Result<(), Error> {
    let links = link_files(range, dir)?;
    clear(db, of, range, attempt)?;
    match ingest(db, of, links) {
        // Of which of the two it is, only reading the stage by itself tells.
        Err(Error::Corrupt { message }) => {
            tracing::warn!(
                message,
                "staged files cannot be taken in beside damage: their rows are written one by one"
            );
            write_rows(db, of, range, dir)
        }
        outcome => outcome,
    }
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
            Err(Error::StageLost { message })
        }
        Err(e) => Err(io_failed("link", &file, &e)),
    }
}

/// Removes the rows of `range`.
pub(super) fn clear(db: &DB, of: Family, range: &KeyRange, attempt: Attempt) -> Result<(), Error> {
    if !has_rows(db, of, range)? {
        // What removed them may be unsynced, but comes before any later write: if a power cut takes
        // it, it takes the removal of whatever makes the caller repeat this as well.
        return Ok(());
    }
    let rows = family(db, of);
    let mut batch = WriteBatch::default();
    batch.delete_range_cf(rows, &range.start[..], range.end_key());
    db.write(batch).map_err(|e| failed("clear the range", e))?;
    if attempt == Attempt::Again || !may_be_compacted(db, of, range)? {
        return Ok(());
    }
    // Reads the old rows and writes nothing, as they are all dead: cheaper than to write the new
    // ones twice.
    let mut options = CompactOptions::default();
    // The oldest files of the neighbours need not be read for their expired rows now.
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Skip);
    db.compact_range_cf_opt(rows, Some(&range.start[..]), Some(range.end_key()), &options);
    Ok(())
}

/// What cannot be read is not empty.
fn has_rows(db: &DB, of: Family, range: &KeyRange) -> Result<bool, Error> {
    let iter = db.raw_iterator_cf_opt(family(db, of), cursor::read_options(range));
    match RocksCursor::new(iter, range, Direction::Forward).next() {
        Ok(row) => Ok(row.is_some()),
        Err(Error::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether nothing is known to be damaged of what a compaction of `range` reads: the files that overlap it, and those that
/// overlap them.
fn may_be_compacted(db: &DB, of: Family, range: &KeyRange) -> Result<bool, Error> {
    let live = db.live_files().map_err(|e| failed("list the files", e))?;
    let files = live.into_iter().filter(|file| file.column_family_name == options::name_of(of));
    let mut rest: Vec<_> =
        files.filter_map(|file| Some((file.start_key?, file.end_key?, file.size as u64))).collect();
    let (mut first, mut last) = (range.start.to_vec(), range.end_key().to_vec());
    let mut bytes = 0;
    loop {
        let before = rest.len();
        let (mut start, mut end) = (first.clone(), last.clone());
        rest.retain(|(of_file, to, size)| {
            let overlaps = *of_file <= last && *to >= first;
            if overlaps {
                bytes += size;
                start = start.clone().min(of_file.clone());
                end = end.clone().max(to.clone());
            }
            !overlaps
        });
        (first, last) = (start, end);
        if bytes > READ_FIRST_BYTES_MAX {
            return Ok(true);
        }
        if rest.len() == before {
            break;
        }
    }
    let mut rows = db.raw_iterator_cf_opt(family(db, of), reading_all());
    rows.seek(&first);
    while rows.key().is_some_and(|key| key <= &last[..]) {
        rows.next();
    }
    match rows.status().map_err(|e| failed("read what is to be compacted", e)) {
        Ok(()) => Ok(true),
        Err(Error::Corrupt { message }) => {
            tracing::warn!(message, "files are not compacted, since one of them is damaged");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A compaction also reads what was removed.
#[expect(
    deprecated,
    reason = "meant for those who remove no ranges; that is not what it is used for"
)]
fn reading_all() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_ignore_range_deletions(true);
    options
}

/// Moves the files behind `links` into the instance, all or none.
pub(super) fn ingest(db: &DB, of: Family, links: Vec<PathBuf>) -> Result<(), Error> {
    if links.is_empty() {
        return Ok(());
    }
    db.ingest_external_file_cf_opts(family(db, of), &moving(), links)
        .map_err(|e| failed("take in staged files", e))
}

fn moving() -> IngestExternalFileOptions {
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    options
}

/// Writes the rows staged in `dir` as a client would, through an instance that has nothing else.
fn write_rows(db: &DB, of: Family, range: &KeyRange, dir: &Path) -> Result<(), Error> {
    let beside = dir.join("rows");
    remove_dir_all(&beside)?;
    let mut options = options::staged_files();
    options.create_if_missing(true);
    let staged = DB::open(&options, &beside).map_err(|e| failed("open an empty instance", e))?;
    let written = write_rows_of(db, of, &staged, link_files(range, dir)?, Seal::read(dir)?.rows);
    drop(staged);
    written.and_then(|()| remove_dir_all(&beside))
}

fn write_rows_of(
    db: &DB,
    of: Family,
    staged: &DB,
    links: Vec<PathBuf>,
    count: u64,
) -> Result<(), Error> {
    let lost = |status| match failed("read staged rows", status) {
        Error::Corrupt { message } => Error::StageLost { message },
        error => error,
    };
    if !links.is_empty() {
        staged.ingest_external_file_opts(&moving(), links).map_err(lost)?;
    }
    let mut rows = staged.raw_iterator();
    rows.seek_to_first();
    let (mut batch, mut found) = (WriteBatch::default(), 0);
    while let Some((key, value)) = rows.item() {
        batch.put_cf(family(db, of), key, value);
        found += 1;
        if batch.size_in_bytes() >= WRITE_BYTES_MAX {
            db.write(std::mem::take(&mut batch)).map_err(|e| failed("write staged rows", e))?;
        }
        rows.next();
    }
    rows.status().map_err(lost)?;
    if found != count {
        let message = format!("{found} rows are staged, of {count}");
        return Err(Error::StageLost { message });
    }
    db.write(batch).map_err(|e| failed("write staged rows", e))
}
