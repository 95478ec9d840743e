//! Clients that keep a cluster busy and remember what they were promised.

mod chooser;
mod contested;
mod counter;
mod faults;
mod judgement;
mod ledger;
mod reading;
mod registers;
mod store;
mod unique_writes;
mod worker;

pub use chooser::{Chooser, contested_keys};
pub use contested::Contested;
pub use counter::Counter;
pub use faults::{Fault, Faults};
pub use judgement::nothing_is_lost;
pub use ledger::{Ledger, Writers};
pub use registers::Registers;
pub(crate) use store::ask_one;
pub use store::{Failure, Plain, Reply, Store};
pub use unique_writes::UniqueWrites;
pub use worker::{Stop, Worker, Workload};
