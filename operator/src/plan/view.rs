//! One look, with what every rung asks of it.

use std::{cell::RefCell, collections::BTreeMap};

use k8s_openapi::jiff::Timestamp;

use super::{Kind, Step, Trouble, recorded};
use crate::{
    answers::Stamp,
    clock,
    crd::Operation,
    desired::Desired,
    regions::Regions,
    seen::{Pod, Row, Seen, State, Table},
    skew,
};

/// One look, with what follows from it.
pub(crate) struct View<'a> {
    pub(crate) seen: &'a Seen,
    pub(crate) desired: &'a Desired,
    pub(crate) regions: Regions,
    pub(super) recorded: Option<&'a Operation>,
    pub(super) now: Timestamp,
    /// Why the pods' template stays as it is, or should be another.
    pub(super) version_refused: Option<skew::Refused>,
    pub(super) troubles: Vec<Trouble>,
    /// For how many seconds what was asked for has lasted, as far as that was asked and was long enough.
    pub(super) lasted: RefCell<BTreeMap<Stamp, i64>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(seen: &'a Seen, desired: &'a Desired, now: Timestamp) -> Self {
        let joined: Vec<_> = seen.joined(&desired.cluster_id).map(|(_, joined)| joined).collect();
        let wished = usize::try_from(desired.spec.replication_factor).unwrap_or(1);
        // What was asked for is not there before the cluster has been told.
        let factor = seen.table.as_ref().map_or(wished, |table| table.replication_factor as usize);
        // Also where there are no nodes for more: with two of three peers a region has none to spare.
        let regions = Regions::of(joined.into_iter(), factor);
        let recorded = recorded(seen);
        let version_refused = skew::refused(seen, desired);
        Self {
            seen,
            desired,
            regions,
            recorded,
            now,
            version_refused,
            troubles: Vec::new(),
            lasted: RefCell::default(),
        }
    }

    pub(super) fn step(&mut self) -> Option<Step> {
        if self.desired.spec.stopped {
            let step = self
                .keep_volumes()
                .or_else(|| self.missing_children())
                .or_else(|| self.stop())
                .or_else(|| self.children())
                .or_else(|| self.note_volumes())
                .or_else(|| self.own_volumes())
                .or_else(|| self.cannot_stop());
            return step.map(|step| self.unless_refused(step));
        }
        self.climb()
    }

    /// What is done also where nothing else is: the spec is wrong, the cluster paused or deleted, or its nodes known by
    /// other names. A mistake must not be what costs a disk, and whoever drains a machine meanwhile knows of none.
    pub(super) fn protect(&self) -> Option<Step> {
        self.keep_what_is_to_stay().or_else(|| self.close_budget_over_disks())
    }

    /// The pods' template is kept as it is.
    pub(super) fn holds_template(&self) -> bool {
        self.version_refused.as_ref().is_some_and(|refused| refused.holds)
    }

    /// Set once, for ever.
    pub(crate) fn is_initialized(&self) -> bool {
        self.seen.cluster.status.as_ref().is_some_and(|status| status.cluster_id.is_some())
    }

    pub(super) fn trouble(&mut self, reason: &'static str, message: impl Into<String>) {
        let message = message.into();
        if !self.troubles.iter().any(|known| known.reason == reason && known.message == message) {
            self.troubles.push(Trouble { reason, message });
        }
    }

    /// As [`Self::trouble`], of the first `most` of those `told`. The last of them says how many are not, behind `others`,
    /// and what is to be said of all.
    pub(super) fn trouble_of_each(
        &mut self,
        reason: &'static str,
        mut told: Vec<String>,
        most: usize,
        others: &str,
        of_all: &str,
    ) {
        let more = told.len().saturating_sub(most);
        told.truncate(most);
        let Some(last) = told.last_mut() else { return };
        if more > 0 {
            last.push_str(&format!("; {others} {more} others"));
        }
        last.push_str(of_all);
        for message in told {
            self.trouble(reason, message);
        }
    }

    /// The operation, begun now or going on.
    pub(super) fn operation(&self, kind: Kind, target: &str, step: &str) -> Operation {
        let going_on = self.recorded(kind).filter(|old| old.target == target);
        Operation {
            started_at: going_on
                .map_or_else(|| clock::text(self.now), |old| old.started_at.clone()),
            node_id: going_on.and_then(|old| old.node_id),
            volume_uid: going_on.and_then(|old| old.volume_uid.clone()),
            kind: kind.name().to_owned(),
            target: target.to_owned(),
            step: step.to_owned(),
            // As it is when the look is over.
            lasted: Vec::new(),
        }
    }

    /// The recorded operation, if it is of this kind.
    pub(super) fn recorded(&self, kind: Kind) -> Option<&'a Operation> {
        self.recorded.filter(|operation| operation.kind == kind.name())
    }

    pub(super) fn pod(&self, ordinal: i32) -> Option<&'a Pod> {
        self.seen.pods.get(&ordinal)
    }

    pub(super) fn pod_name(&self, ordinal: i32) -> String {
        self.desired.names.pod(ordinal)
    }

    pub(super) fn member(&self, ordinal: i32) -> Option<&'a Row> {
        self.seen.member(&self.desired.names, ordinal)
    }

    pub(super) fn ordinal_of(&self, row: &Row) -> Option<i32> {
        self.desired.names.ordinal_at(&row.address)
    }

    /// Highest ordinal of a member, of those that are seen.
    pub(super) fn last_member(&self) -> Option<i32> {
        let table = self.seen.table.as_ref()?;
        let members = table.nodes.iter().filter(|row| row.is_member());
        members.filter_map(|row| self.ordinal_of(row)).max()
    }

    /// Pods that there must be. While the node table is not known every disk that was not let go
    /// may be a member's.
    pub(super) fn wanted_pods(&self) -> i32 {
        let spec = self.desired.spec.replicas;
        let members = if self.seen.table.is_some() {
            self.last_member()
        } else {
            let disks = self.seen.volumes.iter().filter(|(at, disk)| !self.is_let_go(**at, disk));
            let known = self.seen.noted_members();
            let known =
                known.filter_map(|member| self.desired.names.ordinal_of_pod(&member.pod_name));
            disks.map(|(ordinal, _)| *ordinal).chain(known).max()
        };
        spec.max(members.map_or(0, |last| last + 1))
    }

    /// Every node in service but one is heard.
    pub(super) fn others_are_alive(&self, but: u64) -> Result<(), String> {
        let table = self.seen.table.as_ref().ok_or("the node table is not known")?;
        match up(table).find(|row| row.node_id != but && !self.is_alive(row)) {
            Some(row) => Err(format!("node {} is down", row.node_id)),
            None => Ok(()),
        }
    }

    /// It is not heard, and has not been for so long that its peers are made anew elsewhere. By its pod, or by the
    /// driver: of a pod that Kubernetes does not make, or makes again and again, nothing says since when.
    pub(super) fn is_down_for_long(&self, row: &Row) -> bool {
        let pod = self.ordinal_of(row).and_then(|ordinal| self.pod(ordinal));
        let is_down = match pod {
            None => row.down,
            Some(pod) if pod.ready => false,
            Some(pod) => {
                let longer = self.desired.settings.node_down_after_seconds().saturating_add(1);
                row.down || self.is_not_ready_for(pod, longer)
            }
        };
        !row.alive && is_down
    }

    /// The pod of an ordinal answers as this node.
    pub(crate) fn answers(&self, ordinal: i32, node_id: u64) -> bool {
        let mut joined = self.seen.joined(&self.desired.cluster_id);
        joined.any(|(other, joined)| other == ordinal && joined.node_id == node_id)
    }

    /// Nodes in service that are heard.
    pub(crate) fn in_service(&self) -> i32 {
        let count = self
            .seen
            .table
            .as_ref()
            .map_or(0, |table| up(table).filter(|row| self.is_alive(row)).count());
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// Heard by the driver, and by us.
    pub(crate) fn is_alive(&self, row: &Row) -> bool {
        let answers = |(_, joined): (i32, &crate::seen::Joined)| joined.node_id == row.node_id;
        row.alive && self.seen.joined(&self.desired.cluster_id).any(answers)
    }
}

/// Nodes in service.
pub(super) fn up(table: &Table) -> impl Iterator<Item = &Row> {
    table.nodes.iter().filter(|row| row.state == State::Up)
}
