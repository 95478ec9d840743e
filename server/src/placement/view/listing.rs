//! The regions that somebody asks for, a page at a time.

use std::collections::BTreeMap;

use flotilla_proto::v1;
use prost::Message as _;

use super::{ClusterView, NodeView, RegionView};
use crate::{
    ids::{NodeId, RegionId},
    placement::config::PlacementConfig,
};

/// Bound: regions of one answer, and about how many bytes of them; whoever wants more asks again from
/// there.
pub const PAGE_REGIONS_MAX: usize = 1_000;
const PAGE_BYTES_MAX: usize = 4 << 20;

impl ClusterView {
    /// The regions of keys, one per key in their order; one region; or those that touch a range. A key
    /// or an id of which nothing is known is left out.
    #[must_use]
    pub fn list(
        &self,
        request: &v1::RegionsRequest,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> v1::RegionsResponse {
        let nodes = self.standing_nodes(config, now_ms);
        let info = |region: &RegionView| self.region_info(region, &nodes, config, now_ms);
        let mut response = v1::RegionsResponse { accepted: true, ..Default::default() };
        if request.region_id != 0 {
            let region = self.regions().get(&RegionId(request.region_id));
            response.regions = region.map(info).into_iter().collect();
        } else if !request.keys.is_empty() {
            let of = |key: &bytes::Bytes| {
                let end = [&key[..], &[0]].concat();
                self.regions().touching(key, &end).next().map(info)
            };
            response.regions = request.keys.iter().filter_map(of).collect();
        } else {
            let wanted = match usize::try_from(request.limit) {
                Ok(limit @ 1..=PAGE_REGIONS_MAX) => limit,
                _ => PAGE_REGIONS_MAX,
            };
            let mut bytes = 0;
            for region in self.regions().touching(&request.start_key, &request.end_key) {
                if response.regions.len() == wanted || bytes >= PAGE_BYTES_MAX {
                    response.more = true;
                    break;
                }
                let info = info(region);
                bytes += info.encoded_len();
                response.regions.push(info);
            }
        }
        response
    }

    /// The nodes without what is on them, which takes a look at every region.
    pub(super) fn standing_nodes(
        &self,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> BTreeMap<NodeId, NodeView> {
        self.table()
            .nodes
            .iter()
            .map(|record| {
                let id = NodeId(record.node_id);
                (id, self.node_view(record.clone(), config, now_ms))
            })
            .collect()
    }
}
