//! `kvctl get`

use clap::Args;
use serde::Serialize;

use super::{Context, ReadArgs, encoding::Encoding, exit::Failure, output::Format};
use crate::KeyValue;

/// Prints the value alone; with `--output json` or `yaml` the revision and the time to live too. Of several
/// keys it prints those that are there as a list, a key and its value per line, and ends with 3 when one
/// is not.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// The key, or several
    #[arg(required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    read: ReadArgs,
}

/// A key and its value, for programs.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Of `key` and `value`.
    encoding: Encoding,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

impl Record {
    pub(super) fn new(encoding: Encoding, kv: &KeyValue) -> Self {
        let (encoding, texts) = encoding.encode(&[&kv.key, &kv.value]);
        let mut texts = texts.into_iter();
        Self {
            key: texts.next().unwrap_or_default(),
            value: texts.next(),
            encoding,
            revision: kv.revision,
            ttl_ms: kv.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    pub(super) fn without_value(mut self) -> Self {
        self.value = None;
        self
    }
}

impl Get {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let client = client.with_read_mode(self.read.read_mode());
        let absent = |key: &String| Failure::NotFound(format!("{key:?}: not found"));
        if let [key] = &self.keys[..] {
            let found = client.get(encoding.decode("key", key)?).await?;
            let kv = found.ok_or_else(|| absent(key))?;
            return match out.format {
                Format::Table => out.raw(&encoding.raw(&kv.value)),
                Format::Json | Format::Yaml => {
                    out.show(&Record::new(encoding, &kv), super::table::Table::fields)
                }
            };
        }
        let decoded = self.keys.iter().map(|key| encoding.decode("key", key));
        let found = client.batch_get(decoded.collect::<Result<Vec<_>, _>>()?).await?;
        let mut list = out.list();
        for kv in found.iter().flatten() {
            let line = [encoding.show(&kv.key), encoding.show(&kv.value)];
            list.item(&Record::new(encoding, kv), &line)?;
        }
        list.end()?;
        match self.keys.iter().zip(&found).find(|(_, found)| found.is_none()) {
            Some((key, _)) => Err(absent(key)),
            None => Ok(()),
        }
    }
}
