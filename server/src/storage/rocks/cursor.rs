//! Rows of a range, in order.

use rocksdb::{DBRawIterator, ReadOptions};

use super::{super::engine::Row, Cursor, Direction, Error, KeyRange, status::failed};

enum Position {
    /// Not yet moved to the first row.
    Fresh,
    /// On the row that was returned last.
    OnRow,
    /// Past the last row, or at an error.
    Ended,
}

pub(super) struct RocksCursor<'a> {
    iter: DBRawIterator<'a>,
    direction: Direction,
    position: Position,
}

/// Options for an iterator over `range`.
pub(super) fn read_options(range: &KeyRange) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(&range.start[..]);
    options.set_iterate_upper_bound(range.end_key());
    options.set_total_order_seek(true);
    options
}

impl<'a> RocksCursor<'a> {
    /// `iter` was made with [`read_options`] of `range`.
    pub(super) fn new(iter: DBRawIterator<'a>, range: &KeyRange, direction: Direction) -> Self {
        let position = if range.is_empty() { Position::Ended } else { Position::Fresh };
        Self { iter, direction, position }
    }
}

impl Cursor for RocksCursor<'_> {
    fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        match (&self.position, self.direction) {
            (Position::Fresh, Direction::Forward) => self.iter.seek_to_first(),
            (Position::Fresh, Direction::Reverse) => self.iter.seek_to_last(),
            (Position::OnRow, Direction::Forward) => self.iter.next(),
            (Position::OnRow, Direction::Reverse) => self.iter.prev(),
            // RocksDB must not be asked to move on from its end; an error stays what it was.
            (Position::Ended, _) => {}
        }
        if self.iter.valid() {
            self.position = Position::OnRow;
            return Ok(self.iter.item());
        }
        self.position = Position::Ended;
        // A damaged block looks like the end, but for the status.
        self.iter.status().map_err(|e| failed("scan", e))?;
        Ok(None)
    }
}
