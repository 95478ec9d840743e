//! Everything that would be done, in the words of a person, before any of it is done.

use super::{
    View,
    growth::{exceeds, largest},
};
use crate::{
    drift,
    seen::{Node, Slot, VolumeClaim},
};

impl View<'_> {
    /// What is deleted with a claim, and what of it stays.
    fn with_its_data(&self, volume: &VolumeClaim) -> String {
        let name = &volume.name;
        match &volume.volume {
            Some(disk) if self.desired.spec.storage.retain => {
                format!("volume claim {name}; PersistentVolume {disk} stays with what is on it")
            }
            None => format!("volume claim {name}, which has no PersistentVolume"),
            Some(_) => format!("volume claim {name} with what is on it (storage.retain is false)"),
        }
    }

    /// Nodes that are given up, and claims of names that are wanted which go with what is on them, each with why: for a
    /// pod that is to come, and of a node that is given up. A pod that has an empty disk already joins with that.
    fn emptied(&self, wanted: i32, comes: impl Fn(&i32) -> bool) -> Vec<String> {
        let line = |why: String, volume: &VolumeClaim| {
            format!("{why}, and so delete {}", self.with_its_data(volume))
        };
        let claims = self.seen.volumes.range(..wanted).filter(|(at, _)| comes(at));
        let lines = claims.filter_map(|(ordinal, volume)| {
            let name = self.pod_name(*ordinal);
            let pod = self.pod(*ordinal);
            let is_empty = pod.is_some_and(|pod| matches!(pod.node, Node::Unjoined { .. }));
            let row = self.member(*ordinal);
            if let Some(proof) = row.and_then(|row| self.is_gone(*ordinal, row)) {
                let id = row.map_or(0, |row| row.node_id);
                let why = format!("give up node {id} in pod {name} ({proof})");
                return Some(match (is_empty, volume.terminating) {
                    (true, _) => format!("{why}; the pod joins as another node"),
                    (false, true) => format!("{why}; its volume claim is being deleted already"),
                    (false, false) => line(why, volume),
                });
            }
            if volume.terminating {
                return None;
            }
            if let Some(pod) = pod {
                let given_up = !is_empty && self.given_up_at(*ordinal).is_some();
                let goes = given_up || self.empties(*ordinal, pod);
                return goes.then(|| {
                    line(format!("let pod {name} begin anew, whose node was given up"), volume)
                });
            }
            let goes = !self.seen.is_held(*ordinal) && volume.decommissioned.is_some();
            goes.then(|| line(format!("begin anew at {name}, whose node was removed"), volume))
        });
        lines.collect()
    }

    /// What differs between the cluster and its spec, one line each, in the order in which it would be
    /// seen to.
    pub(crate) fn preview(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let desired = self.desired;
        let held = self.seen.held().map(|ordinal| ordinal + 1).max().unwrap_or(0);
        let refused = self.version_refused.as_ref().filter(|refused| refused.holds);
        lines.extend(refused.map(|refused| format!("nothing to the pods: {}", refused.why)));
        let holds = refused.is_some();
        for child in self.all_children().filter(|_| !holds) {
            let title = child.title(desired);
            let wanted = self.is_wanted(child);
            if let Some(whose) = self.seen.taken.get(&Slot::Child(child)) {
                if wanted {
                    lines.push(format!("leave {title} alone: {whose}"));
                }
                continue;
            }
            match (wanted, self.seen.children.get(&child)) {
                (true, None) => lines.push(format!("make {title}")),
                (false, Some(_)) if self.is_wanted_unknown(child) => {
                    lines.push(format!(
                        "leave {title} alone: whether its type is there is not known"
                    ));
                }
                (false, Some(_)) => lines.push(format!("delete {title}")),
                (true, Some(live)) => {
                    let want = self.as_applied(child, live);
                    if let Some(found) = self.seen.answers.differences(child, &want, live).first() {
                        lines.push(format!("change {title} at {}", found.drift.path()));
                    }
                }
                (false, None) => {}
            }
        }
        if !self.is_initialized() && !desired.adopts && !holds {
            lines.push(format!(
                "begin cluster {} with {} nodes at once",
                desired.cluster_id,
                self.first().count()
            ));
        }
        let wanted = if desired.spec.stopped { 0 } else { desired.spec.replicas };
        // What goes with a pod that is to come waits with it for its template.
        let comes = |ordinal: &i32| !holds || self.seen.pods.contains_key(ordinal);
        lines.extend(self.emptied(wanted, comes));
        for ordinal in (0..wanted).filter(comes) {
            let joins = self.pod(ordinal).is_none_or(|pod| !matches!(pod.node, Node::Joined(_)));
            if self.member(ordinal).is_none() && joins {
                lines.push(format!("let pod {} join", self.pod_name(ordinal)));
            }
        }
        let drops = !desired.spec.storage.retain && !desired.spec.stopped;
        for ordinal in (wanted..held).rev() {
            let name = self.pod_name(ordinal);
            let then = match self.seen.volumes.get(&ordinal) {
                Some(volume) if drops => format!("then delete {}", self.with_its_data(volume)),
                _ => "its volume stays".to_owned(),
            };
            match self.member(ordinal).filter(|_| !desired.spec.stopped) {
                Some(row) => lines.push(format!(
                    "drain node {} ({} peers, {} leaders) and remove pod {name}; {then}",
                    row.node_id, row.peers, row.leaders
                )),
                None => lines.push(format!("remove pod {name}; {then}")),
            }
        }
        if drops {
            let dropped = self.dropped_volumes(wanted).filter(|volume| {
                let ordinal = desired.names.ordinal_of_volume(&volume.name);
                ordinal.is_none_or(|ordinal| ordinal >= held)
            });
            lines.extend(dropped.map(|volume| format!("delete {}", self.with_its_data(volume))));
        }
        let size = &desired.spec.storage.size;
        if let Some(largest) = largest(self.seen).filter(|has| exceeds(has, size)) {
            lines.push(format!(
                "nothing to volumes: storage.size {size} is less than the {} that one has, no volume shrinks, and the \
                 API server refuses it",
                largest.0
            ));
        }
        for (ordinal, volume) in &self.seen.volumes {
            if drift::is_larger(&desired.spec.storage.size, &volume.requested)
                && !self.is_let_go(*ordinal, volume)
            {
                lines.push(format!(
                    "grow volume {} from {} to {size}",
                    volume.name, volume.requested.0
                ));
            }
        }
        for volume in self.seen.volumes.values().filter(|volume| self.is_growing(volume)) {
            let (name, asks) = (&volume.name, &volume.requested.0);
            let has = volume.capacity.as_ref().map_or("", |has| &has.0);
            if self.asks_too_much(volume) {
                lines.push(format!("let volume {name} ask for {size} instead of {asks}"));
            } else {
                let stays = self.why_small(volume).map_or_else(String::new, |why| {
                    let back = self.smaller_size().map_or_else(
                        || {
                            "storage.size cannot be taken back, since a volume has it already"
                                .into()
                        },
                        |least| format!("storage.size can be taken back to {}", least.0),
                    );
                    format!("; {why}, and {back}")
                });
                lines.push(format!(
                    "wait for volume {name}, which grows from {has} to {asks}{stays}"
                ));
            }
        }
        for pod in self.seen.pods.range(..wanted.min(held)).map(|(_, pod)| pod) {
            if !holds && pod.template_hash.as_deref() != Some(&desired.template_hash) {
                lines.push(format!("restart pod {}: its template is an old one", pod.name));
            }
        }
        lines
    }
}
