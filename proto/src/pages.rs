//! Answers that come in pages.

use crate::v1;

impl v1::StatusResponse {
    /// What is to be asked for the next page of peers; `None` when there is none.
    #[must_use]
    pub fn next_page(&self) -> Option<v1::StatusRequest> {
        let last = self.peers.last().filter(|_| self.more_peers)?.region.as_ref()?;
        Some(v1::StatusRequest { without_peers: false, after_region: last.region_id })
    }

    /// Adds the next page, which says of the node itself nothing that the first did not.
    pub fn extend(&mut self, page: Self) {
        self.peers.extend(page.peers);
        self.more_peers = page.more_peers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_behind_the_one_before_until_there_is_none() {
        let page = |regions: &[u64], more_peers| v1::StatusResponse {
            peers: regions
                .iter()
                .map(|id| v1::PeerStatus {
                    region: Some(v1::Region { region_id: *id, ..v1::Region::default() }),
                    ..v1::PeerStatus::default()
                })
                .collect(),
            more_peers,
            ..v1::StatusResponse::default()
        };
        let mut status = page(&[1, 4], true);
        let next = status.next_page().expect("there is more");
        assert_eq!((next.without_peers, next.after_region), (false, 4));
        status.extend(page(&[7], false));
        assert_eq!(status, page(&[1, 4, 7], false));
        assert_eq!(status.next_page(), None);
        assert_eq!(page(&[], true).next_page(), None, "nothing to go on from");
    }
}
