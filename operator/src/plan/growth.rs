//! Volumes that are to be larger.
//!
//! A claim is asked for more; the driver of its storage class makes it so, or does not. What a claim asks for and
//! what its volume has are both Kubernetes' to keep, so nothing about a growth is remembered here: whoever comes next
//! finds it under way. What the driver says is told, and what no volume has got yet can be taken back.
//!
//! Invariant: no claim is deleted or made anew for its size.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Action, Change, Deed, Kind, Step, View, live::is_terminating};
use crate::{
    answers::{Refused, Stamp},
    children::{self, Child},
    drift,
    seen::{Growth, Seen, VolumeClaim},
};

/// Bound: a volume has grown by then, in seconds, or it is told that nothing comes of it.
const GROWS_SECONDS: i64 = 600;
/// Bound: claims that are named whose volumes do not grow.
const CLAIMS_TOLD: usize = 5;

impl View<'_> {
    /// What the size of volumes is about, and is not on its way out.
    fn sized(&self) -> impl Iterator<Item = &VolumeClaim> {
        let volumes = self.seen.volumes.iter();
        let stays = |(ordinal, volume): &(&i32, &VolumeClaim)| {
            !volume.terminating && !self.is_let_go(**ordinal, volume)
        };
        volumes.filter(stays).map(|(_, volume)| volume)
    }

    /// The claim asks for what is wanted, or for more, and its volume has less.
    pub(super) fn is_growing(&self, volume: &VolumeClaim) -> bool {
        let size = &self.desired.spec.storage.size;
        let capacity = volume.capacity.as_ref();
        capacity.is_some_and(|has| drift::is_larger(size, has))
            && !drift::is_larger(size, &volume.requested)
    }

    /// It asks for more than is wanted any more. Kubernetes takes a request back as long as the volume has less than
    /// what is asked for then, and not to just what it has; there the volume is as it should be all the same.
    pub(super) fn asks_too_much(&self, volume: &VolumeClaim) -> bool {
        self.is_growing(volume) && exceeds(&volume.requested, &self.desired.spec.storage.size)
    }

    /// Volumes grow one by one, then the StatefulSets are made anew with other claims: those that they have
    /// nobody can change. Their pods stay.
    pub(super) fn grow(&mut self) -> Option<Step> {
        let size = &self.desired.spec.storage.size;
        let operation = |step| self.growth(step);
        let (mut refused, mut fixed) = (Vec::new(), Vec::new());
        let mut next = None;
        for volume in self.sized() {
            let name = &volume.name;
            let is_larger = drift::is_larger(size, &volume.requested);
            if !is_larger && !self.asks_too_much(volume) {
                continue;
            }
            if is_larger && volume.can_grow == Some(false) {
                fixed.push(name.clone());
                continue;
            }
            let deed = if is_larger { Deed::GrowVolume } else { Deed::TakeSizeBack };
            let refusal = self.seen.answers.refused_deed(name, deed, self.now);
            if let Some(Refused { why, may_try, .. }) = refusal {
                refused.push(match deed {
                    Deed::TakeSizeBack => format!(
                        "volume {name} asks for {} and is not taken back to {size}: {why}. Before Kubernetes 1.32 \
                         no claim can be: {}",
                        volume.requested.0,
                        self.what_helps_with_requests(&volume.requested.0)
                    ),
                    _ => format!("volume {name} is not given {size}: {why}"),
                });
                if !may_try {
                    continue;
                }
            }
            let (uid, size) = (volume.uid.clone(), Quantity(size.clone()));
            let from = &volume.requested.0;
            let (change, why) = if is_larger {
                let why = format!("volume {name} grows from {from} to {}", size.0);
                (Change::GrowVolume { name: name.clone(), uid, size }, why)
            } else {
                let why = format!("volume {name} has not got {from} and is to have {}", size.0);
                let version = volume.version.clone();
                (Change::TakeSizeBack { name: name.clone(), uid, version, size }, why)
            };
            let operation = operation(deed.name());
            next.get_or_insert(Step::Act(operation, Action::Change(change), why));
        }
        if !fixed.is_empty() {
            refused.push(format!("the storage class lets no volume grow: {}", fixed.join(", ")));
        }
        // What cannot be had new volumes would be made to wait for. And the StatefulSet would come back with a
        // template that is not to reach the pods.
        let fails = self.sized().any(|volume| self.is_growing(volume) && is_failing(volume));
        let waits = !refused.is_empty() || fails || self.holds_template();
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
            let goes = (drift::is_larger(size, &now) || exceeds(&now, size))
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
            Step::Act(self.growth("ReplaceStatefulSet"), action, why)
        });
        let steps: Vec<_> = steps.collect();
        for message in contended {
            self.trouble("Contended", message);
        }
        self.first_of(steps)
    }

    fn growth(&self, step: &str) -> crate::crd::Operation {
        self.operation(Kind::GrowVolumes, &self.desired.names.name, step)
    }

    /// Asked last: nothing needs to wait for it. What is told is waited for no more.
    pub(super) fn wait_for_growth(&mut self) -> Option<Step> {
        let grows = |volume: &&VolumeClaim| {
            self.is_growing(volume)
                && !self.asks_too_much(volume)
                && self.why_small(volume).is_none()
        };
        let volume = self.sized().find(grows)?;
        let has = volume.capacity.as_ref().map_or("", |has| &has.0);
        let why = format!("volume {} grows from {has} to {}", volume.name, volume.requested.0);
        Some(Step::HeldUp(self.growth("WaitForDriver"), why))
    }

    /// What keeps a volume from having what its claim asks for, if it is more than that it takes a while.
    pub(super) fn why_small(&self, volume: &VolumeClaim) -> Option<String> {
        let said = |reason: &str, message: &str| match message {
            "" => reason.to_owned(),
            message => format!("{reason}: {message}"),
        };
        let (whose, stamp) = stamp_of(volume);
        let lasts = || self.seen.answers.lasted(&whose, &stamp).unwrap_or(0) >= GROWS_SECONDS;
        match &volume.growth {
            Some(Growth::Refused { reason, message }) => {
                Some(format!("its driver will not do it ({})", said(reason, message)))
            }
            Some(Growth::Fails { reason, message }) => {
                Some(format!("its driver fails and tries again ({})", said(reason, message)))
            }
            Some(Growth::WaitsForPod) if lasts() => Some(
                "its disk has grown and its file system has not: some drivers do that when the pod is started again, \
                 for which spec.restartedAt is"
                    .to_owned(),
            ),
            None if lasts() => Some(format!(
                "nothing has come of it for {} minutes, nor does the claim say why (`kubectl -n {} describe pvc {}` \
                 may; there may be nobody who enlarges volumes of its class)",
                GROWS_SECONDS / 60,
                self.desired.names.namespace,
                volume.name
            )),
            Some(Growth::WaitsForPod) | None => None,
        }
    }

    /// Told whatever else is done, and in the same words as long as it stands.
    pub(super) fn look_for_volumes_that_do_not_grow(&mut self) {
        let small = self.sized().filter(|volume| self.is_growing(volume));
        let small = small.filter(|volume| !self.asks_too_much(volume));
        let told = small.filter_map(|volume| {
            let has = volume.capacity.as_ref().map_or("", |has| &has.0);
            let why = self.why_small(volume)?;
            let asks = &volume.requested.0;
            Some(format!("volume claim {} asks for {asks} and has {has}: {why}", volume.name))
        });
        let told = told.collect();
        let helps = self.what_helps_with_small_volumes();
        // Kubernetes goes on by itself where the cause is mended: a quota of the provider, a driver that was away.
        self.trouble_of_each(
            "VolumesCannotGrow",
            told,
            CLAIMS_TOLD,
            "so do",
            &format!(". Nothing is lost, and the nodes serve on what they have. {helps}"),
        );
    }

    /// The size can be taken back to this, which is less than it is.
    pub(super) fn smaller_size(&self) -> Option<Quantity> {
        let size = &self.desired.spec.storage.size;
        largest(self.seen).filter(|largest| drift::is_larger(size, largest))
    }

    /// No volume shrinks, and all are to have one size: where one has it there is nothing to take back.
    fn what_helps_with_small_volumes(&self) -> String {
        let size = &self.desired.spec.storage.size;
        match self.smaller_size() {
            Some(Quantity(least)) => format!(
                "Mend what the driver says, or take storage.size back: to {least}, which is what the largest volume has \
                 (status.largestVolume), or to something between that and {size}"
            ),
            None => format!(
                "Mend what the driver says, and Kubernetes goes on by itself. storage.size cannot be taken back, since a \
                 volume has {size} already, as far as is known, and no volume shrinks"
            ),
        }
    }

    /// A claim asks for more than is wanted, and goes on doing so.
    fn what_helps_with_requests(&self, asks: &str) -> String {
        match self.smaller_size() {
            Some(Quantity(least)) => format!(
                "set storage.size to what the largest volume has ({least}, status.largestVolume), and it is let be"
            ),
            None => format!(
                "nothing is lost by it. storage.size cannot be less, since a volume has it already; set to {asks} it asks \
                 for what the claim does"
            ),
        }
    }
}

/// The driver has said so, of now.
fn is_failing(volume: &VolumeClaim) -> bool {
    matches!(volume.growth, Some(Growth::Refused { .. } | Growth::Fails { .. }))
}

pub(super) fn exceeds(amount: &Quantity, size: &str) -> bool {
    drift::is_larger(&amount.0, &Quantity(size.to_owned()))
}

/// By which it is known for how long a volume has been asked to grow: by this operator's own clock, since
/// Kubernetes notes no time of it that holds for every driver.
fn stamp_of(volume: &VolumeClaim) -> Stamp {
    (volume.uid.clone(), format!("grows to {}", volume.requested.0))
}

/// Volumes that have less than what their claims ask for.
pub(super) fn stamps(seen: &Seen) -> impl Iterator<Item = Stamp> {
    let volumes = seen.volumes.values();
    let small = volumes.filter(|volume| {
        volume.capacity.as_ref().is_some_and(|has| drift::is_larger(&volume.requested.0, has))
    });
    small.map(stamp_of)
}

/// What a claim cannot be taken back below: what its volume has or, where Kubernetes does not say or has given it
/// more than was asked for, what it asks for.
fn least(volume: &VolumeClaim) -> &Quantity {
    let has = volume.capacity.as_ref();
    has.filter(|has| drift::is_larger(&volume.requested.0, has)).unwrap_or(&volume.requested)
}

/// Of the claims that there are: the size cannot be taken back below it. What a StatefulSet would make its next one with
/// is taken back with the rest.
pub(crate) fn largest(seen: &Seen) -> Option<Quantity> {
    seen.volumes.values().map(least).max_by_key(|size| drift::amount(&size.0)).cloned()
}
