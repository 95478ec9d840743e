//! Data out of a cluster and into another one: `kvctl export` and `kvctl import`, byte for byte, and
//! through a `kill -9` in the middle.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use flotilla_client::{Client, KeyValue, Options, PutOptions};
use flotilla_tests::harness::{Cluster, binary, eventually};
use futures::TryStreamExt as _;
use tokio::time::Instant;

const BOUND: Duration = Duration::from_secs(60);
const KEYSPACES: [u32; 3] = [1, 7, 0x00ab_cdef];
/// More than a page of a scan, a batch of an import and a message of plain gRPC hold.
const LARGE: usize = (4 << 20) + 123;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_exported_comes_back_byte_for_byte() {
    let cluster = Cluster::start(1).await;
    let client = client(&cluster).await;
    fill(&client).await;
    let before = everything(&client).await;
    let file = cluster.scratch().join("all.jsonl");
    kvctl_ok(&cluster, &["export", path(&file)]);

    let text = fs::read_to_string(&file).expect("the export");
    assert_eq!(text.lines().count(), before.len() + 2, "a line for each key, first and last");
    kvctl_ok(&cluster, &["import", "--dry-run", path(&file)]);
    assert!(!kvctl(&cluster, &["export", path(&file)]).status.success(), "it exists");

    // Cut in the middle of a line: known to be a part, and continued.
    let part = cluster.scratch().join("part.jsonl");
    fs::write(&part, &text.as_bytes()[..text.len() / 2]).expect("written");
    let cut = kvctl(&cluster, &["import", "--dry-run", path(&part)]);
    assert_eq!(cut.status.code(), Some(1), "{}", said(&cut));
    kvctl_ok(&cluster, &["export", "--resume", path(&part)]);
    let key_of = |line: &str| line.split("\"ttl_ms\"").next().map(str::to_owned);
    let lines = |text: &str| text.lines().skip(1).map(key_of).collect::<Vec<_>>();
    let resumed = fs::read_to_string(&part).expect("the export");
    assert_eq!(lines(&resumed), lines(&text), "neither gap nor duplicate");

    wipe(&client).await;
    assert_eq!(everything(&client).await.len(), 0);
    let checkpoint = cluster.scratch().join("checkpoint");
    // By kill -9, when it has read half of the file and waits for more.
    let words = ["import", "-", "--checkpoint", path(&checkpoint)];
    let mut import = command(&cluster, &words).stdin(Stdio::piped()).spawn().expect("started");
    let mut input = import.stdin.take().expect("piped");
    input.write_all(&text.as_bytes()[..text.len() / 2]).expect("it reads");
    eventually("a checkpoint", BOUND, async || match fs::read(&checkpoint) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
    import.kill().expect("it waits");
    import.wait().expect("it was started");
    let partly = everything(&client).await.len();
    assert!(0 < partly && partly < before.len(), "{partly} of {} keys", before.len());
    let words = ["import", path(&file), "--checkpoint", path(&checkpoint)];
    let done = kvctl_ok(&cluster, &[&words[..], &["-o", "json"]].concat());
    let done: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let resumed = done["resumed_keys"].as_u64().expect("a number");
    assert!(resumed > 0, "it began anew: {done}");
    assert_eq!((&done["keys"], &done["different"]), (&before.len().into(), &0.into()), "{done}");
    assert!(!checkpoint.exists(), "it would stop the next import");

    let after = everything(&client).await;
    assert_eq!(after.len(), before.len());
    for ((keyspace, old), (other, new)) in before.iter().zip(&after) {
        assert_eq!((keyspace, &old.key), (other, &new.key));
        assert!(old.value == new.value, "the value of {:?} differs", old.key);
        match (old.ttl, new.ttl) {
            (None, None) => {}
            (Some(old), Some(new)) => {
                assert!(new <= old && new + BOUND >= old, "{new:?} of {old:?} are left");
            }
            other => panic!("times to live of {:?}: {other:?}", new.key),
        }
    }

    // What people look at meanwhile: the node's own files are a part of what is taken.
    // They are measured now and then.
    eventually("the files to be counted", BOUND, async || {
        let nodes = kvctl_ok(&cluster, &["-o", "json", "nodes"]);
        let nodes: serde_json::Value = serde_json::from_slice(&nodes.stdout).expect("JSON");
        let bytes = |name: &str| nodes["nodes"][0][name].as_u64().expect("a number");
        assert!(bytes("data_bytes") <= bytes("disk_used_bytes"), "{nodes}");
        if bytes("data_bytes") > LARGE as u64 { Ok(()) } else { Err(nodes) }
    })
    .await;
    let began = Instant::now();
    let missing = kvctl(&cluster, &["transfer", "99", "1"]);
    assert_eq!(missing.status.code(), Some(3), "{}", said(&missing));
    assert!(began.elapsed() < BOUND / 2, "it asked again and again");

    // A file that says that it has more than it has, as after an editor's slip.
    let short: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 2).map(|l| l.1).collect();
    fs::write(&part, short.join("\n")).expect("written");
    let refused = kvctl(&cluster, &["import", path(&part)]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(said(&refused).contains("the file says that it has"), "{}", said(&refused));
}

/// Every kind of key and value: with all bytes, empty, large, with a time to live, in several keyspaces.
async fn fill(client: &Client) {
    let all: Vec<u8> = (0..=255).collect();
    for keyspace in KEYSPACES {
        let client = client.with_keyspace(keyspace).expect("a keyspace");
        let ops = (0..1500).map(|number| {
            let key = format!("many/{number:05}");
            flotilla_client::Op::put(key, format!("value {number} of {keyspace}"))
        });
        client.write(ops).await.expect("stored");
        client.put(all.clone(), all.clone()).await.expect("stored");
        client.put("empty", "").await.expect("stored");
        let ttl = PutOptions { ttl: Some(Duration::from_secs(3600)), ..PutOptions::default() };
        client.put_with("session", "blue", ttl).await.expect("stored");
        let large: Vec<u8> = (0..LARGE).map(|at| (at * 31 + at / 251) as u8).collect();
        client.put("large", large).await.expect("stored");
    }
}

async fn wipe(client: &Client) {
    for keyspace in KEYSPACES {
        let client = client.with_keyspace(keyspace).expect("a keyspace");
        client.delete_range(vec![0], vec![0xff; 8]).await.expect("deleted");
    }
}

async fn everything(client: &Client) -> Vec<(u32, KeyValue)> {
    client.scan_keyspaces("").try_collect().await.expect("scanned")
}

async fn client(cluster: &Cluster) -> Client {
    let options = Options { timeout: BOUND, ..Options::default() };
    Client::connect_with(cluster.addresses(), options).await.expect("well-formed")
}

fn command(cluster: &Cluster, words: &[&str]) -> Command {
    let mut command = Command::new(binary("kvctl"));
    command.args(["--timeout", "60s", "--endpoints", &cluster.addresses().join(",")]).args(words);
    for name in ["FLOTILLA_ENDPOINTS", "FLOTILLA_OUTPUT", "FLOTILLA_TIMEOUT", "FLOTILLA_KEYSPACE"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn kvctl(cluster: &Cluster, words: &[&str]) -> Output {
    command(cluster, words).output().expect("run kvctl")
}

fn kvctl_ok(cluster: &Cluster, words: &[&str]) -> Output {
    let output = kvctl(cluster, words);
    assert!(output.status.success(), "kvctl {words:?}: {}", said(&output));
    output
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("scratch paths are text")
}
