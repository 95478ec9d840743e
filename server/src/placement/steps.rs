//! Whether a step still fits its region.
//!
//! A step travels: between plan and execution the leader, the membership or a peer's health can have
//! changed, and an answer that was lost makes the same step come twice. The region's leader
//! therefore judges each step against what it knows itself, right before it proposes. Only
//! `Verdict::Apply` may be proposed; a step that is done is answered as done.

use std::collections::BTreeSet;

use flotilla_proto::{
    region::Epoch,
    v1::{self, step::Action},
};

use super::config::{PlacementConfig, millis};
use crate::raft::quorum::is_quorum;

/// What the leader of a region does with a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits: propose it.
    Apply,
    /// The region is already as the step wants it.
    Done,
    /// Not now; the same step may fit later.
    Wait { why: String },
    /// Planned on a membership that is no more, or never was.
    Stale { why: String },
    /// It would take the region's quorum, or its leader.
    Unsafe { why: String },
}

/// The step that finishes a joint change whose leader was lost: a change of nothing.
#[must_use]
pub fn finish() -> v1::ChangePeers {
    v1::ChangePeers::default()
}

/// Whether `change` is [`finish`].
#[must_use]
pub fn is_finish(change: &v1::ChangePeers) -> bool {
    change.promote.is_empty() && change.remove.is_empty()
}

/// Judges `step` by the report that the region's leader would send now.
///
/// # Guarantees
/// `Apply` only if both the present voters and those after the step have a majority that is the
/// leader itself or answered it within `peer_silent_after`; never for a step that removes the
/// leader; never twice for one step that had its effect.
#[must_use]
pub fn verdict(step: &v1::Step, report: &v1::RegionReport, config: &PlacementConfig) -> Verdict {
    let Some(region) = &report.region else { return stale("the report has no region") };
    if region.region_id != step.region_id {
        return stale(format!("it is for region {}", step.region_id));
    }
    let asked = step.epoch.unwrap_or_default().conf_ver;
    let epoch = Epoch::of(region);
    let same_membership = epoch.members_verdict(asked).fits();
    let moved = || stale(format!("the membership is at {}, not {asked}", epoch.conf_ver));
    let peers = Reported { region, report, config };

    match &step.action {
        None => stale("it orders nothing"),
        Some(Action::Change(change)) if is_finish(change) => {
            if !report.joint {
                Verdict::Done
            } else if same_membership {
                Verdict::Apply
            } else {
                moved()
            }
        }
        Some(Action::AddLearner(add)) => {
            if peers.find(add.peer_id).is_some() {
                return Verdict::Done;
            }
            if report.joint {
                return wait("a joint change is under way");
            }
            if !same_membership {
                return moved();
            }
            if region.peers.iter().any(|peer| peer.node_id == add.node_id) {
                return stale(format!("node {} has a peer", add.node_id));
            }
            if add.peer_id == 0 || add.node_id == 0 {
                return stale("it names no peer or no node");
            }
            if peers.has_quorum() { Verdict::Apply } else { wait("no quorum answers") }
        }
        Some(Action::Change(change)) => {
            if report.joint {
                return wait("a joint change is under way");
            }
            let promoted = change.promote.iter().all(|id| peers.is_voter(*id));
            let removed = change.remove.iter().all(|id| peers.find(*id).is_none());
            if promoted && removed {
                return Verdict::Done;
            }
            if !same_membership {
                return moved();
            }
            peers.change_verdict(change)
        }
        Some(Action::Transfer(transfer)) => {
            if transfer.peer_id == report.leader_peer_id {
                return Verdict::Done;
            }
            if report.joint {
                return wait("a joint change is under way");
            }
            if !same_membership {
                return moved();
            }
            if !peers.is_voter(transfer.peer_id) {
                return stale(format!("peer {} is no voter", transfer.peer_id));
            }
            if !peers.is_caught_up(transfer.peer_id) {
                return wait(format!("peer {} lags or is silent", transfer.peer_id));
            }
            Verdict::Apply
        }
    }
}

struct Reported<'a> {
    region: &'a v1::Region,
    report: &'a v1::RegionReport,
    config: &'a PlacementConfig,
}

impl Reported<'_> {
    fn find(&self, peer: u64) -> Option<&v1::Peer> {
        self.region.peers.iter().find(|other| other.peer_id == peer)
    }

    fn is_voter(&self, peer: u64) -> bool {
        self.find(peer).is_some_and(|peer| peer.role() == v1::PeerRole::Voter)
    }

    fn voters(&self) -> impl Iterator<Item = u64> {
        let voters = self.region.peers.iter().filter(|peer| peer.role() == v1::PeerRole::Voter);
        voters.map(|peer| peer.peer_id)
    }

    fn progress(&self, peer: u64) -> Option<&v1::PeerProgress> {
        self.report.progress.iter().find(|progress| progress.peer_id == peer)
    }

    fn is_live(&self, peer: u64) -> bool {
        let silent_max = millis(self.config.peer_silent_after);
        peer == self.report.leader_peer_id
            || self.progress(peer).is_some_and(|progress| progress.silent_ms <= silent_max)
    }

    fn is_caught_up(&self, peer: u64) -> bool {
        let near = |progress: &v1::PeerProgress| {
            let reach = progress.matched_index.saturating_add(self.config.lag_entries_max);
            progress.matched_index > 0 && reach >= self.report.last_index
        };
        self.is_live(peer)
            && (peer == self.report.leader_peer_id || self.progress(peer).is_some_and(near))
    }

    fn has_quorum(&self) -> bool {
        is_quorum(self.voters().map(|peer| self.is_live(peer)))
    }

    fn change_verdict(&self, change: &v1::ChangePeers) -> Verdict {
        for peer in &change.promote {
            if change.remove.contains(peer) {
                return stale(format!("peer {peer} is both promoted and removed"));
            }
            if self.find(*peer).is_none() {
                return stale(format!("peer {peer} is not in the region"));
            }
            if !self.is_voter(*peer) && !self.is_caught_up(*peer) {
                return wait(format!("peer {peer} lags or is silent"));
            }
        }
        if change.remove.contains(&self.report.leader_peer_id) {
            return not_safe("it removes the leader");
        }
        if !self.has_quorum() {
            return wait("no quorum answers");
        }
        let after: BTreeSet<u64> = self
            .voters()
            .chain(change.promote.iter().copied())
            .filter(|peer| !change.remove.contains(peer))
            .collect();
        if !is_quorum(after.iter().map(|peer| self.is_live(*peer))) {
            return not_safe("no quorum of what remains answers");
        }
        Verdict::Apply
    }
}

fn wait(why: impl Into<String>) -> Verdict {
    Verdict::Wait { why: why.into() }
}

fn stale(why: impl Into<String>) -> Verdict {
    Verdict::Stale { why: why.into() }
}

fn not_safe(why: impl Into<String>) -> Verdict {
    Verdict::Unsafe { why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Region 5 at conf_ver 4: voters 1 (leader), 2, 3, learner 4, each on the node of its number.
    fn report() -> v1::RegionReport {
        let peer =
            |id: u64, role: v1::PeerRole| v1::Peer { peer_id: id, node_id: id, role: role as i32 };
        v1::RegionReport {
            region: Some(v1::Region {
                region_id: 5,
                epoch: Some(v1::RegionEpoch { conf_ver: 4, version: 1 }),
                peers: vec![
                    peer(1, v1::PeerRole::Voter),
                    peer(2, v1::PeerRole::Voter),
                    peer(3, v1::PeerRole::Voter),
                    peer(4, v1::PeerRole::Learner),
                ],
                ..Default::default()
            }),
            leader_peer_id: 1,
            last_index: 5_000,
            progress: (2..=4)
                .map(|id| v1::PeerProgress {
                    peer_id: id,
                    matched_index: 4_999,
                    silent_ms: 10,
                    ..v1::PeerProgress::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    fn step(action: Action) -> v1::Step {
        v1::Step {
            region_id: 5,
            epoch: Some(v1::RegionEpoch { conf_ver: 4, version: 1 }),
            reason: String::new(),
            action: Some(action),
        }
    }

    fn change(promote: &[u64], remove: &[u64]) -> Action {
        Action::Change(v1::ChangePeers { promote: promote.to_vec(), remove: remove.to_vec() })
    }

    fn add(peer: u64, node: u64) -> Action {
        Action::AddLearner(v1::AddLearnerPeer { peer_id: peer, node_id: node })
    }

    fn transfer(peer: u64) -> Action {
        Action::Transfer(v1::TransferTo { peer_id: peer })
    }

    fn kind(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Apply => "apply",
            Verdict::Done => "done",
            Verdict::Wait { .. } => "wait",
            Verdict::Stale { .. } => "stale",
            Verdict::Unsafe { .. } => "unsafe",
        }
    }

    #[track_caller]
    fn check(why: &str, action: Action, edit: impl FnOnce(&mut v1::RegionReport), want: &str) {
        let mut report = report();
        edit(&mut report);
        let verdict = verdict(&step(action), &report, &PlacementConfig::default());
        assert_eq!(kind(&verdict), want, "{why}: {verdict:?}");
    }

    fn silence(peer: u64) -> impl Fn(&mut v1::RegionReport) {
        move |report| {
            for progress in report.progress.iter_mut().filter(|p| p.peer_id == peer) {
                progress.silent_ms = 60_000;
            }
        }
    }

    fn moved(report: &mut v1::RegionReport) {
        if let Some(epoch) = report.region.as_mut().and_then(|region| region.epoch.as_mut()) {
            epoch.conf_ver += 1;
        }
    }

    fn split(report: &mut v1::RegionReport) {
        if let Some(epoch) = report.region.as_mut().and_then(|region| region.epoch.as_mut()) {
            epoch.version += 1;
        }
    }

    fn same(_: &mut v1::RegionReport) {}

    fn joint(report: &mut v1::RegionReport) {
        report.joint = true;
    }

    #[test]
    fn add_learner_is_judged_by_what_the_leader_knows() {
        check("fits", add(9, 9), same, "apply");
        check("a split moves no peers", add(9, 9), split, "apply");
        check("came twice", add(4, 4), moved, "done");
        check("membership moved", add(9, 9), moved, "stale");
        check("node has a peer", add(9, 3), same, "stale");
        check("no peer id", add(0, 9), same, "stale");
        check("joint", add(9, 9), joint, "wait");
        check("one of two followers silent", add(9, 9), silence(2), "apply");
        check(
            "both followers silent",
            add(9, 9),
            |report| {
                silence(2)(report);
                silence(3)(report);
            },
            "wait",
        );
        check(
            "another region",
            add(9, 9),
            |report| {
                if let Some(region) = report.region.as_mut() {
                    region.region_id = 6;
                }
            },
            "stale",
        );
    }

    #[test]
    fn change_never_takes_leader_or_quorum() {
        check("swap", change(&[4], &[3]), same, "apply");
        check("promote", change(&[4], &[]), same, "apply");
        check("remove", change(&[], &[3]), same, "apply");
        check("remove the learner", change(&[], &[4]), same, "apply");
        check("removes the leader", change(&[4], &[1]), same, "unsafe");
        check("swap out a silent voter", change(&[4], &[3]), silence(3), "apply");
        check("the rest is one of two", change(&[], &[3]), silence(2), "unsafe");
        check("swap out the live one", change(&[4], &[3]), silence(2), "apply");
        check("the learner is silent", change(&[4], &[3]), silence(4), "wait");
        check("membership moved", change(&[4], &[3]), moved, "stale");
        check("joint", change(&[4], &[3]), joint, "wait");
        check("already so", change(&[2], &[9]), moved, "done");
        check("half done is not done", change(&[2], &[3]), moved, "stale");
        check("unknown peer", change(&[9], &[3]), same, "stale");
        check("promoted and removed", change(&[4], &[4]), same, "stale");
        check(
            "the learner has no snapshot, and the log is short",
            change(&[4], &[]),
            |report| {
                report.last_index = 3;
                for progress in report.progress.iter_mut().filter(|p| p.peer_id == 4) {
                    progress.matched_index = 0;
                }
            },
            "wait",
        );
        check("the learner lags", change(&[4], &[]), |report| report.last_index = 50_000, "wait");
        check(
            "the leader says nothing of the learner",
            change(&[4], &[]),
            |report| report.progress.retain(|progress| progress.peer_id != 4),
            "wait",
        );
    }

    #[test]
    fn finish_is_only_for_a_joint_change() {
        check("joint", change(&[], &[]), joint, "apply");
        check("not joint", change(&[], &[]), same, "done");
        check(
            "another joint change",
            change(&[], &[]),
            |report| {
                joint(report);
                moved(report);
            },
            "stale",
        );
    }

    #[test]
    fn leadership_goes_to_a_voter_that_is_caught_up() {
        check("fits", transfer(2), same, "apply");
        check("leads already", transfer(1), moved, "done");
        check("learner", transfer(4), same, "stale");
        check("unknown", transfer(9), same, "stale");
        check("silent", transfer(2), silence(2), "wait");
        check("lags", transfer(2), |report| report.last_index = 50_000, "wait");
        check("joint", transfer(2), joint, "wait");
        check("membership moved", transfer(2), moved, "stale");
    }
}
