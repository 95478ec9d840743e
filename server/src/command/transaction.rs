//! What an operation of a transaction works with.

use super::{budget::Budget, overlay::Overlay, refusal::Refusal, value::StoredValue};
use crate::storage::engine;

/// What an operation works with.
pub(super) struct Transaction<'t, 'a> {
    pub(super) overlay: &'t mut Overlay<'a>,
    /// The replicated time, this command's included.
    pub(super) time_ms: u64,
    /// Of the values that this transaction writes.
    pub(super) revision: u64,
    /// Largest expiry ever given.
    pub(super) expiry_max_ms: u64,
    pub(super) budget: Budget,
}

/// Why an operation ends its transaction.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

impl Transaction<'_, '_> {
    /// The value that clients see under `key`.
    pub(super) fn live(&mut self, key: &[u8]) -> Result<Option<StoredValue>, Stop> {
        let stored = self.overlay.get(key, self.time_ms)?;
        let live = stored.filter(|value| value.is_live(self.time_ms));
        // An expired row counts as none: it may be gone from another disk.
        self.budget
            .charge_read(key.len() + live.as_ref().map_or(0, |value| value.payload.len()))?;
        Ok(live)
    }

    /// Stores `payload`; `expires_at_ms` 0: for ever.
    pub(super) fn put(
        &mut self,
        key: &bytes::Bytes,
        payload: bytes::Bytes,
        expires_at_ms: u64,
    ) -> Result<(), Refusal> {
        self.budget.charge_effect(key.len() + payload.len())?;
        self.expiry_max_ms = self.expiry_max_ms.max(expires_at_ms);
        let value = StoredValue { revision: self.revision, expires_at_ms, payload };
        self.overlay.put(key.clone(), value);
        Ok(())
    }

    /// `value` for the answer.
    pub(super) fn answer(
        &mut self,
        key: &bytes::Bytes,
        value: StoredValue,
    ) -> Result<flotilla_proto::v1::KeyValue, Refusal> {
        self.budget.charge_answer(key.len() + value.payload.len())?;
        Ok(value.key_value(key.clone(), self.time_ms))
    }
}
