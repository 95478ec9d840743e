//! What a person sees: a label, a line, a bar.

use std::{
    cell::Cell,
    fmt::Display,
    io::{IsTerminal as _, Write as _, stderr, stdout},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::world::clock;

/// A line under a label; the label is empty on the lines that follow it.
pub(super) fn say(label: &str, text: impl Display) {
    let line = format!("{label:>9}  {text}");
    // Whoever closed the output does not want to read on; the demo still has to clean up.
    let _ = writeln!(stdout(), "{}", line.trim_end());
}

/// How far a long step is: a bar on a terminal, else a line from time to time.
pub(super) struct Progress {
    label: &'static str,
    bar: ProgressBar,
    plain: bool,
    said: Cell<Instant>,
}

/// Between two lines where there is no terminal. Most steps take less.
const LINE: Duration = Duration::from_secs(2);

impl Progress {
    pub(super) fn new(label: &'static str, total: usize) -> Self {
        let style =
            ProgressStyle::with_template("{prefix:>9}  {bar:40} {human_pos} of {human_len}")
                .expect("the template is well-formed")
                .progress_chars("=> ");
        let bar = ProgressBar::new(total as u64).with_style(style).with_prefix(label);
        Self { label, bar, plain: !stderr().is_terminal(), said: Cell::new(clock::now()) }
    }

    pub(super) fn add(&self, count: usize) {
        self.bar.inc(count as u64);
        let now = clock::now();
        if self.plain && now - self.said.get() >= LINE {
            self.said.set(now);
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
            say(self.label, format!("{} of {}", grouped(done), grouped(total)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `159,801`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `812 ms`, `2.1 s`.
pub(super) fn time(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// How many in a second.
pub(super) fn rate(count: u64, within: Duration) -> String {
    let seconds = within.as_secs_f64().max(0.001);
    grouped((count as f64 / seconds).round() as u64)
}

/// `1`, `1 and 2`, `1, 2 and 3`.
pub(super) fn list(numbers: impl IntoIterator<Item = impl Display>) -> String {
    let mut words: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
    match words.pop() {
        Some(last) if !words.is_empty() => format!("{} and {last}", words.join(", ")),
        last => last.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_159_801, "1,159,801")] {
            assert_eq!(grouped(number), want);
        }
        assert_eq!(list([1]), "1");
        assert_eq!(list([1, 3]), "1 and 3");
        assert_eq!(list([1, 2, 3]), "1, 2 and 3");
        assert_eq!(list(Vec::<u8>::new()), "");
        assert_eq!(time(Duration::from_millis(812)), "812 ms");
        assert_eq!(time(Duration::from_millis(2120)), "2.1 s");
        assert_eq!(rate(1000, Duration::from_millis(500)), "2,000");
    }
}
