//! Whoever moves leaders about, the placement driver's most of all: it leads region 1.

use std::time::Duration;

use flotilla_proto::v1;
use rand::{RngExt as _, seq::IndexedRandom as _};

use crate::{
    marks,
    stage::{Phase, Stage},
};

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn act(stage: Stage) -> turmoil::Result {
    stage.until(Phase::Faults).await;
    let mut random = stage.random("leaders");
    while stage.phase() == Phase::Faults {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..1_500))).await;
        let session = stage.any_session(&mut random).patient(PATIENCE);
        let Ok(regions) = session.regions().await else { continue };
        let system = random.random_bool(0.7);
        let region = regions.into_iter().filter_map(|info| info.region);
        let Some(region) = region.into_iter().find(|region| (region.region_id == 1) == system)
        else {
            continue;
        };
        let Some(to) = region.peers.choose(&mut random) else { continue };
        if random.random_bool(0.2) {
            let request = v1::EvictLeadersRequest { node_id: to.node_id, duration_ms: 1_000 };
            let _ = session.cluster.clone().evict_leaders(session.request(request)).await;
            continue;
        }
        let request =
            v1::TransferLeaderRequest { region_id: region.region_id, to_node_id: to.node_id };
        let moved = session.cluster.clone().transfer_leader(session.request(request)).await;
        stage.marks.hit_if(marks::DRIVER_MOVED, moved.is_ok() && system);
    }
    Ok(())
}
