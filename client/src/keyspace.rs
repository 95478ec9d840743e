//! The keyspace of a client's calls. The client encodes keys only to find a region in its route table; requests carry
//! user keys.

use flotilla_proto::keyspace::KeyspaceId;

use crate::Error;

/// The keyspace of callers that do not choose one.
pub const DEFAULT_KEYSPACE: u32 = KeyspaceId::DEFAULT.get();

/// Refuses ids of no keyspace; 0 means the default.
pub(crate) fn check(keyspace: u32) -> Result<KeyspaceId, Error> {
    let most = KeyspaceId::MAX;
    KeyspaceId::named(keyspace)
        .ok_or_else(|| Error::configuration("keyspace", format!("at most {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyspace_zero_is_the_default_and_huge_ids_are_refused() {
        assert_eq!(check(0).map(KeyspaceId::get), Ok(DEFAULT_KEYSPACE));
        assert_eq!(check(9).map(KeyspaceId::get), Ok(9));
        assert_eq!(check(0xff_fffe), Ok(KeyspaceId::MAX));
        assert!(check(0xff_ffff).is_err(), "its keys would reach the end of the map");
        assert!(check(1 << 24).is_err());
    }
}
