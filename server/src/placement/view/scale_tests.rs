//! Many regions: nothing may take longer than the interval at which it comes.

use std::time::Duration;

use super::*;
use crate::{
    placement::{
        config::PlacementConfig,
        fixture::{CLUSTER, NOW_MS, record, table},
        plan::plan,
    },
    world::clock,
};

const NODES: u64 = 10;
const REGIONS: u64 = 10_000;
/// As slow as a machine under load with a debug build may be; the debug build of one that looks at all
/// regions for each report needs minutes.
const PATIENCE: Duration = Duration::from_secs(5);

fn report(id: u64, term: u64) -> v1::RegionReport {
    let key = |at: u64| format!("{at:08}").into_bytes().into();
    let peers: Vec<v1::Peer> = (0..3)
        .map(|nth| v1::Peer {
            peer_id: 10 * id + nth,
            node_id: (id + nth) % NODES + 1,
            role: v1::PeerRole::Voter.into(),
        })
        .collect();
    v1::RegionReport {
        leader_peer_id: peers[0].peer_id,
        progress: peers[1..]
            .iter()
            .map(|peer| v1::PeerProgress {
                peer_id: peer.peer_id,
                matched_index: 9,
                ..v1::PeerProgress::default()
            })
            .collect(),
        region: Some(v1::Region {
            region_id: id,
            start_key: if id == 1 { Default::default() } else { key(id) },
            end_key: if id == REGIONS { Default::default() } else { key(id + 1) },
            epoch: Some(v1::RegionEpoch { conf_ver: 1, version: 1 }),
            peers,
        }),
        term,
        last_index: 9,
        ..Default::default()
    }
}

/// Node 1 to 10 in turn lead the regions.
fn heartbeat(
    node: u64,
    session: u64,
    ids: impl Iterator<Item = u64>,
    term: u64,
) -> v1::HeartbeatRequest {
    v1::HeartbeatRequest {
        cluster_id: CLUSTER.to_vec().into(),
        node_id: node,
        incarnation: 1,
        feature_level: 1,
        session,
        sequence: term,
        regions: ids.map(|id| report(id, term)).collect(),
        ..Default::default()
    }
}

#[test]
fn ten_thousand_regions_are_heard_listed_and_planned_in_time() {
    let config = PlacementConfig::default();
    let nodes = (1..=NODES).map(|id| record(id, v1::NodeState::Up)).collect();
    let mut view = ClusterView::new(table(3, nodes), NOW_MS);
    let timed = |what: &str, most: Duration, run: &mut dyn FnMut()| {
        let began = clock::monotonic();
        run();
        let took = began.elapsed();
        assert!(took < most, "{what} took {took:?}");
    };
    let led = |node: u64| (1..=REGIONS).filter(move |id| id % NODES + 1 == node);
    timed("all nodes are heard for the first time", PATIENCE, &mut || {
        for node in 1..=NODES {
            assert_eq!(view.hear(heartbeat(node, 0, led(node), 1), NOW_MS), Heard::Accepted);
        }
    });
    assert!(view.is_complete());

    let changed = heartbeat(1, view.session(), (1..=REGIONS).filter(|id| id % 10 < 3), 2);
    assert_eq!(changed.regions.len(), 3_000);
    let mut changed = Some(changed);
    timed("one heartbeat of 3000 reports", PATIENCE / 5, &mut || {
        let heard = view.hear(changed.take().expect("once"), NOW_MS + 1);
        assert_eq!(heard, Heard::Accepted);
    });

    timed("1000 look-ups of a page of 64", PATIENCE, &mut || {
        for at in 0..1_000_u64 {
            let request = v1::RegionsRequest {
                start_key: format!("{:08}", 1 + at * 9).into_bytes().into(),
                limit: 64,
                ..Default::default()
            };
            let page = view.list(&request, &config, NOW_MS + 1);
            assert_eq!((page.regions.len(), page.more), (64, true));
        }
    });

    // What is asked for whole comes in pages that tile.
    let mut request = v1::RegionsRequest::default();
    let mut listed = 0;
    timed("all pages", PATIENCE, &mut || loop {
        let page = view.list(&request, &config, NOW_MS + 1);
        assert!(page.regions.len() <= page_regions(0));
        listed += page.regions.len();
        let last = page.regions.last().and_then(|info| info.region.clone()).expect("a region");
        if !page.more {
            assert!(last.end_key.is_empty());
            break;
        }
        request.start_key = last.end_key;
    });
    assert_eq!(listed as u64, REGIONS);

    timed("one planning pass", PATIENCE, &mut || {
        let _ = plan(&view, &config, NOW_MS + 1, &mut || None);
    });
}
