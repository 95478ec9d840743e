//! `kvctl import`
//!
//! Lines become batches, and a batch is stored, then read back and compared, before the next one is read:
//! memory is that of one batch, and what is counted as imported is known to be there. A batch
//! may be stored twice without harm, so it is repeated also when its outcome is not known.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Context,
    dump::{Entry, Line, Lines},
    exit::{Failure, Part},
    output::Output,
    pace::Pace,
};
use crate::{Client, Error, Op, PutOptions, v1};

/// Bound: a batch is stored when it has so many keys, or so many bytes; a larger value is a batch by
/// itself.
const BATCH_KEYS: usize = 512;
const BATCH_BYTES: usize = 2 << 20;
/// Bound: so long a batch is tried again before the import gives up: longer than an election, than a
/// restart of a node, and than a moment of a full queue.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);
/// Bound: keys that came out different are named up to so many, and all are counted.
const NAMED_MAX: u64 = 10;

/// Stores every key of an exported file, with its value, and with the time to live that was left when it
/// was exported. Replaces what is there under the same keys, and leaves all others alone. Each key
/// is read back; ends with 4 when one is not as in the file, or the file is not whole and its keys are
/// stored up to there. `GET /kv` of the HTTP API is such a file too, and with --text `GET /kv?text=true`.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file; `-` is standard input
    file: PathBuf,
    /// Note in this file how far it got: the same command again goes on from there
    #[arg(long, conflicts_with = "dry_run")]
    checkpoint: Option<PathBuf>,
    /// `key` and `value` are text, also where no first line says so: in versions before they were base64
    #[arg(long)]
    text: bool,
    /// Only read the file, whether it is whole and well-formed
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    /// Keys in the file.
    keys: u64,
    /// Of them, those that an earlier run had stored.
    resumed_keys: u64,
    /// That were read back and are as in the file.
    equal: u64,
    /// That were stored, and gone when they were read back, since their time to live was over by then.
    expired: u64,
    /// That were not stored, since the file says that their time to live was over (`ttl_ms` 0).
    skipped: u64,
    /// That were read back and are not as in the file.
    different: u64,
}

/// How far an import got, as its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    /// Where the keys went: in a cluster that was made anew they are not.
    cluster_id: String,
    lines: u64,
    bytes: u64,
    /// Of all these bytes: how the file is known again.
    crc32c: u32,
    /// Its first line says that it is of the form in which `key` and `value` are text.
    has_head: bool,
    keys: u64,
    equal: u64,
    expired: u64,
    skipped: u64,
    different: u64,
}

/// An entry that is to be stored, and the line it is from.
struct Pending {
    line: u64,
    /// Where the line ends, and the checksum of the file up to there.
    end: u64,
    crc32c: u32,
    entry: Entry,
}

struct Run<'a> {
    client: &'a Client,
    out: &'a Output,
    checkpoint: Option<&'a Path>,
    is_dry: bool,
    reads_text: bool,
    position: Position,
    /// All of one keyspace, their keys growing, so that none is in it twice.
    batch: Vec<Pending>,
    batch_bytes: usize,
    pace: Pace,
}

impl Import {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, mut out, .. } = context;
        let mut position = Position::default();
        if let Some(checkpoint) = &self.checkpoint {
            let nodes = client.cluster().list_nodes(v1::ListNodesRequest::default()).await?;
            position = load(checkpoint, &nodes.cluster_id)?;
        }
        let resumed_keys = position.keys;
        let input = open(&self.file, &position)?;
        let mut lines = Lines::after(input, position.lines, position.bytes);
        lines.crc32c = position.crc32c;
        if position.lines > 0 {
            out.tell(&format!("goes on behind line {}", position.lines));
        }
        let mut run = Run {
            client: &client,
            out: &out,
            checkpoint: self.checkpoint.as_deref(),
            is_dry: self.dry_run,
            reads_text: self.text,
            position,
            batch: Vec::new(),
            batch_bytes: 0,
            pace: Pace::new(if self.dry_run { "read" } else { "imported" }),
        };
        let ended = run.all(&mut lines).await;
        run.pace.end();
        let position = &run.position;
        let part = || position.part(resumed_keys, self.checkpoint.is_some());
        // What an earlier run stored is a part of what was asked for, too.
        let partly = |failure: Failure, part: &dyn Fn() -> Part| match position.keys {
            keys if keys > position.skipped && !self.dry_run => failure.with_part(part),
            _ => failure.after_part(&client, part),
        };
        let promised = ended.map_err(|failure| partly(failure, &part))?;
        let &Position { keys, equal, expired, skipped, different, .. } = position;
        let answer = Answer { keys, resumed_keys, equal, expired, skipped, different };
        let line = match self.dry_run {
            true => format!("{keys} keys in the file"),
            false => format!("{keys} keys in the file: {}", position.counts()),
        };
        out.say(&answer, &line)?;
        let wrong = match promised {
            Some(promised) if promised != keys => {
                format!("the file says that it has {promised} keys, and has {keys}")
            }
            None => {
                "the file has no last line {\"end\": …}: it was cut off when it was made, or copied"
                    .to_owned()
            }
            Some(_) => {
                // There is nothing to go on with: it would make the next import of another file fail, and
                // of this one do nothing.
                if let Some(checkpoint) = &self.checkpoint {
                    std::fs::remove_file(checkpoint).or_else(absent_is_fine)?;
                }
                if different == 0 {
                    return Ok(());
                }
                let failure = Failure::Failed(format!("{different} keys are not as in the file"));
                let part = || Part {
                    done: format!("of {keys} keys in the file {}", position.counts()),
                    next: "somebody else writes them: the same command stores all of them again"
                        .into(),
                };
                return Err(partly(failure, &part));
            }
        };
        Err(partly(Failure::Failed(wrong), &part))
    }
}

impl Position {
    /// What became of the keys, each in one of these numbers.
    fn counts(&self) -> String {
        let Self { equal, expired, skipped, different, .. } = self;
        format!(
            "{equal} were stored and read back as in the file, {different} stored and read back different, \
             {expired} stored and expired since, {skipped} not stored, since their time to live was over"
        )
    }

    /// What an import that does not come further has done.
    fn part(&self, resumed_keys: u64, has_checkpoint: bool) -> Part {
        let Self { lines, keys, .. } = self;
        let now = keys - resumed_keys;
        let done = format!(
            "of the first {keys} keys of the file, to line {lines}, {}; {now} of them came by this run; \
             of the batch behind that line some may be stored",
            self.counts()
        );
        let next = match has_checkpoint {
            true => "the same command goes on from that line",
            false => {
                "the same command stores all of them again, which does no harm; \
                      with --checkpoint it would go on"
            }
        };
        Part { done, next: next.into() }
    }
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

impl Run<'_> {
    /// Imports every line; answers how many keys the last one says there are.
    async fn all<R: BufRead>(&mut self, lines: &mut Lines<R>) -> Result<Option<u64>, Failure> {
        let mut promised = None;
        while let Some(text) = lines.next()? {
            // As an editor leaves it; anything else behind the end is another file, or not of this one.
            if promised.is_some() && text.trim_ascii().is_empty() {
                continue;
            }
            let parsed = Line::parse(text, self.reads_text || self.position.has_head);
            let number = lines.number;
            let wrong = |why: &str| Failure::Failed(format!("line {number}: {why}"));
            if promised.is_some() {
                return Err(wrong("comes after the end"));
            }
            match parsed {
                Err(why) => {
                    // What came before it is whole.
                    self.flush().await?;
                    return Err(wrong(&why));
                }
                Ok(Line::Head(_)) if number == 1 => self.position.has_head = true,
                Ok(Line::Head(_)) => return Err(wrong("a second beginning")),
                Ok(Line::End(keys)) => promised = Some(keys),
                Ok(Line::Entry(entry)) => {
                    if self.must_flush_before(&entry) {
                        self.flush().await?;
                    }
                    self.batch_bytes += entry.key.len() + entry.value.len();
                    self.batch.push(Pending {
                        line: number,
                        end: lines.span.1,
                        crc32c: lines.crc32c,
                        entry,
                    });
                }
            }
        }
        self.flush().await?;
        Ok(promised)
    }

    fn must_flush_before(&self, entry: &Entry) -> bool {
        let Some(last) = self.batch.last() else { return false };
        self.batch.len() >= BATCH_KEYS
            || self.batch_bytes + entry.key.len() + entry.value.len() > BATCH_BYTES
            || last.entry.keyspace != entry.keyspace
            // Ordering: a key that comes again replaces the one before it, as it did in the file.
            || last.entry.key >= entry.key
    }

    /// Stores the batch, compares, and notes that the lines up to its last one are done.
    async fn flush(&mut self) -> Result<(), Failure> {
        let batch = std::mem::take(&mut self.batch);
        let batch_bytes = std::mem::take(&mut self.batch_bytes);
        let Some(last) = batch.last() else { return Ok(()) };
        if !self.is_dry {
            let asked = self.client.settings.keyspace.get();
            let keyspace = last.entry.keyspace.unwrap_or(asked);
            let client = self.client.with_keyspace(keyspace)?;
            let (alive, over): (Vec<_>, Vec<_>) =
                batch.iter().partition(|pending| pending.entry.ttl_ms != Some(0));
            let began = Instant::now();
            store(&client, &alive).await?;
            self.compare(&client, &alive, began).await?;
            self.position.skipped += over.len() as u64;
        }
        // Ordering: after that, so that a position never tells of what is not done. It is that of an entry:
        // what follows, the last line too, is read again.
        (self.position.bytes, self.position.crc32c) = (last.end, last.crc32c);
        self.position.lines = last.line;
        self.position.keys += batch.len() as u64;
        self.pace.add(batch.len() as u64, batch_bytes);
        match self.checkpoint {
            Some(checkpoint) => save(checkpoint, &self.position),
            None => Ok(()),
        }
    }

    async fn compare(
        &mut self,
        client: &Client,
        batch: &[&Pending],
        began: Instant,
    ) -> Result<(), Failure> {
        let keys = || batch.iter().map(|pending| pending.entry.key.clone());
        let found = patient(async || client.batch_get(keys()).await).await?;
        for (pending, found) in batch.iter().zip(found) {
            let Entry { key, value, ttl_ms, .. } = &pending.entry;
            let ttl = ttl_ms.map(Duration::from_millis);
            let why = match (&found, ttl) {
                (Some(kv), _) if kv.value != value => "another value",
                (Some(kv), None) if kv.ttl.is_some() => "a time to live",
                (Some(kv), Some(_)) if kv.ttl.is_none() => "no time to live",
                (Some(_), _) => {
                    self.position.equal += 1;
                    continue;
                }
                (None, Some(ttl)) if began.elapsed() >= ttl => {
                    self.position.expired += 1;
                    continue;
                }
                (None, _) => "nothing",
            };
            self.position.different += 1;
            if self.position.different <= NAMED_MAX {
                let key = super::encoding::Encoding::Text.show(key);
                self.out.tell(&format!("line {}: {key}: {why} is there now", pending.line));
            }
        }
        Ok(())
    }
}

/// Stores all of a batch, and goes on until it is certain that it is stored.
async fn store(client: &Client, batch: &[&Pending]) -> Result<(), Failure> {
    if batch.is_empty() {
        return Ok(());
    }
    let ops: Vec<Op> = batch.iter().map(|pending| put(pending)).collect::<Result<_, _>>()?;
    let stored = patient(async || {
        let mut failed = client.write(ops.clone()).await?.failed;
        // What one region refuses for good is not made better by what passes in another one.
        failed.sort_by_key(|failed| can_pass(&failed.error));
        failed.into_iter().next().map_or(Ok(()), |failed| Err(failed.error))
    })
    .await;
    let (first, last) = (&batch[0], &batch[batch.len() - 1]);
    match stored {
        // One of them is beyond a limit of this cluster: find out which.
        Err(Error::InvalidArgument { .. }) if batch.len() > 1 => {
            for pending in batch {
                Box::pin(store(client, &[pending])).await?;
            }
            Ok(())
        }
        Err(error) if batch.len() == 1 => {
            Err(Failure::Failed(format!("line {}: {error}", first.line)))
        }
        Err(error) => {
            Err(Failure::Failed(format!("lines {} to {}: {error}", first.line, last.line)))
        }
        Ok(()) => Ok(()),
    }
}

fn put(pending: &Pending) -> Result<Op, Failure> {
    let Entry { key, value, ttl_ms, .. } = &pending.entry;
    let ttl = ttl_ms.map(Duration::from_millis);
    let options = PutOptions { ttl, ..PutOptions::default() };
    Ok(Op::put_with(key.clone(), value.clone(), options)?)
}

fn can_pass(error: &Error) -> bool {
    matches!(error, Error::TimedOut { .. } | Error::MaybeApplied { .. })
}

/// Repeats what can pass, and what may be repeated because twice is as once.
async fn patient<T>(mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(error) if can_pass(&error) && Instant::now() < give_up => {
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

/// The input behind what is done, once it is certain to be the same file.
fn open(path: &Path, position: &Position) -> Result<Box<dyn BufRead>, Failure> {
    let shown = path.display();
    let mut input: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let opened = File::open(path);
        let file = opened.map_err(|error| Failure::Usage(format!("{shown}: {error}")))?;
        Box::new(BufReader::with_capacity(1 << 20, file))
    };
    // All of it is read again: a newer export may agree in its lengths and in its last key.
    let (mut bytes, mut crc32c) = (0, 0);
    let mut done = input.by_ref().take(position.bytes);
    loop {
        let block = done.fill_buf()?;
        if block.is_empty() {
            break;
        }
        crc32c = crc32c::crc32c_append(crc32c, block);
        let read = block.len();
        bytes += read as u64;
        done.consume(read);
    }
    if (bytes, crc32c) != (position.bytes, position.crc32c) {
        return Err(Failure::Usage(format!(
            "the checkpoint is of another file than {shown}: remove it to import this one from its beginning"
        )));
    }
    Ok(input)
}

/// What an earlier run noted; the beginning, if there was none.
fn load(path: &Path, cluster_id: &str) -> Result<Position, Failure> {
    let shown = path.display();
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Position { cluster_id: cluster_id.to_owned(), ..Position::default() });
        }
        Err(error) => return Err(Failure::Failed(format!("{shown}: {error}"))),
    };
    let position: Position = serde_json::from_slice(&text)
        .map_err(|error| Failure::Usage(format!("{shown} is no checkpoint: {error}")))?;
    if position.cluster_id != cluster_id {
        return Err(Failure::Usage(format!(
            "{shown} is of an import into cluster {}, this is cluster {cluster_id}",
            position.cluster_id
        )));
    }
    Ok(position)
}

/// Ordering: written beside and renamed, so that there is a whole one at every moment.
fn save(path: &Path, position: &Position) -> Result<(), Failure> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let wrong = |error: io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    std::fs::write(&beside, serde_json::to_vec(position)?).map_err(wrong)?;
    std::fs::rename(&beside, path).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_of_another_cluster_is_refused() {
        let path = std::env::temp_dir().join(format!("kvctl-checkpoint-{}", std::process::id()));
        let none = load(&path, "c1").expect("there is none yet");
        let noted = Position { lines: 3, bytes: 90, crc32c: 7, ..none };
        save(&path, &noted).expect("written");
        assert_eq!(load(&path, "c1").expect("the same"), noted);
        assert!(matches!(load(&path, "c2"), Err(Failure::Usage(_))));
        std::fs::remove_file(&path).expect("just written");
    }
}
