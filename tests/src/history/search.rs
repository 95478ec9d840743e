//! The search for an order, over the requests of one group of keys.
//!
//! It walks requests and returns in the order of real time and picks, one after the other, a request
//! that may come next: one that was sent before the first return that is still open. Reaching that return
//! means that nothing else was left to pick, so the last pick is taken back. What makes it fast enough:
//!
//! - A configuration (which requests are done, and the state) that failed once is not tried again.
//! - A request whose answer fits now and says that it changed nothing is picked for good: later is never better.
//! - A request without an answer is tried when nothing with one fits, and then only as late as it can be:
//!   what comes next must show that it was there. In any order that ends well, one whose effect the next
//!   request overwrites can be left out, and one that the next request does not notice can come after
//!   it; so the orders in which neither is possible are enough.
//! - Equal ones without an answer (two lost deletes) are taken in the order in which they were sent.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use super::{Answer, Operation, Request, State, checker::Budget, done::Done, step};

/// What a search comes to.
pub(super) enum End {
    /// There is an order.
    Legal,
    /// There is none: the requests that the longest order did, in its order, and the one at which it ended.
    Illegal { done: Vec<usize>, blocked: usize },
    /// Past the budget, for this reason.
    Undecided(String),
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// Where the search looks for the next pick.
#[derive(Clone, Copy)]
enum Cursor {
    /// At an event of the list.
    Event(usize),
    /// At a return that is reached, among the requests without an answer.
    Lost { at: usize, number: usize },
}

/// One pick, to be taken back.
struct Pick {
    cursor: Cursor,
    operation: usize,
    before: State,
    /// No other pick would have been better, so there is no alternative to try.
    forced: bool,
}

/// A configuration: what is done, what that left, and, when the last one had no answer, which it was and what was
/// there before it, on which depends what may come next.
type Configuration = (Done, State, Option<(usize, State)>);

pub(super) struct Search<'a> {
    operations: &'a [&'a Operation],
    /// What each of them asked, as [`super::values::told_apart`] says it.
    requests: Vec<Request>,
    /// Requests with an answer and their returns; event 0 is the head of the list.
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Event of each operation's return.
    returns: Vec<Option<usize>>,
    /// Requests without an answer, in the order in which they were sent.
    lost: Vec<usize>,
    /// For one of these: an equal one that was sent earlier, which must go first.
    twin: Vec<Option<usize>>,
    done: Done,
    visited: HashSet<Configuration>,
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

enum Picked {
    Yes,
    No,
    /// What follows from here was tried before and failed, and here nothing else is possible.
    Hopeless,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        operations: &'a [&'a Operation],
        requests: Vec<Request>,
        budget: Budget,
        deadline: Instant,
    ) -> Self {
        let mut timed: Vec<(u64, Event)> = Vec::with_capacity(operations.len() * 2);
        let mut lost = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            match operation.returned() {
                Some(at) => {
                    timed.push((operation.invoked, Event::Call(index)));
                    timed.push((at, Event::Return(index)));
                }
                None => lost.push(index),
            }
        }
        timed.sort_by_key(|(at, _)| *at);
        lost.sort_by_key(|index| operations[*index].invoked);
        let mut twin = vec![None; operations.len()];
        let mut last_equal = HashMap::new();
        for index in &lost {
            twin[*index] = last_equal.insert(&requests[*index], *index);
        }
        // The head is a placeholder that is never looked at.
        let mut events = vec![Event::Call(usize::MAX)];
        events.extend(timed.into_iter().map(|(_, event)| event));
        let count = events.len();
        let mut returns = vec![None; operations.len()];
        for (at, event) in events.iter().enumerate() {
            if let Event::Return(index) = *event {
                returns[index] = Some(at);
            }
        }
        Self {
            operations,
            requests,
            next: (1..=count).map(|at| if at < count { at } else { END }).collect(),
            previous: (0..count).map(|at| at.saturating_sub(1)).collect(),
            open: count / 2,
            events,
            returns,
            lost,
            twin,
            done: Done::default(),
            visited: HashSet::new(),
            picks: Vec::new(),
            best: Vec::new(),
            blocked: None,
            state: State::new(),
            budget,
            deadline,
        }
    }

    pub(super) fn run(mut self) -> End {
        let mut cursor = self.start();
        let mut steps = 0_u64;
        while self.open > 0 {
            steps += 1;
            if steps.is_multiple_of(4096) && Instant::now() > self.deadline {
                return End::Undecided(format!("out of time, {} requests", self.operations.len()));
            }
            if self.visited.len() > self.budget.configurations {
                return End::Undecided(format!("{} configurations", self.visited.len()));
            }
            let (index, otherwise) = match cursor {
                Cursor::Event(at) => match self.events[at] {
                    Event::Call(index) => (index, Some(Cursor::Event(self.next[at]))),
                    Event::Return(index) => {
                        self.note_end(index);
                        cursor = Cursor::Lost { at, number: 0 };
                        continue;
                    }
                },
                Cursor::Lost { at, number } => match self.lost_by(at, number) {
                    Some(index) => (index, Some(Cursor::Lost { at, number: number + 1 })),
                    None => (END, None),
                },
            };
            let picked = match otherwise {
                Some(_) => self.pick(cursor, index),
                None => Picked::Hopeless,
            };
            let onward = match picked {
                Picked::Yes => Some(self.start()),
                Picked::No => otherwise,
                Picked::Hopeless => self.take_back(),
            };
            match onward {
                Some(onward) => cursor = onward,
                None => return self.illegal(),
            }
        }
        End::Legal
    }

    /// Open requests have returns in the list, so the walk meets one before the end.
    fn start(&self) -> Cursor {
        Cursor::Event(self.next[HEAD])
    }

    /// The request without an answer of this number, if it was sent before the return at `at`.
    fn lost_by(&self, at: usize, number: usize) -> Option<usize> {
        let Event::Return(blocked) = self.events[at] else { return None };
        let end = self.operations[blocked].returned()?;
        let index = *self.lost.get(number)?;
        (self.operations[index].invoked < end).then_some(index)
    }

    fn pick(&mut self, cursor: Cursor, index: usize) -> Picked {
        if self.done.has(index) || self.twin[index].is_some_and(|twin| !self.done.has(twin)) {
            return Picked::No;
        }
        let operation = self.operations[index];
        let known = operation.answer().is_some();
        let Some(after) = step(&self.state, &self.requests[index], operation.answer()) else {
            return Picked::No;
        };
        // A lost request that would change nothing now has nothing to explain now.
        if !known && after == self.state {
            return Picked::No;
        }
        if self.last_is_idle(index, &after) {
            return Picked::No;
        }
        let forced = operation.answer().is_some_and(Answer::tells_of_no_change);
        let before = std::mem::replace(&mut self.state, after);
        self.done.insert(index);
        let last_lost = (!known).then(|| (index, before.clone()));
        if !self.visited.insert((self.done.clone(), self.state.clone(), last_lost)) {
            self.done.remove(index);
            self.state = before;
            return if forced { Picked::Hopeless } else { Picked::No };
        }
        self.picks.push(Pick { cursor, operation: index, before, forced });
        if let Cursor::Event(event) = cursor {
            self.unlink(event);
        }
        if let Some(at) = self.returns[index] {
            self.unlink(at);
            self.open -= 1;
        }
        Picked::Yes
    }

    /// Whether the last pick had no answer and could as well be left out, or come after this one that leads to
    /// `after`. Of two without an answer that do not notice each other, the earlier one goes first.
    fn last_is_idle(&self, index: usize, after: &State) -> bool {
        let Some(last) = self.picks.last() else { return false };
        let (lost, operation) = (self.operations[last.operation], self.operations[index]);
        if lost.answer().is_some() {
            return false;
        }
        let Some(without) = step(&last.before, &self.requests[index], operation.answer()) else {
            return false;
        };
        if without == *after {
            return true;
        }
        let lost_request = &self.requests[last.operation];
        let swapped = step(&without, lost_request, None).is_some_and(|state| state == *after);
        let known = operation.answer().is_some();
        swapped && (known || lost.invoked > operation.invoked)
    }

    /// Takes picks back until one has an alternative; where to go on.
    fn take_back(&mut self) -> Option<Cursor> {
        loop {
            let pick = self.picks.pop()?;
            if let Some(at) = self.returns[pick.operation] {
                self.relink(at);
                self.open += 1;
            }
            self.done.remove(pick.operation);
            self.state = pick.before;
            match pick.cursor {
                Cursor::Event(event) => {
                    self.relink(event);
                    if !pick.forced {
                        return Some(Cursor::Event(self.next[event]));
                    }
                }
                Cursor::Lost { at, number } => {
                    return Some(Cursor::Lost { at, number: number + 1 });
                }
            }
        }
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

    /// The walk has come to the return of a request that was not picked.
    fn note_end(&mut self, index: usize) {
        if self.blocked.is_none() || self.picks.len() > self.best.len() {
            self.best = self.picks.iter().map(|pick| pick.operation).collect();
            self.blocked = Some(index);
        }
    }

    fn illegal(self) -> End {
        let blocked = self.blocked.expect("a search that fails has met a return it could not pass");
        End::Illegal { done: self.best, blocked }
    }
}
