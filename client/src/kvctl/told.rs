//! Who told a listing: the placement driver, or one node by itself when no driver answers.

use std::io::Write as _;

/// Says so when it was not the driver. To standard error: what is printed stays what it is.
pub(super) fn note(told_by_node: u64) {
    if told_by_node != 0 {
        // Standard error may be closed.
        let _ = writeln!(std::io::stderr(), "kvctl: {}", text(told_by_node));
    }
}

/// What it means.
pub(super) fn text(told_by_node: u64) -> String {
    format!(
        "no placement driver answers (the system region has no leader that serves): this is what node \
         {told_by_node} knows by itself, of its own regions only; ask other nodes with --endpoints"
    )
}
