//! Reading what the servers wrote.

use std::{fs, path::Path};

/// Lines of a server's output that say that something is wrong: level ERROR, or a panic. Lines that
/// hold one of `allowed` are left out.
pub(super) fn complaints(path: &Path, allowed: &[String]) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    text.lines()
        .map(without_colour)
        .filter(|line| is_complaint(line))
        .filter(|line| !allowed.iter().any(|part| line.contains(part)))
        .collect()
}

/// The last lines of a server's output.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn is_complaint(line: &str) -> bool {
    // The level comes right after the time, so that a message that quotes the word is not meant.
    let level = line.split_whitespace().take(2).any(|word| word == "ERROR");
    level || line.contains("\"level\":\"ERROR\"") || is_panic(line)
}

/// Whether a line is the beginning of a panic's message.
pub(super) fn is_panic(line: &str) -> bool {
    line.contains("panicked at")
}

/// The line without terminal escapes (`ESC [ … letter`).
fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        if character == '\u{1b}' {
            for inner in rest.by_ref() {
                if inner.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_complaints_and_quotes_are_not() {
        for (why, line, want) in [
            ("plain", "2026-01-01T00:00:00Z ERROR flotilla: disk on fire", true),
            ("coloured", "\u{1b}[2m2026\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m flotilla: x", true),
            ("JSON", r#"{"timestamp":"2026","level":"ERROR","fields":{}}"#, true),
            ("panic", "thread 'main' panicked at src/lib.rs:1:1:", true),
            ("information", "2026-01-01T00:00:00Z  INFO flotilla: no ERROR at all", false),
            ("empty", "", false),
        ] {
            assert_eq!(is_complaint(&without_colour(line)), want, "{why}: {line}");
        }
    }
}
