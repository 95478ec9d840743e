//! What a test tells the person who reads its output.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Prints a line. The test runner shows it when the test fails, or when it is asked to show all.
#[expect(clippy::disallowed_macros, reason = "a test has no logger, it has a reader")]
pub fn say(line: impl Display) {
    eprintln!("{line}");
}

/// Prints a line that is seen also when the test passes: the runner does not capture it.
pub fn say_aloud(line: impl Display) {
    // Nobody is there to be told that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}
