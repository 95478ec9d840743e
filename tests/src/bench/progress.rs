//! Words for the person who waits for a measurement.

use std::fmt::Display;

/// Prints a line beside the result: it goes to the standard error.
#[expect(clippy::disallowed_macros, reason = "a program for people, who wait for minutes")]
pub fn tell(line: impl Display) {
    eprintln!("{line}");
}
