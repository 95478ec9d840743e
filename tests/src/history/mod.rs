//! What clients saw, and whether it can be explained by one copy of the data.
//!
//! Each call is recorded when it is sent and when its answer is in. A call whose outcome was not
//! learnt stays *unknown*: it may have had its effect at any time after it was sent, also long
//! after the client gave up, or never. `check` looks for one order of all requests for a key, or for keys that
//! transactions join, that respects real time and that registers could have answered like this; when there is
//! none, some client was lied to.

mod checker;
mod counted;
mod counterexample;
mod done;
mod model;
mod needs;
mod operation;
mod recorder;
mod relaxed;
mod revisions;
mod search;
#[cfg(test)]
mod simulated;
mod values;

pub use checker::{Budget, Verdict, check};
pub use model::{State, apply, step};
pub use operation::{Answer, Call, Completion, Operation, Request, Txn};
pub use recorder::{OperationId, Recorder};
pub use revisions::check_revisions;
