//! Everything that would be done, in the words of a person, before any of it is done.

use super::View;
use crate::{
    drift,
    seen::{Node, Slot, VolumeClaim},
};

/// What is lost with a claim.
fn with_its_data(volume: &VolumeClaim) -> String {
    format!("volume claim {} with what is on it (storage.retain is false)", volume.name)
}

impl View<'_> {
    /// What differs between the cluster and its spec, one line each, in the order in which it would be
    /// seen to.
    pub(crate) fn preview(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let desired = self.desired;
        let held = self.seen.held().map(|ordinal| ordinal + 1).max().unwrap_or(0);
        if let Some(refused) = self.version_refused.as_ref().filter(|refused| refused.holds) {
            return vec![format!("nothing to the pods: {}", refused.why)];
        }
        for child in self.all_children() {
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
        if !self.is_initialized() && !desired.adopts {
            lines.push(format!(
                "begin cluster {} with {} nodes at once",
                desired.cluster_id,
                self.first().count()
            ));
        }
        let wanted = if desired.spec.stopped { 0 } else { desired.spec.replicas };
        for ordinal in 0..wanted {
            let joins = self.pod(ordinal).is_none_or(|pod| !matches!(pod.node, Node::Joined(_)));
            if self.member(ordinal).is_none() && joins {
                lines.push(format!("let pod {} join", self.pod_name(ordinal)));
            }
        }
        let drops = !desired.spec.storage.retain && !desired.spec.stopped;
        for ordinal in (wanted..held).rev() {
            let name = self.pod_name(ordinal);
            let then = match self.seen.volumes.get(&ordinal) {
                Some(volume) if drops => format!("then delete {}", with_its_data(volume)),
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
            lines.extend(dropped.map(|volume| format!("delete {}", with_its_data(volume))));
        }
        for (ordinal, volume) in &self.seen.volumes {
            if drift::is_larger(&desired.spec.storage.size, &volume.requested)
                && !self.is_let_go(*ordinal, volume)
            {
                let size = &desired.spec.storage.size;
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
                let size = &desired.spec.storage.size;
                lines.push(format!("let volume {name} ask for {size} instead of {asks}"));
            } else {
                lines.push(format!("wait for volume {name}, which grows from {has} to {asks}"));
            }
        }
        for pod in self.seen.pods.range(..wanted.min(held)).map(|(_, pod)| pod) {
            if pod.template_hash.as_deref() != Some(&desired.template_hash) {
                lines.push(format!("restart pod {}: its template is an old one", pod.name));
            }
        }
        lines
    }
}
