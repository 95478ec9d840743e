//! What a disk knows of itself before it has an identity: a number of its own, and the birth that it was
//! promised to.
//!
//! An address does not tell one disk from the next, so a birth names disks. The row lies in `log`, with all
//! else that is promised.

use flotilla_proto::v1;
use prost::Message as _;

use crate::{
    clock,
    storage::{
        batch::WriteBatch,
        engine::{self, Durability, Engine, Family},
        keys,
    },
};

/// First byte of the row.
const FORMAT: u8 = 1;

/// `None` on a disk that was never used.
pub(in crate::node) fn read(log: &dyn Engine) -> Result<Option<v1::Newcomer>, engine::Error> {
    let corrupt = |message: &str| engine::Error::Corrupt { message: message.to_owned() };
    let Some(row) = log.get(Family::Default, &keys::log::newcomer())? else { return Ok(None) };
    let Some((&FORMAT, newcomer)) = row.split_first() else {
        return Err(corrupt("what a disk knows before it joins is of another version's form"));
    };
    let newcomer = v1::Newcomer::decode(newcomer);
    newcomer.map(Some).map_err(|_| corrupt("what a disk knows before it joins does not decode"))
}

/// What the disk knows; its number is drawn when it has none.
///
/// Durability: the number is on the disk before anybody hears of it.
pub(in crate::node) fn open(log: &dyn Engine) -> Result<v1::Newcomer, engine::Error> {
    if let Some(newcomer) = read(log)? {
        return Ok(newcomer);
    }
    let disk_id = clock::random_bytes().to_vec().into();
    let newcomer = v1::Newcomer { disk_id, promised: None };
    write(log, &newcomer)?;
    Ok(newcomer)
}

/// Durability: on the disk when it returns.
pub(in crate::node) fn write(
    log: &dyn Engine,
    newcomer: &v1::Newcomer,
) -> Result<(), engine::Error> {
    let mut batch = WriteBatch::new();
    put(&mut batch, newcomer);
    log.write(&batch, Durability::Synced)
}

pub(in crate::node) fn put(batch: &mut WriteBatch, newcomer: &v1::Newcomer) {
    let row = [&[FORMAT][..], &newcomer.encode_to_vec()].concat();
    batch.put(Family::Default, &keys::log::newcomer(), &row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryEngine;

    #[test]
    fn number_and_promise_of_a_disk_survive_a_power_cut_once_they_were_told() {
        let log = MemoryEngine::new();
        let first = open(log.as_ref()).expect("a number");
        assert_eq!(first.disk_id.len(), 16);
        let log = log.crash(0);
        assert_eq!(open(log.as_ref()).expect("a number"), first);
        let birth = v1::Birth { birth_id: vec![5; 16].into(), ..v1::Birth::default() };
        let promised = v1::Newcomer { promised: Some(birth), ..first.clone() };
        write(log.as_ref(), &promised).expect("a promise");
        let log = log.crash(0);
        assert_eq!(open(log.as_ref()).expect("a promise"), promised);
        let other = open(MemoryEngine::new().as_ref()).expect("a number");
        assert_ne!(other.disk_id, first.disk_id, "another disk");
    }
}
