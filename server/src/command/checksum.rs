//! A sum over a region's state, to compare replicas.
//!
//! Two peers that applied the same entries have the same sum, whatever their compactions did: an
//! expired value counts nothing, on disk or gone. Each row is framed by its lengths and hashed with
//! CRC32C; the rows are chained by a step that can be undone, so two states of which one row differs
//! have different sums whenever the CRC32C of that row differs.

use flotilla_proto::{
    range::KeyRange,
    v1::{ApplyState, Membership},
};

use super::value::StoredRef;
use crate::storage::{
    batch::Family,
    engine::{Direction, Error, Read},
};

/// The sum, and how many keys are there. `range` is the region's, `state` of the same view as
/// `read`; both as of one log index, or the sums of two peers say nothing.
///
/// Bound: reads the whole region, in constant memory.
///
/// # Errors
/// A failed read or a damaged value.
pub fn checksum(
    read: &dyn Read,
    range: &KeyRange,
    state: &ApplyState,
) -> Result<(u64, u64), Error> {
    let mut sum = Sum::default();
    sum.add_state(state);
    let mut keys = 0;
    let mut cursor = read.scan(Family::Default, range, Direction::Forward);
    while let Some((key, stored)) = cursor.next()? {
        let value = StoredRef::decode(stored).map_err(|garbage| garbage.under(key))?;
        if value.is_live(state.time_ms) {
            sum.add_row(key, value);
            keys += 1;
        }
    }
    sum.add_numbers(&[keys]);
    Ok((sum.0, keys))
}

#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add_row(&mut self, key: &[u8], value: StoredRef<'_>) {
        let StoredRef { revision, expires_at_ms, payload } = value;
        let lengths = [key.len() as u64, payload.len() as u64];
        let crc = crc_of(&[lengths[0], lengths[1], revision, expires_at_ms]);
        let crc = crc32c::crc32c_append(crc, key);
        self.chain(crc32c::crc32c_append(crc, payload));
    }

    /// Named fields, not the encoded message: a version that adds a field has the same sum.
    fn add_state(&mut self, state: &ApplyState) {
        let ApplyState {
            applied_term,
            applied_index,
            revision,
            time_ms,
            expiry_max_ms,
            membership,
            membership_term,
            membership_index,
            // Of the programs, not of the data.
            feature_level: _,
        } = state;
        self.add_numbers(&[*applied_term, *applied_index, *revision, *time_ms, *expiry_max_ms]);
        self.add_numbers(&[*membership_term, *membership_index]);
        let Membership { voters, peers } = membership.clone().unwrap_or_default();
        self.add_numbers(&[voters.len() as u64, peers.len() as u64]);
        // Sets: their order in the message means nothing. The order of the voter sets does.
        for mut voters in voters {
            voters.peer_ids.sort_unstable();
            self.add_numbers(&[voters.peer_ids.len() as u64]);
            self.add_numbers(&voters.peer_ids);
        }
        let mut peers: Vec<_> = peers.iter().map(|peer| [peer.peer_id, peer.node_id]).collect();
        peers.sort_unstable();
        peers.iter().for_each(|peer| self.add_numbers(peer));
    }

    fn add_numbers(&mut self, numbers: &[u64]) {
        self.chain(crc_of(numbers));
    }

    fn chain(&mut self, crc: u32) {
        // An odd factor and a rotation permute the sums: equal results have equal histories.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0 ^ u64::from(crc)).wrapping_mul(FACTOR).rotate_left(29);
    }
}

fn crc_of(numbers: &[u64]) -> u32 {
    numbers.iter().fold(0, |crc, number| crc32c::crc32c_append(crc, &number.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{MemberPeer, VoterSet};

    use super::{super::fixture::*, *};

    type Change<'a> = &'a dyn Fn(&mut Fixture);

    fn region() -> Fixture {
        let mut region = Fixture::new();
        region.write(vec![put("a", "1"), put_ttl("b", "2", 100), put_ttl("gone", "3", 5)]);
        region.apply(&tick(10));
        region.region.state.membership = Some(Membership {
            voters: vec![VoterSet { peer_ids: vec![1, 2] }, VoterSet { peer_ids: vec![2, 3] }],
            peers: [(1, 11), (2, 12), (3, 13)]
                .map(|(peer_id, node_id)| MemberPeer { peer_id, node_id })
                .to_vec(),
        });
        region
    }

    fn sum(region: &Fixture) -> (u64, u64) {
        checksum(&region.store, &KeyRange::default(), &region.region.state).expect("reads")
    }

    #[test]
    fn everything_a_client_or_a_peer_could_notice_changes_the_sum() {
        let row = |revision, expires_at_ms, payload: &'static str| {
            let head = super::super::value::ValueHead::new(revision, expires_at_ms);
            [head.as_bytes(), payload.as_bytes()].concat()
        };
        let before = sum(&region());
        assert_eq!(before.1, 2, "keys that are there");
        let changes: [(&str, Change); 20] = [
            ("a value", &|it| drop(it.store.rows.insert("a".into(), row(1, 0, "x")))),
            ("a longer value", &|it| drop(it.store.rows.insert("a".into(), row(1, 0, "11")))),
            ("an empty value", &|it| drop(it.store.rows.insert("a".into(), row(1, 0, "")))),
            ("a revision", &|it| drop(it.store.rows.insert("a".into(), row(2, 0, "1")))),
            ("an expiry", &|it| drop(it.store.rows.insert("b".into(), row(1, 101, "2")))),
            ("no expiry", &|it| drop(it.store.rows.insert("b".into(), row(1, 0, "2")))),
            ("a key more", &|it| drop(it.store.rows.insert("c".into(), row(1, 0, "1")))),
            ("a key less", &|it| drop(it.store.rows.remove(&b"a"[..]))),
            ("another key", &|it| {
                let value = it.store.rows.remove(&b"a"[..]).expect("there");
                it.store.rows.insert("a2".into(), value);
            }),
            ("a byte moved from key to value", &|it| {
                it.store.rows.remove(&b"a"[..]);
                it.store.rows.insert("".into(), row(1, 0, "a1"));
            }),
            ("an expired key came back", &|it| {
                drop(it.store.rows.insert("gone".into(), row(1, 11, "3")));
            }),
            ("applied index", &|it| it.region.state.applied_index += 1),
            ("applied term", &|it| it.region.state.applied_term += 1),
            ("revision of the region", &|it| it.region.state.revision += 1),
            ("time", &|it| it.region.state.time_ms += 1),
            ("largest expiry", &|it| it.region.state.expiry_max_ms += 1),
            ("log id of the membership", &|it| it.region.state.membership_index += 1),
            ("no membership", &|it| it.region.state.membership = None),
            ("a voter", &|it| {
                let membership = it.region.state.membership.as_mut().expect("set");
                membership.voters[0].peer_ids[0] = 3;
            }),
            ("a peer's node", &|it| {
                it.region.state.membership.as_mut().expect("set").peers[0].node_id = 99;
            }),
        ];
        for (why, change) in changes {
            let mut region = region();
            change(&mut region);
            assert_ne!(sum(&region).0, before.0, "{why}");
        }
    }

    #[test]
    fn what_is_only_physical_does_not_change_the_sum() {
        let before = sum(&region());
        let mut compacted = region();
        assert!(
            compacted.store.rows.remove(&b"gone"[..]).is_some(),
            "the expired value is on disk"
        );
        assert_eq!(sum(&compacted), before, "expired and reclaimed");
        let mut turned = region();
        let membership = turned.region.state.membership.as_mut().expect("set");
        membership.peers.reverse();
        membership.voters[0].peer_ids.reverse();
        assert_eq!(sum(&turned), before, "sets written in another order");
    }

    #[test]
    fn only_the_regions_own_keys_count() {
        let mut region = region();
        let range = KeyRange::new("a", "z");
        let state = region.region.state.clone();
        let before = checksum(&region.store, &range, &state).expect("reads");
        region.store.rows.insert("z".into(), vec![1, 1, 0]);
        assert_eq!(checksum(&region.store, &range, &state).expect("reads"), before);
    }

    /// Peers of different versions compare sums: the rule must not change by accident.
    #[test]
    fn the_sum_of_a_known_state_is_known() {
        assert_eq!(sum(&region()), (KNOWN_SUM, 2));
    }

    const KNOWN_SUM: u64 = 2_563_146_215_103_808_991;

    #[test]
    fn damage_is_an_error() {
        let mut region = region();
        region.store.fail_after = Some(1);
        assert!(checksum(&region.store, &KeyRange::default(), &region.region.state).is_err());
        region.store.fail_after = None;
        region.store.rows.insert("b".into(), vec![]);
        assert!(checksum(&region.store, &KeyRange::default(), &region.region.state).is_err());
    }
}
