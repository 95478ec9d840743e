//! Histories that are right by construction, and ways to spoil them: what the checker is tested on.

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{Answer, Call, Completion, Operation, Request, State, Txn, model::apply};

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything, on one key.
    Register,
    /// They count, on one key.
    Counter,
    /// Everything, on two keys, and transactions on both.
    Pair,
}

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
    /// Of two writes of a transaction one is not done.
    TornTransaction,
    /// Two transactions that look for the same unique value both find it.
    DoubledTransaction,
}

/// Registers that really exist, and clients whose calls take effect at some moment between
/// their two ends; of some the end is lost, and those may also take effect later or never.
pub(super) struct Simulation {
    random: StdRng,
    kind: Kind,
    state: State,
    clock: u64,
    values: u64,
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
    pub(super) fn new(seed: u64, clients: usize, kind: Kind) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            kind,
            state: State::new(),
            clock: 0,
            values: 0,
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
                self.alone(one(Call::Write(present.clone())));
                let next = self.unique();
                self.alone(one(Call::GetAndPut(next)));
                // Something harmless in between, for distance.
                self.run(10);
                let answer = Answer::Value(Some(present));
                let read = self.send(usize::MAX, one(Call::Read));
                self.end(read, answer);
            }
            Spoil::LostWrite => {
                self.alone(one(Call::Write(present)));
                let lost = self.unique();
                let write = self.send(usize::MAX, one(Call::Write(lost)));
                self.end(write, Answer::Written);
                self.alone(one(Call::Read));
            }
            Spoil::DoubledCompareAndPut => {
                self.alone(one(Call::Write(present.clone())));
                let swap = |new| one(Call::CompareAndPut { expected: Some(present.clone()), new });
                let new = [self.unique(), self.unique()];
                self.both(new.map(swap), Answer::Conditional(Ok(())));
            }
            Spoil::DoubledIncrement => {
                let mut state = self.state.clone();
                let answer = apply(&mut state, &one(Call::Increment(1))).expect("a counter");
                self.both([one(Call::Increment(1)), one(Call::Increment(1))], answer);
            }
            Spoil::TornTransaction => {
                self.alone(Request::One(key(KEYS[1]), Call::Write(present)));
                let new = [self.unique(), self.unique()];
                let then = KEYS.map(key).into_iter().zip(new.clone().map(Call::Write));
                let txn = Request::Txn(Txn { then: then.collect(), ..Txn::default() });
                let write = self.send(usize::MAX, txn);
                self.state.insert(key(KEYS[0]), new[0].clone());
                self.end(write, Answer::Txn(true, vec![Answer::Written, Answer::Written]));
                for of in KEYS {
                    self.alone(Request::One(key(of), Call::Read));
                }
            }
            Spoil::DoubledTransaction => {
                self.alone(one(Call::Write(present.clone())));
                let swap = |new| {
                    let when = vec![(key(KEYS[0]), Some(present.clone()))];
                    let then = vec![(key(KEYS[0]), Call::Write(new))];
                    Request::Txn(Txn { when, then, otherwise: vec![] })
                };
                let new = [self.unique(), self.unique()];
                self.both(new.map(swap), Answer::Txn(true, vec![Answer::Written]));
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
                let request = self.any_request();
                let operation = self.send(client, request);
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

    /// Two requests at once that are both answered so, of which the first takes effect.
    fn both(&mut self, [one, other]: [Request; 2], answer: Answer) {
        apply(&mut self.state, &one).expect("it fits");
        let first = self.send(usize::MAX - 1, one);
        let second = self.send(usize::MAX, other);
        self.end(second, answer.clone());
        self.end(first, answer);
    }

    /// A request that nothing runs beside.
    fn alone(&mut self, request: Request) {
        let operation = self.send(usize::MAX, request);
        let answer = self.apply(operation);
        self.end(operation, answer);
    }

    fn send(&mut self, client: usize, request: Request) -> usize {
        let invoked = self.tick();
        let completion = Completion::Unknown;
        self.operations.push(Operation { client, request, invoked, completion });
        self.operations.len() - 1
    }

    fn apply(&mut self, operation: usize) -> Answer {
        apply(&mut self.state, &self.operations[operation].request).expect("only counters count")
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

    fn any_request(&mut self) -> Request {
        match self.kind {
            Kind::Register => one(self.any_call(KEYS[0])),
            Kind::Counter => {
                let increment = self.random.random_bool(0.7);
                one(if increment { Call::Increment(1) } else { Call::Read })
            }
            Kind::Pair if self.random.random_bool(0.4) => {
                let when = match self.random.random_bool(0.5) {
                    true => vec![(key(KEYS[0]), self.any_expected(KEYS[0]))],
                    false => vec![],
                };
                let then = KEYS.map(|of| (key(of), self.any_call_of_txn())).into();
                let otherwise = vec![(key(KEYS[1]), self.any_call_of_txn())];
                Request::Txn(Txn { when, then, otherwise })
            }
            Kind::Pair => {
                let of = KEYS[self.random.random_range(0..KEYS.len())];
                Request::One(key(of), self.any_call(of))
            }
        }
    }

    fn any_expected(&mut self, of: &'static str) -> Option<Bytes> {
        if self.random.random_bool(0.5) {
            return self.state.get(of.as_bytes()).cloned();
        }
        let guess = self.random.random_range(0..=self.values);
        Some(Bytes::from(format!("v{guess}")))
    }

    fn any_call_of_txn(&mut self) -> Call {
        let new = self.unique();
        let calls = [Call::Read, Call::Write(new.clone()), Call::Delete, Call::GetAndPut(new)];
        calls.choose(&mut self.random).expect("there are four").clone()
    }

    fn any_call(&mut self, of: &'static str) -> Call {
        let new = self.unique();
        let expected = self.any_expected(of);
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

/// The keys; clients that know one alone know the first.
const KEYS: [&str; 2] = ["simulated/a", "simulated/b"];

fn key(of: &'static str) -> Bytes {
    Bytes::from_static(of.as_bytes())
}

fn one(call: Call) -> Request {
    Request::One(key(KEYS[0]), call)
}
