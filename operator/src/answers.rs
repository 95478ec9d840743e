//! What the API server made of what was applied, and how often somebody changed it again.
//!
//! Between an apply and what is stored stand admission policies: they rewrite registries of images, raise
//! resources, add variables. So an object is compared with what was asked for *and* with what the API
//! server answered to that very asking: where the two differ, the answer is how it is to be. Only what
//! differs from both was changed by somebody, and is put back.
//!
//! Who changes it again after that does so on purpose, or is a program that will never stop. The place is
//! told and put back ever more seldom, as is what the API server refuses, and meanwhile the plan goes on
//! below: a label that is fought about must not keep a lost node from being replaced.
//!
//! None of this outlives the process. One that starts anew applies what differs once more, which changes
//! nothing, and learns the answer.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    children::Child,
    clock,
    drift::{self, Difference},
    names::OBJECT_HASH,
    plan::Change,
    world::{Error, Key},
};

/// Bound: waits between two tries at the same place, in seconds; each is twice the one before.
const WAIT_MIN: i64 = 5;
const CONTENDED_WAIT_MAX: i64 = 600;
const REFUSED_WAIT_MAX: i64 = 60;
/// What has held for so long, in seconds, is not the same quarrel any more.
const CALM: i64 = 2 * CONTENDED_WAIT_MAX;
/// Bound: places of one object that are remembered; those that were tried last stay.
const PLACES_MAX: usize = 32;
/// Stands for the object as a whole, which was made anew.
const WHOLE: &str = "";

/// What is known of the objects of one cluster.
#[derive(Clone, Debug, Default)]
pub struct Answers(BTreeMap<Child, Answer>);

#[derive(Clone, Debug, Default)]
struct Answer {
    /// Hash of what was asked for.
    asked: Option<Value>,
    /// Where the answer says something else.
    otherwise: Vec<Difference>,
    /// By path.
    tries: BTreeMap<String, Tries>,
    /// Why the last try was refused.
    refused: Option<(String, Tries)>,
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
        if let Some(answer) = self.0.get(&child)
            && answer.asked.as_ref() == Some(hash(want))
        {
            all.retain(|difference| !answer.otherwise.contains(difference));
        }
        all
    }

    /// Whether a place may be put back now.
    ///
    /// # Errors
    /// It was a moment ago.
    pub fn may_put_back(&self, child: Child, path: &str, now: Timestamp) -> Result<(), Contended> {
        match self.0.get(&child).and_then(|answer| answer.tries.get(path)) {
            Some(tries) if !tries.is_due(CONTENDED_WAIT_MAX, now) => {
                let until = Timestamp::from_second(tries.next(CONTENDED_WAIT_MAX)).unwrap_or(now);
                Err(Contended { times: tries.count, until: clock::text(until) })
            }
            _ => Ok(()),
        }
    }

    /// As [`Self::may_put_back`], of an object that is to be made anew.
    ///
    /// # Errors
    /// It was a moment ago.
    pub fn may_make_anew(&self, child: Child, now: Timestamp) -> Result<(), Contended> {
        self.may_put_back(child, WHOLE, now)
    }

    /// Why an object was refused a moment ago; `None` when it may be tried.
    #[must_use]
    pub fn refused(&self, child: Child, now: Timestamp) -> Option<&str> {
        let (why, tries) = self.0.get(&child)?.refused.as_ref()?;
        (!tries.is_due(REFUSED_WAIT_MAX, now)).then_some(why.as_str())
    }

    /// The last try was refused, a moment ago or longer.
    #[must_use]
    pub fn was_refused(&self, child: Child) -> bool {
        self.0.get(&child).is_some_and(|answer| answer.refused.is_some())
    }

    pub(crate) fn learn(
        &mut self,
        change: &Change,
        result: Result<&Value, &Error>,
        now: Timestamp,
    ) {
        let (child, asked, path) = match change {
            Change::Apply(child, asked, path) | Change::Replace(child, asked, path) => {
                (*child, Some(asked), path.as_deref())
            }
            Change::Scale { set, .. } => (Child::StatefulSet, Some(set), None),
            Change::Delete { child, .. } => (*child, None, Some(WHOLE)),
            Change::DeletePod { .. }
            | Change::MarkVolume { .. }
            | Change::DeleteVolume { .. }
            | Change::GrowVolume { .. } => return,
        };
        let answer = self.0.entry(child).or_default();
        match result {
            Ok(stored) => {
                answer.refused = None;
                if let Some(asked) = asked {
                    answer.asked = Some(hash(asked).clone());
                    answer.otherwise = drift::differences(asked, stored);
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
            Err(Error::Refused(why)) => {
                let before = answer.refused.as_ref().map(|(_, tries)| tries);
                answer.refused = Some((why.clone(), Tries::again(before, now)));
            }
            Err(Error::Moved(_) | Error::NotLeading | Error::Failed(_)) => {}
        }
    }
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

    /// `result`: the object as it was stored, where one was.
    pub fn learn(&self, key: &Key, change: &Change, result: &Result<Value, Error>, now: Timestamp) {
        self.0.lock().entry(key.clone()).or_default().learn(change, result.as_ref(), now);
    }

    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
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
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(answers.may_put_back(Child::Service, ".spec.image", at(now)), Ok(()));
            answers.learn(&change, Ok(&object("1", "a")), at(now));
            let tried = now;
            while answers.may_put_back(Child::Service, ".spec.image", at(now)).is_err() {
                now += 1;
            }
            waits.push(now - tried);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(answers.may_put_back(Child::Service, ".spec.type", at(now)), Ok(()), "another");
        answers.learn(&change, Ok(&object("1", "a")), at(now));
        assert_eq!(answers.may_put_back(Child::Service, ".spec.image", at(now - 60)), Ok(()));
        now += CALM;
        answers.learn(&change, Ok(&object("1", "a")), at(now));
        let contended = answers.may_put_back(Child::Service, ".spec.image", at(now + 1));
        assert_eq!(contended.map_err(|contended| contended.times), Err(1), "a new quarrel");
    }

    #[test]
    fn what_is_refused_is_tried_again_after_a_while_and_forgotten_once_it_is_taken() {
        let mut answers = Answers::default();
        let change = apply(object("1", "a"), None);
        let refused = Error::Refused("a quota".to_owned());
        answers.learn(&change, Err(&refused), at(0));
        assert_eq!(answers.refused(Child::Service, at(4)), Some("a quota"));
        assert_eq!(answers.refused(Child::Service, at(5)), None, "it may be tried");
        for _ in 0..20 {
            answers.learn(&change, Err(&refused), at(5));
        }
        assert_eq!(answers.refused(Child::Service, at(64)), Some("a quota"));
        assert_eq!(answers.refused(Child::Service, at(65)), None);
        answers.learn(&change, Ok(&object("1", "a")), at(65));
        assert_eq!(answers.refused(Child::Service, at(66)), None);
    }

    #[test]
    fn no_more_places_are_remembered_than_the_bound() {
        let mut answers = Answers::default();
        for number in 0..100 {
            let change = apply(object("1", "a"), Some(&format!(".spec.x{number}")));
            answers.learn(&change, Ok(&object("1", "a")), at(number));
        }
        assert_eq!(answers.0[&Child::Service].tries.len(), PLACES_MAX);
        assert!(answers.0[&Child::Service].tries.contains_key(".spec.x99"));
    }
}
