//! Telling a person why a history is impossible.

use std::fmt::Write as _;

use super::{Operation, State, step};

/// How many calls of the order are shown.
const SHOWN: usize = 12;

/// The end of the longest order that was found, the call that does not fit behind it, and the calls
/// that ran at the same time.
pub(super) fn explain(all: &[&Operation], done: &[&Operation], blocked: &Operation) -> String {
    let mut text = String::new();
    let mut state = State::new();
    let skipped = done.len().saturating_sub(SHOWN);
    if skipped > 0 {
        line(&mut text, &format!("an order of {skipped} calls, then"));
    }
    for (index, operation) in done.iter().enumerate() {
        state = step(&state, &operation.request, operation.answer()).unwrap_or(state);
        if index >= skipped {
            line(&mut text, &format!("  {} leaves {state:?}", brief(operation)));
        }
    }
    line(&mut text, "after which this had ended and fits nowhere:");
    line(&mut text, &format!("  {}", brief(blocked)));
    let (from, until) = (blocked.invoked, blocked.returned().unwrap_or(u64::MAX));
    line(&mut text, "while these ran:");
    for other in all {
        let ended = other.returned().unwrap_or(u64::MAX);
        if other.invoked < until && ended > from && other.invoked != from {
            line(&mut text, &format!("  {}", brief(other)));
        }
    }
    text
}

fn brief(operation: &Operation) -> String {
    let end = match operation.returned() {
        Some(at) => at.to_string(),
        None => "?".to_owned(),
    };
    let answer = match operation.answer() {
        Some(answer) => format!("{answer:?}"),
        None => "outcome unknown".to_owned(),
    };
    let Operation { client, request, invoked, .. } = operation;
    format!("[{invoked}, {end}] client {client}: {request:?} -> {answer}")
}

fn line(text: &mut String, content: &str) {
    writeln!(text, "{content}").expect("a string takes everything");
}
