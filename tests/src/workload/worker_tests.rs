//! Each workload over a store in memory, one that keeps its promises and some that do not.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use rand::SeedableRng as _;

use super::*;
use crate::{
    history::{Answer, Request, State, apply},
    workload::{Contested, Counter, Crew, Failure, Reply, Roaming, UniqueWrites},
};

/// What a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    /// Each hundredth write is answered and not done.
    LosesWrites,
    /// Each hundredth write is refused and done.
    RefusesAndWrites,
    /// Each hundredth request is done twice.
    Repeats,
}

struct InMemory {
    state: Mutex<State>,
    lie: Lie,
    asked: AtomicU64,
}

impl InMemory {
    fn new(lie: Lie) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), lie, asked: AtomicU64::new(0) })
    }
}

impl InMemory {
    /// What the request of this number is answered, and what that leaves.
    fn answer(&self, nth: u64, request: &Request) -> Result<Answer, Failure> {
        let mut state = self.state.lock().expect("no panics");
        let before = state.clone();
        let answer = apply(&mut state, request).expect("counters are counted alone");
        let refused = |maybe_applied| Failure {
            is_fault: false,
            maybe_applied,
            data_loss: false,
            message: "as told".to_owned(),
        };
        let strikes = nth % 100 == 99 && !request.is_read();
        match self.lie {
            Lie::LosesWrites if strikes => *state = before,
            Lie::RefusesAndWrites if strikes => return Err(refused(false)),
            Lie::Repeats if strikes => {
                let _ = apply(&mut state, request);
            }
            // Without an answer, and done or not done; or refused, and not done.
            _ if nth % 20 == 1 => return Err(refused(true)),
            _ if nth % 20 == 2 => {
                *state = before;
                return Err(refused(true));
            }
            _ if nth % 20 == 3 => {
                *state = before;
                return Err(refused(false));
            }
            _ => {}
        }
        Ok(answer)
    }
}

#[tonic::async_trait]
impl Store for InMemory {
    async fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        let nth = self.asked.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_millis(nth % 7)).await;
        let answer = self.answer(nth, request)?;
        tokio::time::sleep(Duration::from_millis(nth % 5)).await;
        Ok(Reply { answer, revision: None })
    }

    async fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure> {
        let state = self.state.lock().expect("no panics");
        Ok(keys.iter().map(|key| state.get(key).cloned()).collect())
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

async fn course(workload: &dyn Workload, lie: Lie) -> Result<(), String> {
    let store: Arc<dyn Store> = InMemory::new(lie);
    let stop = Stop::At(Instant::now() + Duration::from_secs(10));
    let workers = (0..5).map(|number| {
        let random = StdRng::seed_from_u64(number);
        workload.run(Worker::new(number as usize, store.clone(), random, stop.clone()))
    });
    futures::future::join_all(workers).await;
    assert!(workload.answered() > 500, "{} answers", workload.answered());
    workload.check(&[store]).await
}

#[tokio::test(start_paused = true)]
async fn store_that_keeps_its_promises_passes_and_one_that_breaks_them_does_not() {
    for (lie, unique, contested, counter) in [
        (Lie::None, true, true, true),
        (Lie::LosesWrites, false, false, false),
        // What was lost on the way explains a sum that is a little too large.
        (Lie::RefusesAndWrites, false, false, true),
        // A unique write that is done twice is the same write.
        (Lie::Repeats, true, false, true),
    ] {
        let outcome = course(&UniqueWrites::new("unique", 50), lie).await;
        assert_eq!(outcome.is_ok(), unique, "unique writes, {lie:?}: {outcome:?}");
        let outcome = course(&Contested::new("contested"), lie).await;
        assert_eq!(outcome.is_ok(), contested, "contested, {lie:?}: {outcome:?}");
        let outcome = course(&Counter::new("counter"), lie).await;
        assert_eq!(outcome.is_ok(), counter, "counter, {lie:?}: {outcome:?}");
    }
}

/// A store that has no transactions.
struct Single(Arc<InMemory>);

#[tonic::async_trait]
impl Store for Single {
    async fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        assert!(self.can(request), "{request:?}");
        self.0.ask(request).await
    }

    async fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure> {
        self.0.read(keys).await
    }

    fn can(&self, request: &Request) -> bool {
        matches!(request, Request::One(..))
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

#[tokio::test(start_paused = true)]
async fn workers_share_keys_and_ask_each_store_for_what_it_has() {
    let whole = InMemory::new(Lie::None);
    let stores: [Arc<dyn Store>; 2] = [whole.clone(), Arc::new(Single(whole))];
    let crew = Crew::start(Contested::new("contested"), 1, &stores, 4);
    crew.progress(500, Duration::from_secs(60)).await;
    let contested = crew.stop().await;
    let asked = contested.recorder().operations();
    let txns = asked.iter().filter(|asked| matches!(asked.request, Request::Txn(_)));
    assert!(txns.count() > 10, "the one that has transactions was asked for them");
    contested.check(&stores).await.expect("nobody lied");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_roams_goes_on_when_one_fails_it_and_no_earlier() {
    // Of twenty requests to each, those of numbers 1, 2 and 3 fail.
    let stores = [InMemory::new(Lie::None), InMemory::new(Lie::None)];
    let dynamic = stores.iter().map(|store| Arc::clone(store) as Arc<dyn Store>).collect();
    let roaming = Roaming::new(dynamic, 1);
    let read = Request::One(Bytes::from_static(b"k"), crate::history::Call::Read);
    let asked = || stores.each_ref().map(|store| store.asked.load(Relaxed));
    for (succeeds, after) in
        [(true, [0, 1]), (false, [0, 2]), (true, [1, 2]), (false, [2, 2]), (false, [2, 3])]
    {
        assert_eq!(roaming.ask(&read).await.is_ok(), succeeds);
        assert_eq!(asked(), after);
    }
}
