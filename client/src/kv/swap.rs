//! Writes that look at what is there.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1;

use super::ttl_millis;
use crate::{Client, Error, Stored, Swapped};

/// What a key must hold for a value to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing. An expired key is absent.
    Absent,
    /// Exactly this value.
    Value(Bytes),
    /// Whatever was written with this revision.
    Revision(u64),
}

impl From<Expected> for v1::compare_and_put_request::Expected {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Absent => Self::Absent(true),
            Expected::Value(value) => Self::Value(value),
            Expected::Revision(revision) => Self::Revision(revision),
        }
    }
}

impl Client {
    /// Stores a value if the present one is as expected. A refused comparison is an answer, not an
    /// error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn compare_and_put(
        &self,
        key: impl Into<Bytes>,
        expected: Expected,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<Swapped, Error> {
        let request = v1::CompareAndPutRequest {
            context: None,
            key: key.into(),
            expected: Some(expected.into()),
            new_value: value.into(),
            ttl_ms: ttl_millis(ttl)?,
        };
        let v1::CompareAndPutResponse { succeeded, revision, current } = self.call(request).await?;
        Ok(Swapped { succeeded, revision, current: current.map(Into::into) })
    }

    /// Stores a value if the key is absent; otherwise answers with what is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_if_absent(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<Swapped, Error> {
        let request = v1::PutIfAbsentRequest {
            context: None,
            key: key.into(),
            value: value.into(),
            ttl_ms: ttl_millis(ttl)?,
        };
        let v1::PutIfAbsentResponse { succeeded, revision, current } = self.call(request).await?;
        Ok(Swapped { succeeded, revision, current: current.map(Into::into) })
    }

    /// Stores a value and answers with the one that was there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_and_put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<Stored, Error> {
        let request = v1::GetAndPutRequest {
            context: None,
            key: key.into(),
            value: value.into(),
            ttl_ms: ttl_millis(ttl)?,
        };
        let v1::GetAndPutResponse { revision, previous } = self.call(request).await?;
        Ok(Stored { revision, previous: previous.map(Into::into) })
    }
}
