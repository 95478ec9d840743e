use std::{io, sync::Arc, time::Duration};

use clap::CommandFactory as _;
use flotilla_proto::v1::{self, ErrorDetail, OutcomeUnknown, error_detail::Reason};
use parking_lot::Mutex;
use tonic::Code;

use super::*;
use crate::fake::{FakeCluster, Fault, region, typed};

/// What a command printed.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `kvctl` with these arguments: exit code and output.
async fn kvctl(cluster: &FakeCluster, args: &[&str]) -> (u8, String) {
    kvctl_within(cluster, "10s", args).await
}

async fn kvctl_within(cluster: &FakeCluster, timeout: &str, args: &[&str]) -> (u8, String) {
    let endpoints: Vec<_> = cluster.nodes.iter().map(|node| node.address.as_str()).collect();
    let endpoints = endpoints.join(",");
    let all = ["kvctl", "--timeout", timeout, "--endpoints", &endpoints];
    let cli = match Cli::try_parse_from(all.iter().chain(args)) {
        Ok(cli) => cli,
        Err(error) => return (u8::try_from(error.exit_code()).expect("small"), error.to_string()),
    };
    let captured = Captured::default();
    let sink = captured.clone();
    let outcome = run(cli, |format| Output::captured(format, Box::new(sink))).await;
    let text = String::from_utf8(captured.0.lock().clone()).expect("text");
    (exit::code(&outcome), text)
}

/// Runs `kvctl` with these arguments, which are well-formed: why it fails.
async fn failed(cluster: &FakeCluster, args: &[&str]) -> Failure {
    let address = cluster.nodes[0].address.as_str();
    let all = ["kvctl", "--timeout", "10s", "--endpoints", address];
    let cli = Cli::try_parse_from(all.iter().chain(args)).expect("well-formed");
    let sink = Box::new(Captured::default());
    run(cli, |format| Output::captured(format, sink)).await.expect_err("it fails")
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[tokio::test]
async fn commands_end_with_their_exit_codes() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].script(|seen| {
        if seen.method == "transfer_leader" {
            return Some(Fault::Refuse(typed(Code::NotFound, ErrorDetail::default())));
        }
        (seen.method == "append").then(|| {
            let reason = Some(Reason::OutcomeUnknown(OutcomeUnknown {}));
            let detail = ErrorDetail { maybe_applied: true, reason, ..ErrorDetail::default() };
            Fault::Refuse(typed(Code::DeadlineExceeded, detail))
        })
    });
    for (why, args, want) in [
        ("done", &["put", "k", "v"][..], 0),
        ("there", &["get", "k"], 0),
        ("not there", &["get", "nothing"], 3),
        ("removing what is not there", &["delete", "nothing"], 0),
        ("as expected", &["cas", "k", "w", "--expect", "v"], 0),
        ("not as expected", &["cas", "k", "x", "--expect", "v"], 5),
        ("a value like a flag", &["put", "n", "-5"], 0),
        ("all there", &["get", "k", "n"], 0),
        ("one not there", &["get", "k", "nothing"], 3),
        ("no key", &["get"], 2),
        ("resume without a file", &["export", "--resume", "-"], 2),
        ("nothing to import", &["import", "/nonexistent/file"], 2),
        ("nobody knows", &["append", "k", "v"], 4),
        ("no value", &["put", "k"], 2),
        ("no such command", &["fetch", "k"], 2),
        ("not hexadecimal", &["--hex", "get", "xyz"], 2),
        ("two encodings", &["--hex", "--base64", "get", "00"], 2),
        ("no expectation", &["cas", "k", "w"], 2),
        ("nothing to delete", &["delete"], 2),
        ("an empty prefix", &["delete", "--prefix", ""], 2),
        ("half a range", &["delete", "--from", "a"], 2),
        ("everything, and a prefix", &["delete", "--all", "--prefix", "a"], 2),
        ("everything", &["delete", "--all"], 0),
        ("no such file", &["txn", "/nonexistent/file"], 2),
        ("a region that is not there", &["check", "--region", "9"], 3),
        ("a region that is not there to be led", &["transfer", "9", "1"], 3),
        ("a timeout of nothing", &["--timeout", "0s", "get", "k"], 2),
        ("help", &["--help"], 0),
    ] {
        let (code, output) = kvctl(&cluster, args).await;
        assert_eq!(code, want, "{why}: kvctl {args:?} printed {output}");
    }
}

#[tokio::test]
async fn get_prints_the_value_and_nothing_else() {
    let cluster = FakeCluster::start(1).await;
    kvctl(&cluster, &["put", "k", "line\n"]).await;
    assert_eq!(kvctl(&cluster, &["get", "k"]).await, (0, "line\n".into()));
    assert_eq!(kvctl(&cluster, &["--hex", "get", "6b"]).await, (0, "6c696e650a".into()));
    assert_eq!(kvctl(&cluster, &["--base64", "get", "aw=="]).await, (0, "bGluZQo=".into()));
}

#[tokio::test]
async fn several_keys_are_read_at_once_and_in_their_order() {
    let cluster = FakeCluster::start(1).await;
    kvctl(&cluster, &["put", "a", "-1"]).await;
    kvctl(&cluster, &["put", "b", "2"]).await;
    let read = kvctl(&cluster, &["get", "b", "none", "a"]).await;
    assert_eq!(read, (3, "b\t2\na\t-1\n".into()), "what is there is printed all the same");
    assert_eq!(cluster.count("batch_get"), 1);
    let (_, got) = kvctl(&cluster, &["-o", "json", "get", "a", "b"]).await;
    assert_eq!(json(&got)[1]["value"], "2");
}

/// A batch whose outcome is not known, and one that was refused, are stored in the end.
#[tokio::test]
async fn import_goes_on_until_it_is_certain_that_everything_is_stored() {
    let cluster = FakeCluster::start(1).await;
    cluster.list_nodes();
    cluster.fill((0..1200).map(|number| format!("k{number:04}")));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("all.jsonl");
    let file = file.to_str().expect("ASCII");
    let (code, said) = kvctl(&cluster, &["--keyspace", "1", "export", file]).await;
    assert_eq!((code, said), (0, "exported 1200 keys of keyspace 1\n".into()));
    assert_eq!(kvctl(&cluster, &["export", file]).await.0, 2, "it exists");

    let data = std::mem::take(&mut *cluster.data.lock());
    cluster.nodes[0].script(|seen| {
        (seen.method == "write" && seen.nth < 2).then(|| match seen.nth {
            0 => Fault::ServeAndFail(tonic::Status::unknown("cut")),
            _ => {
                let reason = Some(Reason::OutcomeUnknown(OutcomeUnknown {}));
                let detail = ErrorDetail { maybe_applied: true, reason, ..ErrorDetail::default() };
                Fault::Refuse(typed(Code::DeadlineExceeded, detail))
            }
        })
    });
    let (code, said) = kvctl(&cluster, &["-o", "json", "import", file]).await;
    let want = serde_json::json!({
        "keys": 1200, "resumed_keys": 0, "equal": 1200, "expired": 0, "skipped": 0, "different": 0,
    });
    assert_eq!((code, json(&said)), (0, want));
    let stored: Vec<_> =
        cluster.data.lock().iter().map(|(k, v)| (k.clone(), v.0.clone())).collect();
    let before: Vec<_> = data.into_iter().map(|(key, (value, _))| (key, value)).collect();
    assert_eq!(stored, before);
}

#[tokio::test]
async fn export_of_one_cluster_does_not_go_on_with_another() {
    let cluster = FakeCluster::start(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("part.jsonl");
    let part = "{\"flotilla_export\":2,\"cluster_id\":\"another\",\"unix_ms\":1}\n{\"key\":";
    std::fs::write(&file, part).expect("write a file");
    let shown = file.to_str().expect("a path");
    assert_eq!(kvctl(&cluster, &["export", "--resume", shown]).await.0, 2);
    assert_eq!(std::fs::read_to_string(&file).expect("read it"), part, "it is as it was");
}

#[tokio::test]
async fn import_that_did_not_come_out_as_the_file_says_fails() {
    let cluster = FakeCluster::start(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("some.jsonl");
    let head = r#"{"flotilla_export":2,"cluster_id":"c1","unix_ms":1}"#;
    let one = r#"{"key_base64":"YQ==","value_base64":"MQ=="}"#;
    let two = r#"{"key_base64":"Yg==","value_base64":"Mg=="}"#;
    let over = r#"{"key_base64":"YQ==","value_base64":"MQ==","ttl_ms":0}"#;
    let end = r#"{"end":{"keys":1}}"#;
    // Somebody writes meanwhile: what is read back is not what was stored.
    let data = cluster.data.clone();
    cluster.nodes[0].script(move |seen| {
        if seen.method == "batch_get" {
            data.lock().remove(&b"b"[..]);
        }
        None
    });
    for (why, lines, want) in [
        ("whole", vec![head, one, end], 0),
        ("a listing, without first line", vec![one, end], 0),
        ("cut off", vec![head, one], 4),
        ("a listing that was cut off", vec![one], 4),
        ("nothing", vec![], 1),
        ("more is promised", vec![head, one, r#"{"end":{"keys":2}}"#], 4),
        ("less is promised", vec![head, one, one, end], 4),
        ("something comes after the end", vec![head, r#"{"end":{"keys":0}}"#, one], 1),
        ("an end after the end", vec![one, end, end], 1),
        ("a blank line after the end", vec![head, one, end, "", " ", ""], 0),
        ("a blank line before the end", vec![head, one, "", end], 4),
        ("malformed", vec![one, "{"], 4),
        ("malformed behind what is not stored", vec![over, "{"], 1),
        ("malformed from the beginning", vec!["{", one], 1),
        ("a listing that broke off", vec![one, r#"{"error":{"code":"X","message":"y"}}"#], 4),
        ("gone when it is read back", vec![two, end], 4),
    ] {
        std::fs::write(&file, lines.join("\n")).expect("written");
        let path = file.to_str().expect("ASCII");
        let (code, said) = kvctl(&cluster, &["import", path]).await;
        assert_eq!(code, want, "{why}: {said}");
    }
}

/// A command that fails after it has changed something says so, and no command has to remember that.
#[tokio::test]
async fn failure_after_a_part_was_done_tells_what_was_done_and_how_to_go_on() {
    let cluster = FakeCluster::start(4).await;
    cluster.list_nodes();
    for node in &cluster.nodes {
        node.script(|seen| {
            let fails = match seen.method {
                "change_membership" => true,
                // Draining, and then nobody drives; before it is asked for `add` looks at the table once.
                "list_nodes" => seen.nth > 0,
                "write" => seen.nth > 0,
                _ => false,
            };
            fails.then(|| Fault::Refuse(typed(Code::FailedPrecondition, ErrorDetail::default())))
        });
        node.answer_removals(v1::RemoveNodeResponse {
            state: v1::NodeState::Draining.into(),
            peers_left: 3,
            leaders_left: 1,
            version: 12,
        });
    }
    let one = FakeCluster { nodes: vec![cluster.nodes[0].clone()], data: cluster.data.clone() };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("some.jsonl");
    let line = |number| format!("{{\"key_base64\":\"{number:04}\",\"value_base64\":\"dg==\"}}\n");
    std::fs::write(&file, (0..600).map(line).collect::<String>()).expect("written");
    let file = file.to_str().expect("ASCII");
    for (args, done, next) in [
        (&["cluster", "add", "n:1", "--promote"][..], "node 4 is in the cluster", "promote 4"),
        (&["cluster", "remove", "4", "--wait"], "node 4 is draining, with 3 peers", "remove 4`"),
        (
            &["import", file],
            "of the first 512 keys of the file, to line 512, 512 were stored and read back as",
            "with --checkpoint",
        ),
    ] {
        let failure = failed(&one, args).await;
        let told = json(&failure.text(Format::Json).expect("somebody listens"));
        let told = &told["error"];
        assert_eq!(exit::code(&Err(failure)), 4, "kvctl {args:?}");
        assert_eq!((&told["exit_code"], &told["maybe_applied"]), (&4.into(), &true.into()));
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        assert!(text("done").contains(done) && text("next").contains(next), "{args:?}: {told}");
    }
    // A node that was there before was not added, and is where it was.
    for node in &cluster.nodes {
        node.edit_listings(|_, listed| listed.version = 9);
    }
    let failure = failed(&one, &["cluster", "add", "n:1", "--promote"]).await;
    let told = json(&failure.text(Format::Json).expect("somebody listens"));
    assert_eq!(told["error"]["maybe_applied"], false, "{told}");
    // A removal of which the answer was lost is not to be repeated as a question.
    let lost = FakeCluster::start(1).await;
    lost.nodes[0].script(|seen| {
        (seen.method == "remove_node").then(|| {
            let reason = Some(Reason::OutcomeUnknown(OutcomeUnknown {}));
            let detail = ErrorDetail { maybe_applied: true, reason, ..ErrorDetail::default() };
            Fault::Refuse(typed(Code::DeadlineExceeded, detail))
        })
    });
    let failure = failed(&lost, &["cluster", "remove", "4"]).await;
    let told = json(&failure.text(Format::Json).expect("somebody listens"));
    let told = &told["error"];
    assert_eq!(told["done"], "node 4 may be draining", "{told}");
    assert!(told["next"].as_str().is_some_and(|next| next.contains("cancel-remove 4")), "{told}");
    assert_eq!(exit::code(&Err(failure)), 4);
    // What changed nothing promises that nothing was changed.
    let failure = failed(&one, &["cluster", "promote", "4"]).await;
    let told = json(&failure.text(Format::Json).expect("somebody listens"));
    assert_eq!(told["error"]["maybe_applied"], false, "{told}");
    assert!(told["error"].get("done").is_none(), "{told}");
}

/// Whose answer cannot be printed has been done all the same.
#[tokio::test]
async fn write_whose_answer_cannot_be_printed_is_not_called_undone() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let cluster = FakeCluster::start(1).await;
    let address = &cluster.nodes[0].address;
    for (args, want) in [(["put", "k", "v"], 4), (["get", "k", "k"], 1)] {
        let cli = Cli::try_parse_from(["kvctl", "--endpoints", address].iter().chain(&args));
        let cli = cli.expect("well-formed");
        let outcome = run(cli, |format| Output::captured(format, Box::new(Full))).await;
        assert_eq!(exit::code(&outcome), want, "kvctl {args:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn import_goes_on_from_its_checkpoint_wherever_it_ended() {
    let cluster = FakeCluster::start(1).await;
    cluster.list_nodes();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, note) = (folder.path().join("a.jsonl"), folder.path().join("note"));
    let args = ["-o", "json", "import", "--text", file.to_str().expect("ASCII"), "--checkpoint"];
    let args = [&args[..], &[note.to_str().expect("ASCII")]].concat();
    let lines = "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"2\"}\n";
    let write = |end: &str| std::fs::write(&file, format!("{lines}{end}")).expect("written");

    write("{\"end\":{\"keys\":3}}\n");
    assert_eq!(kvctl(&cluster, &args).await.0, 4, "a key is missing");
    let written = cluster.count("write");
    assert_eq!(kvctl(&cluster, &args).await.0, 4, "of what it was asked for a part is done still");
    assert_eq!(cluster.count("write"), written, "by the run before");
    write("{\"key\":\"c\",\"value\":\"3\"}\n{\"end\":{\"keys\":3}}\n");
    let (code, said) = kvctl(&cluster, &args).await;
    assert_eq!((code, &json(&said)["resumed_keys"]), (0, &2.into()), "{said}");
    assert!(!note.exists(), "it would stop the next import");

    // Somebody else writes: all is stored and nothing left to go on with.
    let data = cluster.data.clone();
    cluster.nodes[0].script(move |seen| {
        if seen.method == "batch_get" {
            data.lock().remove(&b"b"[..]);
        }
        None
    });
    assert_eq!(kvctl(&cluster, &args).await.0, 4, "a key is not as in the file");
    assert!(!note.exists(), "the same command would store nothing");
}

#[tokio::test]
async fn checkpoint_of_an_older_file_of_the_same_lengths_is_refused() {
    let cluster = FakeCluster::start(1).await;
    cluster.list_nodes();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, note) = (folder.path().join("a.jsonl"), folder.path().join("note"));
    let args = ["import", "--text", file.to_str().expect("ASCII"), "--checkpoint"];
    let args = [&args[..], &[note.to_str().expect("ASCII")]].concat();
    let write = |value: &str, end: &str| {
        let lines =
            format!("{{\"key\":\"a\",\"value\":\"{value}\"}}\n{{\"key\":\"b\",\"value\":\"2\"}}\n");
        std::fs::write(&file, format!("{lines}{end}")).expect("written");
    };
    write("1", "");
    assert_eq!(kvctl(&cluster, &args).await.0, 4, "it is cut off");
    write("9", "{\"end\":{\"keys\":2}}\n");
    assert_eq!(kvctl(&cluster, &args).await.0, 2, "its first line is another one");
    write("1", "{\"end\":{\"keys\":2}}\n");
    assert_eq!(kvctl(&cluster, &args).await.0, 0);
}

/// In the form before this one `key` and `value` were base64, and a word of four letters is base64 too.
#[tokio::test]
async fn nothing_is_stored_under_a_name_that_may_be_base64() {
    let cluster = FakeCluster::start(1).await;
    cluster.list_nodes();
    let folder = tempfile::tempdir().expect("a folder");
    let (path, note) = (folder.path().join("some.jsonl"), folder.path().join("note"));
    let (file, note) = (path.to_str().expect("ASCII"), note.to_str().expect("ASCII"));
    let head = |form| format!("{{\"flotilla_export\":{form},\"cluster_id\":\"c1\",\"unix_ms\":1}}");
    let line = r#"{"key":"abcd","value":"efgh"}"#.to_owned();
    let old = r#"{"keyspace":1,"key":"abcd","value":"efgh"}"#.to_owned();
    let end = r#"{"end":{"keys":1}}"#.to_owned();
    let import = ["import", file];
    for (why, lines, args, at) in [
        (
            "an export of form 1",
            vec![head(1), old.clone(), end.clone()],
            &import[..],
            "line 1: is of",
        ),
        (
            "with --text too",
            vec![head(1), old.clone(), end.clone()],
            &["import", file, "--text"],
            "line 1",
        ),
        ("without its first line", vec![old, end.clone()], &import, "line 1: has key"),
        ("a listing of then", vec![line.clone()], &import, "line 1: has key"),
        ("to go on with", vec![head(1)], &["export", "--resume", file], "line 1: is of form 1"),
    ] {
        std::fs::write(&path, lines.join("\n") + "\n").expect("written");
        let failure = failed(&cluster, args).await;
        assert!(failure.to_string().contains(at), "{why}: {failure}");
        assert_eq!(exit::code(&Err(failure)), 1, "{why}: nothing was changed");
    }
    assert_eq!(cluster.count("write"), 0);

    // As text when that is said, by the file or by the caller; also when the first line is behind us.
    for (lines, args) in [
        (vec![line.clone()], &["import", file, "--text"][..]),
        (vec![head(2), line.clone()], &["import", file, "--checkpoint", note]),
    ] {
        std::fs::write(&path, lines.join("\n") + "\n").expect("written");
        assert_eq!(kvctl(&cluster, args).await.0, 4, "it has no end");
        let more = line.replace("abcd", "ijkl");
        let whole = [&lines[..], &[more, end.replace('1', "2")]].concat();
        std::fs::write(&path, whole.join("\n")).expect("written");
        assert_eq!(kvctl(&cluster, args).await.0, 0);
        let mut data = cluster.data.lock();
        let keys: Vec<_> =
            data.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        assert_eq!(keys, ["abcd", "ijkl"]);
        data.clear();
    }
}

/// A number for each of the ways in which an import ends for a key, none of them called another.
#[tokio::test]
async fn import_tells_what_was_stored_from_what_was_not() {
    let cluster = FakeCluster::start(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("some.jsonl");
    let lines = [
        r#"{"key_base64":"YQ==","value_base64":"MQ=="}"#,
        r#"{"key_base64":"Yg==","value_base64":"MQ==","ttl_ms":0}"#,
        r#"{"key_base64":"Yw==","value_base64":"MQ==","ttl_ms":1}"#,
        r#"{"end":{"keys":3}}"#,
    ];
    std::fs::write(&file, lines.join("\n")).expect("written");
    // The fake keeps what has expired; a node does not.
    let (data, begun) = (cluster.data.clone(), tokio::time::Instant::now());
    cluster.nodes[0].script(move |seen| {
        if seen.method == "batch_get" {
            while begun.elapsed() < Duration::from_millis(5) {
                std::thread::yield_now();
            }
            data.lock().remove(&b"c"[..]);
        }
        None
    });
    let (code, said) =
        kvctl(&cluster, &["-o", "json", "import", file.to_str().expect("ASCII")]).await;
    let want = serde_json::json!({
        "keys": 3, "resumed_keys": 0, "equal": 1, "expired": 1, "skipped": 1, "different": 0,
    });
    assert_eq!((code, json(&said)), (0, want));
    assert_eq!(cluster.data.lock().len(), 1);
}

#[tokio::test]
async fn import_takes_what_a_smaller_limit_of_the_server_allows() {
    let cluster = FakeCluster::start(1).await;
    cluster.list_nodes();
    cluster.fill((0..700).map(|number| format!("k{number:04}")));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("all.jsonl");
    let file = file.to_str().expect("ASCII");
    assert_eq!(kvctl(&cluster, &["export", file]).await.0, 0);
    cluster.data.lock().clear();
    cluster.nodes[0].take_at_most(100);
    let (code, said) = kvctl(&cluster, &["-o", "json", "import", file]).await;
    assert_eq!((code, &json(&said)["equal"]), (0, &700.into()), "{said}");
    assert!(cluster.count("write") < 20, "not one by one: {}", cluster.count("write"));
}

/// What is refused is not tried again for a minute, nor called something that may have been applied.
#[tokio::test]
async fn import_that_is_refused_behind_the_first_piece_of_a_batch_names_the_line_at_once() {
    let cluster = FakeCluster::start(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("some.jsonl");
    let line = |number| format!("{{\"key_base64\":\"a{number:03}\",\"value_base64\":\"dg==\"}}\n");
    std::fs::write(&file, (0..25).map(line).collect::<String>()).expect("written");
    cluster.nodes[0].take_at_most(10);
    // The request that is cut, two pieces of it, and then one after the other.
    let invalid = |seen: &crate::fake::Seen| {
        let fails = seen.method == "write" && (seen.nth == 1 || seen.nth == 5);
        fails.then(|| {
            let field = "ops[0].put.value".to_owned();
            let reason = Some(Reason::InvalidArgument(v1::InvalidArgument { field, limit: 7 }));
            let detail = ErrorDetail { reason, ..ErrorDetail::default() };
            Fault::Refuse(typed(Code::InvalidArgument, detail))
        })
    };
    cluster.nodes[0].script(invalid);
    let begun = tokio::time::Instant::now();
    let failure = failed(&cluster, &["import", file.to_str().expect("ASCII")]).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let said = failure.to_string();
    assert!(said.starts_with("line 4: as the test wants"), "{said}");

    // In one region of several, while another one may have stored its part.
    let cluster = FakeCluster::start(1).await;
    let refused = |error: &str, maybe_applied| v1::RegionWriteResult {
        error: error.to_owned(),
        maybe_applied,
        code: Code::FailedPrecondition as i32,
        detail: Some(ErrorDetail::default()),
        ..v1::RegionWriteResult::default()
    };
    cluster.nodes[0].answer_writes(move |_| vec![refused("late", true), refused("never", false)]);
    let failure = failed(&cluster, &["import", file.to_str().expect("ASCII")]).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(failure.to_string().starts_with("lines 1 to 25: never"), "{failure}");
    assert_eq!((exit::code(&Err(failure)), cluster.count("write")), (4, 1));
}

#[tokio::test]
async fn programs_read_json_and_yaml() {
    let cluster = FakeCluster::start(1).await;
    let (_, stored) = kvctl(&cluster, &["-o", "json", "put", "k", "v", "--previous"]).await;
    assert_eq!(json(&stored), serde_json::json!({ "revision": 1 }));
    let (_, stored) = kvctl(&cluster, &["-o", "json", "put", "k", "w", "--previous"]).await;
    assert_eq!(json(&stored)["previous"]["value"], "v");
    let (_, got) = kvctl(&cluster, &["-o", "yaml", "get", "k"]).await;
    let got: serde_json::Value = serde_yaml::from_str(&got).expect("YAML");
    assert_eq!(
        got,
        serde_json::json!({
            "key": "k", "value": "w", "encoding": "text", "revision": 2,
        })
    );

    kvctl(&cluster, &["--hex", "put", "ff", "00"]).await;
    let (_, got) = kvctl(&cluster, &["-o", "json", "scan"]).await;
    let got = json(&got);
    assert_eq!(got.as_array().map(Vec::len), Some(2));
    assert_eq!((&got[0]["key"], &got[0]["encoding"]), (&"k".into(), &"text".into()));
    assert_eq!((&got[1]["key"], &got[1]["encoding"]), (&"/w==".into(), &"base64".into()));
    let (_, none) = kvctl(&cluster, &["-o", "json", "scan", "none"]).await;
    assert_eq!(json(&none), serde_json::json!([]));
    let (_, got) = kvctl(&cluster, &["-o", "yaml", "scan"]).await;
    let got: serde_json::Value = serde_yaml::from_str(&got).expect("YAML");
    assert_eq!(got.as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn scans_are_lines_for_people() {
    let cluster = FakeCluster::start(1).await;
    for key in ["a/1", "a/2", "b"] {
        kvctl(&cluster, &["put", key, "v"]).await;
    }
    assert_eq!(kvctl(&cluster, &["scan", "a/"]).await, (0, "a/1\tv\na/2\tv\n".into()));
    let reversed = kvctl(&cluster, &["scan", "--reverse", "--keys-only", "-n", "2"]).await;
    assert_eq!(reversed, (0, "b\na/2\n".into()));
    assert_eq!(kvctl(&cluster, &["scan", "--count", "--from", "a/2"]).await, (0, "2\n".into()));
    assert_eq!(
        kvctl(&cluster, &["delete", "--prefix", "a/"]).await,
        (0, "deleted 2 keys\n".into())
    );
    assert_eq!(kvctl(&cluster, &["delete", "--all"]).await, (0, "deleted 1 key\n".into()));
}

#[tokio::test]
async fn counters_and_transactions_print_what_they_did() {
    let cluster = FakeCluster::start(1).await;
    assert_eq!(kvctl(&cluster, &["incr", "n"]).await, (0, "1\n".into()));
    assert_eq!(kvctl(&cluster, &["incr", "n", "-5"]).await, (0, "-4\n".into()));

    let file = std::env::temp_dir().join(format!("kvctl-txn-{}.yaml", std::process::id()));
    let text = "compare: [{key: lock, absent: true}]\nsuccess: [{put: {key: lock, value: me}}]\n\
                failure: [{get: {key: lock}}]\n";
    std::fs::write(&file, text).expect("a file in the temporary folder");
    let path = file.to_str().expect("ASCII");
    let (code, first) = kvctl(&cluster, &["-o", "json", "txn", path]).await;
    let (_, second) = kvctl(&cluster, &["-o", "json", "txn", path]).await;
    std::fs::remove_file(&file).expect("just written");
    assert_eq!((code, &json(&first)["succeeded"]), (0, &true.into()));
    let second = json(&second);
    assert_eq!(second["succeeded"], false);
    assert_eq!(second["results"][0]["get"]["found"]["value"], "me");
}

#[tokio::test]
async fn check_waits_for_several_regions_at_a_time() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    cluster.list_nodes();
    let bound = |id: u8| if id == 0 || id == 8 { vec![] } else { vec![0, 0, id] };
    let regions: Vec<_> =
        (0..8).map(|id| region(u64::from(id) + 1, &bound(id), &bound(id + 1), 1, node)).collect();
    cluster.list(&regions);
    node.script(|seen| (seen.method == "check_region").then_some(Fault::Hang));
    let begun = tokio::time::Instant::now();
    let (code, report) = kvctl_within(&cluster, "400ms", &["-o", "json", "check"]).await;
    assert_eq!((code, &json(&report)["regions_compared"]), (5, &0.into()), "{report}");
    let each = json(&report)["findings"].as_array().map(Vec::len);
    assert_eq!(each, Some(8), "{report}");
    assert!(begun.elapsed() < Duration::from_millis(400) * 5, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn check_fails_when_peers_differ() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    cluster.list_nodes();
    cluster.list(&[region(1, b"", &[0, 0, 1], 1, node), region(2, &[0, 0, 1], b"", 1, node)]);
    let (code, report) = kvctl(&cluster, &["-o", "json", "check"]).await;
    assert_eq!((code, &json(&report)["ok"]), (0, &true.into()), "{report}");
    assert_eq!(json(&report)["regions_compared"], 2);
    assert_eq!(json(&report)["keys"], 3, "those of the system are nobody's");

    let sum =
        |node_id, checksum| v1::PeerChecksum { node_id, checksum, ..v1::PeerChecksum::default() };
    node.answer_checks(v1::CheckRegionResponse {
        consistent: false,
        peers: vec![sum(1, 7), sum(2, 8)],
        check_id: 9,
        done: true,
    });
    let (code, report) = kvctl(&cluster, &["-o", "json", "check"]).await;
    assert_eq!(code, 5);
    assert_eq!(json(&report)["findings"][0]["severity"], "inconsistent");
}

#[tokio::test]
async fn the_cluster_is_grown_and_shrunk() {
    let cluster = FakeCluster::start(1).await;
    cluster.list_nodes();
    for (args, want) in [
        (&["cluster", "init"][..], "cluster c1 has its first node, 1\n"),
        (
            &["cluster", "add", "n4:7420", "--label", "zone=a"],
            "node 4 added as a learner, version 9\n",
        ),
        (&["cluster", "add", "n4:7420", "--promote"], "node 4 added and promoted, version 10\n"),
        (&["cluster", "promote", "4", "5"], "promoted 4, 5, version 10\n"),
        (&["cluster", "remove", "4", "--wait"], "node 4 is removed\n"),
        (&["cluster", "cancel-remove", "4"], "node 4 is up\n"),
        (&["cluster", "evict-leaders", "4", "--for", "1m"], "node 4 has 0 leaders left\n"),
        (
            &["cluster", "evict-leaders", "4", "--for", "1m", "--wait"],
            "node 4 has 0 leaders left\n",
        ),
        (&["transfer", "2", "1"], "node 1 leads region 2\n"),
    ] {
        assert_eq!(kvctl(&cluster, args).await, (0, want.into()), "kvctl {args:?}");
    }
    let (code, status) = kvctl(&cluster, &["-o", "json", "cluster", "status"]).await;
    assert_eq!((code, &json(&status)["nodes_up"]), (0, &1.into()));
    let (code, nodes) = kvctl(&cluster, &["nodes"]).await;
    assert_eq!(code, 0);
    assert!(nodes.contains(&cluster.nodes[0].address), "{nodes}");
    let (code, status) = kvctl(&cluster, &["status"]).await;
    assert_eq!(code, 0);
    assert!(status.contains("ready"), "{status}");
}

#[tokio::test]
async fn node_that_was_there_is_not_said_to_be_added() {
    let cluster = FakeCluster::start(4).await;
    for (state, args, want) in [
        (v1::NodeState::Up, &[][..], "is in service already"),
        (v1::NodeState::Up, &["--promote"], "is in service already"),
        (v1::NodeState::NodeLearner, &[], "is in the cluster already: learner"),
        (v1::NodeState::NodeLearner, &["--promote"], "was a learner, promoted"),
        (v1::NodeState::Draining, &[], "is in the cluster already: draining"),
        (v1::NodeState::Joining, &[], "added as a learner"),
    ] {
        cluster.list_nodes_as(state);
        let (code, said) = kvctl(&cluster, &[&["cluster", "add", "n4:7420"], args].concat()).await;
        assert_eq!(code, 0);
        assert!(said.starts_with(&format!("node 4 {want}, version")), "{state:?} {args:?}: {said}");
    }
}

#[tokio::test]
async fn node_that_was_demoted_is_told_as_such_and_not_promoted_by_the_way() {
    let cluster = FakeCluster::start(4).await;
    cluster.list_nodes_as(v1::NodeState::NodeLearner);
    for node in &cluster.nodes {
        node.edit_listings(|_, listed| listed.nodes[3].demoted = true);
    }
    let (_, nodes) = kvctl(&cluster, &["nodes"]).await;
    assert_eq!(nodes.matches("learner (demoted)").count(), 1, "{nodes}");
    let (_, nodes) = kvctl(&cluster, &["-o", "json", "nodes"]).await;
    let demoted = |at: usize| json(&nodes)["nodes"][at]["demoted"].clone();
    assert_eq!((demoted(2), demoted(3)), (false.into(), true.into()), "{nodes}");
    let (_, said) = kvctl(&cluster, &["cluster", "add", "n4:7420"]).await;
    assert!(said.contains("in the cluster already: learner (demoted)"), "{said}");
    kvctl(&cluster, &["cluster", "add", "n4:7420", "--promote"]).await;
    kvctl(&cluster, &["cluster", "promote", "4"]).await;
    let kept: Vec<bool> = cluster.nodes.iter().flat_map(|node| node.kept_demoted()).collect();
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 1, "the first: {kept:?}");
    assert_eq!(kept.len(), 2, "it was asked for by its name");
}

/// The first endpoint finds no driver, and knows less than the second node; the third is dead.
#[tokio::test]
async fn listings_of_an_outage_are_put_together_from_all_nodes_in_reach() {
    let cluster = FakeCluster::start(3).await;
    cluster.list_nodes();
    let node = |at: usize| &cluster.nodes[at];
    let [low, high] = [region(2, b"", b"m", 1, node(0)), region(3, b"m", b"", 1, node(1))];
    node(0).know_itself(1, true, std::slice::from_ref(&low));
    node(1).know_itself(2, false, std::slice::from_ref(&high));
    node(2).stop();
    for (at, peers) in [(0, 5), (1, 7)] {
        node(at).edit_listings(move |_, listed| {
            listed.nodes.iter_mut().for_each(|node| node.set_liveness(v1::Liveness::Unspecified));
            listed.nodes[at].set_liveness(v1::Liveness::Alive);
            listed.nodes[at].peers = peers;
        });
    }
    let one = FakeCluster { nodes: vec![node(0).clone()], data: cluster.data.clone() };
    for stale in [&[][..], &["--stale"]] {
        // Asked for, it is so without a driver and with one.
        let rows = async |args: &[&str]| {
            let args = [&["-o", "json"], args, stale].concat();
            // A dead node is waited for to the end.
            let (code, said) = kvctl_within(&one, "400ms", &args).await;
            (code, json(&said))
        };
        let (code, listed) = rows(&["nodes"]).await;
        assert_eq!((code, &listed["told_by_nodes"]), (0, &serde_json::json!([1, 2])));
        let told: Vec<_> = (0..3)
            .map(|at| &listed["nodes"][at])
            .map(|row| (row["liveness"].clone(), row["peers"].clone()))
            .collect();
        let want = [("alive", 5), ("alive", 7), ("unknown", 0)];
        assert_eq!(told, want.map(|(liveness, peers)| (liveness.into(), peers.into())));
        let (code, listed) = rows(&["regions", "--all"]).await;
        assert_eq!((code, &listed[0]["id"], &listed[1]["id"]), (0, &2.into(), &3.into()));
        assert_eq!(rows(&["regions", "-n", "1"]).await.1.as_array().map(Vec::len), Some(1));
        let (code, status) = rows(&["cluster", "status"]).await;
        assert_eq!((code, &status["nodes_up"], &status["regions"]), (0, &2.into(), &2.into()));
        if stale.is_empty() {
            let (code, report) = rows(&["check"]).await;
            assert_eq!((code, &report["regions_compared"]), (5, &0.into()), "{report}");
            let message = report["findings"][0]["message"].as_str().unwrap_or_default();
            let is_named = message.contains(&node(2).address);
            assert!(is_named && message.contains("no placement driver"), "{report}");
        }
        node(0).know_itself(1, false, std::slice::from_ref(&low));
    }
    assert_eq!(cluster.count("check_region"), 0, "nobody would say when");
    // Of a driver the listings are, as long as nobody asks for others.
    let (_, listed) = kvctl(&one, &["-o", "json", "nodes"]).await;
    assert!(json(&listed).get("told_by_nodes").is_none(), "{listed}");
    node(0).know_itself(1, true, &[]);
    node(1).know_itself(2, false, &[]);
    let (code, none) = kvctl_within(&one, "400ms", &["-o", "json", "regions", "--all"]).await;
    assert_eq!((code, json(&none)), (5, serde_json::json!([])), "no peer runs, and that is said");
    let two = FakeCluster { nodes: vec![node(2).clone()], data: cluster.data.clone() };
    let nobody = kvctl_within(&two, "300ms", &["nodes", "--stale"]).await;
    assert_eq!(nobody, (1, String::new()), "nobody is there");
}

#[tokio::test]
async fn eviction_is_waited_for_until_the_node_leads_nothing() {
    let cluster = FakeCluster::start(4).await;
    cluster.list_nodes();
    for node in &cluster.nodes {
        node.leave_leaders(2);
    }
    let args = ["cluster", "evict-leaders", "4", "--wait"];
    let asked = async {
        // It leads as long as the table says so.
        while cluster.count("list_nodes") < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(cluster.count("evict_leaders"), 1, "a repeat would begin the time anew");
        cluster.nodes.iter().for_each(|node| node.leave_leaders(0));
    };
    let (ended, ()) = tokio::join!(kvctl(&cluster, &args), asked);
    assert_eq!(ended, (0, "node 4 has 0 leaders left\n".into()));
    cluster.nodes.iter().for_each(|node| node.leave_leaders(2));
    let args = ["cluster", "evict-leaders", "4", "--wait", "--for", "300ms"];
    assert_eq!(kvctl(&cluster, &args).await.0, 4, "it is begun, and not done in time");
    assert_eq!(
        kvctl(&cluster, &["cluster", "evict-leaders", "4", "--wait", "--for", "0s"]).await.0,
        2
    );
    let (_, nodes) = kvctl(&cluster, &["nodes"]).await;
    assert!(nodes.contains("2 (evicted)"), "{nodes}");
}

#[tokio::test]
async fn eviction_that_somebody_ended_is_not_called_done() {
    let cluster = FakeCluster::start(4).await;
    cluster.list_nodes();
    let args = ["cluster", "evict-leaders", "4", "--wait"];
    let wait = async |edit: fn(&mut v1::ListNodesResponse)| {
        let one = FakeCluster { nodes: vec![cluster.nodes[0].clone()], data: cluster.data.clone() };
        cluster.nodes[0].leave_leaders(2);
        cluster.nodes[0].edit_listings(move |_, listed| edit(listed));
        let failure = failed(&one, &args).await;
        let said = failure.to_string();
        (exit::code(&Err(failure)), said)
    };
    // It leads nothing at this moment, and may lead again at the next.
    let (code, said) = wait(|listed| {
        listed.nodes.iter_mut().for_each(|node| (node.leaders, node.leaders_evicted) = (0, false));
    })
    .await;
    assert_eq!((code, said.contains("somebody ended that")), (5, true), "{said}");
    let (code, said) = wait(|listed| listed.nodes.truncate(3)).await;
    assert_eq!((code, said.contains("not in the node table")), (4, true), "{said}");
    let (code, said) = wait(|listed| {
        listed.nodes.iter_mut().for_each(|node| node.set_state(v1::NodeState::Removed));
    })
    .await;
    assert_eq!((code, said.contains("was removed meanwhile")), (5, true), "{said}");

    cluster.nodes[0].edit_listings(|_, _| {});
    let one = FakeCluster { nodes: vec![cluster.nodes[0].clone()], data: cluster.data.clone() };
    let over = failed(&one, &[&args[..], &["--for", "100ms"]].concat()).await.to_string();
    assert!(over.contains("leaders were kept away") && over.contains("it had 2 leaders"), "{over}");
}

/// A removal is asked for once: asked for again it would drain the node that somebody has put back.
#[tokio::test]
async fn removal_that_somebody_took_back_is_not_begun_anew() {
    let cluster = FakeCluster::start(4).await;
    cluster.list_nodes();
    let one = FakeCluster { nodes: vec![cluster.nodes[0].clone()], data: cluster.data.clone() };
    let node = &cluster.nodes[0];
    node.answer_removals(v1::RemoveNodeResponse {
        state: v1::NodeState::Draining.into(),
        peers_left: 3,
        leaders_left: 1,
        version: 12,
    });
    // A wait that is over is told as that, and asks nothing that there is no time for.
    let short = ["-o", "json", "cluster", "remove", "4", "--wait", "--wait-timeout", "300ms"];
    let (code, told) = kvctl(&one, &short).await;
    assert_eq!((code, &json(&told)["state"]), (4, &"draining".into()));
    assert_eq!((cluster.count("remove_node"), cluster.count("list_nodes")), (1, 0));
    let args = ["cluster", "remove", "4", "--wait"];
    let list = |end: v1::NodeState| {
        let before = node.seen("list_nodes").len();
        node.edit_listings(move |nth, listed| {
            // What is not to be gone by says that it is over, one way or the other.
            (listed.version, listed.told_by_node) = match nth - before {
                0 => (11, 0),
                1 => (12, 3),
                _ => (12, 0),
            };
            let state = match nth - before {
                0 => v1::NodeState::Up,
                1 => v1::NodeState::Removed,
                2 => v1::NodeState::Draining,
                _ => end,
            };
            listed.nodes.iter_mut().for_each(|node| node.set_state(state));
        });
        before
    };
    let before = list(v1::NodeState::Up);
    let failure = failed(&one, &args).await;
    assert!(failure.to_string().contains("somebody took it back"), "{failure}");
    assert_eq!(exit::code(&Err(failure)), 5);
    assert_eq!((cluster.count("remove_node"), node.seen("list_nodes").len() - before), (2, 4));
    list(v1::NodeState::Removed);
    assert_eq!(kvctl(&one, &args).await, (0, "node 4 is removed\n".into()));
    assert_eq!(cluster.count("remove_node"), 3);
}

#[tokio::test]
async fn removal_that_does_not_end_says_what_it_waits_for() {
    let cluster = FakeCluster::start(4).await;
    cluster.list_nodes_as(v1::NodeState::Draining);
    for node in &cluster.nodes {
        node.answer_removals(v1::RemoveNodeResponse {
            state: v1::NodeState::Draining.into(),
            ..v1::RemoveNodeResponse::default()
        });
        node.edit_listings(|_, listed| {
            listed.nodes[3].waits_for = "region 7: node 5 has no room".to_owned();
        });
    }
    let args = ["cluster", "remove", "4", "--wait", "--wait-timeout", "1s"];
    let failure = failed(&cluster, &args).await;
    let want = "not removed after 1s: region 7: node 5 has no room";
    assert!(failure.to_string().contains(want), "{failure}");
    let (code, nodes) = kvctl(&cluster, &["-o", "json", "nodes"]).await;
    assert_eq!((code, nodes.matches("region 7: node 5 has no room").count()), (0, 1), "{nodes}");
}

#[tokio::test]
async fn a_benchmark_reports_what_it_did() {
    let cluster = FakeCluster::start(1).await;
    let short = ["--duration", "200ms", "--warm-up", "0s", "--clients", "2", "--keys", "50"];
    for workload in ["put", "get", "mixed", "scan", "incr"] {
        let mut args = vec!["-o", "json", "bench", workload];
        args.extend(short);
        let run = kvctl(&cluster, &args);
        let (code, report) =
            tokio::time::timeout(Duration::from_secs(60), run).await.expect("it ends");
        let report = json(&report);
        assert_eq!(code, 0, "{report}");
        assert!(report["operations"].as_u64().is_some_and(|count| count > 0), "{report}");
        assert_eq!((&report["failed"], &report["absent"]), (&0.into(), &0.into()), "{report}");
        assert!(report["latency_ms"]["p99"].as_f64().is_some_and(|p99| p99 > 0.0), "{report}");
    }
}

#[tokio::test]
async fn completions_name_the_commands() {
    let cluster = FakeCluster::start(1).await;
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = kvctl(&cluster, &["completions", shell]).await;
        assert_eq!(code, 0);
        assert!(script.contains("evict-leaders"), "{shell}");
    }
}

#[test]
fn help_names_the_variables_and_usage_does_not() {
    let words = |words: &str| {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        parsed(&words).map(|_| ()).expect_err("words").to_string()
    };
    for asked in ["kvctl --help", "kvctl -h", "kvctl get --help", "kvctl cluster status --help"] {
        // Lines are broken where the terminal ends.
        let help = words(asked).split_whitespace().collect::<Vec<_>>().join(" ");
        for variable in ["ENDPOINTS", "OUTPUT", "TIMEOUT", "KEYSPACE"] {
            let named = format!("[env: FLOTILLA_{variable}");
            assert!(help.contains(&named), "{asked}: {named} is not in\n{help}");
        }
    }
    let usage = words("kvctl get");
    assert!(usage.contains("Usage: kvctl get <KEYS>...") && !usage.contains("env:"), "{usage}");
}
