//! `kvctl incr`

use clap::Args;
use serde::Serialize;

use super::{Context, exit::Failure};

#[derive(Debug, Args)]
pub(super) struct Incr {
    /// The key of the counter; an absent one counts as 0
    key: String,
    /// How much to add; may be negative
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    delta: i64,
}

#[derive(Debug, Serialize)]
struct Answer {
    start: i64,
    end: i64,
    revision: u64,
}

impl Incr {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let key = encoding.decode("key", &self.key)?;
        let crate::Counted { revision, start, end } = client.increment(key, self.delta).await?;
        out.say(&Answer { start, end, revision }, &end.to_string())
    }
}
