//! One counter that all workers add to, for as long as a run lasts: no number is given out twice, and the sum is what
//! was added.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rand::RngExt as _;

use super::{Store, Worker, Workload, faulty::Faulty, reading::read_back};
use crate::history::{Answer, Call, Request};

/// The workload, and what its workers were given.
pub struct Counter {
    key: Bytes,
    book: Mutex<Book>,
    faulty: Faulty,
}

#[derive(Debug, Default)]
struct Book {
    /// Ranges `[start, end)` that were given out.
    given: Vec<(i64, i64)>,
    /// The sum of what may have been added besides.
    unknown: i64,
    answered: usize,
}

impl Counter {
    /// The counter under `key`, which is absent now.
    #[must_use]
    pub fn new(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), book: Mutex::default(), faulty: Faulty::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics while holding the book")
    }
}

impl Book {
    /// Whether nothing was given out twice, and the sum in the end can be what was added.
    fn judge(&self, sum: i64) -> Result<(), String> {
        let mut given = self.given.clone();
        given.sort_unstable();
        if let Some(twice) = given.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            return Err(format!("given out twice: {twice:?}"));
        }
        let added: i64 = given.iter().map(|(start, end)| end - start).sum();
        let last = given.last().map_or(0, |(_, end)| *end);
        if sum < added.max(last) || sum > added + self.unknown {
            let Self { unknown, .. } = self;
            return Err(format!(
                "it is {sum}; {added} was added, {unknown} may have been; the last one ended at {last}"
            ));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Workload for Counter {
    async fn run(&self, mut worker: Worker) {
        while !worker.stop.is_now() {
            let delta = worker.random.random_range(1..=3);
            let request = Request::One(self.key.clone(), Call::Increment(delta));
            let outcome = worker.store.ask(&request).await;
            let answered = outcome.is_ok();
            match outcome.map(|reply| reply.answer) {
                Ok(Answer::Range(start, end)) if end - start == delta => {
                    let mut book = self.lock();
                    book.given.push((start, end));
                    book.answered += 1;
                }
                Ok(answer) => self.faulty.say(format!("{answer:?} to an increment by {delta}")),
                Err(failure) => {
                    self.faulty.note(&failure);
                    if failure.maybe_applied {
                        self.lock().unknown += delta;
                    }
                }
            }
            worker.rest(answered).await;
        }
    }

    fn name(&self) -> &'static str {
        "counter"
    }

    fn answered(&self) -> usize {
        self.lock().answered
    }

    async fn check(&self, stores: &[Arc<dyn Store>]) -> Result<(), String> {
        self.faulty.check()?;
        for store in stores {
            let found = read_back(store.as_ref(), std::slice::from_ref(&self.key)).await?;
            let digits = found.into_iter().next().flatten().unwrap_or_else(|| Bytes::from("0"));
            let text = String::from_utf8_lossy(&digits);
            let sum = text.parse().map_err(|_| format!("a counter holds {text:?}"))?;
            self.lock().judge(sum).map_err(|why| format!("{}: {why}", store.name()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_given_twice_and_sums_that_cannot_be_are_noticed() {
        for (why, given, unknown, sum, want) in [
            ("nothing", vec![], 0, 0, true),
            ("one after the other", vec![(2, 3), (0, 2)], 0, 3, true),
            ("lost ones between", vec![(0, 1), (3, 4)], 2, 4, true),
            ("lost ones that never were", vec![(0, 1)], 2, 1, true),
            ("one twice", vec![(0, 2), (1, 2)], 0, 3, false),
            ("less than was added", vec![(0, 1), (1, 2)], 0, 1, false),
            ("less than was told", vec![(0, 1), (3, 4)], 2, 3, false),
            ("more than may be", vec![(0, 1)], 1, 3, false),
        ] {
            let book = Book { given, unknown, answered: 0 };
            assert_eq!(book.judge(sum).is_ok(), want, "{why}");
        }
    }
}
