//! Aligned columns.

use unicode_width::UnicodeWidthStr as _;

/// What a cell says about health; colours on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    Faint,
}

impl Tone {
    fn ansi(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("\x1b[32m"),
            Self::Warning => Some("\x1b[33m"),
            Self::Bad => Some("\x1b[31m"),
            Self::Faint => Some("\x1b[2m"),
        }
    }

    /// The text in this tone.
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        match self.ansi() {
            Some(start) if colour && !text.is_empty() => format!("{start}{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// One cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
    is_number: bool,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Aligned to the right.
    pub(super) fn number(number: impl ToString) -> Self {
        Self { text: number.to_string(), is_number: true, ..Self::default() }
    }

    pub(super) fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// Rows under a header; without a header, two columns of names and values.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Names and values below each other.
    pub(super) fn fields() -> Self {
        Self::default()
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(super) fn field(&mut self, name: &str, value: Cell) {
        // A value under values stays left, number or not.
        let value = Cell { is_number: false, ..value };
        self.rows.push(vec![Cell::text(name).tone(Tone::Faint), value]);
    }

    /// The lines of the table, without spaces at their ends.
    pub(super) fn render(&self, colour: bool) -> String {
        let header = self.header.iter().map(|name| Cell::text(*name).tone(Tone::Faint));
        let header: Vec<Cell> = header.collect();
        let rows = std::iter::once(&header).filter(|row| !row.is_empty()).chain(&self.rows);
        let columns = rows.clone().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| rows.clone().filter_map(|row| row.get(column)).map(width).max())
            .map(Option::unwrap_or_default)
            .collect();
        let numeric: Vec<bool> = (0..columns)
            .map(|column| self.rows.iter().any(|row| row.get(column).is_some_and(|c| c.is_number)))
            .collect();
        let mut text = String::new();
        for row in rows {
            let mut line = String::new();
            let mut pending_spaces = 0;
            for (column, cell) in row.iter().enumerate() {
                let padding = widths[column] - width(cell);
                let (before, after) = if numeric[column] { (padding, 0) } else { (0, padding) };
                pending_spaces += before;
                if !cell.text.is_empty() {
                    line.extend(std::iter::repeat_n(' ', pending_spaces));
                    pending_spaces = 0;
                    line.push_str(&cell.tone.paint(&cell.text, colour));
                } else {
                    pending_spaces += width(cell);
                }
                pending_spaces += after + 2;
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

/// Columns of a terminal, of which some characters take two and some none.
fn width(cell: &Cell) -> usize {
    cell.text.width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "N", "STATE"]);
        table.row(vec![Cell::text("a"), Cell::number(5), Cell::text("up").tone(Tone::Good)]);
        table.row(vec![Cell::text("longer"), Cell::number(1234), Cell::text("")]);
        table
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_spaces() {
        let want = "NAME       N  STATE\na          5  up\nlonger  1234\n";
        assert_eq!(table().render(false), want);
    }

    #[test]
    fn colour_changes_no_width() {
        let coloured = table().render(true);
        assert!(coloured.contains("\x1b[32mup\x1b[0m"));
        let mut stripped = coloured;
        for code in ["\x1b[32m", "\x1b[2m", "\x1b[0m"] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, table().render(false));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::new(&["KEY", "N"]);
        table.row(vec![Cell::text("数据"), Cell::number(1)]);
        table.row(vec![Cell::text("e\u{301}"), Cell::number(2)]);
        assert_eq!(table.render(false), "KEY   N\n数据  1\ne\u{301}     2\n");
    }

    #[test]
    fn fields_stand_below_each_other() {
        let mut table = Table::fields();
        table.field("id", Cell::number(7));
        table.field("address", Cell::text("a:1"));
        assert_eq!(table.render(false), "id       7\naddress  a:1\n");
    }
}
