//! `kvctl delete`

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{Context, exit::Failure, get::Record, output::count};

/// Removing what is not there succeeds and says so.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["key", "prefix", "from", "all"]))]
pub(super) struct Delete {
    /// The key
    key: Option<String>,
    /// Remove every key that begins with this
    #[arg(long)]
    prefix: Option<String>,
    /// Remove every key from here on, inclusive; needs --to
    #[arg(long, requires = "to")]
    from: Option<String>,
    /// Up to here, exclusive
    #[arg(long, requires = "from")]
    to: Option<String>,
    /// Remove every key of the keyspace
    #[arg(long)]
    all: bool,
    /// Print what was there before (JSON and YAML)
    #[arg(long, requires = "key")]
    previous: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    deleted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Record>,
}

impl Delete {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        if let Some(key) = &self.key {
            let key = encoding.decode("key", key)?;
            let done =
                if self.previous { client.take(key).await? } else { client.delete(key).await? };
            let answer = Answer {
                deleted: done.deleted.into(),
                revision: Some(done.revision),
                previous: done.previous.map(|kv| Record::new(encoding, &kv)),
            };
            return out.say(&answer, if done.deleted { "deleted" } else { "was not there" });
        }
        let done = match (&self.prefix, &self.from, &self.to) {
            (Some(prefix), ..) => {
                let prefix = encoding.decode("prefix", prefix)?;
                if prefix.is_empty() {
                    let message = "an empty prefix is every key: say --all if that is meant";
                    return Err(Failure::Usage(message.into()));
                }
                client.delete_prefix(prefix).await?
            }
            (None, Some(from), Some(to)) => {
                let to = encoding.decode("end", to)?;
                if to.is_empty() {
                    return Err(Failure::Usage("--to must not be empty".into()));
                }
                client.delete_range(encoding.decode("start", from)?, to).await?
            }
            _ if self.all => client.delete_all().await?,
            _ => return Err(Failure::Usage("a key, --prefix, --from or --all is needed".into())),
        };
        let answer = Answer { deleted: done.deleted, revision: None, previous: None };
        out.say(&answer, &format!("deleted {}", count(done.deleted, "key")))
    }
}
