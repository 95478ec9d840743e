//! The regions that somebody asks for, a page at a time.

use std::collections::BTreeMap;

use flotilla_proto::v1;
use prost::Message;

use super::{ClusterView, HeardRegion, NodeView};
use crate::{
    error::Error,
    ids::{NodeId, RegionId},
    placement::config::PlacementConfig,
};

/// Bound: regions of one answer; whoever wants more asks again from there.
const PAGE_REGIONS_MAX: usize = 1_000;
/// Bound: a page ends once it has so many bytes. With what one region may have beyond that it is below the
/// 4 MiB that a client of gRPC takes of a message unless it is told otherwise.
const PAGE_BYTES_MAX: usize = 3 << 20;

/// The first of `items` that fit into one answer, and whether others are left.
pub fn page<T: Message>(items: impl Iterator<Item = T>, count_max: usize) -> (Vec<T>, bool) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for item in items {
        if page.len() == count_max || bytes >= PAGE_BYTES_MAX {
            return (page, true);
        }
        bytes += item.encoded_len();
        page.push(item);
    }
    (page, false)
}

/// Refuses an answer with the regions of many keys that is larger than a page: it has one for each key, and cannot
/// go on in another.
///
/// # Errors
/// `InvalidArgument`, with the limit; fewer keys help.
pub fn check_located(regions: &[v1::RegionInfo]) -> Result<(), Error> {
    let bytes: usize = regions.iter().map(Message::encoded_len).sum();
    if bytes <= PAGE_BYTES_MAX || regions.len() < 2 {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        field: "keys".to_owned(),
        message: format!(
            "the regions of {} keys take {bytes} bytes, at most {PAGE_BYTES_MAX} are answered: name fewer keys",
            regions.len()
        ),
        limit: PAGE_BYTES_MAX as u64,
    })
}

/// How many regions a page has for who asks for `limit`.
#[must_use]
pub fn page_regions(limit: u32) -> usize {
    match usize::try_from(limit) {
        Ok(limit @ 1..=PAGE_REGIONS_MAX) => limit,
        _ => PAGE_REGIONS_MAX,
    }
}

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
        let info = |region: &HeardRegion| self.region_info(region, &nodes, config, now_ms);
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
            let regions = self.regions().touching(&request.start_key, &request.end_key).map(info);
            (response.regions, response.more) = page(regions, page_regions(request.limit));
        }
        response
    }

    /// The nodes without what is on them, which takes a look at every region.
    pub(in crate::placement) fn standing_nodes(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_of_keys_are_no_more_than_a_client_takes() {
        let info = |key_bytes: usize| {
            let key = bytes::Bytes::from(vec![7; key_bytes]);
            let (start_key, end_key) = (key.clone(), key);
            let region = v1::Region { start_key, end_key, ..v1::Region::default() };
            v1::RegionInfo { region: Some(region), ..v1::RegionInfo::default() }
        };
        for (why, regions, want) in [
            ("short borders", vec![info(100); 1024], true),
            ("long borders of few", vec![info(4 << 10); 300], true),
            ("long borders of many", vec![info(4 << 10); 1024], false),
            ("one is always told", vec![info(4 << 20)], true),
        ] {
            let told = check_located(&regions);
            assert_eq!(told.is_ok(), want, "{why}: {told:?}");
            if want && regions.len() > 1 {
                let bytes: usize = regions.iter().map(Message::encoded_len).sum();
                assert!(bytes < 4 << 20, "{why}");
            }
        }
        let refused = check_located(&vec![info(4 << 10); 1024]).expect_err("too much");
        let Error::InvalidArgument { field, limit, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!((&**field, *limit), ("keys", 3 << 20));
    }
}
