//! Values that belong to their keys, and reading them back.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Failure, Reply, Store};
use crate::{harness::elapse, history::Request};

/// Bound: for each request of a check; a cluster that was hurt may need a while.
const READ_BOUND: Duration = Duration::from_secs(30);
/// Between two attempts.
const POLL: Duration = Duration::from_millis(50);

/// What a store answers to a read, at last.
pub(super) async fn in_the_end(store: &dyn Store, read: &Request) -> Result<Reply, String> {
    let deadline = Instant::now() + READ_BOUND;
    loop {
        match store.ask(read).await {
            Ok(reply) => return Ok(reply),
            Err(failure) => rest(store, failure, deadline).await?,
        }
    }
}

/// What a store holds under these keys.
pub(super) async fn read_back(
    store: &dyn Store,
    keys: &[Bytes],
) -> Result<Vec<Option<Bytes>>, String> {
    let deadline = Instant::now() + READ_BOUND;
    loop {
        match store.read(keys).await {
            Ok(found) => return Ok(found),
            Err(failure) => rest(store, failure, deadline).await?,
        }
    }
}

async fn rest(store: &dyn Store, failure: Failure, deadline: Instant) -> Result<(), String> {
    if Instant::now() >= deadline {
        return Err(format!("{} does not answer a read: {failure}", store.name()));
    }
    elapse(POLL).await;
    Ok(())
}

/// A value that belongs to its key, so that a mix-up shows, and does not compress away.
pub(super) fn value_of(key: &Bytes, length: usize) -> Bytes {
    let mut state = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut value = key.to_vec();
    while value.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        value.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
    }
    value.truncate(length.max(key.len()));
    Bytes::from(value)
}
