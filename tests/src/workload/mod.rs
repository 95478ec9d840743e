//! Clients that keep a cluster busy and remember what they were promised.

mod faults;
mod ledger;
mod registers;

pub use faults::{Fault, Faults};
pub use ledger::{Ledger, Writers};
pub use registers::Registers;
