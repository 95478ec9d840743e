//! Histories that are right by construction, and ways to spoil them: what the checker is tested on.

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{Answer, Call, Completion, Operation, State, step};

/// Something that a broken store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoil {
    /// A read answers with a value that was replaced, and known to be, before it was sent.
    StaleRead,
    /// A write is answered and not done.
    LostWrite,
    /// Two compare-and-puts that expect the same unique value both succeed.
    DoubledCompareAndPut,
    /// Two increments take the same range.
    DoubledIncrement,
}

/// One register that really exists, and clients whose calls take effect at some moment between
/// their two ends; of some the end is lost, and those may also take effect later or never.
pub(super) struct Simulation {
    random: StdRng,
    key: Bytes,
    state: State,
    clock: u64,
    values: u64,
    counter: bool,
    pub(super) operations: Vec<Operation>,
    clients: Vec<Client>,
    /// Lost calls that have yet to take effect.
    lost: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Client {
    Idle,
    Sent(usize),
    Applied(usize, Answer),
}

impl Simulation {
    pub(super) fn new(seed: u64, clients: usize, counter: bool) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            key: Bytes::from_static(b"simulated"),
            state: None,
            clock: 0,
            values: 0,
            counter,
            operations: Vec::new(),
            clients: vec![Client::Idle; clients],
            lost: Vec::new(),
        }
    }

    /// Lets the clients do `calls` more calls and waits for the last of them.
    pub(super) fn run(&mut self, calls: usize) {
        let target = self.operations.len() + calls;
        while self.operations.len() < target {
            self.advance(true);
        }
        while self.clients.iter().any(|client| !matches!(client, Client::Idle)) {
            self.advance(false);
        }
    }

    /// The history of a store that was right for a while and then did something wrong.
    pub(super) fn spoil(&mut self, spoil: Spoil) {
        let present = self.unique();
        match spoil {
            Spoil::StaleRead => {
                self.alone(Call::Write(present.clone()));
                let next = self.unique();
                self.alone(Call::GetAndPut(next));
                // Something harmless in between, for distance.
                self.run(10);
                let answer = Answer::Value(Some(present));
                let read = self.send(usize::MAX, Call::Read);
                self.end(read, answer);
            }
            Spoil::LostWrite => {
                self.alone(Call::Write(present.clone()));
                let lost = self.unique();
                let write = self.send(usize::MAX, Call::Write(lost));
                self.end(write, Answer::Written);
                self.alone(Call::Read);
            }
            Spoil::DoubledCompareAndPut => {
                self.alone(Call::Write(present.clone()));
                let (one, other) = (self.unique(), self.unique());
                let call = |new| Call::CompareAndPut { expected: Some(present.clone()), new };
                let first = self.send(usize::MAX - 1, call(one.clone()));
                let second = self.send(usize::MAX, call(other));
                self.state = Some(one);
                self.end(second, Answer::Conditional(Ok(())));
                self.end(first, Answer::Conditional(Ok(())));
            }
            Spoil::DoubledIncrement => {
                let first = self.send(usize::MAX - 1, Call::Increment(1));
                let second = self.send(usize::MAX, Call::Increment(1));
                let state = self.state.clone();
                let start = match &state {
                    Some(digits) => std::str::from_utf8(digits).expect("digits").parse(),
                    None => Ok(0),
                };
                let start: i64 = start.expect("a counter holds digits");
                self.state = Some(Bytes::from((start + 1).to_string()));
                self.end(first, Answer::Range(start, start + 1));
                self.end(second, Answer::Range(start, start + 1));
            }
        }
        self.run(5);
    }

    fn advance(&mut self, may_send: bool) {
        if !self.lost.is_empty() && self.random.random_bool(0.1) {
            let at = self.random.random_range(0..self.lost.len());
            let operation = self.lost.swap_remove(at);
            // Or never: it stays lost.
            if self.random.random_bool(0.5) {
                self.apply(operation);
            }
            return;
        }
        let client = self.random.random_range(0..self.clients.len());
        match self.clients[client].clone() {
            Client::Idle if may_send => {
                let call = self.any_call();
                let operation = self.send(client, call);
                self.clients[client] = Client::Sent(operation);
            }
            Client::Idle => {}
            Client::Sent(operation) if self.random.random_bool(0.05) => {
                self.lost.push(operation);
                self.clients[client] = Client::Idle;
            }
            Client::Sent(operation) if self.random.random_bool(0.03) => {
                self.operations[operation].completion = Completion::NotApplied;
                self.clients[client] = Client::Idle;
            }
            Client::Sent(operation) => {
                let answer = self.apply(operation);
                self.clients[client] = Client::Applied(operation, answer);
            }
            Client::Applied(_, _) if self.random.random_bool(0.05) => {
                self.clients[client] = Client::Idle;
            }
            Client::Applied(operation, answer) => {
                self.end(operation, answer);
                self.clients[client] = Client::Idle;
            }
        }
    }

    /// A call that nothing runs beside.
    fn alone(&mut self, call: Call) {
        let operation = self.send(usize::MAX, call);
        let answer = self.apply(operation);
        self.end(operation, answer);
    }

    fn send(&mut self, client: usize, call: Call) -> usize {
        let (key, invoked) = (self.key.clone(), self.tick());
        let completion = Completion::Unknown;
        self.operations.push(Operation { client, key, call, invoked, completion });
        self.operations.len() - 1
    }

    fn apply(&mut self, operation: usize) -> Answer {
        let call = self.operations[operation].call.clone();
        let answer = truth(&self.state, &call);
        self.state = step(&self.state, &call, Some(&answer)).expect("the truth fits");
        answer
    }

    fn end(&mut self, operation: usize, answer: Answer) {
        let at = self.tick();
        self.operations[operation].completion = Completion::Ok { at, answer, revision: None };
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn unique(&mut self) -> Bytes {
        self.values += 1;
        Bytes::from(format!("v{}", self.values))
    }

    fn any_call(&mut self) -> Call {
        if self.counter {
            let increment = self.random.random_bool(0.7);
            return if increment { Call::Increment(1) } else { Call::Read };
        }
        let new = self.unique();
        let expected = if self.random.random_bool(0.5) {
            self.state.clone()
        } else {
            let guess = self.random.random_range(1..=self.values);
            Some(Bytes::from(format!("v{guess}")))
        };
        let calls = [
            Call::Read,
            Call::Read,
            Call::Write(new.clone()),
            Call::CompareAndPut { expected, new: new.clone() },
            Call::Delete,
            Call::PutIfAbsent(new.clone()),
            Call::GetAndPut(new),
        ];
        calls.choose(&mut self.random).expect("there are seven").clone()
    }
}

/// What the register answers.
fn truth(state: &State, call: &Call) -> Answer {
    let number = |state: &State| -> i64 {
        let digits =
            state.as_ref().map_or("0", |digits| std::str::from_utf8(digits).expect("text"));
        digits.parse().expect("a counter holds digits")
    };
    match call {
        Call::Read => Answer::Value(state.clone()),
        Call::Write(_) => Answer::Written,
        Call::CompareAndPut { expected, .. } if expected == state => Answer::Conditional(Ok(())),
        Call::PutIfAbsent(_) if state.is_none() => Answer::Conditional(Ok(())),
        Call::CompareAndPut { .. } | Call::PutIfAbsent(_) => {
            Answer::Conditional(Err(state.clone()))
        }
        Call::Delete => Answer::Deleted(state.is_some()),
        Call::Increment(delta) => Answer::Range(number(state), number(state) + delta),
        Call::GetAndPut(_) => Answer::Previous(state.clone()),
    }
}
