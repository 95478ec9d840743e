//! Clients that keep a cluster busy and remember what they were promised.

mod chooser;
mod faults;
mod judgement;
mod ledger;
mod registers;

pub use chooser::{Chooser, contested_keys};
pub use faults::{Fault, Faults};
pub use judgement::nothing_is_lost;
pub use ledger::{Ledger, Writers};
pub use registers::Registers;
