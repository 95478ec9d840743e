//! The commands of the documents do what the documents say.
//!
//! Every block of `sh` is run by a shell against three nodes, which the README itself starts, page after page
//! and in order. What cannot be run here says so where it stands, by a word behind `sh`; a block without one
//! that fails, fails the test. Of the blocks for Kubernetes the calls of `kvctl` are run all the same.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use flotilla_documents::Block;
use flotilla_tests::harness::{Scratch, Turn, binary, eventually, say, say_aloud};

/// Words behind `sh`, and where such a block is run instead.
const ELSEWHERE: [(&str, &str); 6] = [
    (
        "kubernetes",
        "typed by a scenario of tests/kubernetes; calls of kvctl are run here too, all looked at by the operator's",
    ),
    ("machines", "needs machines, root, or containers"),
    ("build", "builds, or takes minutes: the Makefile's goals, of which CI runs those that check"),
    ("grpcurl", "here, where there is a grpcurl"),
    ("go", "tests/edge/foreign.rs"),
    ("python", "tests/edge/foreign.rs"),
];

/// Run by `tests/edge/foreign.rs`, as a whole.
const WHOLE_PAGES: [(&str, &str); 1] = [("docs/clients/http.md", "bash")];

/// Bound: the whole of it. An election takes six seconds, a build that is not optimized some more.
const BOUND: Duration = Duration::from_secs(150);

fn root() -> PathBuf {
    // Cargo runs tests in the folder of their package, wherever they were compiled.
    std::env::current_dir().expect("a folder").join("..")
}

/// The pages, those first that a newcomer reads first.
fn pages() -> Vec<String> {
    flotilla_documents::pages(&root()).expect("the documents")
}

fn blocks(page: &str) -> Vec<Block> {
    flotilla_documents::blocks(&root(), page).expect("the page")
}

/// The calls of `kvctl` in a block for Kubernetes, without what brings them into a pod.
fn inside_of_pods(block: &Block) -> Option<Block> {
    let call = |line: &str| Some(format!("kvctl {}\n", line.split_once(" -- kvctl ")?.1));
    let text: String = block.text.lines().filter_map(call).collect();
    let (page, mark) = (block.page.clone(), String::new());
    (!text.is_empty()).then_some(Block { page, line: block.line, mark, text })
}

#[test]
fn block_that_is_not_run_says_where_it_is() {
    let all: Vec<Block> = pages().iter().flat_map(|page| blocks(page)).collect();
    for Block { page, line, mark, .. } in &all {
        let known = mark.is_empty()
            || ELSEWHERE.iter().any(|(word, _)| word == mark)
            || WHOLE_PAGES.contains(&(&page[..], &mark[..]));
        assert!(
            known,
            "{page}:{line}: a block of sh is marked {mark:?}, which is none of {ELSEWHERE:?}"
        );
    }
    for (word, _) in ELSEWHERE {
        assert!(all.iter().any(|block| block.mark == word), "nothing is marked {word}");
    }
}

/// What a sentence calls does not rot either, nor a block that is not run: the words after `kvctl` are commands
/// and flags that there are.
#[test]
fn calls_of_kvctl_are_calls_that_there_are() {
    let mut calls = 0;
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).expect("the page");
        // A sentence goes on over the end of a line.
        let text = text.split("```").step_by(2).collect::<String>().replace('\n', " ");
        let in_sentences = text.split('`').skip(1).step_by(2).map(str::to_owned);
        let not_run = blocks(&page).into_iter().filter(|block| block.mark == "machines");
        let in_blocks = not_run.flat_map(|block| {
            let line = |line: &str| line.split('#').next().unwrap_or_default().to_owned();
            block.text.lines().map(line).collect::<Vec<_>>()
        });
        for call in in_sentences.chain(in_blocks) {
            // `kvctl …` alone is any call.
            let Some(words) = call.strip_prefix("kvctl ").filter(|words| *words != "…") else {
                continue;
            };
            let words = words.split_whitespace().map(|word| match word {
                "ID" | "N" => "1",
                // As in `kvctl export …`: that is the reader's.
                "…" => "x",
                word => word,
            });
            let mut asked = Command::new(binary("kvctl"));
            let answer = asked.args(words).arg("--help").output().expect("kvctl runs");
            let said = String::from_utf8_lossy(&answer.stderr);
            assert!(answer.status.success(), "{page}: {call}: {said}");
            calls += 1;
        }
    }
    assert!(calls > 20, "{calls} were found");
}

#[test]
fn usage_is_the_same_whatever_the_environment_says() {
    let usage = |variable: &str| {
        let mut kvctl = Command::new(binary("kvctl"));
        let kvctl = kvctl.env_remove("FLOTILLA_ENDPOINTS").env(variable, "127.0.0.1:1").arg("get");
        String::from_utf8(kvctl.output().expect("it runs").stderr).expect("text")
    };
    assert!(usage("NOTHING").contains("Usage: kvctl get <KEYS>..."), "{}", usage("NOTHING"));
    assert_eq!(usage("FLOTILLA_ENDPOINTS"), usage("NOTHING"));
}

#[test]
fn settings_beside_the_unit_of_systemd_are_settings() {
    let mut check = Command::new(binary("flotilla-server"));
    check.args(["config", "check", "--config"]).arg(root().join("deploy/systemd/flotilla.yaml"));
    let answer = check.output().expect("it runs");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_the_documents_do_what_they_say() {
    let _turn = Turn::take().await;
    let scratch = Scratch::new();
    let has_grpcurl = Command::new("grpcurl").arg("-version").output().is_ok();
    if !has_grpcurl {
        say_aloud("SKIPPED: commands_of_the_documents_do_what_they_say: blocks of grpcurl");
    }
    let mut script = PROLOGUE.to_owned();
    for block in pages().iter().flat_map(|page| blocks(page)) {
        let run = match &block.mark[..] {
            "kubernetes" => inside_of_pods(&block),
            "" => Some(block),
            "grpcurl" if has_grpcurl => Some(block),
            _ => None,
        };
        if let Some(Block { page, line, text, .. }) = run {
            write!(script, "at={page}:{line}; echo \"== $at\"\n{text}").expect("to memory");
        }
    }
    script += EPILOGUE;

    // The documents' own ports and folder may be somebody's here.
    script = with_ports(script, tens());
    let folder = scratch.path().join("flotilla");
    script = script.replace("/tmp/flotilla", &folder.display().to_string());
    let programs = binary("kvctl").parent().expect("a folder").to_owned();
    fs::create_dir(scratch.path().join("target")).expect("make a directory");
    std::os::unix::fs::symlink(programs, scratch.path().join("target/release")).expect("link");
    fs::write(scratch.path().join("script"), &script).expect("write the script");

    let mut left = Left { folder, session: None };
    let said = fs::File::create(scratch.path().join("said")).expect("make a file");
    // In a session of its own, so that whatever it began can be told from others'.
    let mut shell = Command::new("setsid");
    shell
        .arg("bash")
        .arg(scratch.path().join("script"))
        .current_dir(scratch.path())
        .env("CARGO_TARGET_DIR", scratch.path().join("target"))
        // Proxies of the machine have no business between a client and loopback.
        .env("no_proxy", "127.0.0.1")
        .stdin(Stdio::null())
        .stderr(said.try_clone().expect("a handle"))
        .stdout(said);
    let mut shell = shell.spawn().expect("bash runs");
    left.session = Some(shell.id());
    let ended =
        eventually("the shell to come to the end", BOUND, async || match shell.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => {
                let said = fs::read_to_string(scratch.path().join("said")).unwrap_or_default();
                Err(format!("so far:\n{said}"))
            }
            Err(error) => Err(error.to_string()),
        })
        .await;
    let said = fs::read_to_string(scratch.path().join("said")).expect("what it said");
    say(&said);
    assert!(ended.success(), "{ended}:\n{said}");
    let failures = fs::read_to_string(scratch.path().join("failures")).unwrap_or_default();
    // The README says that this may end so.
    let promised = |line: &str| line.contains("kvctl put fruit plum") && line.starts_with("4 ");
    let failures: Vec<&str> = failures.lines().filter(|line| !promised(line)).collect();
    assert!(failures.is_empty(), "{failures:#?}\n{said}");
    for want in [
        "HTTP/1.1 204",
        "x-revision",
        "Ahoy",
        "pear",
        "plum",
        "consistent",
        "the nodes have stopped",
    ] {
        assert!(said.contains(want), "{want:?} is not in\n{said}");
    }
}

/// Notes what fails, and goes on: one run shows all of it.
const PROLOGUE: &str = r#"
set -mE -o pipefail
failures=$PWD/failures
trap 'echo "$? at $at: $BASH_COMMAND" >> "$failures"' ERR
"#;

/// As the README says. Who was killed and started again is the fourth.
const EPILOGUE: &str = r#"
at=end
kill %2 %3 %4
wait
echo "the nodes have stopped"
"#;

/// Three numbers, behind which a digit makes a port that is free.
fn tens() -> [u16; 3] {
    let is_free = |ten: &u16| {
        (0..3).all(|digit| TcpListener::bind((Ipv4Addr::LOCALHOST, ten * 10 + digit)).is_ok())
    };
    // Below the range from which Linux takes the ports of outgoing connections.
    let begin = 2100 + u16::try_from(std::process::id() % 900).expect("small");
    let mut free = (begin..3270).filter(is_free);
    std::array::from_fn(|_| free.next().expect("a free port"))
}

/// A script whose ports begin with `tens` instead of the documents' own, all at once: one of ours may look like one
/// of theirs.
fn with_ports(mut script: String, tens: [u16; 3]) -> String {
    let theirs = [("742", "@first-ten@"), ("743", "@second-ten@"), ("744", "@third-ten@")];
    for (ten, place) in theirs {
        script = script.replace(ten, place);
    }
    for ((_, place), ten) in theirs.into_iter().zip(tens) {
        script = script.replace(place, &ten.to_string());
    }
    script
}

#[test]
fn port_that_looks_like_one_of_the_documents_is_not_replaced_again() {
    let script = "7420 7431 7442".to_owned();
    assert_eq!(with_ports(script, [2743, 2744, 2745]), "27430 27441 27452");
}

/// Kills what is left when the shell did not: the nodes in a folder, and whatever the shell began.
struct Left {
    folder: PathBuf,
    session: Option<u32>,
}

impl Left {
    fn has(&self, process: &Path) -> bool {
        let is_node = || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == self.folder);
        let session = || {
            let stat = fs::read_to_string(process.join("stat")).ok()?;
            // Behind the name, which may have spaces: state, parent, group, session.
            stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse::<u32>().ok()
        };
        self.session.is_some_and(|ours| session() == Some(ours)) || is_node()
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for entry in entries.filter(|entry| self.has(&entry.path())) {
            let _ = Command::new("kill").arg("-9").arg(entry.file_name()).status();
        }
    }
}

#[tokio::test]
async fn what_a_shell_left_running_ends_with_its_session() {
    let bound = Duration::from_secs(10);
    let mut shell = Command::new("setsid");
    let shell = shell.args(["bash", "-c", "set -m; sleep 600 & wait"]).spawn();
    let mut shell = shell.expect("bash runs");
    let left = Left { folder: PathBuf::from("/nowhere"), session: Some(shell.id()) };
    let all = eventually("the shell and what it began", bound, async || {
        let all = fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
        let ours: Vec<PathBuf> = all.filter(|process| left.has(process)).collect();
        if ours.len() < 2 { Err(format!("{ours:?}")) } else { Ok(ours) }
    })
    .await;
    drop(left);
    assert!(!shell.wait().expect("it was begun here").success());
    eventually("their end", bound, async || {
        // One that has ended and for which nobody has waited yet has no words any more.
        let runs = |process: &&PathBuf| {
            fs::read(process.join("cmdline")).is_ok_and(|words| !words.is_empty())
        };
        match all.iter().find(runs) {
            Some(process) => Err(format!("{process:?}")),
            None => Ok(()),
        }
    })
    .await;
}
