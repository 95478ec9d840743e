//! `kvctl append`

use clap::Args;
use serde::Serialize;

use super::{Context, exit::Failure};

#[derive(Debug, Args)]
pub(super) struct Append {
    /// The key; an absent one counts as empty
    key: String,
    /// What to add; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    value: String,
}

#[derive(Debug, Serialize)]
struct Answer {
    revision: u64,
    value_bytes: u64,
}

impl Append {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let key = encoding.decode("key", &self.key)?;
        let value = encoding.decode_value(&self.value)?;
        let crate::Appended { revision, value_bytes } = client.append(key, value).await?;
        let line = format!("stored, {value_bytes} bytes, revision {revision}");
        out.say(&Answer { revision, value_bytes }, &line)
    }
}
