//! A few keys that all workers fight over: reads, puts, conditional puts, deletes, counters, transactions over several
//! keys. What they saw must be what one copy of the data would have shown them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures::future::try_join_all;
use rand::{RngExt as _, rngs::StdRng};

use super::{Store, Worker, Workload, faulty::Faulty, reading::in_the_end};
use crate::history::{
    Answer, Budget, Call, Recorder, Request, Txn, Verdict, check, check_revisions,
};

/// Keys that are fought over at one time: some registers, some counters, and some that transactions join.
const REGISTERS: u64 = 4;
const COUNTERS: u64 = 2;
const JOINED: u64 = 2;
const FIRST_JOINED: u64 = REGISTERS + COUNTERS;

/// Bound: of requests for one set of keys, and of those among them that had no answer, each of which makes it harder
/// to judge. Then all workers move on to fresh keys.
const REQUESTS_MAX: u64 = 2_000;
const UNKNOWN_MAX: u64 = 50;

/// The first of the readers at the end, one for each store, beside all workers.
const READER: usize = 1_000;

/// The workload, and what its workers saw.
pub struct Contested {
    prefix: String,
    recorder: Recorder,
    /// The keys in use; see [`Contested::next_generation`].
    generation: AtomicU64,
    used: Mutex<Used>,
    faulty: Faulty,
    budget: Budget,
}

/// What the keys in use have seen.
#[derive(Default)]
struct Used {
    requests: u64,
    unknown: u64,
}

impl Contested {
    /// Keys below `prefix`, which are absent now.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            recorder: Recorder::default(),
            generation: AtomicU64::new(0),
            used: Mutex::default(),
            faulty: Faulty::default(),
            budget: Budget::default(),
        }
    }

    /// The same, with another bound for its judgement.
    #[must_use]
    pub fn judged_within(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// What was asked and answered so far.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Moves all workers to fresh keys, as they do by themselves after a while.
    pub fn next_generation(&self) {
        self.generation.fetch_add(1, Relaxed);
        *self.used() = Used::default();
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().expect("nobody panics while counting")
    }

    fn count(&self, unknown: bool) {
        let mut used = self.used();
        used.requests += 1;
        used.unknown += u64::from(unknown);
        let worn = used.requests >= REQUESTS_MAX || used.unknown >= UNKNOWN_MAX;
        drop(used);
        if worn {
            self.next_generation();
        }
    }

    /// Reads every key through a store, as one of the readers at the end.
    async fn read_all(&self, reader: usize, store: &Arc<dyn Store>) -> Result<(), String> {
        for key in (0..=self.generation.load(Relaxed)).flat_map(|number| self.keys(number)) {
            let read = Request::One(key, Call::Read);
            let id = self.recorder.invoke(reader, read.clone());
            let reply = in_the_end(store.as_ref(), &read).await?;
            self.recorder.ok(id, reply.answer, reply.revision);
        }
        Ok(())
    }

    fn keys(&self, generation: u64) -> impl Iterator<Item = Bytes> {
        (0..FIRST_JOINED + JOINED).map(move |number| self.key(generation, number))
    }

    fn key(&self, generation: u64, number: u64) -> Bytes {
        let kind = match number {
            ..REGISTERS => "register",
            REGISTERS..FIRST_JOINED => "counter",
            _ => "joined",
        };
        Bytes::from(format!("{}/{generation:04}/{kind}/{number}", self.prefix))
    }
}

/// The choices of one worker.
struct Chooser<'a> {
    of: &'a Contested,
    number: usize,
    written: u64,
    /// What it last saw under a key: what its next comparison expects.
    seen: BTreeMap<Bytes, Option<Bytes>>,
}

impl Chooser<'_> {
    fn next(&mut self, random: &mut StdRng, store: &dyn Store) -> Request {
        let generation = self.of.generation.load(Relaxed);
        let number = random.random_range(0..FIRST_JOINED + JOINED);
        let key = self.of.key(generation, number);
        if number >= FIRST_JOINED && random.random_bool(0.7) {
            let txn = Request::Txn(self.any_txn(random, generation, &key));
            if store.can(&txn) {
                return txn;
            }
        }
        let counter = (REGISTERS..FIRST_JOINED).contains(&number);
        let call = self.any_call(random, &key, counter);
        Request::One(key, call)
    }

    fn unique(&mut self) -> Bytes {
        self.written += 1;
        Bytes::from(format!("{}-{}", self.number, self.written))
    }

    fn last_seen(&self, key: &Bytes) -> Option<Bytes> {
        self.seen.get(key).cloned().flatten()
    }

    fn any_call(&mut self, random: &mut StdRng, key: &Bytes, counter: bool) -> Call {
        let die = random.random_range(0..100);
        if counter {
            return if die < 70 { Call::Increment(1) } else { Call::Read };
        }
        let new = self.unique();
        match die {
            0..35 => Call::Read,
            35..53 => Call::Write(new),
            53..76 => Call::CompareAndPut { expected: self.last_seen(key), new },
            76..84 => Call::Delete,
            84..92 => Call::PutIfAbsent(new),
            _ => Call::GetAndPut(new),
        }
    }

    /// Reads all of the joined keys, or changes all of them if one is as it was seen last.
    fn any_txn(&mut self, random: &mut StdRng, generation: u64, key: &Bytes) -> Txn {
        let keys: Vec<Bytes> = (FIRST_JOINED..FIRST_JOINED + JOINED)
            .map(|number| self.of.key(generation, number))
            .collect();
        let read = |keys: &[Bytes]| keys.iter().map(|key| (key.clone(), Call::Read)).collect();
        if random.random_bool(0.4) {
            return Txn { then: read(&keys), ..Txn::default() };
        }
        let when = match random.random_bool(0.6) {
            true => vec![(key.clone(), self.last_seen(key))],
            false => Vec::new(),
        };
        let change = |key: &Bytes| {
            let new = self.unique();
            let call = match random.random_range(0..10) {
                0..6 => Call::Write(new),
                6..8 => Call::GetAndPut(new),
                _ => Call::Delete,
            };
            (key.clone(), call)
        };
        Txn { when, then: keys.iter().map(change).collect(), otherwise: read(&keys) }
    }

    fn learn(&mut self, request: &Request, answer: &Answer) {
        match (request, answer) {
            (Request::One(key, call), answer) => self.learn_one(key, call, answer),
            (Request::Txn(txn), Answer::Txn(succeeded, answers)) => {
                let calls = if *succeeded { &txn.then } else { &txn.otherwise };
                for ((key, call), answer) in calls.iter().zip(answers) {
                    self.learn_one(key, call, answer);
                }
            }
            (Request::Txn(_), _) => {}
        }
    }

    fn learn_one(&mut self, key: &Bytes, call: &Call, answer: &Answer) {
        let now = match (call, answer) {
            (_, Answer::Value(value) | Answer::Conditional(Err(value))) => value.clone(),
            (_, Answer::Deleted(_)) => None,
            _ => call.stores().cloned(),
        };
        self.seen.insert(key.clone(), now);
    }
}

#[tonic::async_trait]
impl Workload for Contested {
    async fn run(&self, mut worker: Worker) {
        let number = worker.number;
        let mut chooser = Chooser { of: self, number, written: 0, seen: BTreeMap::new() };
        while !worker.stop.is_now() {
            let request = chooser.next(&mut worker.random, worker.store.as_ref());
            let id = self.recorder.invoke(number, request.clone());
            let outcome = worker.store.ask(&request).await;
            let answered = outcome.is_ok();
            match outcome {
                Ok(reply) => {
                    chooser.learn(&request, &reply.answer);
                    self.recorder.ok(id, reply.answer, reply.revision);
                    self.count(false);
                }
                Err(failure) => {
                    self.faulty.note(&failure);
                    if !failure.maybe_applied {
                        self.recorder.not_applied(id);
                    }
                    self.count(failure.maybe_applied);
                }
            }
            worker.rest(answered).await;
        }
    }

    fn name(&self) -> &'static str {
        "registers"
    }

    fn answered(&self) -> usize {
        self.recorder.answered()
    }

    fn changed(&self) -> usize {
        self.recorder.changed()
    }

    async fn check(&self, stores: &[Arc<dyn Store>]) -> Result<(), String> {
        self.faulty.check()?;
        let readers = stores.iter().enumerate();
        try_join_all(readers.map(|(reader, store)| self.read_all(READER + reader, store))).await?;
        let operations = self.recorder.operations();
        match check(&operations, self.budget) {
            Verdict::Legal => check_revisions(&operations),
            Verdict::Illegal { keys, explanation } => Err(format!("{keys:?}:\n{explanation}")),
            Verdict::Undecided { keys, why } => Err(format!("{keys:?}: undecided, {why}")),
        }
    }
}
