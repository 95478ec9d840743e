//! All records, in batches, several at once, with a progress bar.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};

use super::records::Record;
use crate::clock;

const BATCH_RECORDS: usize = 200;
/// Bound: batches under way at once.
const IN_FLIGHT: usize = 16;

/// Calls `each` with every batch; answers how long all took.
///
/// # Errors
/// The first that `each` gave; the other batches are left.
pub(super) async fn run(
    what: &'static str,
    records: &[Record],
    each: impl AsyncFn(&[Record]) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let bar = ProgressBar::new(records.len() as u64).with_style(
        ProgressStyle::with_template("  {msg:<10} {bar:40} {pos:>7}/{len} {per_sec:>12}")
            .expect("the template is well-formed"),
    );
    bar.set_message(what);
    let started = clock::now();
    stream::iter(records.chunks(BATCH_RECORDS))
        .map(Ok)
        .try_for_each_concurrent(IN_FLIGHT, async |batch| {
            each(batch).await?;
            bar.inc(batch.len() as u64);
            anyhow::Ok(())
        })
        .await?;
    bar.finish_and_clear();
    Ok(started.elapsed())
}
