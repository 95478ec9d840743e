//! What all who act share: how far the simulation is, whom they can ask, and what they were promised and did not get.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use flotilla_tests::harness::Session;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::transport::Endpoint;

use crate::{
    invariants::Violation,
    marks::Marks,
    scenarios::Sizes,
    world::{Trace, connect},
};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The cluster is made, and gets its leaders.
    Birth,
    /// Things go wrong.
    Faults,
    /// Nothing goes wrong any more, and within a bound all must be well.
    Healing,
    /// It is, and those who act look at everything once more.
    End,
}

/// How often an actor looks where the simulation is.
const LOOK: Duration = Duration::from_millis(100);

/// Shared by all actors and whoever runs the simulation.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) seed: u64,
    pub(crate) sizes: Rc<Sizes>,
    pub(crate) marks: Marks,
    pub(crate) trace: Arc<Trace>,
    phase: Rc<Cell<Phase>>,
    /// Client addresses of all hosts, as they are now.
    addresses: Arc<Mutex<Vec<String>>>,
    /// Who has yet to put back what it has begun, before the cluster can be well.
    acting: Rc<RefCell<BTreeSet<&'static str>>>,
    answered: Rc<Cell<usize>>,
    /// Some host has been of a cluster.
    is_founded: Rc<Cell<bool>>,
    broken: Rc<RefCell<Option<Violation>>>,
}

impl Stage {
    pub(crate) fn new(seed: u64, sizes: Rc<Sizes>, trace: Arc<Trace>) -> Self {
        Self {
            seed,
            sizes,
            marks: Marks::default(),
            trace,
            phase: Rc::new(Cell::new(Phase::Birth)),
            addresses: Arc::default(),
            acting: Rc::default(),
            answered: Rc::default(),
            is_founded: Rc::default(),
            broken: Rc::default(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// When those who keep the cluster busy are to stop. Where logs keep less than is written while a snapshot is sent,
    /// whoever needs one is behind again once it has it, for as long as they write.
    pub(crate) fn busy_until(&self) -> Phase {
        let Sizes { heals_quietly, log_entries, catch_up_bytes, .. } = *self.sizes;
        let catches_up = log_entries >= 1_000 || catch_up_bytes >= 1 << 20;
        if heals_quietly || !catches_up { Phase::Healing } else { Phase::End }
    }

    /// Waits for a phase.
    pub(crate) async fn until(&self, phase: Phase) {
        while self.phase() < phase {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Random numbers for an actor, the same for the same seed.
    pub(crate) fn random(&self, of: &str) -> StdRng {
        let salt = of.bytes().fold(0_u64, |salt, byte| salt.wrapping_mul(31) + u64::from(byte));
        StdRng::seed_from_u64(self.seed ^ salt.rotate_left(32))
    }

    pub(crate) fn set_addresses(&self, addresses: Vec<String>) {
        *self.addresses.lock().expect("nobody panics with it") = addresses;
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.addresses.lock().expect("nobody panics with it").clone()
    }

    /// A plain client of each host, which finds it wherever it has moved.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        let follow = |(host, address): (usize, String)| {
            let addresses = Arc::clone(&self.addresses);
            let now = move |_| addresses.lock().expect("nobody panics with it")[host].clone();
            session_to(&address, now)
        };
        self.addresses().into_iter().enumerate().map(follow).collect()
    }

    /// A plain client of some host.
    pub(crate) fn any_session(&self, random: &mut StdRng) -> Session {
        let addresses = self.addresses();
        session(&addresses[random.random_range(0..addresses.len())])
    }

    /// From now on the cluster is not well before `actor` has said that it has put back what it did.
    pub(crate) fn acts(&self, actor: &'static str) {
        self.acting.borrow_mut().insert(actor);
    }

    pub(crate) fn has_put_back(&self, actor: &'static str) {
        self.acting.borrow_mut().remove(actor);
    }

    pub(crate) fn who_acts(&self) -> Option<&'static str> {
        self.acting.borrow().first().copied()
    }

    /// There is a cluster, and nobody is to make another.
    pub(crate) fn found(&self) {
        self.is_founded.set(true);
    }

    pub(crate) fn is_founded(&self) -> bool {
        self.is_founded.get()
    }

    pub(crate) fn add_answered(&self, calls: usize) {
        self.answered.set(self.answered.get() + calls);
    }

    pub(crate) fn answered(&self) -> usize {
        self.answered.get()
    }

    /// A promise was broken.
    pub(crate) fn broke(&self, invariant: &'static str, how: String) {
        self.broken.borrow_mut().get_or_insert(Violation { invariant, how });
    }

    pub(crate) fn broken(&self) -> Option<Violation> {
        self.broken.borrow_mut().take()
    }
}

/// A client that was generated from the contracts, of one node.
pub(crate) fn session(address: &str) -> Session {
    session_to(address, |authority| authority)
}

/// The same, of whoever is at `now` when it connects.
fn session_to(address: &str, now: impl Fn(String) -> String + Clone + Send + 'static) -> Session {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .expect("a name and a port")
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2));
    let connector = tower::service_fn(move |uri: http::Uri| {
        let authority = now(uri.authority().map(ToString::to_string).unwrap_or_default());
        async move { connect(authority).await.map(hyper_util::rt::TokioIo::new) }
    });
    Session::over(address, endpoint.connect_with_connector_lazy(connector))
}
