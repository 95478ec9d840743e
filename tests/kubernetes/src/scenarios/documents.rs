//! What the documents tell people to type on Kubernetes.
//!
//! Every command of every block that is marked `sh kubernetes` is typed by a shell that has the scenario's cluster for
//! its own, page after page and in order, and must succeed. Those that cannot be typed here are listed in
//! [`ELSEWHERE`], each with what keeps it from being; whatever is in neither is typed, so that a new command is run or
//! fails. That the calls are calls that there are is looked at by the operator's `tests/documents.rs`, for these too,
//! and what `kvctl` says by `tests/edge/documents.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use flotilla_documents::{blocks, pages};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, small},
    programs,
    say::say,
    stage::Stage,
};

/// Bound: one command.
const COMMAND_MAX: Duration = Duration::from_secs(200);
/// Bound: until the cluster is as it was, after each block.
const HEALTHY_WITHIN: Duration = Duration::from_secs(240);
/// Commands on the pages, at the least: fewer were not all found.
#[cfg(test)]
const COMMANDS_MIN: usize = 70;

const MACHINE_OF_ALL: &str = "the Kubernetes, and the operator in it, are those of all scenarios";
const LOSES: &str = "it deletes what the next commands ask for; pods::lost_volume_is_replaced, \
    life::stopped_cluster_keeps_its_data and others delete such things";
const NEVER_DIED: &str = "the container must have died; where none did there is nothing to tell";

/// What a command begins with, on whichever page, and why it is not typed here.
const ELSEWHERE: [(&str, &str); 20] = [
    ("kind ", MACHINE_OF_ALL),
    ("make images", "the images of this run are there"),
    ("helm install ", MACHINE_OF_ALL),
    ("helm upgrade ", MACHINE_OF_ALL),
    ("helm uninstall ", MACHINE_OF_ALL),
    ("helm test ", "install::sample_is_available_within_a_minute does"),
    (
        "kubectl apply -f deploy/samples/minimal.yaml",
        "install::sample_is_available_within_a_minute does, where its volumes have room",
    ),
    ("kubectl apply -f deploy/samples/zones.yaml", "it asks for six cores, and for zones"),
    ("kubectl label node MACHINE", MACHINE_OF_ALL),
    ("kubectl delete node MACHINE", MACHINE_OF_ALL),
    ("kubectl patch storageclass CLASS", MACHINE_OF_ALL),
    ("kubectl delete crd ", MACHINE_OF_ALL),
    ("kubectl delete namespace ", MACHINE_OF_ALL),
    ("kubectl delete kvc ", LOSES),
    ("kubectl delete pvc ", LOSES),
    ("kubectl delete pod ", LOSES),
    (
        "kubectl patch kvc kv --type merge -p '{\"spec\":{\"image\":",
        "that version is yet to be; roll::image_upgrade_is_not_noticed does it with another tag",
    ),
    (
        "kubectl patch kvc kv --type merge -p '{\"spec\":{\"storage\":",
        "the class must be able to; volumes::volumes_grow_under_running_pods looks whether it is",
    ),
    (
        "kubectl annotate --overwrite kvc kv flotilla.dev/adopt-cluster-id=ID",
        "it needs volumes of another cluster",
    ),
    (
        "kubectl -n NS get servicemonitor,networkpolicy NAME",
        "it needs Prometheus' operator; monitoring::prometheus_sees_all_and_alerts has the type",
    ),
];

/// As [`ELSEWHERE`], by what is anywhere in a command.
const ELSEWHERE_WITH: [(&str, &str); 1] = [(" --previous", NEVER_DIED)];

/// The namespace of the examples, where it is written out.
const NAMESPACE: &str = "/namespaces/default/";
/// The image of the samples.
const IMAGE: &str = "localhost/flotilla-server:dev";

/// A command on a page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Typed {
    /// Page and line.
    at: String,
    /// Of the block: of its page and line.
    block: String,
    text: String,
}

/// Why a command is not typed here.
fn elsewhere(command: &str) -> Option<&'static str> {
    let begins = ELSEWHERE.iter().find(|(begin, _)| command.starts_with(begin));
    let has = || ELSEWHERE_WITH.iter().find(|(part, _)| command.contains(part));
    begins.or_else(has).map(|(_, why)| *why)
}

/// All commands for Kubernetes, in the order of the pages.
fn commands(repository: &Path) -> anyhow::Result<Vec<Typed>> {
    let mut commands = Vec::new();
    for page in pages(repository)? {
        for block in blocks(repository, &page).with_context(|| page.clone())? {
            if block.mark == "kubernetes" {
                commands.extend(block.commands().into_iter().map(|command| Typed {
                    at: format!("{page}:{}", command.line),
                    block: format!("{page}:{}", block.line),
                    text: command.text,
                }));
            }
        }
    }
    Ok(commands)
}

/// With the reader's own namespace and name in the places of those of the pages.
fn of_reader(text: &str, namespace: &str, name: &str) -> String {
    let text = text.replace(NAMESPACE, &format!("/namespaces/{namespace}/"));
    let mut put = String::new();
    let mut rest = &text[..];
    while !rest.is_empty() {
        let is_in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let word = rest.find(|c| !is_in_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word);
        put += match word {
            "NS" => namespace,
            "NAME" => name,
            word => word,
        };
        let between = after.find(is_in_word).unwrap_or(after.len());
        put += &after[..between];
        rest = &after[between..];
    }
    put
}

/// As a person at a terminal: a watch is ended when enough was seen, and to find nothing is an answer.
const PROLOGUE: &str = r#"
set -e -o pipefail
kubectl() {
  case " $* " in
    *' -w '*) timeout 5 kubectl "$@" || [ $? = 124 ] ;;
    *) command kubectl "$@" ;;
  esac
}
grep() { command grep "$@" || [ $? = 1 ]; }
"#;

/// A folder that looks like a checkout, whose samples are of this run, and an account of Kubernetes that is at home in
/// the scenario's namespace.
struct Desk {
    folder: PathBuf,
}

impl Desk {
    async fn new(stage: &Stage<'_>) -> anyhow::Result<Self> {
        let name = format!("flotilla-e2e-documents-{}", std::process::id());
        let desk = Self { folder: std::env::temp_dir().join(name) };
        let samples = desk.folder.join("deploy/samples");
        fs::create_dir_all(&samples).with_context(|| samples.display().to_string())?;
        let theirs = stage.world.setup.repository.join("deploy/samples");
        for entry in fs::read_dir(&theirs).with_context(|| theirs.display().to_string())? {
            let entry = entry?;
            let text = fs::read_to_string(entry.path())?;
            let text = text
                .replace(IMAGE, &stage.world.image("flotilla-server"))
                .replace("kv.default.svc", &format!("kv.{}.svc", stage.namespace));
            fs::write(samples.join(entry.file_name()), text)?;
        }
        let view = ["config", "view", "--raw", "--flatten", "--minify", "--output", "json"];
        let view = programs::run("kubectl", view, COMMAND_MAX).await?;
        let mut account: Value = serde_json::from_str(&view).context("a kubeconfig")?;
        account["contexts"][0]["context"]["namespace"] = json!(stage.namespace);
        fs::write(desk.account(), account.to_string())?;
        Ok(desk)
    }

    fn account(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Types a command. Answers what it said.
    async fn types(&self, text: &str) -> anyhow::Result<String> {
        let script = format!(
            "cd '{}'\nexport KUBECONFIG='{}'\n{PROLOGUE}\n{text}\n",
            self.folder.display(),
            self.account().display()
        );
        programs::run("bash", ["-c", &script], COMMAND_MAX).await
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The cluster of the pages.
fn spec() -> Value {
    let mut spec = small(3, 3);
    // What the pages change, so that it can be put back.
    spec["paused"] = json!(false);
    spec["stopped"] = json!(false);
    spec["metrics"] = json!({"serviceMonitor": false});
    spec
}

pub(super) async fn commands_of_the_documents_run(stage: &Stage<'_>) -> anyhow::Result<()> {
    let commands = commands(&stage.world.setup.repository)?;
    let cluster = Cluster::create(stage, "kv", spec()).await?;
    cluster.healthy(3, HEALTHY_WITHIN).await?;
    let desk = Desk::new(stage).await?;
    let (mut typed, mut failures) = (0, Vec::new());
    for block in commands.chunk_by(|one, next| one.block == next.block) {
        let began = Instant::now();
        for Typed { at, text, .. } in block {
            if let Some(why) = elsewhere(text) {
                say(format!("    {at}: not typed: {why}"));
                continue;
            }
            let text = of_reader(text, &stage.namespace, &cluster.name);
            typed += 1;
            // One run shows all that has rotted.
            if let Err(error) = desk.types(&text).await {
                say(format!("    {at}: FAILED: {text}\n{error:#}"));
                failures.push(format!("{at}: {text}"));
            }
        }
        // The next block is of a cluster that is well.
        cluster.patch(json!({"spec": spec()})).await?;
        let healthy = cluster.healthy(3, HEALTHY_WITHIN).await;
        healthy.with_context(|| format!("after the block at {}", block[0].block))?;
        say(format!("    {} in {:.1} s", block[0].block, began.elapsed().as_secs_f64()));
    }
    say(format!("    {typed} of {} commands were typed", commands.len()));
    ensure!(failures.is_empty(), "{} commands failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Typed> {
        // Cargo runs tests in the folder of their package, wherever they were compiled.
        let here = std::env::current_dir().expect("a folder");
        commands(&here.join("../..")).expect("the documents")
    }

    #[test]
    fn command_that_is_not_typed_is_listed_and_none_is_listed_for_nothing() {
        let all = all();
        assert!(all.len() >= COMMANDS_MIN, "{} were found", all.len());
        for (begin, _) in ELSEWHERE {
            let is_one = all.iter().any(|command| command.text.starts_with(begin));
            assert!(is_one, "no command begins with {begin:?}");
        }
        for (part, _) in ELSEWHERE_WITH {
            assert!(all.iter().any(|command| command.text.contains(part)), "none has {part:?}");
        }
    }

    #[test]
    fn what_deletes_or_asks_for_what_only_a_person_has_is_not_typed() {
        for Typed { at, text, .. } in all() {
            if elsewhere(&text).is_some() {
                continue;
            }
            let text = of_reader(&text, "here", "kv");
            let words: Vec<_> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            let asks =
                ["NS", "NAME", "MACHINE", "CLASS", "REGISTRY", "ID", "POD", "N", "NAMESPACE"];
            assert!(!words.iter().any(|word| asks.contains(word)), "{at}: {text}");
            let ends = ["delete", "uninstall", "drain", "replace"];
            assert!(!words.iter().any(|word| ends.contains(word)), "{at}: {text}");
            assert!(!text.contains('…'), "{at}: {text}");
            assert!(!text.contains("/default/"), "{at}: {text}");
            // In the namespace of the scenario, the operator's, or all of them.
            let namespaces = words.windows(2).filter(|two| two[0] == "n").map(|two| two[1]);
            let known = |namespace: &str| ["here", "flotilla", ""].contains(&namespace);
            assert!(namespaces.into_iter().all(known), "{at}: {text}");
        }
    }

    #[test]
    fn names_of_the_reader_are_put_in_as_whole_words() {
        for (text, want) in [
            (
                "kubectl -n NS exec NAME-0-0 -- kvctl nodes",
                "kubectl -n a exec b-0-0 -- kvctl nodes",
            ),
            ("involvedObject.name=NAME", "involvedObject.name=b"),
            ("/namespaces/NS/pods/NAME-0-0:7422", "/namespaces/a/pods/b-0-0:7422"),
            ("/namespaces/default/pods/kv-0-0:7422", "/namespaces/a/pods/kv-0-0:7422"),
            ("DNS NAMES 'a…b'", "DNS NAMES 'a…b'"),
        ] {
            assert_eq!(of_reader(text, "a", "b"), want);
        }
    }

    #[tokio::test]
    async fn shell_takes_nothing_found_and_the_end_of_a_watch_for_answers_and_an_error_for_one() {
        for (why, text, want) in [
            ("nothing is found", "echo a | grep b", true),
            ("grep itself fails", "echo a | grep -e", false),
            ("the first of a pipe fails", "false | cat", false),
            ("all is well", "echo a | grep a", true),
            ("enough was seen", "timeout() { return 124; }; kubectl get kvc kv -w", true),
            ("there is nothing to watch", "timeout() { return 1; }; kubectl get kvc kv -w", false),
        ] {
            let script = format!("{PROLOGUE}\n{text}\n");
            let told = programs::run("bash", ["-c", &script], COMMAND_MAX).await;
            assert_eq!(told.is_ok(), want, "{why}: {told:?}");
        }
    }
}
