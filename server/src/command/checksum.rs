//! A sum over a region's state, its apply state and the rows of all its spans, to compare replicas.
//!
//! Two peers that applied the same entries have the same sum, whatever their compactions did: an
//! expired value counts nothing, on disk or gone. Each row is framed by its lengths and hashed with
//! CRC32C; the rows are chained by a step that can be undone, so two states of which one row differs
//! have different sums whenever the CRC32C of that row differs.

use flotilla_proto::v1::{ApplyState, Membership};

use super::{region::RegionState, value::StoredRef};
use crate::storage::{
    engine::{Direction, Error, Read},
    keys::span::{Span, SpanKind, spans_of},
};

/// The sum, and how many keys of users are there. `region` is of the same view as `read`, and both are as of one log
/// index, or the sums of two peers say nothing.
///
/// Bound: reads the whole region, in constant memory.
///
/// # Errors
/// A failed read or a damaged value.
pub fn checksum(read: &dyn Read, region: &RegionState) -> Result<(u64, u64), Error> {
    let mut sum = Sum::default();
    sum.add_state(&region.state);
    let mut keys = 0;
    for span in spans_of(&region.descriptor) {
        match span.kind {
            SpanKind::Keys => keys = sum.add_keys(read, &span, region.state.time_ms)?,
            SpanKind::Own => sum.add_own_rows(read, &span)?,
        }
    }
    Ok((sum.0, keys))
}

#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add_keys(&mut self, read: &dyn Read, span: &Span, time_ms: u64) -> Result<u64, Error> {
        let mut keys = 0;
        let mut cursor = read.scan(span.family(), &span.range, Direction::Forward);
        while let Some((key, stored)) = cursor.next()? {
            let value = StoredRef::decode(stored).map_err(|garbage| garbage.under(key))?;
            if value.is_live(time_ms) {
                self.add_value(key, value);
                keys += 1;
            }
        }
        self.add_numbers(&[keys]);
        Ok(keys)
    }

    /// None has no part in the sum: a version that knows of no own rows has the same one.
    fn add_own_rows(&mut self, read: &dyn Read, span: &Span) -> Result<(), Error> {
        let mut rows = 0;
        let mut cursor = read.scan(span.family(), &span.range, Direction::Forward);
        while let Some((key, value)) = cursor.next()? {
            let crc = crc32c::crc32c_append(crc_of(&[key.len() as u64, value.len() as u64]), key);
            self.chain(crc32c::crc32c_append(crc, value));
            rows += 1;
        }
        if rows > 0 {
            self.add_numbers(&[rows]);
        }
        Ok(())
    }

    fn add_value(&mut self, key: &[u8], value: StoredRef<'_>) {
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
    use crate::{ids::RegionId, storage::keys::meta::own_rows};

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

    /// Of the region as if it had all keys.
    fn sum(region: &Fixture) -> (u64, u64) {
        let mut all = region.region.clone();
        (all.descriptor.start_key, all.descriptor.end_key) = Default::default();
        checksum(&region.store, &all).expect("reads")
    }

    fn own_key(region: u64, row: &str) -> Vec<u8> {
        [&own_rows(RegionId(region)).start[..], row.as_bytes()].concat()
    }

    #[test]
    fn everything_a_client_or_a_peer_could_notice_changes_the_sum() {
        let row = |revision, expires_at_ms, payload: &'static str| {
            let head = super::super::value::ValueHead::new(revision, expires_at_ms);
            [head.as_bytes(), payload.as_bytes()].concat()
        };
        let before = sum(&region());
        assert_eq!(before.1, 2, "keys that are there");
        let changes: [(&str, Change); 22] = [
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
            ("an own row", &|it| drop(it.store.own.insert(own_key(2, "x"), vec![]))),
            ("an own row like a key", &|it| {
                let value = it.store.rows.remove(&b"b"[..]).expect("there");
                it.store.own.insert(own_key(2, "b"), value);
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
    fn every_own_row_counts_by_its_name_and_its_value() {
        let sums: std::collections::BTreeSet<_> = [
            &[][..],
            &[("", "")],
            &[("", "\0")],
            &[("a", "b")],
            &[("ab", "")],
            &[("", "ab")],
            &[("a", "c")],
            &[("b", "b")],
            &[("a", "b"), ("b", "b")],
        ]
        .iter()
        .map(|rows| {
            let mut region = region();
            let rows = rows.iter().map(|(row, value)| (own_key(2, row), value.as_bytes().to_vec()));
            region.store.own.extend(rows);
            sum(&region).0
        })
        .collect();
        assert_eq!(sums.len(), 9, "{sums:?}");
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
        let before = checksum(&region.store, &region.region).expect("reads");
        region.store.rows.insert("z".into(), vec![1, 1, 0]);
        for neighbour in [1, 3] {
            region.store.own.insert(own_key(neighbour, "x"), vec![]);
        }
        assert_eq!(checksum(&region.store, &region.region).expect("reads"), before);
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
        assert!(checksum(&region.store, &region.region).is_err());
        region.store.rows.clear();
        let (one, two) = (own_key(2, "1"), own_key(2, "2"));
        region.store.own.extend([(one, vec![]), (two, vec![])]);
        assert!(checksum(&region.store, &region.region).is_err(), "among the own rows");
        region.store.fail_after = None;
        region.store.rows.insert("b".into(), vec![]);
        assert!(checksum(&region.store, &region.region).is_err());
    }
}
