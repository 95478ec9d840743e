//! `kvctl scan`

use clap::Args;
use futures::TryStreamExt;

use super::{Context, ReadArgs, exit::Failure, get::Record, output::Format};

/// Prints a key and its value per line, with a tab between them.
#[derive(Debug, Args)]
pub(super) struct Scan {
    /// Only keys that begin with this
    prefix: Option<String>,
    /// From this key on, inclusive
    #[arg(long, conflicts_with = "prefix")]
    from: Option<String>,
    /// Up to this key, exclusive
    #[arg(long, conflicts_with = "prefix")]
    to: Option<String>,
    /// From the end to the start
    #[arg(long, short)]
    reverse: bool,
    /// At most so many keys; 0 is all
    #[arg(long, short = 'n', default_value_t = 0)]
    limit: u64,
    /// Without values
    #[arg(long, short)]
    keys_only: bool,
    /// Print only how many keys there are
    #[arg(long)]
    count: bool,
    #[command(flatten)]
    read: ReadArgs,
}

impl Scan {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let mut scan = match &self.prefix {
            Some(prefix) => crate::Scan::prefix(encoding.decode("prefix", prefix)?),
            None => crate::Scan::range(
                encoding.decode("start", self.from.as_deref().unwrap_or_default())?,
                encoding.decode("end", self.to.as_deref().unwrap_or_default())?,
            ),
        };
        scan = scan.limit(self.limit);
        if self.reverse {
            scan = scan.reverse();
        }
        if self.keys_only || self.count {
            scan = scan.keys_only();
        }
        let mut keys = client.with_read_mode(self.read.read_mode()).scan(scan);
        if self.count {
            let mut count = 0_u64;
            while keys.try_next().await?.is_some() {
                count += 1;
            }
            return out.say(&serde_json::json!({ "keys": count }), &count.to_string());
        }
        let is_table = out.format == Format::Table;
        let mut list = out.list();
        while let Some(kv) = keys.try_next().await? {
            let mut line = Vec::new();
            if is_table {
                line.push(encoding.show(&kv.key));
                if !self.keys_only {
                    line.push(encoding.show(&kv.value));
                }
            }
            let record = Record::new(encoding, &kv);
            let record = if self.keys_only { record.without_value() } else { record };
            list.item(&record, &line)?;
        }
        list.end()?;
        Ok(())
    }
}
