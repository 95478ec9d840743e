//! What the API server made of what was applied, and how often somebody changed it again.
//!
//! Between an apply and what is stored stand admission policies: they rewrite registries of images, raise
//! resources, add variables. So an object is compared with what was asked for *and* with what the API
//! server answered to that very asking: where the two differ, the answer is how it is to be. Only what
//! differs from both was changed by somebody, and is put back. An apply leaves the items that others put
//! into our lists where they are: its answer has them, whoever put them there. So what stands beside our
//! items is taken for a policy's only from the answer to a creation or a replacement.
//!
//! Who changes it again after that does so on purpose, or is a program that will never stop. The place is
//! told and put back ever more seldom, as is what the API server refuses, and meanwhile the plan goes on
//! below: a label that is fought about must not keep a lost node from being replaced.
//!
//! Of a status the same is known: a definition that is older than this operator keeps none of its new fields.
//!
//! Beside it stands for how long the cluster has been whole, and what a stamp stands for has lasted, which no single
//! look tells either.
//!
//! None of this outlives the process. One that starts anew applies what differs once more, which changes
//! nothing, and learns the answer.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    children::Child,
    clock,
    crd::KvClusterStatus,
    drift::{self, Difference, Drift},
    error::Error,
    key::Key,
    names::OBJECT_HASH,
    plan::{Action, Call, Change, Deed, Target},
};

/// Bound: waits between two tries at the same place, in seconds; each is twice the one before.
const WAIT_MIN: i64 = 5;
const CONTENDED_WAIT_MAX: i64 = 600;
const REFUSED_WAIT_MAX: i64 = 60;
/// What has held for so long, in seconds, is not the same quarrel any more.
const CALM: i64 = 2 * CONTENDED_WAIT_MAX;
/// Bound: places of one object that are remembered; those that were tried last stay.
const PLACES_MAX: usize = 32;
/// Stand for the object as a whole, which was made or deleted.
const MADE: &str = "";
const DELETED: &str = "-";
/// How many pods a StatefulSet is to have: what it is scaled to may be fought about, too.
pub const REPLICAS: &str = ".spec.replicas";
/// How often a node is asked again without a wait, and after twice as many it is told.
const SOON_TRIED: u32 = 3;
/// Bound: what has changed between look and deed so often in a row goes on to, or no look shows it: it counts as
/// contended. Nothing below it would ever be done, and nobody told.
const MOVED_MAX: u32 = 5;
/// Who puts the same place back so often within [`CALM`] has a quarrel, and not a visitor.
const QUARREL: u32 = 3;
/// Why what was done waits as if it had been refused.
const UNDONE: &str = "it was done again and again, and every time the next look does not find it so: somebody undoes it \
                      (another controller, a policy), or it cannot be read";

/// What is known of the objects of one cluster.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    children: BTreeMap<Child, Answer>,
    /// Of pods, claims, old settings and nodes: by what it was to be done to, and what. Bound: those of the last [`CALM`].
    deeds: BTreeMap<(String, Deed), Refusal>,
    /// Of the same: what was done last, and how often. Bound: as above.
    done: BTreeMap<(String, Deed), (Change, Tries)>,
    /// What was tried last and had moved, and how often in a row.
    moved: Option<((String, Deed), u32)>,
    /// The last status that was not stored as it was sent.
    noted: Option<Noted>,
    /// Every look since then has found the cluster whole.
    whole_since: Option<Timestamp>,
    /// Since when every look has found a stamp: of what, and the stamp. Bound: those of the last look.
    stamps: BTreeMap<Stamp, Timestamp>,
    /// The last look. It and the two above are of [`crate::clock::steady`].
    looked_at: Option<Timestamp>,
}

/// Whose it is, and the time that somebody else's clock said.
pub type Stamp = (String, String);

#[derive(Clone, Debug, Default)]
struct Answer {
    /// Hash of what was asked for.
    asked: Option<Value>,
    /// Where the answer says something else.
    otherwise: Vec<Difference>,
    /// By path.
    tries: BTreeMap<String, Tries>,
    /// Since the last try that was taken.
    refused: Option<Refusal>,
}

#[derive(Clone, Debug)]
struct Noted {
    sent: KvClusterStatus,
    stored: KvClusterStatus,
    at: Timestamp,
}

#[derive(Clone, Debug)]
struct Refusal {
    why: String,
    cause: Cause,
    tries: Tries,
}

/// Why what was tried is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The other side will not have it.
    Refused,
    /// The other side could not.
    Failed,
    /// Nobody refuses it, and somebody has it otherwise every time.
    Contended,
}

impl Refusal {
    /// What failed, as when a webhook does not answer, may go on failing: nothing waits for it.
    fn of(error: &Error, before: Option<Self>, now: Timestamp) -> Option<Self> {
        let (why, cause) = match error {
            Error::Refused(why) => (why, Cause::Refused),
            Error::Failed(why) => (why, Cause::Failed),
            Error::Contended(why) => (why, Cause::Contended),
            Error::Moved(_) | Error::Unreadable(_) | Error::NotLeading => return before,
        };
        let tries = Tries::again(before.as_ref().map(|refusal| &refusal.tries), now);
        Some(Self { why: why.clone(), cause, tries })
    }
}

#[derive(Clone, Copy, Debug)]
struct Tries {
    count: u32,
    last: Timestamp,
}

impl Tries {
    /// One more, now.
    fn again(before: Option<&Self>, now: Timestamp) -> Self {
        let count = before.filter(|tries| tries.is_fresh(now)).map_or(0, |tries| tries.count);
        Self { count: count.saturating_add(1), last: now }
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        // A wall clock that was set back makes nobody wait.
        (0..CALM).contains(&(now.as_second() - self.last.as_second()))
    }

    /// When the next may be made.
    fn next(&self, wait_max: i64) -> i64 {
        let doubled = WAIT_MIN.saturating_mul(1 << (self.count.saturating_sub(1)).min(20));
        self.last.as_second() + doubled.min(wait_max)
    }

    fn is_due(&self, wait_max: i64, now: Timestamp) -> bool {
        !self.is_fresh(now) || now.as_second() >= self.next(wait_max)
    }

    fn is_quarrel(&self, now: Timestamp) -> bool {
        self.count >= QUARREL && self.is_fresh(now)
    }

    fn contended(&self, now: Timestamp) -> Contended {
        let until = Timestamp::from_second(self.next(CONTENDED_WAIT_MAX)).unwrap_or(now);
        Contended { times: self.count, until: clock::text(until) }
    }
}

/// What was tried, and was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    pub why: &'a str,
    pub cause: Cause,
    /// The last try was long enough ago.
    pub may_try: bool,
    /// A person should know. Not at once of what is asked of nodes: they say when they can.
    pub is_told: bool,
}

/// A place that does not stay as it is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contended {
    pub times: u32,
    /// When it is put back once more.
    pub until: String,
}

impl Answers {
    /// What is not as it should be, in the order in which it is sent; what was put beside ours comes last.
    #[must_use]
    pub fn differences(&self, child: Child, want: &Value, live: &Value) -> Vec<Difference> {
        let mut all = drift::differences(want, live);
        if let Some(answer) = self.children.get(&child)
            && answer.asked.as_ref() == Some(hash(want))
        {
            all.retain(|difference| !answer.otherwise.contains(difference));
        }
        all
    }

    /// Whether a place may be put back now. What is asked for anew is not put back, but asked for.
    ///
    /// # Errors
    /// It was a moment ago.
    pub fn may_put_back(
        &self,
        child: Child,
        want: &Value,
        path: &str,
        now: Timestamp,
    ) -> Result<(), Contended> {
        let answer =
            self.children.get(&child).filter(|answer| answer.asked.as_ref() == Some(hash(want)));
        may(answer, path, now)
    }

    /// As [`Self::may_put_back`], of an object that is not there.
    ///
    /// # Errors
    /// It was made a moment ago.
    pub fn may_make(&self, child: Child, now: Timestamp) -> Result<(), Contended> {
        may(self.children.get(&child), MADE, now)
    }

    /// As [`Self::may_put_back`], of an object that is to go.
    ///
    /// # Errors
    /// It was deleted a moment ago.
    pub fn may_delete(&self, child: Child, now: Timestamp) -> Result<(), Contended> {
        may(self.children.get(&child), DELETED, now)
    }

    /// Something of an object was put back a moment ago, or again and again.
    #[must_use]
    pub fn is_fought_about(&self, child: Child, now: Timestamp) -> bool {
        let mut tries =
            self.children.get(&child).into_iter().flat_map(|answer| answer.tries.values());
        tries.any(|tries| tries.is_quarrel(now) || !tries.is_due(CONTENDED_WAIT_MAX, now))
    }

    /// An object is deleted or made by others again and again.
    #[must_use]
    pub fn quarrel_about(&self, child: Child, now: Timestamp) -> Option<Contended> {
        let answer = self.children.get(&child)?;
        let whole = [MADE, DELETED].into_iter().filter_map(|path| answer.tries.get(path));
        let worst = whole.filter(|tries| tries.is_quarrel(now)).max_by_key(|tries| tries.last)?;
        Some(worst.contended(now))
    }

    /// Places that were put back again and again until a while ago. Told as long as they are remembered, so
    /// that what is said does not change with every try.
    pub fn quarrels(
        &self,
        child: Child,
        want: &Value,
        now: Timestamp,
    ) -> impl Iterator<Item = (&str, Contended)> {
        let answer =
            self.children.get(&child).filter(|answer| answer.asked.as_ref() == Some(hash(want)));
        let tries = answer.into_iter().flat_map(|answer| &answer.tries);
        tries
            .filter(move |(path, tries)| !is_whole(path) && tries.is_quarrel(now))
            .map(move |(path, tries)| (path.as_str(), tries.contended(now)))
    }

    /// Whether an object may be written: it was not refused a moment ago.
    #[must_use]
    pub fn may_try(&self, child: Child, now: Timestamp) -> bool {
        let refusal = self.children.get(&child).and_then(|answer| answer.refused.as_ref());
        refusal.is_none_or(|refusal| refusal.tries.is_due(REFUSED_WAIT_MAX, now))
    }

    /// Why the last try was refused, a moment ago or longer.
    #[must_use]
    pub fn refused(&self, child: Child) -> Option<&str> {
        Some(self.children.get(&child)?.refused.as_ref()?.why.as_str())
    }

    /// Why something cannot be done at all, if it was not done when it was last tried.
    #[must_use]
    pub fn refusal(&self, action: &Action, now: Timestamp) -> Option<Refused<'_>> {
        let of_deed = |target: String, deed| self.deeds.get(&(target, deed));
        let (refusal, soon) = match action {
            Action::Latch { .. } => return None,
            Action::Call(call) => (of_deed(call.target(), call.deed())?, SOON_TRIED),
            Action::Change(change) => match change.target() {
                Target::Child(child) => (self.children.get(&child)?.refused.as_ref()?, 0),
                Target::Named(name) => (of_deed(name.to_owned(), change.deed())?, 0),
            },
        };
        // What was done since in another way, or is wanted no more, is not told of another day.
        if !refusal.tries.is_fresh(now) {
            return None;
        }
        let count = refusal.tries.count;
        let more = Tries { count: count.saturating_sub(soon), ..refusal.tries };
        let may_try = count <= soon || more.is_due(REFUSED_WAIT_MAX, now);
        Some(Refused {
            why: &refusal.why,
            cause: refusal.cause,
            may_try,
            is_told: count > 2 * soon,
        })
    }

    /// Why a volume claim or old settings could not be changed, a moment ago or longer, and whether it may be tried
    /// again.
    #[must_use]
    pub fn refused_deed(&self, name: &str, deed: Deed, now: Timestamp) -> Option<Refused<'_>> {
        let Refusal { why, cause, tries } = self.deeds.get(&(name.to_owned(), deed))?;
        let may_try = tries.is_due(REFUSED_WAIT_MAX, now);
        Some(Refused { why, cause: *cause, may_try, is_told: true })
    }

    /// Whether a status is in `stored` as far as the definition lets it: to send it again would change nothing,
    /// unless the definition has become another one, which is tried now and then.
    #[must_use]
    pub fn is_noted(
        &self,
        status: &KvClusterStatus,
        stored: &KvClusterStatus,
        now: Timestamp,
    ) -> bool {
        let is_it = |noted: &Noted| {
            let since = now.as_second() - noted.at.as_second();
            noted.sent == *status
                && noted.stored == *stored
                && (0..CONTENDED_WAIT_MAX).contains(&since)
        };
        status == stored || self.noted.as_ref().is_some_and(is_it)
    }

    /// Fields of the status that the definition in this Kubernetes does not keep.
    #[must_use]
    pub fn fields_not_kept(&self) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        if let Some(noted) = &self.noted {
            // A status has a form as JSON: it was sent.
            let value = |status| serde_json::to_value(status).unwrap_or_default();
            collect_lost(".status", &value(&noted.sent), &value(&noted.stored), &mut lost);
        }
        lost
    }

    /// The API server said that it will not have it.
    #[must_use]
    pub fn was_refused(&self, child: Child) -> bool {
        self.cause(child) == Some(Cause::Refused)
    }

    /// What kept the last try from being taken.
    #[must_use]
    pub fn cause(&self, child: Child) -> Option<Cause> {
        Some(self.children.get(&child)?.refused.as_ref()?.cause)
    }

    /// For how many seconds every look has found the cluster whole; 0 when the last one did not.
    #[must_use]
    pub fn whole_for(&self) -> i64 {
        self.whole_since.map_or(0, |since| self.until_the_last_look(since))
    }

    /// For how many seconds looks have found this stamp. `None`: the last one did not, or nobody has watched.
    #[must_use]
    pub fn lasted(&self, whose: &str, stamp: &str) -> Option<i64> {
        let since = self.stamps.get(&(whose.to_owned(), stamp.to_owned()))?;
        Some(self.until_the_last_look(*since))
    }

    fn until_the_last_look(&self, since: Timestamp) -> i64 {
        self.looked_at.map_or(0, |looked_at| looked_at.as_second() - since.as_second())
    }

    pub(crate) fn watch(&mut self, is_whole: bool, now: Timestamp) {
        // Nobody sets a steady clock back; were it so, it would count anew and not wait until that has caught up.
        let since = self.whole_since.filter(|since| *since <= now);
        self.whole_since = is_whole.then(|| since.unwrap_or(now));
        self.looked_at = Some(now);
    }

    pub(crate) fn watch_stamps(&mut self, stamps: Vec<Stamp>, now: Timestamp) {
        let before = std::mem::take(&mut self.stamps);
        let known = stamps.into_iter().map(|stamp| {
            let since = before.get(&stamp).copied().filter(|since| *since <= now);
            (stamp, since.unwrap_or(now))
        });
        self.stamps = known.collect();
        self.looked_at = Some(now);
    }

    pub(crate) fn learn(
        &mut self,
        change: &Change,
        result: Result<&Value, &Error>,
        now: Timestamp,
    ) {
        let target = match change.target() {
            Target::Child(child) => format!("{child:?}"),
            Target::Named(name) => name.to_owned(),
        };
        let moves_on = self.moves_on((target, change.deed()), result.err());
        let result = moves_on.as_ref().map_or(result, Err);
        // `whole`: nothing of others is left beside what was asked for.
        let (child, asked, path, whole) = match change {
            Change::Apply(child, asked, None) => (*child, Some(asked), Some(MADE), true),
            Change::Apply(child, asked, path) => (*child, Some(asked), path.as_deref(), false),
            Change::Replace(child, asked, path) => (*child, Some(asked), path.as_deref(), true),
            Change::Scale { ordinal, set, replicas } => {
                let is_new = set["metadata"]["uid"].is_null();
                let path = match replicas {
                    0 => None,
                    _ if is_new => Some(MADE),
                    _ => Some(REPLICAS),
                };
                (Child::StatefulSet(*ordinal), Some(set), path, is_new)
            }
            // One with other settings, and another name.
            Change::Delete { child: Child::ConfigMap, name, .. }
            | Change::DeletePod { name, .. }
            | Change::DeleteVolume { name, .. }
            | Change::MarkVolume { name, .. }
            | Change::UnmarkVolume { name, .. }
            | Change::NoteVolume { name, .. }
            | Change::KeepVolume { name, .. }
            | Change::SetVolumeOwners { name, .. }
            | Change::GrowVolume { name, .. }
            | Change::TakeSizeBack { name, .. } => {
                self.learn_deed(name.clone(), change.deed(), result.err(), now);
                if result.is_ok() {
                    self.learn_done(name.clone(), change, now);
                }
                return;
            }
            Change::Delete { child, .. } => (*child, None, Some(DELETED), false),
        };
        let answer = self.children.entry(child).or_default();
        match result {
            Ok(stored) => {
                answer.refused = None;
                if let Some(asked) = asked {
                    let before = std::mem::take(&mut answer.otherwise);
                    answer.otherwise = drift::differences(asked, stored);
                    if !whole {
                        answer.forget_what_others_put(&before);
                    }
                    if answer.asked.as_ref() != Some(hash(asked)) {
                        answer.asked = Some(hash(asked).clone());
                        // Other settings are another object.
                        let is_same = child != Child::ConfigMap;
                        answer.tries.retain(|path, _| is_same && is_whole(path));
                    }
                }
                // It goes for good: what comes after it is no quarrel.
                if matches!(change, Change::Scale { replicas: 0, .. }) {
                    answer.tries.clear();
                }
                if let Some(path) = path {
                    let tries = Tries::again(answer.tries.get(path), now);
                    answer.tries.insert(path.to_owned(), tries);
                }
                while answer.tries.len() > PLACES_MAX {
                    let oldest = answer.tries.iter().min_by_key(|(_, tries)| tries.last);
                    let Some(oldest) = oldest.map(|(path, _)| path.clone()) else { break };
                    answer.tries.remove(&oldest);
                }
            }
            Err(error) => answer.refused = Refusal::of(error, answer.refused.take(), now),
        }
    }
}

impl Answers {
    /// Of what a node was asked. That it did not answer, or could not know, may have been done, and may go on for ever:
    /// another look says, and what comes after it does not wait for more than that.
    pub(crate) fn learn_call(&mut self, call: &Call, result: &Result<(), Error>, now: Timestamp) {
        let error = result.as_ref().err();
        let moves_on = self.moves_on((call.target(), call.deed()), error);
        self.learn_deed(call.target(), call.deed(), moves_on.as_ref().or(error), now);
    }

    /// What it counts as that the same has moved once more, when that has gone on for too long.
    fn moves_on(&mut self, what: (String, Deed), error: Option<&Error>) -> Option<Error> {
        let Some(Error::Moved(why)) = error else {
            self.moved = None;
            return None;
        };
        let before = self.moved.take().filter(|(known, _)| *known == what);
        let times = before.map_or(0, |(_, times)| times).saturating_add(1);
        self.moved = Some((what, times));
        (times >= MOVED_MAX)
            .then(|| Error::Contended(format!("{why}: it has changed meanwhile, again and again")))
    }

    /// What was done and is to be done again does not stay so. It would be done with every look, and nothing that comes
    /// after it ever.
    fn learn_done(&mut self, target: String, change: &Change, now: Timestamp) {
        self.done.retain(|_, (_, tries)| tries.is_fresh(now));
        let (what, change) = ((target, change.deed()), change.of_any_version());
        let before = self.done.get(&what).filter(|(before, _)| *before == change);
        let tries = Tries::again(before.map(|(_, tries)| tries), now);
        if tries.is_quarrel(now) {
            let refusal = Refusal { why: UNDONE.to_owned(), cause: Cause::Contended, tries };
            self.deeds.insert(what.clone(), refusal);
        }
        self.done.insert(what, (change, tries));
    }

    fn learn_deed(&mut self, target: String, deed: Deed, error: Option<&Error>, now: Timestamp) {
        // What was not tried for so long is not wanted any more.
        self.deeds.retain(|_, refusal| refusal.tries.is_fresh(now));
        let what = (target, deed);
        let before = self.deeds.remove(&what);
        let refusal = error.and_then(|error| Refusal::of(error, before, now));
        self.deeds.extend(refusal.map(|refusal| (what, refusal)));
    }
}

impl Answer {
    /// Of an answer to an apply: items beside ours stay only when they were known `before`. What differs
    /// within such a list differs perhaps because of them.
    fn forget_what_others_put(&mut self, before: &[Difference]) {
        let is_more = |difference: &Difference| matches!(difference.drift, Drift::HasMore(_));
        let unknown: Vec<String> = self
            .otherwise
            .iter()
            .filter(|difference| is_more(difference) && !before.contains(difference))
            .map(|difference| format!("{}[", difference.drift.path()))
            .collect();
        self.otherwise.retain(|difference| {
            let path = difference.drift.path();
            (!is_more(difference) || before.contains(difference))
                && !unknown.iter().any(|list| path.starts_with(list))
        });
    }
}

fn collect_lost(path: &str, sent: &Value, stored: &Value, lost: &mut BTreeSet<String>) {
    match (sent, stored) {
        (Value::Object(sent), Value::Object(stored)) => {
            for (name, value) in sent {
                let path = format!("{path}.{name}");
                match stored.get(name) {
                    Some(stored) => collect_lost(&path, value, stored, lost),
                    None => drop(lost.insert(path)),
                }
            }
        }
        (Value::Array(sent), Value::Array(stored)) => {
            for (sent, stored) in sent.iter().zip(stored) {
                collect_lost(&format!("{path}[]"), sent, stored, lost);
            }
        }
        _ => {}
    }
}

fn may(answer: Option<&Answer>, path: &str, now: Timestamp) -> Result<(), Contended> {
    match answer.and_then(|answer| answer.tries.get(path)) {
        Some(tries) if !tries.is_due(CONTENDED_WAIT_MAX, now) => Err(tries.contended(now)),
        _ => Ok(()),
    }
}

fn is_whole(path: &str) -> bool {
    [MADE, DELETED].contains(&path)
}

fn hash(object: &Value) -> &Value {
    &object["metadata"]["annotations"][OBJECT_HASH]
}

/// The same of all clusters.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<Key, Answers>>);

impl Memory {
    #[must_use]
    pub fn of(&self, key: &Key) -> Answers {
        self.0.lock().get(key).cloned().unwrap_or_default()
    }

    /// The same, with what a look found.
    #[must_use]
    pub fn watch(&self, key: &Key, is_whole: bool, stamps: Vec<Stamp>, now: Timestamp) -> Answers {
        let mut all = self.0.lock();
        let answers = all.entry(key.clone()).or_default();
        answers.watch(is_whole, now);
        answers.watch_stamps(stamps, now);
        answers.clone()
    }

    /// `result`: the object as it was stored, where one was.
    pub fn learn(&self, key: &Key, change: &Change, result: &Result<Value, Error>, now: Timestamp) {
        self.0.lock().entry(key.clone()).or_default().learn(change, result.as_ref(), now);
    }

    /// As [`Self::learn`], of a call to a node.
    pub fn learn_call(&self, key: &Key, call: &Call, result: &Result<(), Error>, now: Timestamp) {
        self.0.lock().entry(key.clone()).or_default().learn_call(call, result, now);
    }

    /// A status was sent, and stored so.
    pub fn learn_status(
        &self,
        key: &Key,
        sent: &KvClusterStatus,
        stored: &KvClusterStatus,
        at: Timestamp,
    ) {
        let noted =
            (sent != stored).then(|| Noted { sent: sent.clone(), stored: stored.clone(), at });
        self.0.lock().entry(key.clone()).or_default().noted = noted;
    }

    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    #[cfg(test)]
    pub(crate) fn copy(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    fn object(hash: &str, image: &str) -> Value {
        json!({"metadata": {"annotations": {OBJECT_HASH: hash}}, "spec": {"image": image}})
    }

    fn apply(object: Value, path: Option<&str>) -> Change {
        Change::Apply(Child::Service, Box::new(object), path.map(ToOwned::to_owned))
    }

    #[test]
    fn what_the_api_server_answered_is_how_it_is_to_be() {
        let mut answers = Answers::default();
        let (asked, stored) = (object("1", "a"), object("1", "mirror/a"));
        let differs = |answers: &Answers, want: &Value, live: &Value| {
            !answers.differences(Child::Service, want, live).is_empty()
        };
        assert!(differs(&answers, &asked, &stored), "nothing was answered yet");
        answers.learn(&apply(asked.clone(), None), Ok(&stored), at(0));
        for (why, want, live, is_drift) in [
            ("as it was answered", asked.clone(), stored.clone(), false),
            ("as it was asked for", asked.clone(), asked.clone(), false),
            ("neither", asked.clone(), object("1", "evil"), true),
            ("something else is asked for", object("2", "b"), stored.clone(), true),
        ] {
            assert_eq!(differs(&answers, &want, &live), is_drift, "{why}");
        }
    }

    #[test]
    fn the_same_place_is_put_back_ever_more_seldom_until_it_holds() {
        let mut answers = Answers::default();
        let change = apply(object("1", "a"), Some(".spec.image"));
        let may = |answers: &Answers, path: &str, second: i64| {
            answers.may_put_back(Child::Service, &object("1", "a"), path, at(second))
        };
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(may(&answers, ".spec.image", now), Ok(()));
            answers.learn(&change, Ok(&object("1", "a")), at(now));
            let tried = now;
            while may(&answers, ".spec.image", now).is_err() {
                now += 1;
            }
            waits.push(now - tried);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(may(&answers, ".spec.type", now), Ok(()), "another");
        answers.learn(&change, Ok(&object("1", "a")), at(now));
        assert_eq!(may(&answers, ".spec.image", now - 60), Ok(()));
        now += CALM;
        answers.learn(&change, Ok(&object("1", "a")), at(now));
        let contended = may(&answers, ".spec.image", now + 1);
        assert_eq!(contended.map_err(|contended| contended.times), Err(1), "a new quarrel");
        let anew = answers.may_put_back(Child::Service, &object("2", "a"), ".spec.image", at(now));
        assert_eq!(anew, Ok(()), "what is asked for anew does not wait for what was fought about");
    }

    #[test]
    fn quarrel_is_remembered_until_it_is_calm_and_a_visit_is_none() {
        let mut answers = Answers::default();
        let want = object("1", "a");
        let told = |answers: &Answers, second: i64| -> Vec<(String, u32)> {
            let quarrels = answers.quarrels(Child::Service, &want, at(second));
            quarrels.map(|(path, contended)| (path.to_owned(), contended.times)).collect()
        };
        let change = apply(want.clone(), Some(".spec.image"));
        for second in [0, 5] {
            answers.learn(&change, Ok(&want), at(second));
            assert_eq!(told(&answers, second), [], "once or twice is no quarrel");
        }
        answers.learn(&change, Ok(&want), at(15));
        let quarrel = [(".spec.image".to_owned(), 3)];
        for second in [15, 34, 35, 36, 15 + CALM - 1] {
            assert_eq!(told(&answers, second), quarrel, "due or not: {second}");
        }
        assert_eq!(told(&answers, 15 + CALM), []);
    }

    #[test]
    fn settings_that_change_often_and_nodes_that_come_and_go_are_no_quarrel() {
        let mut answers = Answers::default();
        let set = Child::StatefulSet(3);
        for round in 0..9 {
            let second = round * 20;
            let config = object(&round.to_string(), "a");
            let made = Change::Apply(Child::ConfigMap, Box::new(config.clone()), None);
            answers.learn(&made, Ok(&config), at(second));
            let delete = |child| Change::Delete {
                child,
                name: String::new(),
                uid: "u".to_owned(),
                keep_dependents: true,
            };
            answers.learn(&delete(Child::ConfigMap), Ok(&Value::Null), at(second));
            let scale = |uid: Value, replicas| {
                let mut set = object("1", "a");
                set["metadata"]["uid"] = uid;
                Change::Scale { ordinal: 3, set: Box::new(set), replicas }
            };
            answers.learn(&scale(Value::Null, 1), Ok(&object("1", "a")), at(second));
            answers.learn(&scale(json!("u"), 0), Ok(&object("1", "a")), at(second));
            answers.learn(&delete(set), Ok(&Value::Null), at(second));
            for child in [Child::ConfigMap, set] {
                let quarrel = answers.quarrel_about(child, at(second));
                assert_eq!(quarrel, None, "{child:?}, round {round}");
                assert_eq!(answers.may_make(child, at(second + 5)), Ok(()), "{child:?}");
            }
        }
        // Scaled down by somebody, again and again.
        let mut there = object("1", "a");
        there["metadata"]["uid"] = json!("u");
        let up = Change::Scale { ordinal: 3, set: Box::new(there.clone()), replicas: 1 };
        for second in [200, 205, 215] {
            answers.learn(&up, Ok(&there), at(second));
        }
        let told: Vec<_> = answers.quarrels(set, &there, at(215)).map(|(path, _)| path).collect();
        assert_eq!(told, [REPLICAS]);
    }

    #[test]
    fn objects_that_are_deleted_and_made_again_and_again_are_so_ever_more_seldom() {
        let want = object("1", "a");
        let deletion = Change::Delete {
            child: Child::Service,
            name: "kv".to_owned(),
            uid: "u".to_owned(),
            keep_dependents: false,
        };
        type May = fn(&Answers, i64) -> bool;
        let making: May = |answers, second| answers.may_make(Child::Service, at(second)).is_ok();
        let going: May = |answers, second| answers.may_delete(Child::Service, at(second)).is_ok();
        for (why, change, may, other) in [
            ("made", apply(want.clone(), None), making, going),
            ("deleted", deletion, going, making),
        ] {
            let mut answers = Answers::default();
            answers.learn(&change, Ok(&want), at(0));
            assert!(!may(&answers, 4) && may(&answers, 5), "{why} once");
            assert!(other(&answers, 0), "{why}: what is made anew is made at once");
            answers.learn(&change, Ok(&want), at(5));
            assert!(!may(&answers, 14) && may(&answers, 15), "{why} twice");
        }
    }

    #[test]
    fn items_that_others_put_beside_ours_are_never_taken_for_a_policys() {
        let listed = |hash: &str, names: &[&str]| {
            let env: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"metadata": {"annotations": {OBJECT_HASH: hash}}, "spec": {"env": env}})
        };
        let drifts = |answers: &Answers, want: &Value, live: &Value| {
            !answers.differences(Child::Service, want, live).is_empty()
        };
        let (first, second) = (listed("1", &["ours"]), listed("2", &["ours"]));
        let mut answers = Answers::default();
        // A policy adds one to what is made.
        answers.learn(&apply(first.clone(), None), Ok(&listed("1", &["ours", "policy"])), at(0));
        assert!(!drifts(&answers, &first, &listed("1", &["ours", "policy"])));
        // Something else is asked for, and the answer has it still.
        let again = apply(second.clone(), Some(".metadata"));
        answers.learn(&again, Ok(&listed("2", &["ours", "policy"])), at(1));
        assert!(!drifts(&answers, &second, &listed("2", &["ours", "policy"])));
        // A stranger's comes with the answer.
        let strange = listed("2", &["ours", "policy", "stranger"]);
        let mut there = second.clone();
        there["metadata"]["uid"] = json!("u");
        let scaled = Change::Scale { ordinal: 0, set: Box::new(there), replicas: 1 };
        for (child, change) in [(Child::Service, again), (Child::StatefulSet(0), scaled)] {
            answers.learn(&change, Ok(&strange), at(2));
            assert!(!answers.differences(child, &second, &strange).is_empty(), "{child:?}");
        }
        let replaced = Change::Replace(Child::Service, Box::new(second.clone()), None);
        answers.learn(&replaced, Ok(&listed("2", &["ours", "policy"])), at(3));
        assert!(!drifts(&answers, &second, &listed("2", &["ours", "policy"])));
    }

    #[test]
    fn what_is_refused_is_tried_again_after_a_while_and_forgotten_once_it_is_taken() {
        let mut answers = Answers::default();
        let change = apply(object("1", "a"), None);
        let refused = Error::Refused("a quota".to_owned());
        answers.learn(&change, Err(&refused), at(0));
        let may = |answers: &Answers, second: i64| answers.may_try(Child::Service, at(second));
        assert!(!may(&answers, 4) && may(&answers, 5), "it may be tried");
        for _ in 0..20 {
            answers.learn(&change, Err(&refused), at(5));
        }
        assert!(!may(&answers, 64) && may(&answers, 65));
        assert_eq!(answers.refused(Child::Service), Some("a quota"), "known, due or not");
        assert!(answers.was_refused(Child::Service));
        answers.learn(&change, Ok(&object("1", "a")), at(65));
        assert_eq!(answers.refused(Child::Service), None);
        // A webhook that does not answer.
        answers.learn(&change, Err(&Error::Failed("no answer".to_owned())), at(66));
        assert!(!may(&answers, 67) && !answers.was_refused(Child::Service));
        assert_eq!(answers.refused(Child::Service), Some("no answer"));
    }

    #[test]
    fn whatever_is_refused_waits_ever_longer() {
        let refused = Error::Refused("a policy".to_owned());
        let by_node = || Err(Error::Refused("not now".to_owned()));
        let pod = Change::DeletePod { name: "kv-0-0".to_owned(), uid: "u".to_owned() };
        let other = Change::DeletePod { name: "kv-1-0".to_owned(), uid: "u".to_owned() };
        let set = Change::Delete {
            child: Child::StatefulSet(0),
            name: "kv-0".to_owned(),
            uid: "u".to_owned(),
            keep_dependents: true,
        };
        for change in [pod, set] {
            let mut answers = Answers::default();
            let action = Action::Change(change.clone());
            assert_eq!(answers.refusal(&action, at(0)), None);
            answers.learn(&change, Err(&refused), at(0));
            let may = |answers: &Answers, second| {
                answers.refusal(&action, at(second)).map(|it| it.may_try)
            };
            assert_eq!((may(&answers, 4), may(&answers, 5)), (Some(false), Some(true)));
            answers.learn(&change, Err(&refused), at(5));
            assert_eq!((may(&answers, 14), may(&answers, 15)), (Some(false), Some(true)));
            let told = answers.refusal(&action, at(15)).expect("refused");
            assert!(told.is_told && told.why == "a policy");
            assert_eq!(answers.refusal(&Action::Change(other.clone()), at(5)), None, "of another");
            answers.learn(&change, Ok(&Value::Null), at(20));
            assert_eq!(may(&answers, 20), None, "it was done");
        }
        // A node is asked some times more before it is left alone, and then it is told.
        let call = Call::Promote { node_id: 4, expected_version: 1 };
        let action = Action::Call(call.clone());
        let mut answers = Answers::default();
        let mut tries = Vec::new();
        for second in (0..300).step_by(2) {
            let before = answers.refusal(&action, at(second));
            assert_eq!(before.is_some_and(|it| it.is_told), tries.len() > 6, "{tries:?}");
            if before.is_none_or(|it| it.may_try) {
                let moved = Call::Promote { node_id: 4, expected_version: 2 };
                answers.learn_call(&moved, &by_node(), at(second));
                tries.push(second);
            }
        }
        assert_eq!(tries, [0, 2, 4, 6, 12, 22, 42, 82, 142, 202, 262]);
        let moved = Error::Moved("the table".to_owned());
        answers.learn_call(&call, &Err(moved), at(300));
        assert!(answers.refusal(&action, at(300)).is_some(), "that says nothing");
        answers.learn_call(&call, &Ok(()), at(301));
        assert_eq!(answers.refusal(&action, at(301)), None);
        // What is not wanted any more is not remembered for ever.
        for node_id in 0..1000 {
            let call = Call::Promote { node_id, expected_version: 1 };
            let second = i64::try_from(node_id).expect("small") * 10;
            answers.learn_call(&call, &by_node(), at(second));
        }
        assert!(answers.deeds.len() <= 120, "{}", answers.deeds.len());
    }

    /// Else a disk that somebody's controller sets back to `Delete` would be kept ten times a second, and nothing else
    /// done while its claim goes.
    #[test]
    fn what_is_done_and_does_not_stay_so_is_done_ever_more_seldom() {
        let keep = |uid: &str| Change::KeepVolume {
            name: "c".to_owned(),
            uid: uid.to_owned(),
            volume: "v".to_owned(),
        };
        let owners = |version: i64, owner: &str| {
            let owner = json!([{"apiVersion": "v1", "kind": "K", "name": owner, "uid": owner}]);
            Change::SetVolumeOwners {
                name: "c".to_owned(),
                uid: "u".to_owned(),
                version: version.to_string(),
                owners: serde_json::from_value(owner).expect("owners"),
            }
        };
        let drop_config = |uid: &str| Change::Delete {
            child: Child::ConfigMap,
            name: "c".to_owned(),
            uid: uid.to_owned(),
            keep_dependents: false,
        };
        type Made<'a> = &'a dyn Fn(i64) -> Change;
        let same: [(&str, Made<'_>); 3] = [
            ("a disk", &|_| keep("u")),
            ("owners, of whatever version", &|version| owners(version, "a")),
            ("settings that a finalizer keeps", &|_| drop_config("u")),
        ];
        for (why, made) in same {
            let mut answers = Answers::default();
            let mut done = Vec::new();
            for second in 0..300 {
                let change = made(second);
                let refused = answers.refused_deed("c", change.deed(), at(second));
                assert_eq!(refused.is_some(), done.len() >= 3, "{why}: told after {done:?}");
                if let Some(refused) = refused {
                    assert_eq!(refused.cause, Cause::Contended, "{why}: nobody refuses it");
                }
                if refused.is_none_or(|refused| refused.may_try) {
                    answers.learn(&change, Ok(&Value::Null), at(second));
                    done.push(second);
                }
            }
            assert_eq!(done, [0, 1, 2, 22, 62, 122, 182, 242], "{why}");
            let deed = made(0).deed();
            answers.learn(&keep("other"), Ok(&Value::Null), at(300 + CALM));
            assert!(answers.refused_deed("c", deed, at(300 + CALM)).is_none(), "{why}: calm");
        }
        let other: [(&str, Made<'_>); 3] = [
            ("claims of one name", &|second| keep(&second.to_string())),
            ("a spec that is turned", &|second| owners(0, &(second % 2).to_string())),
            ("pods of one name", &|second| Change::DeletePod {
                name: "c".to_owned(),
                uid: second.to_string(),
            }),
        ];
        for (why, made) in other {
            let mut answers = Answers::default();
            for second in 0..9 {
                let change = made(second);
                answers.learn(&change, Ok(&Value::Null), at(second));
                assert!(answers.refused_deed("c", change.deed(), at(second)).is_none(), "{why}");
            }
        }
    }

    #[test]
    fn clock_that_is_set_back_costs_no_more_than_the_wait_itself() {
        let mut answers = Answers::default();
        for (why, second, is_whole, want) in [
            ("not whole", 0, false, 0),
            ("whole", 10, true, 0),
            ("still", 50, true, 40),
            ("set back by an hour", 60 - 3600, true, 0),
            ("a minute after that", 120 - 3600, true, 60),
            ("not whole", 130 - 3600, false, 0),
        ] {
            answers.watch(is_whole, at(second));
            assert_eq!(answers.whole_for(), want, "{why}");
        }
    }

    #[test]
    fn no_more_places_are_remembered_than_the_bound() {
        let mut answers = Answers::default();
        for number in 0..100 {
            let change = apply(object("1", "a"), Some(&format!(".spec.x{number}")));
            answers.learn(&change, Ok(&object("1", "a")), at(number));
        }
        assert_eq!(answers.children[&Child::Service].tries.len(), PLACES_MAX);
        assert!(answers.children[&Child::Service].tries.contains_key(".spec.x99"));
    }
}
