//! Standard output: a table for people, JSON and YAML for programs.

use std::io::{IsTerminal as _, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    exit::Failure,
    table::{Table, Tone},
};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people: aligned, and coloured on a terminal
    Table,
    /// For programs
    Json,
    /// For programs
    Yaml,
}

/// Where results go.
pub(super) struct Output {
    pub(super) format: Format,
    /// Whether a person is looking.
    pub(super) is_terminal: bool,
    colour: bool,
    sink: Box<dyn Write + Send>,
}

impl Output {
    pub(super) fn stdout(format: Format) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let may_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let sink = Box::new(std::io::BufWriter::new(std::io::stdout()));
        Self { format, is_terminal, colour: is_terminal && may_colour, sink }
    }

    #[cfg(test)]
    pub(super) fn captured(format: Format, sink: Box<dyn Write + Send>) -> Self {
        Self { format, is_terminal: false, colour: false, sink }
    }

    /// Prints one result, as the table or as the value itself.
    pub(super) fn show<T: Serialize>(
        &mut self,
        value: &T,
        table: impl FnOnce() -> Table,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.sink.write_all(table().render(self.colour).as_bytes())?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut self.sink, value)?;
                self.sink.write_all(b"\n")?;
            }
            Format::Yaml => serde_yaml::to_writer(&mut self.sink, value)?,
        }
        Ok(self.sink.flush()?)
    }

    /// Prints one result, as a line or as the value itself.
    pub(super) fn say<T: Serialize>(&mut self, value: &T, line: &str) -> Result<(), Failure> {
        if self.format != Format::Table {
            return self.show(value, Table::fields);
        }
        writeln!(self.sink, "{line}")?;
        Ok(self.sink.flush()?)
    }

    /// Tells a person something beside the result, on standard error.
    pub(super) fn tell(&self, line: &str) {
        // It may be closed; the work goes on.
        let _ = writeln!(std::io::stderr(), "kvctl: {line}");
    }

    /// Prints bytes as they are, and ends the line if a person is looking.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.sink.write_all(bytes)?;
        if self.is_terminal {
            self.sink.write_all(b"\n")?;
        }
        Ok(self.sink.flush()?)
    }

    /// Begins a list whose items come one by one.
    pub(super) fn list(&mut self) -> List<'_> {
        List { out: self, items: 0 }
    }
}

/// A number of things, as people say it.
pub(super) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// A list under way. In JSON it is one array, in YAML one sequence, however long.
pub(super) struct List<'a> {
    out: &'a mut Output,
    items: u64,
}

impl List<'_> {
    /// Prints an item, as the value itself or as fields with a tab between them, the first one faint.
    pub(super) fn item<T: Serialize>(&mut self, value: &T, line: &[String]) -> Result<(), Failure> {
        let sink = &mut self.out.sink;
        match self.out.format {
            Format::Table => {
                let (first, rest) = line.split_first().map_or(("", &[][..]), |(f, r)| (f, r));
                write!(sink, "{}", Tone::Faint.paint(first, self.out.colour && !rest.is_empty()))?;
                for field in rest {
                    write!(sink, "\t{field}")?;
                }
                writeln!(sink)?;
            }
            Format::Json => {
                sink.write_all(if self.items == 0 { b"[\n  " } else { b",\n  " })?;
                serde_json::to_writer(&mut *sink, value)?;
            }
            Format::Yaml => serde_yaml::to_writer(&mut *sink, &[value])?,
        }
        self.items += 1;
        Ok(())
    }

    /// Ends the list, and answers how many items it had.
    pub(super) fn end(self) -> Result<u64, Failure> {
        let sink = &mut self.out.sink;
        match (self.out.format, self.items) {
            (Format::Table, _) => {}
            (Format::Json, 0) | (Format::Yaml, 0) => sink.write_all(b"[]\n")?,
            (Format::Json, _) => sink.write_all(b"\n]\n")?,
            (Format::Yaml, _) => {}
        }
        sink.flush()?;
        Ok(self.items)
    }
}
