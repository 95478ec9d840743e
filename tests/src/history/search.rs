//! The search for an order, over the requests of one group of keys.
//!
//! It walks requests and returns in the order of real time and picks, one after the other, a request
//! that may come next: one that was sent before the first return that is still open. Reaching that return
//! means that nothing else was left to pick, so the last pick is taken back. What makes it fast enough:
//!
//! - A configuration (which requests are done, and the state) that failed once is not tried again, and neither is one
//!   that differs in that even fewer requests without an answer are left to explain what is to come.
//! - A request whose answer fits now and says that it changed nothing is picked for good: later is never better.
//! - A value that a request is still to show is not replaced while nobody is left who could store it again: see
//!   [`Needs`].
//! - A request without an answer is tried when nothing with one fits, and then only as late as it can be:
//!   what comes next must show that it was there. In any order that ends well, one whose effect the next
//!   request overwrites can be left out, and one that the next request does not notice can come after
//!   it; so the orders in which neither is possible are enough.
//! - Equal ones without an answer (two lost deletes) are taken in the order in which they were sent.
//! - An order is first sought among more than the possible ones, where it does not matter which requests without an
//!   answer were taken before: see [`Relaxed`]. Where there is none, all is said. Else the real search goes only where
//!   such an order still exists.

use std::collections::{HashMap, hash_map::Entry};

use tokio::time::Instant;

use super::{
    Answer, Operation, Request, State, checker::Budget, done::Done, needs::Needs, relaxed::Relaxed,
    step,
};

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

/// How often a common request without an answer can be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Supply {
    /// As often as one likes: orders are sought among those of [`Relaxed`].
    Endless,
    Once,
}

/// One pick, to be taken back.
struct Pick {
    cursor: Cursor,
    operation: usize,
    before: State,
    /// No other pick would have been better, so there is no alternative to try.
    forced: bool,
    supply: Supply,
}

/// A configuration: what is done of all but the common requests without an answer, what that left, and, when the last
/// one had no answer, which it was and what was there before it, on which depends what may come next.
type Configuration = (Done, State, Option<(usize, State)>);

pub(super) struct Search<'a> {
    operations: &'a [&'a Operation],
    /// What each of them asked, as [`super::values`] says it.
    requests: Vec<Request>,
    /// Requests with an answer and their returns; event 0 is the head of the list.
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Event of each operation's return.
    returns: Vec<Option<usize>>,
    /// Requests without an answer, in the order in which they were sent.
    lost: Vec<usize>,
    relaxed: Relaxed,
    /// For a request without an answer: an equal one that was sent earlier, which must go first.
    twin: Vec<Option<usize>>,
    /// What is done of all but the common ones.
    done: Done,
    /// What is done of these.
    spent: Done,
    needs: Needs,
    /// Configurations that were met while the supply was endless, and whether an order follows from there.
    open_ended: HashMap<Configuration, bool>,
    /// What was spent in configurations that were met.
    visited: HashMap<Configuration, Vec<Done>>,
    configurations: usize,
    picks: Vec<Pick>,
    best: Vec<usize>,
    blocked: Option<usize>,
    state: State,
    open: usize,
    steps: u64,
    budget: Budget,
    deadline: Instant,
}

const HEAD: usize = 0;
const END: usize = usize::MAX;

enum Picked {
    Yes,
    No,
    /// An order is known to follow.
    Arrived,
    /// What follows from here was tried before and failed, and here nothing else is possible.
    Hopeless,
    Spent(String),
}

/// Whether there is an order from here.
enum Found {
    Yes,
    No,
    Spent(String),
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
        let needs = Needs::of(operations, &requests);
        let relaxed = Relaxed::of(operations, &requests, &lost, &needs);
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
            relaxed,
            twin,
            done: Done::default(),
            spent: Done::default(),
            needs,
            open_ended: HashMap::new(),
            visited: HashMap::new(),
            configurations: 0,
            picks: Vec::new(),
            best: Vec::new(),
            blocked: None,
            state: State::new(),
            steps: 0,
            budget,
            deadline,
        }
    }

    pub(super) fn run(mut self) -> End {
        for supply in [Supply::Endless, Supply::Once] {
            match self.explore(supply) {
                Found::Yes => {}
                Found::No => return self.illegal(),
                Found::Spent(why) => return End::Undecided(why),
            }
        }
        End::Legal
    }

    /// Looks for an order from here on. With an endless supply, everything is as before afterwards.
    fn explore(&mut self, supply: Supply) -> Found {
        let base = self.picks.len();
        if supply == Supply::Once {
            return self.walk(supply, base);
        }
        let relaxed = self.relaxed.state(&self.state);
        let real = std::mem::replace(&mut self.state, relaxed);
        let found = self.walk(supply, base);
        while self.picks.len() > base {
            if matches!(found, Found::Yes) {
                self.open_ended.insert(self.configuration(), true);
            }
            self.take_back_one();
        }
        self.state = real;
        found
    }

    fn walk(&mut self, supply: Supply, base: usize) -> Found {
        let mut cursor = self.start();
        while self.open > 0 {
            if let Some(why) = self.past_budget() {
                return Found::Spent(why);
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
                Cursor::Lost { at, number } => match self.lost_by(supply, at, number) {
                    Some(index) => (index, Some(Cursor::Lost { at, number: number + 1 })),
                    None => (END, None),
                },
            };
            let picked = match otherwise {
                Some(_) => self.pick(supply, cursor, index),
                None => Picked::Hopeless,
            };
            let onward = match picked {
                Picked::Yes => Some(self.start()),
                Picked::No => otherwise,
                Picked::Arrived => break,
                Picked::Hopeless => self.take_back(base),
                Picked::Spent(why) => return Found::Spent(why),
            };
            match onward {
                Some(onward) => cursor = onward,
                None => return Found::No,
            }
        }
        Found::Yes
    }

    fn past_budget(&mut self) -> Option<String> {
        self.steps += 1;
        if self.steps.is_multiple_of(4096) && Instant::now() > self.deadline {
            return Some(format!("out of time, {} requests", self.operations.len()));
        }
        let past = self.configurations > self.budget.configurations;
        past.then(|| format!("{} configurations", self.configurations))
    }

    /// Open requests have returns in the list, so the walk meets one before the end.
    fn start(&self) -> Cursor {
        Cursor::Event(self.next[HEAD])
    }

    /// The request without an answer of this number, if it was sent before the return at `at`.
    fn lost_by(&self, supply: Supply, at: usize, number: usize) -> Option<usize> {
        let Event::Return(blocked) = self.events[at] else { return None };
        let end = self.operations[blocked].returned()?;
        let index = match supply {
            Supply::Endless => self.relaxed.lost.get(number)?.0,
            Supply::Once => *self.lost.get(number)?,
        };
        (self.operations[index].invoked < end).then_some(index)
    }

    fn is_done(&self, supply: Supply, index: usize) -> bool {
        match self.relaxed.common[index] {
            false => self.done.has(index),
            true => supply == Supply::Once && self.spent.has(index),
        }
    }

    fn pick(&mut self, supply: Supply, cursor: Cursor, index: usize) -> Picked {
        let is_endless = supply == Supply::Endless && self.relaxed.common[index];
        let waits = |twin: usize| !is_endless && !self.is_done(supply, twin);
        if self.is_done(supply, index) || self.twin[index].is_some_and(waits) {
            return Picked::No;
        }
        let operation = self.operations[index];
        let known = operation.answer().is_some();
        let request = self.request(supply, cursor, index);
        let Some(after) = step(&self.state, request, operation.answer()) else {
            return Picked::No;
        };
        // A lost request that would change nothing now has nothing to explain now.
        if !known && after == self.state {
            return Picked::No;
        }
        if self.last_is_idle(operation, request, &after) {
            return Picked::No;
        }
        let forced = operation.answer().is_some_and(Answer::tells_of_no_change);
        let before = std::mem::replace(&mut self.state, after);
        self.picks.push(Pick { cursor, operation: index, before, forced, supply });
        self.mark(index, supply);
        let request = self.request(supply, cursor, index);
        let picked = match self.needs.are_met(request, self.before(), &self.state) {
            true => self.worth(supply),
            false => Picked::No,
        };
        if matches!(picked, Picked::No) {
            self.take_back_one();
            return if forced { Picked::Hopeless } else { Picked::No };
        }
        picked
    }

    /// What a pick asks.
    fn request(&self, supply: Supply, cursor: Cursor, index: usize) -> &Request {
        match (supply, cursor) {
            (Supply::Once, _) => &self.requests[index],
            (Supply::Endless, Cursor::Event(_)) => &self.relaxed.requests[index],
            (Supply::Endless, Cursor::Lost { number, .. }) => &self.relaxed.lost[number].1,
        }
    }

    /// Whether the configuration that the last pick has led to is to be followed.
    fn worth(&mut self, supply: Supply) -> Picked {
        let configuration = self.configuration();
        let is_firm = configuration.2.is_none();
        if supply == Supply::Endless {
            return match self.open_ended.entry(configuration) {
                Entry::Occupied(met) if *met.get() => Picked::Arrived,
                Entry::Occupied(_) => Picked::No,
                Entry::Vacant(new) => {
                    new.insert(false);
                    self.configurations += 1;
                    Picked::Yes
                }
            };
        }
        let met = self.visited.entry(configuration.clone()).or_default();
        if met.iter().any(|spent| spent.is_within(&self.spent)) {
            return Picked::No;
        }
        met.retain(|spent| !self.spent.is_within(spent));
        met.push(self.spent.clone());
        self.configurations += 1;
        if !is_firm {
            return Picked::Yes;
        }
        let relaxed = (configuration.0, self.relaxed.state(&configuration.1), None);
        let known = self.open_ended.get(&relaxed).copied();
        let follows = match known {
            Some(follows) => follows,
            None => match self.explore(Supply::Endless) {
                Found::Yes => true,
                Found::No => false,
                Found::Spent(why) => return Picked::Spent(why),
            },
        };
        self.open_ended.insert(relaxed, follows);
        if follows { Picked::Yes } else { Picked::No }
    }

    fn configuration(&self) -> Configuration {
        let last =
            self.picks.last().filter(|last| self.operations[last.operation].answer().is_none());
        let last = last.map(|last| {
            // Of an endless supply, one is as good as another that has done the same.
            let is_any = last.supply == Supply::Endless && self.relaxed.common[last.operation];
            (if is_any { END } else { last.operation }, last.before.clone())
        });
        (self.done.clone(), self.state.clone(), last)
    }

    /// What was there before the last pick.
    fn before(&self) -> &State {
        &self.picks.last().expect("something was picked").before
    }

    /// Whether the last pick had no answer and could as well be left out, or come after this one that leads to
    /// `after`. Of two without an answer that do not notice each other, the earlier one goes first.
    fn last_is_idle(&self, operation: &Operation, request: &Request, after: &State) -> bool {
        let Some(last) = self.picks.last() else { return false };
        let lost = self.operations[last.operation];
        if lost.answer().is_some() {
            return false;
        }
        let Some(without) = step(&last.before, request, operation.answer()) else {
            return false;
        };
        if without == *after {
            return true;
        }
        let lost_request = self.request(last.supply, last.cursor, last.operation);
        let swapped = step(&without, lost_request, None).is_some_and(|state| state == *after);
        let known = operation.answer().is_some();
        swapped && (known || lost.invoked > operation.invoked)
    }

    fn mark(&mut self, index: usize, supply: Supply) {
        match (self.relaxed.common[index], supply) {
            (true, Supply::Endless) => {}
            (true, Supply::Once) => self.spent.insert(index),
            (false, _) => {
                self.done.insert(index);
                self.needs.done(index);
            }
        }
        let Some(Pick { cursor, .. }) = self.picks.last() else { return };
        if let Cursor::Event(event) = *cursor {
            self.unlink(event);
        }
        if let Some(at) = self.returns[index] {
            self.unlink(at);
            self.open -= 1;
        }
    }

    /// Takes picks back, down to `base` of them, until one has an alternative; where to go on.
    fn take_back(&mut self, base: usize) -> Option<Cursor> {
        while self.picks.len() > base {
            let Pick { cursor, forced, .. } = self.take_back_one()?;
            match cursor {
                Cursor::Event(event) if !forced => return Some(Cursor::Event(self.next[event])),
                Cursor::Event(_) => {}
                Cursor::Lost { at, number } => {
                    return Some(Cursor::Lost { at, number: number + 1 });
                }
            }
        }
        None
    }

    fn take_back_one(&mut self) -> Option<Pick> {
        let mut pick = self.picks.pop()?;
        let index = pick.operation;
        if let Some(at) = self.returns[index] {
            self.relink(at);
            self.open += 1;
        }
        if let Cursor::Event(event) = pick.cursor {
            self.relink(event);
        }
        match (self.relaxed.common[index], pick.supply) {
            (true, Supply::Endless) => {}
            (true, Supply::Once) => self.spent.remove(index),
            (false, _) => {
                self.done.remove(index);
                self.needs.undone(index);
            }
        }
        self.state = std::mem::take(&mut pick.before);
        Some(pick)
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
