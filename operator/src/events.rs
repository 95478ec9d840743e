//! Events: what was done and what went wrong, where `kubectl describe` shows it.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::{
    crd::{Condition, KvCluster, KvClusterStatus},
    names::MANAGER,
    pass::{Did, Outcome},
    plan::{Action, Call, Change},
    world::Made,
};

/// Bound: longest note that Kubernetes takes, in bytes.
const NOTE_MAX: usize = 1000;

/// Bound: a pass waits so long for one event to be taken.
const PUBLISH_MAX: Duration = Duration::from_secs(5);

/// Publishes events. Cloned, never made anew: it counts repeats.
#[derive(Clone)]
pub struct Events(Recorder);

/// One event, before it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// What was being done; tells events of one reason apart.
    pub action: String,
    pub note: String,
}

impl Events {
    #[must_use]
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter =
            Reporter { controller: MANAGER.to_owned(), instance: Some(identity.to_owned()) };
        Self(Recorder::new(client, reporter))
    }

    /// An event that cannot be sent is logged, and never holds anything up.
    pub async fn tell(&self, outcome: &Outcome) {
        let about = outcome.seen.cluster.object_ref(&());
        for told in of(outcome) {
            self.publish(told, &about).await;
        }
    }

    /// As [`Self::tell`], about a KvCluster of which no more than its name is understood.
    pub async fn cannot_read(&self, about: &ObjectReference, why: &str) {
        self.publish(unreadable(why), about).await;
    }

    async fn publish(&self, told: Told, about: &ObjectReference) {
        let event = Event {
            type_: if told.warning { EventType::Warning } else { EventType::Normal },
            reason: told.reason,
            note: Some(cut(told.note)),
            action: told.action,
            secondary: None,
        };
        match tokio::time::timeout(PUBLISH_MAX, self.0.publish(&event, about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("publish an event: {error}"),
            Err(_) => tracing::warn!("publish an event: no answer"),
        }
    }
}

fn unreadable(why: &str) -> Told {
    Told {
        warning: true,
        reason: "Unreadable".to_owned(),
        action: "Look".to_owned(),
        note: format!(
            "operator {} does not understand this KvCluster ({why}): its definition may be a newer operator's. Its \
             pods run on; nothing is looked at or done",
            env!("CARGO_PKG_VERSION")
        ),
    }
}

/// What one pass has to tell.
#[must_use]
pub fn of(outcome: &Outcome) -> Vec<Told> {
    let mut told = turns(&outcome.seen.cluster, &outcome.status);
    let Some(action) = &outcome.plan.action else { return told };
    let (warning, reason, note) = match &outcome.did {
        Did::Done(made) => match action {
            // A person has to look after it from now on.
            Action::Change(Change::DeleteVolume { name, keep: Some(disk), .. }) => {
                let (reason, what) = of_disk(disk, *made, "VolumeDeleted");
                let note = format!("{}; claim {name} is deleted, and {what}", outcome.plan.why);
                (true, reason, note)
            }
            Action::Change(Change::KeepVolume { name, volume, .. }) => {
                let (reason, what) = of_disk(volume, *made, "VolumeLost");
                (true, reason, format!("somebody deleted claim {name}; {what}"))
            }
            _ => (false, reason(action).to_owned(), outcome.plan.why.clone()),
        },
        Did::Refused(why) => {
            let note = format!("{}; refused: {why}", outcome.plan.why);
            (true, format!("{}Refused", reason(action)), note)
        }
        Did::Contended(why) => {
            let note = format!("{}; it does not come about: {why}", outcome.plan.why);
            (true, format!("{}Contended", reason(action)), note)
        }
        Did::Noted | Did::Nothing => return told,
    };
    // One of a kind per target: a repeat is counted, another target is another event.
    let target = outcome.plan.operation.as_ref().map_or("", |operation| &operation.target);
    let action =
        if target.is_empty() { note.clone() } else { format!("{} {target}", action.name()) };
    told.push(Told { warning, reason, action: cut_to(action, 120), note });
    told
}

/// What became of the disk of a claim that goes: the event's reason, and words.
fn of_disk(volume: &str, made: Made, nothing: &str) -> (String, String) {
    match made {
        Made::AsAsked => {
            let what = format!(
                "its data is kept in PersistentVolume {volume} (reclaim policy Retain) until somebody deletes that"
            );
            ("VolumeRetained".to_owned(), what)
        }
        Made::NothingKept => {
            let what = format!(
                "nothing of its data is kept: PersistentVolume {volume} is no more, or another claim's"
            );
            (nothing.to_owned(), what)
        }
    }
}

/// Conditions that turned for the worse or the better.
fn turns(cluster: &KvCluster, status: &KvClusterStatus) -> Vec<Told> {
    let old = cluster.status.as_ref();
    let before = |kind: &str| -> Option<&Condition> {
        old?.conditions.iter().find(|condition| condition.kind == kind)
    };
    let mut told = Vec::new();
    for condition in &status.conditions {
        let good = match condition.kind.as_str() {
            "Available" => "True",
            "Degraded" => "False",
            _ => continue,
        };
        let known = before(&condition.kind);
        let same = known.is_some_and(|known| {
            known.status == condition.status
                && (condition.status == good || known.reason == condition.reason)
        });
        // A new cluster is not available and not degraded; that is no news.
        let first = known.is_none() && (condition.status == "False");
        if same || first {
            continue;
        }
        let warning = condition.status != good;
        let reason = match (condition.kind.as_str(), warning) {
            ("Available", false) => "Available".to_owned(),
            ("Degraded", false) => "Recovered".to_owned(),
            _ => condition.reason.clone(),
        };
        told.push(Told {
            warning,
            reason,
            action: "Observe".to_owned(),
            note: if condition.message.is_empty() {
                format!("{} is {}", condition.kind, condition.status)
            } else {
                condition.message.clone()
            },
        });
    }
    told
}

/// The word for what was done.
fn reason(action: &Action) -> &'static str {
    match action {
        Action::Latch { .. } => "ClusterBegan",
        Action::Call(call) => match call {
            Call::Initialize { .. } => "Initialized",
            Call::AddLearner { .. } => "NodeJoined",
            Call::Promote { .. } => "NodePromoted",
            Call::RemoveNode { force: false, .. } => "NodeDraining",
            Call::RemoveNode { force: true, .. } => "NodeGivenUp",
            Call::CancelRemoveNode { .. } => "DrainCancelled",
            Call::SetReplicationFactor { .. } => "ReplicationFactorChanged",
            Call::EvictLeaders { duration, .. } if duration.is_zero() => "LeadersReturn",
            Call::EvictLeaders { .. } => "LeadersEvicted",
        },
        Action::Change(change) => match change {
            Change::Apply(..) | Change::Replace(..) => "Applied",
            Change::Delete { .. } => "Deleted",
            Change::Scale { .. } => "Scaled",
            Change::DeletePod { .. } => "PodRestarted",
            Change::MarkVolume { .. } => "VolumeDecommissioned",
            Change::UnmarkVolume { .. } => "VolumeWanted",
            Change::NoteVolume { .. } => "VolumeNoted",
            Change::DeleteVolume { .. } => "VolumeDeleted",
            Change::KeepVolume { .. } => "VolumeRetained",
            Change::SetVolumeOwners { .. } => "VolumeOwners",
            Change::GrowVolume { .. } => "VolumeGrows",
            Change::TakeSizeBack { .. } => "VolumeSizeTakenBack",
        },
    }
}

fn cut(note: String) -> String {
    cut_to(note, NOTE_MAX)
}

fn cut_to(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_said_to_be_kept_only_where_it_is() {
        let (reason, what) = of_disk("pv", Made::AsAsked, "VolumeDeleted");
        assert_eq!(reason, "VolumeRetained");
        assert!(what.contains("kept in PersistentVolume pv"), "{what}");
        let (reason, what) = of_disk("pv", Made::NothingKept, "VolumeDeleted");
        assert_eq!(reason, "VolumeDeleted");
        assert!(what.contains("nothing of its data is kept"), "{what}");
    }

    #[test]
    fn notes_are_cut_between_characters() {
        let cut = cut_to("ä".repeat(600), NOTE_MAX);
        assert!(cut.len() <= NOTE_MAX && cut.ends_with('…'), "{}", cut.len());
        assert_eq!(cut_to("short".to_owned(), NOTE_MAX), "short");
    }
}
