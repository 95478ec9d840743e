//! `kvctl export`

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Seek as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use flotilla_proto::keyspace::prefix_end;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use super::{
    Context, ReadArgs,
    dump::{Entry, Head, Line, Lines},
    exit::Failure,
    pace::Pace,
};
use crate::{Client, DEFAULT_KEYSPACE, Error, KeyValue, Scan};

/// Writes every key of every keyspace, with its value and what is left of its time to live: a line of
/// JSON each. Each page is read as of one moment, not all as of one.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The file, which must not exist; `-` is standard output
    file: PathBuf,
    /// Go on with a file that an earlier export left unfinished
    #[arg(long, conflicts_with_all = ["prefix", "from", "to"])]
    resume: bool,
    /// Only keys that begin with this, of one keyspace
    #[arg(long, conflicts_with_all = ["from", "to"])]
    prefix: Option<String>,
    /// From this key on, inclusive, of one keyspace
    #[arg(long)]
    from: Option<String>,
    /// Up to this key, exclusive, of one keyspace
    #[arg(long)]
    to: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    keys: u64,
    /// Of them, those that were in the file before.
    resumed_keys: u64,
    /// Keys and values, as stored, that were written now.
    bytes: u64,
}

/// A file to write to, and where to begin.
struct Begun {
    sink: Box<dyn Write>,
    head: Head,
    /// Behind this key of this keyspace.
    after: Option<(u32, Vec<u8>)>,
    keys: u64,
}

type Keys = Pin<Box<dyn Stream<Item = Result<(u32, KeyValue), Error>>>>;

impl Export {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let client = context.client.with_read_mode(self.read.read_mode());
        let is_stdout = self.file.as_os_str() == "-";
        let begun = match (self.resume, is_stdout) {
            (true, true) => {
                return Err(Failure::Usage("--resume needs a file, not standard output".into()));
            }
            (true, false) => match resume(&self.file, &cluster_id(&context.client).await?)? {
                Some(begun) => begun,
                None => {
                    context.out.tell(&format!("{} is complete", self.file.display()));
                    return Ok(());
                }
            },
            (false, _) => {
                let head = self.head(&context).await?;
                let mut sink = match is_stdout {
                    true => Box::new(BufWriter::new(io::stdout())) as Box<dyn Write>,
                    false => Box::new(create(&self.file)?),
                };
                sink.write_all(&Line::Head(head.clone()).text()?).map_err(closed)?;
                Begun { sink, head, after: None, keys: 0 }
            }
        };
        let Begun { mut sink, head, after, keys: resumed_keys } = begun;
        let mut keys = keys(&client, &head, after)?;
        let mut pace = Pace::new("exported");
        while let Some((keyspace, kv)) = keys.try_next().await? {
            let bytes = kv.key.len() + kv.value.len();
            // A key that is there has time left, be it less than a millisecond.
            let ttl_ms =
                kv.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
            let entry = Entry { keyspace: Some(keyspace), key: kv.key, value: kv.value, ttl_ms };
            sink.write_all(&Line::Entry(entry).text()?).map_err(closed)?;
            pace.add(1, bytes);
        }
        let total = resumed_keys + pace.keys;
        sink.write_all(&Line::End(total).text()?).map_err(closed)?;
        sink.flush().map_err(closed)?;
        drop(sink);
        pace.end();
        let line = format!("exported {total} keys of {}", scope(&head));
        if is_stdout {
            context.out.tell(&line);
            return Ok(());
        }
        // Durability: said only once the file is on the disk.
        File::open(&self.file)?.sync_all()?;
        let answer = Answer { keys: total, resumed_keys, bytes: pace.bytes };
        let mut out = context.out;
        out.say(&answer, &line)
    }

    /// What is to be exported.
    async fn head(&self, context: &Context) -> Result<Head, Failure> {
        let decode = |what, text: &Option<String>| match text {
            Some(text) => context.encoding.decode(what, text),
            None => Ok(Vec::new()),
        };
        let (start, end) = match &self.prefix {
            Some(prefix) => {
                let prefix = context.encoding.decode("prefix", prefix)?;
                let end = prefix_end(&prefix);
                (prefix, end.into())
            }
            None => (decode("start", &self.from)?, decode("end", &self.to)?),
        };
        let is_part = self.prefix.is_some() || self.from.is_some() || self.to.is_some();
        let keyspace = match context.keyspace {
            None if is_part => Some(DEFAULT_KEYSPACE),
            // As everywhere, 0 is another name of the default one.
            named => named.map(|id| if id == 0 { DEFAULT_KEYSPACE } else { id }),
        };
        let cluster_id = cluster_id(&context.client).await?;
        Ok(Head::new(cluster_id, unix_ms(), keyspace, (&start, &end)))
    }
}

#[expect(clippy::disallowed_methods, reason = "a note for people, in a program without a clock")]
fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The cluster, as a node tells it that answers: also where nothing has a leader, since what is left
/// of such a cluster is worth exporting too.
async fn cluster_id(client: &Client) -> Result<String, Failure> {
    let timeout = client.settings.timeout.min(super::status::TIMEOUT);
    let cluster = client.with_timeout(timeout)?.cluster();
    let mut last = None;
    for address in client.endpoints() {
        match cluster.status_of(&address).await {
            Ok(status) if status.cluster_id.is_empty() => {}
            Ok(status) => return Ok(status.cluster_id),
            Err(error) => last = Some(error),
        }
    }
    let unjoined = || Error::configuration("endpoints", "no node there belongs to a cluster");
    Err(last.unwrap_or_else(unjoined).into())
}

fn scope(head: &Head) -> String {
    match head.keyspace {
        Some(keyspace) => format!("keyspace {keyspace}"),
        None => "all keyspaces".to_owned(),
    }
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let mut options = OpenOptions::new();
    // Its data is as secret as the cluster's.
    let created = options.write(true).create_new(true).mode(0o600).open(path);
    match created {
        Ok(file) => Ok(BufWriter::with_capacity(1 << 20, file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::Usage(format!(
            "{} exists: --resume goes on with it, if an export left it unfinished",
            path.display()
        ))),
        Err(error) => Err(Failure::Failed(format!("{}: {error}", path.display()))),
    }
}

/// Opens a file of this cluster behind its last whole line; `None` when it is complete.
fn resume(path: &Path, cluster_id: &str) -> Result<Option<Begun>, Failure> {
    let shown = path.display();
    let wrong = |number: u64, why: &str| Failure::Failed(format!("{shown}, line {number}: {why}"));
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let mut file = opened.map_err(|error| Failure::Failed(format!("{shown}: {error}")))?;
    let mut lines = Lines::after(BufReader::new(&file), 0, 0);
    let (mut head, mut after, mut keys, mut end) = (None, None, 0, 0);
    while let Some(text) = lines.next()? {
        if !text.ends_with(b"\n") {
            break;
        }
        let line = Line::parse(text, head.is_some());
        let number = lines.number;
        match line.map_err(|why| wrong(number, &why))? {
            Line::Head(found) if head.is_none() => head = Some(found),
            Line::Head(_) => return Err(wrong(number, "a second beginning")),
            Line::End(_) => return Ok(None),
            Line::Entry(entry) => {
                after = Some((entry.keyspace.unwrap_or(DEFAULT_KEYSPACE), entry.key.to_vec()));
                keys += 1;
            }
        }
        end = lines.span.1;
    }
    let Some(head) = head else {
        return Err(Failure::Usage(format!("{shown} was not written by an export")));
    };
    if head.cluster_id != cluster_id {
        return Err(Failure::Usage(format!(
            "{shown} is of cluster {}, this is cluster {cluster_id}",
            head.cluster_id
        )));
    }
    file.set_len(end)?;
    file.seek(io::SeekFrom::Start(end))?;
    let sink = Box::new(BufWriter::with_capacity(1 << 20, file));
    Ok(Some(Begun { sink, head, after, keys }))
}

fn keys(client: &Client, head: &Head, after: Option<(u32, Vec<u8>)>) -> Result<Keys, Failure> {
    let (mut start, end) = head.range().map_err(Failure::Failed)?;
    let mut keyspace = head.keyspace.unwrap_or(DEFAULT_KEYSPACE);
    if let Some((at, mut key)) = after {
        key.push(0);
        (keyspace, start) = (at, key);
    }
    let client = client.with_keyspace(keyspace)?;
    Ok(match head.keyspace {
        None => client.scan_keyspaces(start).boxed_local(),
        // Behind the last key that can be: an empty range, which is not one without an end.
        Some(_) if !end.is_empty() && start >= end => futures::stream::empty().boxed_local(),
        Some(_) => {
            client.scan(Scan::range(start, end)).map_ok(move |kv| (keyspace, kv)).boxed_local()
        }
    })
}

/// A reader that went away has not got everything: here that is a failure.
fn closed(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Failed("standard output was closed".into()),
        _ => error.into(),
    }
}
