//! `kvctl cas`

use std::time::Duration;

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{Context, exit::Failure, get::Record};
use crate::Expected;

/// Ends with 5, and prints what is there, when the present value is not as expected.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("expected").required(true).args(["expect", "absent", "revision"]))]
pub(super) struct Cas {
    /// The key
    key: String,
    /// The value to store; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Only if the key holds this value
    #[arg(long, allow_hyphen_values = true)]
    expect: Option<String>,
    /// Only if the key is absent
    #[arg(long)]
    absent: bool,
    /// Only if the key was last written with this revision
    #[arg(long)]
    revision: Option<u64>,
    /// Remove the key after this time, as in 30s
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct Answer {
    succeeded: bool,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Record>,
}

impl Cas {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let key = encoding.decode("key", &self.key)?;
        let value = encoding.decode_value(&self.value)?;
        let expected = match (&self.expect, self.revision) {
            (Some(value), _) => Expected::Value(encoding.decode("expected value", value)?.into()),
            (None, Some(revision)) => Expected::Revision(revision),
            (None, None) => Expected::Absent,
        };
        let done = client.compare_and_put(key, expected, value, self.ttl).await?;
        let line = match (&done.current, done.succeeded) {
            (_, true) => format!("stored, revision {}", done.revision),
            (Some(kv), false) => {
                format!("not stored, revision {} has {}", kv.revision, encoding.show(&kv.value))
            }
            (None, false) => "not stored, the key is absent".to_owned(),
        };
        let answer = Answer {
            succeeded: done.succeeded,
            revision: done.revision,
            current: done.current.map(|kv| Record::new(encoding, &kv)),
        };
        out.say(&answer, &line)?;
        if done.succeeded {
            Ok(())
        } else {
            Err(Failure::No(format!("{:?}: not as expected", self.key)))
        }
    }
}
