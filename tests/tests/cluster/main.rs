//! How a cluster is born, grows, shrinks and moves.

mod birth;
mod identity;
mod membership;
mod process;
mod snapshot;
mod story;
mod whole_birth;
