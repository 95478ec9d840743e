//! Clients that keep a cluster busy and remember what they were promised.

mod contested;
mod counter;
mod crew;
mod faults;
mod faulty;
mod judgement;
mod reading;
mod store;
mod unique_writes;
mod worker;

pub use contested::Contested;
pub use counter::Counter;
pub use crew::Crew;
pub use faults::{Fault, Faults};
pub use judgement::{assert_kept, nothing_is_lost};
pub use store::{Failure, Plain, Reply, Rest, Roaming, Store};
pub use unique_writes::UniqueWrites;
pub use worker::{Stop, Worker, Workload};
