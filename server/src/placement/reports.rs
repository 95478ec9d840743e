//! What a node tells the driver of the regions it leads: each change once, and all of it to a driver
//! that is new.
//!
//! A node may lead thousands of regions of which few change in a second, so a report is sent when
//! something has changed since what the driver acknowledged. What was sent and not acknowledged may
//! have been heard or not, and is sent again as it is then. A driver that has not heard the beginning
//! says so and is told everything, a part with each heartbeat. Nothing here does I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_proto::v1;
use prost::Message as _;
use tokio::time::Instant;

use super::config::{PlacementConfig, millis};
use crate::ids::{PeerId, RegionId};

/// Bound: reports and bytes of them in one heartbeat; the others follow in the next one, at once.
const REPORTS_MAX: usize = 1_000;
const REPORT_BYTES_MAX: usize = 2 << 20;
/// A region is reported after this long although nothing has changed, so that numbers that do not count
/// as a change are not too old.
const REFRESH_AFTER: Duration = Duration::from_secs(60);
/// Changes of a region's size that are told: by a part of it, but no less than this.
const SIZE_CHANGE_PART: u64 = 16;
const SIZE_CHANGE_BYTES_MIN: u64 = 1 << 20;

/// What the driver has been told by this process.
#[derive(Debug, Default)]
pub struct Reports {
    /// As the driver answered; 0 while nothing that was told counts.
    session: u64,
    sequence: u64,
    told: BTreeMap<RegionId, Told>,
    /// Of the heartbeat that is under way.
    sent: Vec<(RegionId, Option<Told>)>,
    more: bool,
}

/// What the driver has of a region.
#[derive(Clone, Debug)]
enum Told {
    /// What was sent was not acknowledged.
    Unsure,
    As {
        report: v1::RegionReport,
        at: Instant,
    },
}

/// The part of a heartbeat that is about regions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub session: u64,
    pub sequence: u64,
    pub regions: Vec<v1::RegionReport>,
    pub led_no_more: Vec<u64>,
    pub more: bool,
}

impl Reports {
    /// What to tell next. `led` is everything that is led now. To be followed by
    /// [`Reports::acknowledged`] or [`Reports::lost`].
    pub fn next(
        &mut self,
        led: impl IntoIterator<Item = v1::RegionReport>,
        config: &PlacementConfig,
        now: Instant,
    ) -> Part {
        self.lost();
        self.sequence += 1;
        let mut part = Part { session: self.session, sequence: self.sequence, ..Part::default() };
        let mut here = BTreeSet::new();
        let mut bytes = 0;
        for mut report in led {
            let Some(region) = &report.region else { continue };
            let id = RegionId(region.region_id);
            here.insert(id);
            settle_silence(&mut report, config);
            let is_told = matches!(self.told.get(&id), Some(Told::As { report: told, at })
                if now.saturating_duration_since(*at) < REFRESH_AFTER
                    && !differs(told, &report, config));
            if is_told {
                continue;
            }
            if part.regions.len() == REPORTS_MAX || bytes >= REPORT_BYTES_MAX {
                part.more = true;
                continue;
            }
            bytes += report.encoded_len();
            self.sent.push((id, Some(Told::As { report: report.clone(), at: now })));
            part.regions.push(report);
        }
        for id in self.told.keys().filter(|id| !here.contains(id)) {
            part.led_no_more.push(id.0);
            self.sent.push((*id, None));
        }
        self.more = part.more;
        part
    }

    /// The driver has what was sent, in this session. 0: it has nothing at all.
    ///
    /// Answers whether there is more to tell at once.
    pub fn acknowledged(&mut self, session: u64) -> bool {
        if session == 0 || (self.session != 0 && session != self.session) {
            // One that did not take a beginning is not to be pressed.
            let begins = self.session != 0;
            *self = Self { sequence: self.sequence, ..Self::default() };
            return begins;
        }
        self.session = session;
        for (id, told) in self.sent.drain(..) {
            match told {
                Some(told) => self.told.insert(id, told),
                None => self.told.remove(&id),
            };
        }
        std::mem::take(&mut self.more)
    }

    /// Nobody acknowledged what was sent: it may have been heard all the same.
    pub fn lost(&mut self) {
        self.more = false;
        if self.session == 0 {
            self.sent.clear();
            return;
        }
        for (id, _) in self.sent.drain(..) {
            self.told.insert(id, Told::Unsure);
        }
    }
}

/// A peer that answers is told as that: how many milliseconds ago is no news.
fn settle_silence(report: &mut v1::RegionReport, config: &PlacementConfig) {
    let silent_max = millis(config.peer_silent_after);
    for progress in &mut report.progress {
        if progress.silent_ms <= silent_max {
            progress.silent_ms = 0;
        }
    }
}

/// Whether a driver would see something else in `now` than in what it was told.
fn differs(told: &v1::RegionReport, now: &v1::RegionReport, config: &PlacementConfig) -> bool {
    let size_change = told.approximate_bytes.abs_diff(now.approximate_bytes);
    let peers = |report: &v1::RegionReport| -> Vec<(PeerId, [bool; 6])> {
        let of = |peer: &v1::PeerProgress| {
            let near = peer.matched_index.saturating_add(config.lag_entries_max);
            let lags = near < report.last_index;
            let has_nothing = peer.matched_index == 0;
            // In which words, and for how long, is no news.
            let refused = !peer.refused.is_empty();
            let answers = peer.silent_ms == 0;
            let states = [answers, has_nothing, lags, peer.reverted, peer.buried, refused];
            (PeerId(peer.peer_id), states)
        };
        report.progress.iter().map(of).collect()
    };
    told.region != now.region
        || told.term != now.term
        || told.leader_peer_id != now.leader_peer_id
        || told.joint != now.joint
        || peers(told) != peers(now)
        || size_change > (told.approximate_bytes / SIZE_CHANGE_PART).max(SIZE_CHANGE_BYTES_MIN)
}

#[cfg(test)]
mod tests;
