//! Answers that come in pages.

use crate::v1;

impl v1::StatusResponse {
    /// What is to be asked for the next page of peers; `None` when there is none.
    #[must_use]
    pub fn next_page(&self) -> Option<v1::StatusRequest> {
        let last = self.peers.last().filter(|_| self.more_peers)?.region.as_ref()?;
        Some(v1::StatusRequest { without_peers: false, after_region: last.region_id })
    }

    /// Adds the next page.
    pub fn extend(&mut self, page: Self) {
        self.peers.extend(page.peers);
        self.more_peers = page.more_peers;
    }
}
