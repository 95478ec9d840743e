//! Which versions of the server a cluster may be given.
//!
//! Versions of neighbouring minors can be mixed, and no others (the server says so, too, when a node joins);
//! a newer one may have written what an older one cannot read. So a cluster goes from one minor to the next and
//! never back, and an operator runs the servers of its own minor and of the one before: what a later one asks of
//! it, it cannot know. What is refused is refused before the first pod is restarted, where the tag of the
//! image is a version; else after the first, which says itself what it is.

use std::{collections::BTreeSet, fmt};

use crate::{
    children,
    desired::Desired,
    names::ALLOW_VERSION,
    seen::{Node, Pod, Seen},
};

/// Numbers only: what follows them, as in `0.2.0-rc.1`, is no order that anybody relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u64,
    minor: u64,
    /// A tag such as `0.2` is any of them.
    patch: Option<u64>,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        self.patch.map_or(Ok(()), |patch| write!(f, ".{patch}"))
    }
}

impl Version {
    /// `0.2.0`, `v0.2`, `0.2.1-rc.1`; `None` for what is no version, such as `dev` or `2`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let numbers = text.strip_prefix('v').unwrap_or(text).split(['-', '+']).next()?;
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        let patch = numbers.next().map_or(Some(None), |patch| patch.map(Some))?;
        numbers.next().is_none().then_some(Self { major, minor, patch })
    }

    /// As far as both are told.
    fn is_older_than(self, other: Self) -> bool {
        let minors = |version: Self| (version.major, version.minor);
        let both = self.patch.zip(other.patch);
        minors(self) < minors(other)
            || (minors(self) == minors(other) && both.is_some_and(|(one, other)| one < other))
    }

    /// The tag of an image.
    fn of_image(image: &str) -> Option<Self> {
        let name = image.split('@').next()?;
        let (_, tag) = name.rsplit('/').next()?.split_once(':')?;
        Self::parse(tag)
    }
}

/// A version that the cluster is not to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For people.
    pub why: String,
    /// It is kept from the pods. Not when all of them have what the spec says already: then it is only told.
    pub holds: bool,
}

/// Why the cluster is not given the image of its spec; `None` when it may.
#[must_use]
pub fn refused(seen: &Seen, desired: &Desired) -> Option<Refused> {
    let own = Version::parse(env!("CARGO_PKG_VERSION"))?;
    let image = children::server_image(desired);
    // What the pods that have it say, the newest of them; a tag may say anything.
    let told = with_image(seen, desired, &image).filter_map(|pod| said(&pod.node)).max();
    let by_tag = Version::of_image(&image).filter(|_| told.is_none());
    let wished = told.or(by_tag)?;
    let annotations = seen.cluster.metadata.annotations.as_ref();
    let allowed = annotations.and_then(|all| all.get(ALLOW_VERSION));
    let is_named = |allowed: Version| {
        (allowed.major, allowed.minor) == (wished.major, wished.minor)
            && (wished.patch.is_none() || allowed.patch == wished.patch)
    };
    if allowed.and_then(|text| Version::parse(text)).is_some_and(is_named) {
        return None;
    }
    let why = why_refused(own, wished, &running(seen, desired), by_tag.is_some())?;
    let has_it = |pod: &Pod| pod.template_hash.as_deref() == Some(&desired.template_hash);
    let holds = seen.pods.is_empty() || !seen.pods.values().all(has_it);
    let what = if holds {
        format!("the cluster is not given image {image}: {why}. Its pods stay as they are")
    } else {
        format!("the pods of the cluster have image {image}: {why}")
    };
    let why = format!(
        "{what}; put the image right, or allow it with the annotation {ALLOW_VERSION}: {wished}"
    );
    Some(Refused { why, holds })
}

/// Pods with the image that is wished: those with the whole template; or with the template of their
/// StatefulSet as it is, when that has the image already.
fn with_image<'a>(
    seen: &'a Seen,
    desired: &'a Desired,
    image: &str,
) -> impl Iterator<Item = &'a Pod> {
    // A policy may have put another registry before it.
    let name = |image: &str| image.rsplit('/').next().map(str::to_owned);
    let image = name(image);
    seen.pods.iter().map(move |(ordinal, pod)| (seen.set(*ordinal), pod)).filter_map(
        move |(set, pod)| {
            let has = |hash: Option<&str>| hash.is_some() && pod.template_hash.as_deref() == hash;
            let by_its_set = set.is_some_and(|set| {
                let there = children::image_of(&set["spec"]["template"]);
                has(children::template_hash(set)) && there.and_then(name) == image
            });
            (by_its_set || has(Some(&desired.template_hash))).then_some(pod)
        },
    )
}

/// `is_tag`: it is known before any pod has it. What pods say after the fact may be what they had before an
/// upgrade that was taken back half way, so it is never called a downgrade.
fn why_refused(
    own: Version,
    wished: Version,
    running: &BTreeSet<Version>,
    is_tag: bool,
) -> Option<String> {
    let first = Version { minor: own.minor.saturating_sub(1), patch: Some(0), ..own };
    if wished.major != own.major || !(first.minor..=own.minor).contains(&wished.minor) {
        return Some(format!(
            "an operator of version {own} knows servers from {first} to its own minor, not {wished}"
        ));
    }
    let oldest = running.first()?;
    if oldest.major != wished.major {
        return Some(format!(
            "from {oldest} to {wished} is another major, and the operator does not know which minor is the \
             last before it; from the last one to the first of the next it may be allowed by name"
        ));
    }
    if wished.minor > oldest.minor + 1 {
        return Some(format!(
            "from {oldest} to {wished} is more than one minor; go through those between"
        ));
    }
    // A node that still runs the older one shows an upgrade that is being taken back.
    (is_tag && wished.is_older_than(*oldest)).then(|| {
        format!("all its nodes are of {oldest} or newer, and {wished} may not read what they wrote")
    })
}

/// Versions of its nodes, as they say or as they were last known.
fn running(seen: &Seen, desired: &Desired) -> BTreeSet<Version> {
    let rows = seen.table.iter().flat_map(|table| &table.nodes).filter(|row| row.is_member());
    let rows = rows.filter_map(|row| Version::parse(&row.version));
    let joined = seen.joined(&desired.cluster_id);
    let joined = joined.filter_map(|(_, joined)| Version::parse(&joined.version));
    let now: BTreeSet<_> = rows.chain(joined).collect();
    if !now.is_empty() {
        return now;
    }
    let known = seen.noted_members();
    known.filter_map(|member| Version::parse(member.version.as_deref()?)).collect()
}

fn said(node: &Node) -> Option<Version> {
    match node {
        Node::Unjoined { version } => Version::parse(version),
        Node::Joined(joined) => Version::parse(&joined.version),
        Node::Silent(_) | Node::Removed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_off_tags() {
        for (image, version) in [
            ("flotilla:0.2.0", Some("0.2.0")),
            ("registry:5000/team/flotilla:v0.2", Some("0.2")),
            ("flotilla:1.2.3-rc.1@sha256:ab", Some("1.2.3")),
            ("flotilla:0.2.0+7", Some("0.2.0")),
            ("registry:5000/flotilla", None),
            ("flotilla:dev", None),
            ("flotilla:2", None),
            ("flotilla:1.2.3.4", None),
            ("flotilla@sha256:ab", None),
        ] {
            let read = Version::of_image(image).map(|version| version.to_string());
            assert_eq!(read.as_deref(), version, "{image}");
        }
    }

    #[test]
    fn cluster_goes_from_one_minor_to_the_next_and_never_back() {
        let version = |text: &str| Version::parse(text).expect("a version");
        for (why, own, wished, running, is_tag, words) in [
            ("the same", "0.3.0", "0.3.0", "0.3.0", true, ""),
            ("the next minor", "0.3.0", "0.3.1", "0.2.9", true, ""),
            ("a new cluster", "0.3.0", "0.3.0", "", true, ""),
            ("the minor before, for a new cluster", "0.3.0", "0.2.0", "", true, ""),
            ("newer than the operator", "0.2.5", "0.3.0", "0.2.0", true, "from 0.1.0"),
            ("too old for the operator", "0.3.0", "0.1.0", "", true, "not 0.1.0"),
            ("another major", "1.0.0", "2.0.0", "", true, "not 2.0.0"),
            ("a jump", "0.3.0", "0.3.0", "0.1.4", true, "more than one minor"),
            ("a jump that a pod tells", "0.3.0", "0.3.0", "0.1.4", false, "more than one minor"),
            ("back by a minor", "0.3.0", "0.2.0", "0.3.0", true, "may not read"),
            ("a tag of all patches", "0.3.0", "0.3", "0.3.5", true, ""),
            (
                "a tag of all patches, back by a minor",
                "0.3.0",
                "0.2",
                "0.3.5",
                true,
                "may not read",
            ),
            ("the next major", "1.0.0", "1.0.0", "0.9.3", true, "allowed by name"),
            ("back by a patch", "0.3.0", "0.3.0", "0.3.1", true, "may not read"),
            ("an upgrade is taken back half way", "0.3.0", "0.2.0", "0.2.0 0.3.0", true, ""),
            ("half way, and on", "0.3.0", "0.3.0", "0.2.0 0.3.0", true, ""),
            ("what a pod still has", "0.3.0", "0.2.0", "0.3.0", false, ""),
        ] {
            let running = running.split_whitespace().map(version).collect();
            let told = why_refused(version(own), version(wished), &running, is_tag);
            assert_eq!(told.is_some(), !words.is_empty(), "{why}: {told:?}");
            assert!(told.unwrap_or_default().contains(words), "{why}");
        }
    }
}
