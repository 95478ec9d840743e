//! Each promise, by moments that nobody ran: one that keeps it, and one that breaks it.

#[path = "mod.rs"]
mod invariants;

use std::{collections::BTreeMap, time::Duration};

use flotilla_proto::v1;
use flotilla_server::ids::{PeerId, RegionId};

use self::invariants::{Disks, Judges, Moment, Place, Seen, Vote};

const REGION: RegionId = RegionId(2);

/// What three hosts have on their disks, in the order of the hosts.
#[derive(Clone, Default)]
struct World {
    /// Entries by host: index, content, and whether it was synced.
    logs: BTreeMap<usize, Vec<(u64, u32, bool)>>,
    /// Synced state, by host.
    kept_applied: BTreeMap<usize, u64>,
    /// Life of each disk, if it is not the first.
    lives: BTreeMap<usize, u32>,
    excused: bool,
    aside: Option<&'static str>,
    /// Hosts whose peers are in the middle of a change of voters.
    joint: Vec<usize>,
    /// Who has died, and still stands.
    dead: Option<usize>,
    /// Whom a node says that it has buried, by host, and its disk where that has something else.
    buried: BTreeMap<usize, PeerId>,
    kept_buried: BTreeMap<usize, Option<PeerId>>,
    /// Votes by host: what its disk keeps, and what its peer counts as kept.
    kept_votes: BTreeMap<usize, Vote>,
    votes: BTreeMap<usize, Vote>,
    /// Peers whose id is not the host's number.
    ids: BTreeMap<usize, PeerId>,
    /// When it is, in milliseconds, and of when is what a quorum has answered, by host.
    at: u64,
    heard: BTreeMap<usize, u64>,
    peers: Vec<(usize, v1::PeerStatus)>,
}

impl World {
    fn is_there(&self, place: Place) -> bool {
        self.lives.get(&place.host).copied().unwrap_or_default() == place.disk_lives
    }

    fn rows(&self, place: Place) -> &[(u64, u32, bool)] {
        match self.logs.get(&place.host) {
            Some(rows) if self.is_there(place) => rows,
            _ => &[],
        }
    }

    /// A running peer of that host, whose id is the host's number.
    fn peer(mut self, host: usize, role: &str, term: u64, applied: u64) -> Self {
        let voter =
            |peer_id| v1::Peer { peer_id, node_id: peer_id, role: v1::PeerRole::Voter.into() };
        let region = v1::Region {
            region_id: REGION.0,
            peers: (1..=3).map(voter).collect(),
            ..v1::Region::default()
        };
        let status = v1::PeerStatus {
            role: role.to_owned(),
            term,
            applied_index: applied,
            region: Some(region),
            ..v1::PeerStatus::default()
        };
        self.peers.retain(|(other, _)| *other != host);
        self.peers.push((host, status));
        self
    }

    fn log(mut self, host: usize, rows: &[(u64, u32, bool)]) -> Self {
        self.logs.insert(host, rows.to_vec());
        self
    }

    fn moment(&self) -> Moment<'_> {
        let seen = |(host, status): &(usize, v1::PeerStatus)| {
            let disk_lives = self.lives.get(host).copied().unwrap_or_default();
            Seen {
                place: Place { host: *host, disk_lives },
                region: REGION,
                peer: self.ids.get(host).copied().unwrap_or(PeerId(*host as u64)),
                status: status.clone(),
                is_joint: self.joint.contains(host),
                heard: self.heard.get(host).copied().map(Duration::from_millis),
                buried: self.buried.get(host).copied(),
                vote: self.votes.get(host).copied(),
            }
        };
        let at = Duration::from_millis(self.at);
        Moment { at, peers: self.peers.iter().map(seen).collect(), disks: self, dead: self.dead }
    }
}

impl Disks for World {
    fn entry(&self, place: Place, _: RegionId, index: u64) -> Option<u32> {
        let found = self.rows(place).iter().find(|(at, ..)| *at == index);
        found.map(|(_, entry, _)| *entry)
    }

    fn kept_entry(&self, place: Place, _: RegionId, index: u64) -> Option<u32> {
        let found = self.rows(place).iter().find(|(at, _, synced)| *at == index && *synced);
        found.map(|(_, entry, _)| *entry)
    }

    fn kept_applied(&self, place: Place, _: RegionId) -> u64 {
        self.kept_applied.get(&place.host).copied().unwrap_or_default()
    }

    fn first_index(&self, place: Place, _: RegionId) -> Option<u64> {
        self.rows(place).first().map(|(index, ..)| *index)
    }

    fn last_index(&self, place: Place, _: RegionId) -> Option<u64> {
        self.rows(place).last().map(|(index, ..)| *index)
    }

    fn log_changes(&self, place: Place) -> Option<u64> {
        let rows = format!("{:?}", self.rows(place));
        self.is_there(place).then(|| crc32c::crc32c(rows.as_bytes()).into())
    }

    fn kept_vote(&self, place: Place, _: RegionId) -> Option<Vote> {
        self.kept_votes.get(&place.host).copied().filter(|_| self.is_there(place))
    }

    fn kept_buried(&self, place: Place, _: RegionId) -> Option<PeerId> {
        let told = || self.buried.get(&place.host).copied();
        self.kept_buried.get(&place.host).copied().unwrap_or_else(told)
    }

    fn is_anybody_excused(&self) -> bool {
        self.excused
    }

    fn set_aside(&self) -> Option<String> {
        self.aside.map(str::to_owned)
    }
}

/// What the judges say of moments, one after the other: which promise is broken first.
fn judged(moments: &[World]) -> Option<&'static str> {
    let mut judges = Judges::default();
    let broken = moments.iter().find_map(|world| judges.judge(&world.moment(), drop).err())?;
    assert!(broken.how.contains("region 2"), "it says where: {}", broken.how);
    Some(broken.invariant)
}

fn check(why: &str, moments: &[World], want: Option<&str>) {
    assert_eq!(judged(moments), want, "{why}");
}

/// Three peers in term 1, the first of which leads; all have two entries, synced, and have applied them.
fn calm() -> World {
    let rows = [(1, 10, true), (2, 20, true)];
    (1..=3).fold(World::default(), |world, host| {
        let role = if host == 1 { "leader" } else { "follower" };
        world.log(host, &rows).peer(host, role, 1, 2)
    })
}

#[test]
fn a_calm_cluster_breaks_nothing() {
    check("calm", &[calm(), calm()], None);
}

#[test]
fn two_leaders_of_one_term_are_noticed_whenever_they_lead() {
    let second = calm().peer(1, "follower", 1, 2).peer(2, "leader", 1, 2);
    check("one after the other", &[calm(), second], Some("election-safety"));
    let newer = calm().peer(2, "leader", 2, 2);
    check("of two terms", &[calm(), newer], None);
}

#[test]
fn a_term_never_falls_back_on_one_disk() {
    let later = calm().peer(3, "follower", 7, 2);
    check("it falls", &[later.clone(), calm()], Some("terms-grow"));
    let mut another = calm();
    another.lives.insert(3, 1);
    check("on another disk", &[later, another], None);
}

/// The third host keeps that its peer of that id has voted.
fn voted(peer: u64, term: u64, voted_for: u64) -> World {
    let vote = Vote { peer: PeerId(peer), term, voted_for: PeerId(voted_for) };
    World { kept_votes: BTreeMap::from([(3, vote)]), ..calm() }
}

#[test]
fn a_vote_on_a_disk_never_goes_back_and_is_for_one_in_a_term() {
    let want = Some("votes-are-kept");
    let none = || calm();
    check("a later one", &[voted(3, 0, 0), voted(3, 2, 1), voted(3, 4, 2)], None);
    check("an earlier one", &[voted(3, 4, 2), voted(3, 2, 2)], want);
    check("none", &[voted(3, 4, 2), voted(3, 0, 0)], want);
    check("for another", &[voted(3, 4, 2), voted(3, 4, 1)], want);
    check("its peer was destroyed", &[voted(3, 4, 2), none(), voted(7, 0, 0)], None);
    check("another peer has come", &[voted(3, 4, 2), voted(7, 2, 7)], None);
    let mut down = voted(3, 2, 2);
    down.peers.retain(|(host, _)| *host != 3);
    check("its node is down", &[voted(3, 4, 2), down], want);
    let mut another = voted(3, 2, 2);
    another.lives.insert(3, 1);
    check("the disk is another", &[voted(3, 4, 2), another], None);
    let stands = World { dead: Some(3), ..voted(3, 9, 2) };
    check("it had died by then", &[voted(3, 4, 2), stands, voted(3, 5, 2)], None);
}

#[test]
fn a_vote_that_counts_as_kept_is_kept() {
    let want = Some("votes-are-kept");
    let counts = |term, voted_for, on_disk: World| {
        let vote = Vote { peer: PeerId(3), term, voted_for: PeerId(voted_for) };
        World { votes: BTreeMap::from([(3, vote)]), ..on_disk }
    };
    check("it is", &[counts(4, 2, voted(3, 4, 2))], None);
    check("a later one is", &[counts(4, 2, voted(3, 6, 1))], None);
    check("there is none to keep", &[counts(0, 3, calm())], None);
    check("an earlier one is", &[counts(4, 2, voted(3, 2, 2))], want);
    check("one for another is", &[counts(4, 2, voted(3, 4, 1))], want);
    check("that of another peer is", &[counts(4, 2, voted(7, 4, 2))], want);
    check("none is", &[counts(4, 2, calm())], want);
}

#[test]
fn logs_that_have_the_same_entry_have_the_same_before_it() {
    let want = Some("log-matching");
    let row = |(index, entry): (usize, &u32)| (index as u64 + 1, *entry, true);
    let rows = |entries: &[u32]| entries.iter().enumerate().map(row).collect::<Vec<_>>();
    // Nobody has applied more than the first of them.
    let behind = || (1..=3).fold(calm(), |world, host| world.peer(host, "follower", 1, 1));
    let logs = |first: &[u32], third: &[u32]| behind().log(1, &rows(first)).log(3, &rows(third));
    check("they are the same", &[logs(&[10, 20, 30], &[10, 20, 30])], None);
    check("one has more", &[logs(&[10, 20, 30, 40], &[10, 20])], None);
    check("their ends differ", &[logs(&[10, 20, 30, 40], &[10, 20, 31, 41])], None);
    check("right before it", &[logs(&[10, 20, 30], &[10, 99, 30])], want);
    check("with ends that differ", &[logs(&[10, 20, 30, 40], &[10, 99, 30, 41])], want);
    let far = |second| [10, second, 30, 40, 50, 60, 70, 80, 90];
    check("far before it", &[logs(&far(20), &far(99))], want);
    let mut cut = logs(&[10, 20, 30], &[]);
    cut.logs.insert(3, vec![(3, 30, true)]);
    check("one has nothing before it", &[cut], None);
    let earlier = logs(&[10, 20], &[10, 99, 30]);
    let truncated = logs(&[10, 20, 30], &[10]);
    check("who had it has truncated it", &[earlier.clone(), truncated], want);
    let again = logs(&[10, 20], &[10, 20, 30]);
    check("the same log had it", &[earlier, again], want);
    let mut down = logs(&[10, 20, 30], &[10, 99, 30]);
    down.peers.retain(|(host, _)| *host != 3);
    check("its node is down", &[behind(), down.clone()], want);
    down.lives.insert(3, 1);
    check("the disk is another", &[behind(), down], None);
}

#[test]
fn different_entries_at_one_index_are_noticed() {
    let other = calm().log(3, &[(1, 10, true), (2, 99, true)]);
    check("two contents", &[other], Some("state-machine-safety"));
    let behind = calm().log(3, &[(1, 10, true), (2, 99, true)]).peer(3, "follower", 1, 1);
    check("it has not applied it", &[behind], None);
}

#[test]
fn a_leader_lacks_nothing_that_was_applied() {
    let lacks = calm().log(2, &[(1, 10, true)]).peer(2, "leader", 2, 1);
    check("nothing there", &[calm(), lacks], Some("leader-completeness"));
    let other = calm().log(2, &[(1, 10, true), (2, 99, true)]).peer(2, "leader", 2, 1);
    check("another entry", &[calm(), other], Some("leader-completeness"));
    let mut cut = calm().log(2, &[]).peer(2, "leader", 2, 2);
    cut.kept_applied.insert(2, 2);
    cut.peers.iter_mut().for_each(|(_, status)| status.purged_index = 2);
    check("cut off", &[calm(), cut], None);
    let two = [(1, 10, true), (2, 20, true)];
    let late = |term| {
        let of_two =
            calm().log(1, &two).log(3, &two).peer(1, "leader", 3, 2).peer(3, "follower", 3, 2);
        of_two.log(2, &two[..1]).peer(2, "leader", term, 1)
    };
    check("committed in a later term", &[late(2)], None);
    check("committed in an earlier one", &[late(4)], Some("leader-completeness"));
}

#[test]
fn what_is_applied_is_kept_by_two_disks_of_three_also_of_nodes_that_are_down() {
    let third = |synced| [(1, 10, true), (2, 20, true), (3, 30, synced)];
    let two = [(1, 10, true), (2, 20, true)];
    let applied = |second: bool, first: bool| {
        let world = calm().log(1, &third(first)).log(2, &third(second)).log(3, &two);
        world.peer(1, "leader", 1, 3)
    };
    check("two keep it", &[calm(), applied(true, true)], None);
    check("one keeps it", &[calm(), applied(false, true)], Some("kept-by-a-quorum"));
    let down = |mut world: World| {
        world.peers.retain(|(host, _)| *host != 2);
        world
    };
    check("one is down, and keeps it", &[calm(), down(applied(true, true))], None);
    let not_kept = down(applied(false, true));
    check("one is down, and does not", &[calm(), not_kept], Some("kept-by-a-quorum"));
    let mut lost = applied(true, true);
    lost.lives.insert(2, 1);
    lost.peers.retain(|(host, _)| *host != 2);
    check("its disk is another", &[calm(), lost], Some("kept-by-a-quorum"));
    let mut as_state = applied(false, true).log(2, &two);
    as_state.kept_applied.insert(2, 3);
    check("one keeps what came of it", &[calm(), as_state], None);
}

#[test]
fn entries_wait_while_the_members_change_and_are_asked_for_after_it() {
    let change = |mut world: World, voters: usize, conf_ver| {
        for (_, status) in &mut world.peers {
            let region = status.region.as_mut().expect("it has one");
            region.peers.truncate(voters);
            region.epoch = Some(v1::RegionEpoch { conf_ver, ..v1::RegionEpoch::default() });
        }
        world
    };
    let third = [(1, 10, true), (2, 20, true), (3, 30, false)];
    let unkept = || calm().log(1, &third).peer(1, "leader", 1, 3);
    let during = change(unkept(), 2, 5);
    check("during", &[calm(), during.clone()], None);
    let old = change(unkept(), 3, 4);
    check("by whoever knows the members of before", &[calm(), during.clone(), old], None);
    let after = change(unkept(), 3, 6);
    let want = Some("kept-by-a-quorum");
    check("after", &[calm(), during.clone(), after.clone()], want);
    let mut at_its_end = after.clone();
    at_its_end.joint = vec![1, 2, 3];
    check("when it is joint", &[calm(), during.clone(), at_its_end], None);
    let mut one_is_behind = after;
    let of_before = calm().peers.remove(2);
    one_is_behind.peers[2] = of_before;
    check("also while one has not applied it", &[calm(), during, one_is_behind], want);
}

#[test]
fn leader_of_before_is_heard_by_no_quorum() {
    let later = |at, heard| {
        let both = calm().peer(2, "leader", 2, 2);
        World { at, heard: BTreeMap::from([(1, heard), (2, at)]), ..both }
    };
    check("before it", &[calm(), later(100, 90)], None);
    check("what is heard late was sent before it", &[later(100, 90), later(300, 100)], None);
    let want = Some("heard-by-a-quorum");
    check("after it", &[later(100, 90), later(300, 110)], want);
    let mut excused = later(300, 110);
    excused.excused = true;
    check("a disk was damaged", &[later(100, 90), excused], None);
    let gone = World { at: 300, heard: BTreeMap::from([(1, 290)]), ..calm() };
    check("the later one is gone", &[later(100, 90), gone], want);
}

#[test]
fn whoever_is_buried_does_not_run() {
    let buried = |upto| World { buried: BTreeMap::from([(3, PeerId(upto))]), ..calm() };
    check("an earlier one is", &[buried(2)], None);
    check("it is", &[calm(), buried(3)], Some("buried-stays-gone"));
    check("a later one is", &[buried(4)], Some("buried-stays-gone"));
    let mut gone = buried(3);
    gone.peers.retain(|(host, _)| *host != 3);
    check("it is gone", std::slice::from_ref(&gone), None);
    check("it is back", &[gone, buried(3)], Some("buried-stays-gone"));
}

/// A node that has forgotten whom it has buried does not say so.
#[test]
fn who_was_buried_on_a_disk_stays_so_whatever_its_node_says_later() {
    let next = |buried: Option<u64>, id| World {
        buried: buried.map(|upto| (3, PeerId(upto))).into_iter().collect(),
        ids: BTreeMap::from([(3, PeerId(id))]),
        ..calm()
    };
    let (after, want) = (|| next(Some(3), 7), Some("buried-stays-gone"));
    check("another one has come", &[calm(), after()], None);
    check("it is back", &[after(), next(None, 3)], want);
    check("its node has forgotten", &[after(), next(None, 7)], want);
    check("its node says less", &[after(), next(Some(2), 7)], want);
    let mut on_disk = after();
    on_disk.kept_buried.insert(3, None);
    check("it is on no disk", &[after(), on_disk], want);
    let mut another = next(None, 3);
    another.lives.insert(3, 1);
    check("the disk is another", &[after(), another], None);
    check("nobody has buried the one before", &[calm(), next(None, 7)], want);
    check("nobody has buried the one after", &[next(Some(3), 7), next(Some(3), 5)], want);
}

#[test]
fn nobody_is_set_aside_without_an_excuse() {
    let mut aside = calm();
    aside.aside = Some("region 2: peer 3: its log is gone");
    check("no excuse", std::slice::from_ref(&aside), Some("nobody-is-set-aside"));
    aside.excused = true;
    check("a disk was damaged", &[aside], None);
}
