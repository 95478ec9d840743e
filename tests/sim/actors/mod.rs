//! Who acts, one kind a file: clients, and those who run the cluster. Each is on a host of its own.

mod expiry;
mod founder;
mod leaders;
mod ledger;
mod library;
mod members;
mod registers;

use futures::future::LocalBoxFuture;

use crate::stage::Stage;

/// One of them, and what it does from the beginning to the end. It fails when it cannot do what nothing hinders; what it
/// finds broken it tells the stage.
#[derive(Clone, Copy)]
pub(crate) struct Actor {
    pub(crate) name: &'static str,
    pub(crate) act: fn(Stage) -> LocalBoxFuture<'static, turmoil::Result>,
}

/// Whoever makes a cluster that does not make itself.
pub(crate) const FOUNDER: Actor =
    Actor { name: "founder", act: |stage| Box::pin(founder::act(stage)) };

/// Clients that fight over a few keys.
pub(crate) const REGISTERS: Actor =
    Actor { name: "registers", act: |stage| Box::pin(registers::act(stage)) };

/// Clients that write unique keys, and one counter, by our own library.
pub(crate) const LEDGER: Actor =
    Actor { name: "ledger", act: |stage| Box::pin(ledger::act(stage)) };

/// Whoever adds, promotes and removes nodes.
pub(crate) const MEMBERS: Actor =
    Actor { name: "members", act: |stage| Box::pin(members::act(stage)) };

/// Whoever moves leaders about, the placement driver's most of all.
pub(crate) const LEADERS: Actor =
    Actor { name: "leaders", act: |stage| Box::pin(leaders::act(stage)) };

/// A client of keys that expire.
pub(crate) const EXPIRY: Actor =
    Actor { name: "expiry", act: |stage| Box::pin(expiry::act(stage)) };
