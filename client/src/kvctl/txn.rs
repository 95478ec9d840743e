//! `kvctl txn`

use std::{io::Read as _, path::PathBuf, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    Context,
    encoding::Encoding,
    exit::Failure,
    get::Record,
    table::{Cell, Table, Tone},
};
use crate::{Compare, Op, PutOptions, v1};

/// What `kvctl txn --help` ends with.
pub(super) const HELP: &str = r#"The file is YAML or JSON. If every comparison holds the operations of `success` are applied,
else those of `failure`, in one step. All keys must belong to one region.

    compare:
      - {key: stock, value: "5"}          # or: absent: true, present: true, revision: 7
    success:
      - put: {key: stock, value: "4", ttl: 1h, keep_ttl: false, previous: true}
      - add: {key: sold, delta: 1}
      - append: {key: log, value: "sold "}
      - delete: {key: reserved, previous: true}
      - delete_range: {from: cart/1, to: cart/2}     # or: prefix: cart/
    failure:
      - get: {key: stock}

With --hex or --base64 the keys and values in the file are so encoded too. Numbers must be quoted to be values.
The exit code is 0 for both branches; `succeeded` tells which one was taken."#;

#[derive(Debug, Args)]
pub(super) struct Txn {
    /// The file; `-` reads it from standard input
    file: PathBuf,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    compare: Vec<CompareEntry>,
    success: Vec<OpEntry>,
    failure: Vec<OpEntry>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareEntry {
    key: String,
    #[serde(default)]
    absent: bool,
    #[serde(default)]
    present: bool,
    value: Option<String>,
    revision: Option<u64>,
}

/// Exactly one of these.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OpEntry {
    put: Option<PutEntry>,
    delete: Option<DeleteEntry>,
    delete_range: Option<RangeEntry>,
    add: Option<AddEntry>,
    append: Option<AppendEntry>,
    get: Option<GetEntry>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutEntry {
    key: String,
    value: String,
    ttl: Option<String>,
    #[serde(default)]
    keep_ttl: bool,
    #[serde(default)]
    previous: bool,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteEntry {
    key: String,
    #[serde(default)]
    previous: bool,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeEntry {
    from: Option<String>,
    to: Option<String>,
    prefix: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddEntry {
    key: String,
    delta: i64,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendEntry {
    key: String,
    value: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetEntry {
    key: String,
}

impl File {
    fn parse(text: &str) -> Result<Self, Failure> {
        let refuse = |error: String| Failure::Usage(format!("transaction: {error}"));
        // JSON first where it can be JSON: YAML refuses tabs, which JSON may be indented with.
        if text.trim_start().starts_with('{')
            && let Ok(file) = serde_json::from_str(text)
        {
            return Ok(file);
        }
        serde_yaml::from_str(text).map_err(|error| refuse(error.to_string()))
    }

    fn into_txn(self, encoding: Encoding) -> Result<crate::Txn, Failure> {
        let mut txn = crate::Txn::new();
        for entry in self.compare {
            txn = txn.when(entry.into_compare(encoding)?);
        }
        for entry in self.success {
            txn = txn.then(entry.into_op(encoding)?);
        }
        for entry in self.failure {
            txn = txn.otherwise(entry.into_op(encoding)?);
        }
        Ok(txn)
    }
}

impl CompareEntry {
    fn into_compare(self, encoding: Encoding) -> Result<Compare, Failure> {
        let key = encoding.decode("key", &self.key)?;
        match (self.absent, self.present, self.value, self.revision) {
            (true, false, None, None) => Ok(Compare::absent(key)),
            (false, true, None, None) => Ok(Compare::present(key)),
            (false, false, Some(value), None) => {
                Ok(Compare::value(key, encoding.decode("value", &value)?))
            }
            (false, false, None, Some(revision)) => Ok(Compare::revision(key, revision)),
            _ => Err(Failure::Usage(format!(
                "comparison of {:?}: exactly one of absent, present, value, revision is needed",
                self.key
            ))),
        }
    }
}

impl OpEntry {
    fn into_op(self, encoding: Encoding) -> Result<Op, Failure> {
        let key = |key: &str| encoding.decode("key", key);
        let value = |value: &str| encoding.decode("value", value);
        let mut ops = Vec::new();
        if let Some(put) = self.put {
            let ttl = put.ttl.as_deref().map(parse_ttl).transpose()?;
            let options = PutOptions { ttl, keep_ttl: put.keep_ttl, return_previous: put.previous };
            ops.push(Op::put_with(key(&put.key)?, value(&put.value)?, options)?);
        }
        if let Some(delete) = self.delete {
            ops.push(Op::from(v1::op::Op::Delete(v1::DeleteOp {
                key: key(&delete.key)?.into(),
                return_previous: delete.previous,
            })));
        }
        if let Some(range) = self.delete_range {
            ops.push(match (range.from, range.to, range.prefix) {
                (Some(from), Some(to), None) => Op::delete_range(key(&from)?, key(&to)?),
                (None, None, Some(prefix)) => Op::delete_prefix(key(&prefix)?),
                _ => {
                    let message = "delete_range takes from and to, or prefix";
                    return Err(Failure::Usage(message.into()));
                }
            });
        }
        if let Some(add) = self.add {
            ops.push(Op::add(key(&add.key)?, add.delta));
        }
        if let Some(append) = self.append {
            ops.push(Op::append(key(&append.key)?, value(&append.value)?));
        }
        if let Some(get) = self.get {
            ops.push(Op::get(key(&get.key)?));
        }
        match <[Op; 1]>::try_from(ops) {
            Ok([op]) => Ok(op),
            Err(ops) => Err(Failure::Usage(format!(
                "an entry must name exactly one operation, this one names {}",
                ops.len()
            ))),
        }
    }
}

fn parse_ttl(text: &str) -> Result<Duration, Failure> {
    humantime::parse_duration(text)
        .map_err(|error| Failure::Usage(format!("ttl {text:?}: {error}")))
}

#[derive(Debug, Serialize)]
struct Answer {
    succeeded: bool,
    revision: u64,
    results: Vec<Answered>,
}

/// What one operation answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answered {
    Put { previous: Option<Record> },
    Delete { deleted: u64, previous: Option<Record> },
    DeleteRange { deleted: u64 },
    Add { start: i64, end: i64 },
    Append { value_bytes: u64 },
    Get { found: Option<Record> },
    Unknown {},
}

impl Answered {
    fn new(encoding: Encoding, result: v1::OpResult) -> Self {
        use v1::op_result::Result;
        let record = |kv: Option<v1::KeyValue>| kv.map(|kv| Record::new(encoding, &kv.into()));
        match result.result {
            Some(Result::Put(put)) => Self::Put { previous: record(put.previous) },
            Some(Result::Delete(delete)) => {
                Self::Delete { deleted: delete.deleted, previous: record(delete.previous) }
            }
            Some(Result::DeleteRange(range)) => Self::DeleteRange { deleted: range.deleted },
            Some(Result::Add(add)) => Self::Add { start: add.start, end: add.end },
            Some(Result::Append(append)) => Self::Append { value_bytes: append.value_bytes },
            Some(Result::Get(get)) => Self::Get { found: record(get.kv) },
            None => Self::Unknown {},
        }
    }

    /// Name and value for the table.
    fn cells(encoding: Encoding, result: &v1::OpResult) -> [String; 2] {
        use v1::op_result::Result;
        let was = |kv: &Option<v1::KeyValue>| {
            kv.as_ref().map(|kv| format!("was {}", encoding.show(&kv.value))).unwrap_or_default()
        };
        let (name, text) = match &result.result {
            Some(Result::Put(put)) => ("put", was(&put.previous)),
            Some(Result::Delete(done)) if done.deleted == 0 => ("delete", "was not there".into()),
            Some(Result::Delete(done)) => ("delete", was(&done.previous)),
            Some(Result::DeleteRange(done)) => ("delete_range", format!("{} keys", done.deleted)),
            Some(Result::Add(add)) => ("add", add.end.to_string()),
            Some(Result::Append(append)) => ("append", format!("{} bytes", append.value_bytes)),
            Some(Result::Get(get)) => (
                "get",
                match &get.kv {
                    Some(kv) => encoding.show(&kv.value),
                    None => "not found".into(),
                },
            ),
            None => ("unknown", String::new()),
        };
        [name.to_owned(), text]
    }
}

impl Txn {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let mut text = String::new();
        if self.file.as_os_str() == "-" {
            std::io::stdin().lock().read_to_string(&mut text)?;
        } else {
            text = std::fs::read_to_string(&self.file)
                .map_err(|error| Failure::Usage(format!("{}: {error}", self.file.display())))?;
        }
        let done = client.txn(File::parse(&text)?.into_txn(encoding)?).await?;
        let mut table = Table::fields();
        let branch = if done.succeeded { "success" } else { "failure" };
        let tone = if done.succeeded { Tone::Good } else { Tone::Warning };
        table.field("branch", Cell::text(branch).tone(tone));
        table.field("revision", Cell::number(done.revision));
        for result in &done.results {
            let [name, text] = Answered::cells(encoding, result);
            table.field(&name, Cell::text(text));
        }
        let results = done.results.into_iter();
        let answer = Answer {
            succeeded: done.succeeded,
            revision: done.revision,
            results: results.map(|result| Answered::new(encoding, result)).collect(),
        };
        out.show(&answer, || table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{
	"compare": [{"key": "stock", "value": "5"}, {"key": "gone", "absent": true}],
	"success": [{"put": {"key": "stock", "value": "4", "ttl": "1h"}}],
	"failure": [{"get": {"key": "stock"}}]
}"#;
    const YAML: &str = r#"
compare: [{key: stock, value: "5"}, {key: gone, absent: true}]
success:
  - put: {key: stock, value: "4", ttl: 1h}
failure:
  - get: {key: stock}
"#;

    fn txn(text: &str) -> Result<crate::Txn, Failure> {
        File::parse(text)?.into_txn(Encoding::Text)
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let ttl = Some(Duration::from_secs(3600));
        let put = Op::put_with("stock", "4", PutOptions { ttl, ..PutOptions::default() });
        let want = crate::Txn::new()
            .when(Compare::value("stock", "5"))
            .when(Compare::absent("gone"))
            .then(put.expect("a good ttl"))
            .otherwise(Op::get("stock"));
        assert_eq!(txn(YAML).expect("well-formed"), want);
        assert_eq!(txn(JSON).expect("well-formed"), want);
    }

    #[test]
    fn the_example_of_the_help_is_a_transaction() {
        let example = HELP.split("\n\n").nth(1).expect("text, example, text");
        let file = File::parse(example).expect("well-formed");
        assert_eq!((file.compare.len(), file.success.len(), file.failure.len()), (1, 5, 1));
        file.into_txn(Encoding::Text).expect("complete");
    }

    #[test]
    fn what_is_ambiguous_or_misspelt_is_refused() {
        for (why, text) in [
            ("no condition", "compare: [{key: a}]"),
            ("two conditions", "compare: [{key: a, absent: true, revision: 1}]"),
            ("no operation", "success: [{}]"),
            ("two operations", "success: [{get: {key: a}, delete: {key: a}}]"),
            ("unknown operation", "success: [{put_if: {key: a}}]"),
            ("unknown field", "success: [{get: {key: a, stale: true}}]"),
            ("bad ttl", "success: [{put: {key: a, value: b, ttl: soon}}]"),
        ] {
            assert!(matches!(txn(text), Err(Failure::Usage(_))), "{why}: {text}");
        }
    }
}
