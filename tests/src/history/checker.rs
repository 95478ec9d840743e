//! Whether a history is linearizable: the search of Wing and Gong, with Lowe's memory of visited
//! configurations, key by key.
//!
//! The search walks the calls and returns of one key in the order of real time and picks, one after
//! the other, a call that may come next: one that was sent before the first return that is still
//! open. Reaching the return of a call that was not picked means that the picks so far cannot be
//! right, so the last one is taken back. What makes it fast enough here:
//!
//! - A configuration (which calls are done, and the value) that failed once is not tried again.
//! - A read whose answer fits now is picked for good: it changes nothing, so later is never better.
//! - Unknown calls that are equal (two lost deletes) are taken in the order in which they were sent;
//!   swapping them changes nothing.
//! - First, unknown calls whose value nobody ever saw are left out. If the rest has an order, that
//!   order is an answer: they never took effect. Only if it has none are they brought back.
//!
//! The question is NP-complete, so there is a [`Budget`]; past it the verdict is
//! [`Verdict::Undecided`], which a test must treat as a failure: it shows nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Answer, Call, Completion, Operation, State, counterexample, step};

/// Where the search gives up.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// For all keys together.
    pub time: Duration,
    /// For the memory of visited configurations of one key.
    pub configurations: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { time: Duration::from_secs(60), configurations: 2_000_000 }
    }
}

/// What is known after the search.
#[derive(Debug)]
pub enum Verdict {
    /// Every key's calls have an order.
    Legal,
    /// A key's calls have none.
    Illegal {
        /// Which key.
        key: Bytes,
        /// The calls around the place where every order ends, for people.
        explanation: String,
    },
    /// The budget ran out. Nothing is shown, in either direction.
    Undecided {
        /// The key at which it did.
        key: Bytes,
        /// Which part of the budget.
        why: String,
    },
}

impl Verdict {
    /// Whether an order was found for every key.
    #[must_use]
    pub fn is_legal(&self) -> bool {
        matches!(self, Self::Legal)
    }

    /// Whether it was shown that there is no order.
    #[must_use]
    pub fn is_illegal(&self) -> bool {
        matches!(self, Self::Illegal { .. })
    }
}

/// Judges a history whose keys were all absent at its beginning.
#[must_use]
pub fn check(operations: &[Operation], budget: Budget) -> Verdict {
    let deadline = Instant::now() + budget.time;
    let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, all) in keys {
        let relevant: Vec<&Operation> = all.into_iter().filter(|one| matters(one)).collect();
        let seen = seen_values(&relevant);
        let likely: Vec<&Operation> =
            relevant.iter().copied().filter(|one| !unseen(one, &seen)).collect();
        let mut end = Search::new(&likely, budget, deadline).run();
        if likely.len() < relevant.len() && !matches!(end, End::Legal) {
            end = Search::new(&relevant, budget, deadline).run();
        }
        match end {
            End::Legal => {}
            End::Illegal { done, blocked } => {
                let explanation = counterexample::explain(&relevant, &done, &blocked);
                return Verdict::Illegal { key: key.clone(), explanation };
            }
            End::Undecided(why) => return Verdict::Undecided { key: key.clone(), why },
        }
    }
    Verdict::Legal
}

/// Calls without an effect say nothing; neither do reads without an answer.
fn matters(operation: &Operation) -> bool {
    match operation.completion {
        Completion::Ok { .. } => true,
        Completion::NotApplied => false,
        Completion::Unknown => !operation.call.is_read(),
    }
}

/// Values that some answer shows to have been there.
fn seen_values<'a>(operations: &[&'a Operation]) -> HashSet<&'a Bytes> {
    let mut seen = HashSet::new();
    for operation in operations {
        match operation.answer() {
            Some(
                Answer::Value(Some(value))
                | Answer::Previous(Some(value))
                | Answer::Conditional(Err(Some(value))),
            ) => {
                seen.insert(value);
            }
            Some(Answer::Conditional(Ok(()))) => {
                if let Call::CompareAndPut { expected: Some(value), .. } = &operation.call {
                    seen.insert(value);
                }
            }
            _ => {}
        }
        // A lost compare-and-put may have been the one that saw it.
        if operation.answer().is_none()
            && let Call::CompareAndPut { expected: Some(value), .. } = &operation.call
        {
            seen.insert(value);
        }
    }
    seen
}

/// An unknown call that stores a value that was never seen.
fn unseen(operation: &Operation, seen: &HashSet<&Bytes>) -> bool {
    operation.answer().is_none()
        && operation.call.stores().is_some_and(|value| !seen.contains(value))
}

enum End {
    Legal,
    /// The calls that the longest order did, in its order, and the one at which it ended.
    Illegal {
        done: Vec<Operation>,
        blocked: Operation,
    },
    Undecided(String),
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// One pick, to be taken back.
struct Pick {
    event: usize,
    operation: usize,
    before: State,
    /// No other pick would have been better, so there is no alternative to try.
    forced: bool,
}

/// The calls that are done, one bit each.
type Done = Box<[u64]>;

struct Search<'a> {
    operations: &'a [&'a Operation],
    /// Event 0 is the head; the list is over indexes into this.
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Event of each operation's return.
    returns: Vec<Option<usize>>,
    /// For an unknown call: an equal unknown call that was sent earlier, which must go first.
    twin: Vec<Option<usize>>,
    done: Done,
    visited: HashSet<(Done, State)>,
    picks: Vec<Pick>,
    best: Vec<usize>,
    blocked: Option<usize>,
    state: State,
    open: usize,
    budget: Budget,
    deadline: Instant,
}

const HEAD: usize = 0;
const END: usize = usize::MAX;

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Operation], budget: Budget, deadline: Instant) -> Self {
        let mut timed: Vec<(u64, Event)> = Vec::with_capacity(operations.len() * 2);
        for (index, operation) in operations.iter().enumerate() {
            timed.push((operation.invoked, Event::Call(index)));
            if let Some(at) = operation.returned() {
                timed.push((at, Event::Return(index)));
            }
        }
        timed.sort_by_key(|(at, _)| *at);
        // The head is a placeholder that is never looked at.
        let mut events = vec![Event::Call(usize::MAX)];
        events.extend(timed.into_iter().map(|(_, event)| event));
        let count = events.len();
        let next = (1..=count).map(|at| if at < count { at } else { END }).collect();
        let previous = (0..count).map(|at| at.saturating_sub(1)).collect();
        let mut returns = vec![None; operations.len()];
        let mut twin = vec![None; operations.len()];
        let mut last_equal: HashMap<&Call, usize> = HashMap::new();
        for (at, event) in events.iter().enumerate().skip(1) {
            match *event {
                Event::Return(index) => returns[index] = Some(at),
                Event::Call(index) if operations[index].answer().is_none() => {
                    twin[index] = last_equal.insert(&operations[index].call, index);
                }
                Event::Call(_) => {}
            }
        }
        let open = returns.iter().flatten().count();
        Self {
            operations,
            events,
            next,
            previous,
            returns,
            twin,
            done: vec![0; operations.len().div_ceil(64)].into_boxed_slice(),
            visited: HashSet::new(),
            picks: Vec::new(),
            best: Vec::new(),
            blocked: None,
            state: None,
            open,
            budget,
            deadline,
        }
    }

    fn run(mut self) -> End {
        let mut cursor = self.next[HEAD];
        let mut steps = 0_u64;
        while self.open > 0 {
            steps += 1;
            if steps.is_multiple_of(4096) && Instant::now() > self.deadline {
                return End::Undecided(format!(
                    "out of time, {} operations",
                    self.operations.len()
                ));
            }
            if self.visited.len() > self.budget.configurations {
                return End::Undecided(format!("{} configurations", self.visited.len()));
            }
            let event = if cursor == END { None } else { Some(self.events[cursor]) };
            cursor = match event {
                Some(Event::Call(index)) => match self.pick(cursor, index) {
                    Picked::Yes => self.next[HEAD],
                    Picked::No => self.next[cursor],
                    Picked::Hopeless => match self.take_back() {
                        Some(cursor) => cursor,
                        None => return self.illegal(),
                    },
                },
                Some(Event::Return(index)) => {
                    if self.blocked.is_none() || self.picks.len() > self.best.len() {
                        self.best = self.picks.iter().map(|pick| pick.operation).collect();
                        self.blocked = Some(index);
                    }
                    match self.take_back() {
                        Some(cursor) => cursor,
                        None => return self.illegal(),
                    }
                }
                // Open calls have returns in the list, so the walk meets one before the end.
                None => unreachable!("the list ends behind the last open return"),
            };
        }
        End::Legal
    }

    fn pick(&mut self, event: usize, index: usize) -> Picked {
        if self.twin[index].is_some_and(|twin| !self.is_done(twin)) {
            return Picked::No;
        }
        let operation = self.operations[index];
        let Some(after) = step(&self.state, &operation.call, operation.answer()) else {
            return Picked::No;
        };
        let known = operation.answer().is_some();
        // A lost call that would change nothing now has nothing to explain now.
        if !known && after == self.state {
            return Picked::No;
        }
        let forced = known && after == self.state;
        self.done[index / 64] |= 1 << (index % 64);
        if !self.visited.insert((self.done.clone(), after.clone())) {
            self.done[index / 64] &= !(1 << (index % 64));
            return if forced { Picked::Hopeless } else { Picked::No };
        }
        let before = std::mem::replace(&mut self.state, after);
        self.picks.push(Pick { event, operation: index, before, forced });
        self.unlink(event);
        if let Some(at) = self.returns[index] {
            self.unlink(at);
            self.open -= 1;
        }
        Picked::Yes
    }

    /// Takes picks back until one has an alternative; where to go on.
    fn take_back(&mut self) -> Option<usize> {
        loop {
            let pick = self.picks.pop()?;
            if let Some(at) = self.returns[pick.operation] {
                self.relink(at);
                self.open += 1;
            }
            self.relink(pick.event);
            self.done[pick.operation / 64] &= !(1 << (pick.operation % 64));
            self.state = pick.before;
            if !pick.forced {
                return Some(self.next[pick.event]);
            }
        }
    }

    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] & (1 << (index % 64)) != 0
    }

    fn unlink(&mut self, event: usize) {
        let (before, after) = (self.previous[event], self.next[event]);
        self.next[before] = after;
        if after != END {
            self.previous[after] = before;
        }
    }

    /// Invariant: events come back in the opposite order of their going, so that their own links
    /// still name their neighbours.
    fn relink(&mut self, event: usize) {
        let (before, after) = (self.previous[event], self.next[event]);
        self.next[before] = event;
        if after != END {
            self.previous[after] = event;
        }
    }

    fn illegal(self) -> End {
        let done = self.best.iter().map(|index| self.operations[*index].clone()).collect();
        let blocked = self.blocked.expect("a search that fails has met a return it could not pass");
        End::Illegal { done, blocked: self.operations[blocked].clone() }
    }
}

enum Picked {
    Yes,
    No,
    /// What follows from here was tried before and failed, and here nothing else is possible.
    Hopeless,
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
