//! `kvctl get`

use clap::Args;
use serde::Serialize;

use super::{Context, ReadArgs, encoding::Encoding, exit::Failure, output::Format};
use crate::KeyValue;

/// Prints the value alone; with `--output json` or `yaml` the revision and the time to live too.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// The key
    key: String,
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
        let Context { client, encoding, mut out } = context;
        let key = encoding.decode("key", &self.key)?;
        let found = client.with_read_mode(self.read.read_mode()).get(key).await?;
        let Some(kv) = found else {
            return Err(Failure::NotFound(format!("{:?}: not found", self.key)));
        };
        match out.format {
            Format::Table => out.raw(&encoding.raw(&kv.value)),
            Format::Json | Format::Yaml => {
                out.show(&Record::new(encoding, &kv), super::table::Table::fields)
            }
        }
    }
}
