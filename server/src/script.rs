//! Scripts: what is done and what comes of it, as text that a reviewer reads.
//!
//! A script is a file of blocks: lines with commands, a line `----`, the lines that they answer. A blank line ends a
//! block, `#` begins a comment. Each file is a story of its own, played from its beginning, so a change of a decision
//! shows as a diff of all that follows from it. A new script is written without answers:
//! `FLOTILLA_SCRIPTS=write` has them written into the files, for `git diff` to show and for somebody to judge.
//!
//! The form is that of `testdata` in etcd's raft and in pebble. Of the crates that read it, none was kept well enough
//! to be relied upon for what takes a page.

use std::{fs, path::Path};

/// Between commands and what they answer.
const ANSWERS: &str = "----";

/// Plays every script of `folder`, which is named from `server/src`. `story` begins a file, and gives what carries
/// out its commands.
///
/// # Panics
/// When a script answers otherwise than is written, with the first line where it does, of every file.
pub(crate) fn play_all<Act: FnMut(&str) -> String>(folder: &str, story: impl Fn() -> Act) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder);
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut scripts: Vec<_> = files.filter(|path| path.extension().is_some()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    let write = std::env::var("FLOTILLA_SCRIPTS").is_ok_and(|how| how == "write");
    let mut wrong = String::new();
    for path in scripts {
        let written = fs::read_to_string(&path).unwrap();
        let played = play(&written, story());
        if write {
            fs::write(&path, played).unwrap();
        } else if let Some(what) = first_difference(&written, &played) {
            wrong += &format!("{}:{what}\n", path.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}FLOTILLA_SCRIPTS=write writes what is answered now");
}

/// The script with the answers that it gives.
fn play(script: &str, mut act: impl FnMut(&str) -> String) -> String {
    let (mut played, mut answers) = (String::new(), String::new());
    let mut after_commands = false;
    for line in script.lines().chain([""]) {
        let is_end = line.is_empty();
        if !after_commands && (line == ANSWERS || (is_end && !answers.is_empty())) {
            played += &format!("{ANSWERS}\n{}", std::mem::take(&mut answers));
            after_commands = true;
        }
        if is_end {
            after_commands = false;
        } else if after_commands {
            continue;
        } else if !line.starts_with('#') {
            for answer in act(line).lines() {
                assert!(!answer.is_empty(), "{line}: an answer has no blank lines");
                answers += &format!("{answer}\n");
            }
        }
        played += &format!("{line}\n");
    }
    played.truncate(played.trim_end().len());
    played + "\n"
}

/// Where two texts begin to differ, with what leads there.
fn first_difference(written: &str, played: &str) -> Option<String> {
    let at = (0..)
        .zip(written.lines().map(Some).chain([None]).zip(played.lines().map(Some).chain([None])));
    let (at, (was, is)) = at.into_iter().find(|(_, (was, is))| was != is)?;
    let before: String = written
        .lines()
        .take(at)
        .skip(at.saturating_sub(8))
        .map(|line| format!("      {line}\n"))
        .collect();
    let [was, is] = [was, is].map(|line| line.unwrap_or("(the end)"));
    Some(format!("{}\n{before}    - {was}\n    + {is}", at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shout() -> impl FnMut(&str) -> String {
        let mut said = 0;
        move |line| {
            said += 1;
            if line == "hush" { String::new() } else { format!("{said} {}", line.to_uppercase()) }
        }
    }

    #[test]
    fn answers_replace_what_was_written_and_are_made_where_none_was() {
        for (why, script, want) in [
            ("new", "# why\na\n", "# why\na\n----\n1 A\n"),
            ("as written", "a\n----\n1 A\n", "a\n----\n1 A\n"),
            ("otherwise", "a\n----\n7 A\nmore\n\nb\n----\n", "a\n----\n1 A\n\nb\n----\n2 B\n"),
            ("two commands", "a\nb\n\n\nc\n", "a\nb\n----\n1 A\n2 B\n\n\nc\n----\n3 C\n"),
            ("no answer", "hush\n\nb\n", "hush\n\nb\n----\n2 B\n"),
            ("no answer any more", "hush\n----\nwhat\n", "hush\n----\n"),
        ] {
            assert_eq!(play(script, shout()), want, "{why}");
            assert_eq!(play(want, shout()), want, "{why}: played again");
        }
    }

    #[test]
    fn difference_is_told_with_its_line() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        let told = first_difference("a\nb\nc\n", "a\nx\nc\n");
        assert_eq!(told.as_deref(), Some("2\n      a\n    - b\n    + x"));
        let told = first_difference("a\n", "a\nb\n");
        assert_eq!(told.as_deref(), Some("2\n      a\n    - (the end)\n    + b"));
    }
}
