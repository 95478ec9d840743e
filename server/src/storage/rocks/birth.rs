//! Making a new instance so that a crash leaves a whole one or none.
//!
//! RocksDB writes a new instance file by file. A crash in between leaves a directory that our
//! options rightly refuse (a manifest without a log looks like a log that was deleted), and the
//! node could never start. So it is made under another name and moved into place.

use std::{fs, io, path::Path};

use rocksdb::{BottommostLevelCompaction, CompactOptions, DB};

use super::{
    super::durable_file::{
        create_dir_all, failed, parent_of, remove_dir_all, sync_dir, with_suffix,
    },
    Error, Family, family,
    options::Plan,
    status,
};

/// Whether there is nothing in `dir`, or no `dir`.
pub(super) fn is_unborn(dir: &Path) -> Result<bool, Error> {
    match fs::read_dir(dir) {
        Ok(mut names) => Ok(names.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(failed("list directory", dir, &e)),
    }
}

/// Makes an instance in `dir`; it survives a power cut when this returns.
pub(super) fn create(dir: &Path, plan: &Plan) -> Result<(), Error> {
    let parent = parent_of(dir);
    create_dir_all(parent)?;
    let nascent = with_suffix(dir, ".new");
    remove_dir_all(&nascent)?;
    let db = plan.create(&nascent)?;
    write_first(&db)?;
    drop(db);
    // Durability: contents, then names, then the name of the whole.
    for file in fs::read_dir(&nascent).map_err(|e| failed("list directory", &nascent, &e))? {
        file.and_then(|file| fs::File::open(file.path())?.sync_all())
            .map_err(|e| failed("sync a file of", &nascent, &e))?;
    }
    sync_dir(&nascent)?;
    fs::rename(&nascent, dir).map_err(|e| failed("rename into place", dir, &e))?;
    sync_dir(parent)
}

/// Ordering: a first write before any view. RocksDB takes the sequence number of an instance that nothing
/// was written to, 0, for the absence of a snapshot, and a compaction then drops rows that a view pinned
/// at it (taken in from staged files) still has. Nothing is left of this write but its number.
fn write_first(db: &DB) -> Result<(), Error> {
    let meta = family(db, Family::Meta);
    db.delete_cf(meta, [])
        .and_then(|()| db.flush_cf(meta))
        .map_err(|e| status::failed("write first to a new instance", e))?;
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    db.compact_range_cf_opt(meta, None::<&[u8]>, None::<&[u8]>, &options);
    Ok(())
}
