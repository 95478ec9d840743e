//! `kvctl put`

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Context, exit::Failure, get::Record};
use crate::PutOptions;

#[derive(Debug, Args)]
pub(super) struct Put {
    /// The key
    key: String,
    /// The value; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Remove the key after this time, as in 30s
    #[arg(long, value_parser = humantime::parse_duration, conflicts_with = "keep_ttl")]
    ttl: Option<Duration>,
    /// Keep the time to live that the key has
    #[arg(long)]
    keep_ttl: bool,
    /// Print what was there before (JSON and YAML)
    #[arg(long)]
    previous: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Record>,
}

impl Put {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let key = encoding.decode("key", &self.key)?;
        let value = encoding.decode_value(&self.value)?;
        let options =
            PutOptions { ttl: self.ttl, keep_ttl: self.keep_ttl, return_previous: self.previous };
        let stored = client.put_with(key, value, options).await?;
        let previous = stored.previous.map(|kv| Record::new(encoding, &kv));
        let answer = Answer { revision: stored.revision, previous };
        out.say(&answer, &format!("stored, revision {}", stored.revision))
    }
}
