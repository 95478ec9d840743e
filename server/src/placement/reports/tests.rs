use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{
    ids::NodeId,
    placement::{
        fixture::{CLUSTER, NOW_MS, record, table},
        view::{ClusterView, Heard},
    },
    world::clock,
};

fn report(id: u64, term: u64) -> v1::RegionReport {
    let peer = |node: u64| v1::Peer {
        peer_id: 10 * id + node,
        node_id: node,
        role: v1::PeerRole::Voter as i32,
    };
    let follows = |node: u64| v1::PeerProgress {
        peer_id: 10 * id + node,
        matched_index: 10_000,
        silent_ms: 40,
        ..v1::PeerProgress::default()
    };
    let key = |at: u64| format!("{at:06}").into_bytes().into();
    v1::RegionReport {
        region: Some(v1::Region {
            region_id: id,
            start_key: key(id),
            end_key: key(id + 1),
            epoch: Some(v1::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: (1..=3).map(peer).collect(),
        }),
        term,
        leader_peer_id: 10 * id + 1,
        last_index: 10_000,
        progress: vec![follows(2), follows(3)],
        ..Default::default()
    }
}

fn ids(part: &Part) -> Vec<u64> {
    part.regions.iter().filter_map(|report| report.region.as_ref()).map(|r| r.region_id).collect()
}

#[test]
fn each_change_is_told_once() {
    let config = PlacementConfig::default();
    let now = clock::now();
    let mut reports = Reports::default();
    let mut led = vec![report(1, 3), report(2, 3)];
    let mut tell = |led: &[v1::RegionReport], now| {
        let part = reports.next(led.to_vec(), &config, now);
        assert!(!reports.acknowledged(7));
        (part.session, ids(&part), part.led_no_more)
    };
    assert_eq!(tell(&led, now), (0, vec![1, 2], vec![]), "all, to begin with");
    type Change = fn(&mut v1::RegionReport);
    let changes: [(&str, Change, bool); 16] = [
        ("nothing", |_| {}, false),
        ("writes", |now| now.last_index += 500, false),
        ("a follower answered a little later", |now| now.progress[0].silent_ms = 4_000, false),
        ("a follower is silent", |now| now.progress[0].silent_ms = 6_000, true),
        ("and goes on to be", |now| now.progress[0].silent_ms = 16_000, false),
        ("it answers again", |now| now.progress[0].silent_ms = 10, true),
        ("a follower lags", |now| now.progress[1].matched_index = 9_000, true),
        ("a follower lost entries", |now| now.progress[1].reverted = true, true),
        ("a node has buried its peer", |now| now.progress[1].buried = true, true),
        ("its node refuses it", |now| now.progress[1].refused = "disk full".into(), true),
        (
            "in other words, and for longer",
            |now| {
                now.progress[1].refused = "disk fuller".into();
                now.progress[1].refused_ms += 5_000;
            },
            false,
        ),
        ("it takes it", |now| now.progress[1].refused = String::new(), true),
        ("it is larger by little", |now| now.approximate_bytes += 1_000, false),
        ("it is larger", |now| now.approximate_bytes += 2 << 20, true),
        ("a joint change", |now| now.joint = true, true),
        (
            "its membership",
            |now| now.region.as_mut().expect("set").epoch.as_mut().expect("set").conf_ver += 1,
            true,
        ),
    ];
    for (why, change, is_told) in changes {
        change(&mut led[1]);
        let want = if is_told { vec![2] } else { vec![] };
        assert_eq!(tell(&led, now), (7, want, vec![]), "{why}");
    }
    assert_eq!(tell(&led[1..], now), (7, vec![], vec![1]), "it leads one no more");
    assert_eq!(tell(&led[1..], now), (7, vec![], vec![]), "which is told once");
    let later = now + REFRESH_AFTER;
    assert_eq!(tell(&led[1..], later), (7, vec![2], vec![]), "numbers do not grow old for ever");
}

#[test]
fn many_regions_are_told_in_parts_that_are_bounded() {
    let config = PlacementConfig::default();
    let now = clock::now();
    let led: Vec<_> = (1..=2_500).map(|id| report(id, 1)).collect();
    let mut reports = Reports::default();
    let mut parts = Vec::new();
    loop {
        let part = reports.next(led.clone(), &config, now);
        parts.push((part.session, part.regions.len(), part.more));
        if !reports.acknowledged(9) {
            break;
        }
    }
    assert_eq!(parts, [(0, 1_000, true), (9, 1_000, true), (9, 500, false)]);

    let large = |id| {
        let mut report = report(id, 1);
        let region = report.region.as_mut().expect("set");
        region.start_key = vec![b'k'; 512 << 10].into();
        report
    };
    let led: Vec<_> = (1..=10).map(large).collect();
    let part = Reports::default().next(led, &config, now);
    assert_eq!((part.regions.len(), part.more), (4, true), "by their bytes");
}

/// Whatever is lost on the way, and whoever drives: once a heartbeat comes through and all is told, the
/// driver knows what one that hears everything each time knows.
#[test]
fn driver_that_hears_changes_knows_what_one_that_hears_everything_knows() {
    let config = PlacementConfig::default();
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = (1..=3).map(|id| record(id, v1::NodeState::Up)).collect();
        let table = table(3, nodes);
        let driver = |session| ClusterView::new(table.clone(), NOW_MS).in_session(session);
        let mut view = driver(1);
        let mut sessions = 1;
        let mut reports = Reports::default();
        let mut led: BTreeMap<u64, v1::RegionReport> = BTreeMap::new();
        let mut incarnation = 1;
        let now = clock::now();
        let mut late: Vec<v1::HeartbeatRequest> = Vec::new();
        for step in 0..120 {
            let id = rng.random_range(1..30);
            match rng.random_range(0..8) {
                0..=3 => {
                    let term = led.get(&id).map_or(step + 1, |report| report.term);
                    let changed = led.entry(id).or_insert_with(|| report(id, term));
                    changed.joint = rng.random();
                    changed.progress[0].silent_ms = rng.random_range(0..20_000);
                }
                4 | 5 => drop(led.remove(&id)),
                6 if rng.random_bool(0.2) => {
                    sessions += 1;
                    view = driver(sessions);
                }
                7 if rng.random_bool(0.2) => {
                    incarnation += 1;
                    reports = Reports::default();
                    led.clear();
                    late.clear();
                }
                _ => {}
            }
            let part = reports.next(led.values().cloned(), &config, now);
            let request = v1::HeartbeatRequest {
                cluster_id: CLUSTER.to_vec().into(),
                node_id: 1,
                incarnation,
                feature_level: 1,
                regions: part.regions,
                session: part.session,
                sequence: part.sequence,
                led_no_more: part.led_no_more,
                ..Default::default()
            };
            match rng.random_range(0..4) {
                0 => reports.lost(),
                // Heard now or later, but the answer is lost.
                1 if rng.random() => {
                    late.push(request);
                    reports.lost();
                }
                1 => {
                    view.hear(request, NOW_MS);
                    reports.lost();
                }
                _ => {
                    let session = match view.hear(request, NOW_MS) {
                        Heard::Accepted => view.session(),
                        Heard::Unfollowed => 0,
                        other => panic!("seed {seed}: {other:?}"),
                    };
                    if rng.random_bool(0.3)
                        && let Some(request) = late.pop()
                    {
                        view.hear(request, NOW_MS);
                    }
                    if !reports.acknowledged(session) {
                        check(&view, &led, &config, seed);
                    }
                }
            }
        }
    }
}

#[track_caller]
fn check(
    view: &ClusterView,
    led: &BTreeMap<u64, v1::RegionReport>,
    config: &PlacementConfig,
    seed: u64,
) {
    let known: Vec<u64> = view
        .regions()
        .values()
        .filter(|region| region.leader.is_some_and(|leader| leader.node == NodeId(1)))
        .map(|region| region.id().0)
        .collect();
    assert_eq!(known, led.keys().copied().collect::<Vec<_>>(), "seed {seed}: what is led");
    for report in led.values() {
        let id = report.region.as_ref().expect("set").region_id;
        let region = &view.regions()[&RegionId(id)];
        let silent_max = millis(config.peer_silent_after);
        let follower = PeerId(10 * id + 2);
        let silent = view.silent_ms(region, follower, NOW_MS).expect("told") > silent_max;
        assert_eq!(silent, report.progress[0].silent_ms > silent_max, "seed {seed}: region {id}");
        assert_eq!(region.joint_since_ms.is_some(), report.joint, "seed {seed}: region {id}");
    }
}
