//! Rows collected for `replace_range`.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::range::END_OF_MAP;
use parking_lot::Mutex;

use super::{Error, Map, Stage, Stages};

pub(super) struct MemoryStage {
    stages: Arc<Mutex<Stages>>,
    name: String,
    rows: Map,
}

impl MemoryStage {
    pub(super) fn new(stages: Arc<Mutex<Stages>>, name: &str) -> Self {
        Self { stages, name: name.to_owned(), rows: Map::new() }
    }
}

impl Stage for MemoryStage {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let ascends = self.rows.last_key_value().is_none_or(|(last, _)| key > &last[..]);
        if !ascends || key >= &END_OF_MAP[..] {
            return Err(Error::Io { message: "staged keys do not ascend".to_owned() });
        }
        self.rows.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.stages.lock().insert(self.name, Some(Arc::new(self.rows)));
        Ok(())
    }
}
