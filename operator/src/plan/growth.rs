//! Volumes that are to be larger.

use super::{Action, Change, Deed, Kind, Step, View, keep::is_terminating};
use crate::{
    children::{self, Child},
    drift,
};

impl View<'_> {
    /// Volumes grow one by one, then the StatefulSets are made anew with larger claims: those that they have
    /// nobody can change. Their pods stay.
    pub(super) fn grow(&mut self) -> Option<Step> {
        let size = &self.desired.spec.storage.size;
        let operation =
            |view: &Self, step| view.operation(Kind::GrowVolumes, &view.desired.names.name, step);
        let (mut refused, mut fixed) = (Vec::new(), Vec::new());
        let mut next = None;
        for (ordinal, volume) in &self.seen.volumes {
            if volume.terminating
                || self.is_let_go(*ordinal, volume)
                || !drift::is_larger(size, &volume.requested)
            {
                continue;
            }
            if volume.can_grow == Some(false) {
                fixed.push(volume.name.clone());
                continue;
            }
            let told = self.seen.answers.refused_deed(&volume.name, Deed::GrowVolume, self.now);
            if let Some((why, may_try)) = told {
                refused.push(format!("volume {} is not given {size}: {why}", volume.name));
                if !may_try {
                    continue;
                }
            }
            let change = Change::GrowVolume {
                name: volume.name.clone(),
                uid: volume.uid.clone(),
                size: k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.clone()),
            };
            let why = format!("volume {} grows from {} to {size}", volume.name, volume.requested.0);
            let operation = operation(self, "GrowVolume");
            next.get_or_insert(Step::Act(operation, Action::Change(change), why));
        }
        if !fixed.is_empty() {
            refused.push(format!("the storage class lets no volume grow: {}", fixed.join(", ")));
        }
        // The StatefulSet would come back with a template that is not to reach the pods.
        let waits = !refused.is_empty() || self.holds_template();
        for message in refused {
            self.trouble("VolumesCannotGrow", message);
        }
        if next.is_some() || waits {
            return next;
        }
        let mut contended = Vec::new();
        let found = self.seen.sets().filter_map(|(ordinal, live)| {
            let claims = live.pointer("/spec/volumeClaimTemplates");
            let now = claims.and_then(children::claim_size)?;
            // With the StatefulSet its template would be lost that the pod waits with.
            let goes = drift::is_larger(size, &now)
                && !self.waits_for_its_turn(ordinal, live)
                && !is_terminating(live);
            if !goes {
                return None;
            }
            if self.seen.answers.may_delete(Child::StatefulSet(ordinal), self.now).is_err() {
                let name = self.desired.names.set(ordinal);
                contended.push(format!(
                    "the claims of StatefulSet {name} are given {}, not {size}",
                    now.0
                ));
                return None;
            }
            Some((ordinal, live))
        });
        let steps = found.map(|(ordinal, live)| {
            let why = format!(
                "the next volume of {} is to have {size}; its StatefulSet is made anew around its pod",
                self.pod_name(ordinal)
            );
            let action = Action::Change(self.delete_set(ordinal, live));
            Step::Act(operation(self, "ReplaceStatefulSet"), action, why)
        });
        let steps: Vec<_> = steps.collect();
        for message in contended {
            self.trouble("Contended", message);
        }
        self.first_of(steps)
    }
}
