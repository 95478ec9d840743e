//! What is told to the person who watches.

use std::fmt::Display;

/// Prints a line.
#[expect(clippy::disallowed_macros, reason = "a program for people, who read its output")]
pub fn say(line: impl Display) {
    println!("{line}");
}
