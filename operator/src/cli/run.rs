//! `flotilla-operator run`.

use std::{
    collections::BTreeMap,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, CustomResourceExt as _};
use parking_lot::Mutex;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::RunArgs;
use crate::{
    api_server::ApiServer,
    asked::Asked,
    controller::{self, Context},
    crd::KvCluster,
    events::Events,
    http::{self, Readiness},
    kubernetes::Kubernetes,
    lease::{Election, Leadership},
    metrics::Metrics,
    requests::{self, Requests},
    telemetry,
};

/// How often the type KvCluster is looked for until it is there.
const LOOK: Duration = Duration::from_secs(2);
/// Bound: what is under way when the process is told to end may take this long.
const GRACE: Duration = Duration::from_secs(20);

pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    telemetry::init(args.log_format, &args.log_level)?;
    super::runtime()?.block_on(serve(args))
}

async fn serve(args: &RunArgs) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting operator");
    let metrics = Metrics::new()?;
    let requests = Requests::new(metrics.clone());
    let ready = Readiness::new(requests.clone());
    let http = http::serve(args.http_addr, metrics.clone(), ready.clone()).await?;
    let mut http = tokio::spawn(http);
    let stopping = stop_signal()?;

    tokio::select! {
        ended = &mut http => Err(anyhow::anyhow!("the metrics port failed: {ended:?}")),
        worked = work(args, metrics, requests, ready, stopping) => worked,
    }
}

async fn work(
    args: &RunArgs,
    metrics: Metrics,
    requests: Requests,
    ready: Readiness,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let api_server = ApiServer::find().await?.counted(&requests);
    let ApiServer { requests: client, watches } = api_server;
    let namespace =
        args.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let lease = format!("{namespace}/{}", args.lease_name);
    metrics.lead(&lease, false);
    tokio::select! {
        () = wait_for_type(&client, &requests) => {}
        () = stopped(stopping.clone()) => return Ok(()),
    }
    ready.set();

    let (identity, holder) = names(args.identity.as_deref());
    let scope = args.scope(&namespace)?;
    match &scope {
        Some(namespaces) => tracing::info!(?namespaces, "acting on clusters of these namespaces"),
        None => tracing::info!("acting on clusters of every namespace"),
    }
    let election = Election::new(client.clone(), &namespace, &args.lease_name, &holder);
    let leadership = if args.leader_election {
        let leadership = Arc::new(Leadership::default());
        tokio::select! {
            () = election.win(&leadership) => {}
            () = stopped(stopping.clone()) => return Ok(()),
        }
        leadership
    } else {
        Arc::new(Leadership::alone())
    };
    tracing::info!(identity, holder, "this operator leads");
    metrics.lead(&lease, true);

    let defaults = args.defaults.defaults();
    let world = Kubernetes::new(client.clone(), defaults.clone(), Arc::clone(&leadership));
    let context = Arc::new(Context {
        world,
        defaults,
        metrics: metrics.clone(),
        ready,
        events: Events::new(client.clone(), &identity),
        failures: Mutex::new(BTreeMap::new()),
    });
    let stop = || stopped(stopping.clone());
    let loops = controller::run(watches, scope.as_deref(), args.concurrency, context, stop);
    tokio::pin!(loops);
    let lost = async {
        if args.leader_election {
            election.keep(&leadership).await
        } else {
            std::future::pending().await
        }
    };
    let outcome = tokio::select! {
        () = &mut loops => Ok(()),
        // What is under way must not be finished: another one acts from now on.
        lost = lost => Err(anyhow::Error::new(lost)),
        () = async { stopped(stopping.clone()).await; tokio::time::sleep(GRACE).await; } => Ok(()),
    };
    metrics.lead(&lease, false);
    if outcome.is_ok() && args.leader_election {
        election.release(&leadership).await;
    }
    tracing::info!("operator has stopped");
    outcome
}

/// For people, and in the Lease. The second is of this process and of no other: who bears the name that is in the
/// Lease leads without a wait, and two may have been given one name. It also is another one after a restart in the
/// same container, which waits as any other does: whether the one before is gone nobody can tell.
fn names(given: Option<&str>) -> (String, String) {
    let id = std::process::id();
    let name = given.map_or_else(|| format!("process-{id}"), ToOwned::to_owned);
    let holder = format!("{name}_{:016x}", RandomState::new().hash_one(id));
    (name, holder)
}

/// Without the type every watch would fail; it may come right after us, and is served when it is established.
async fn wait_for_type(client: &Client, requests: &Requests) {
    let types: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = KvCluster::crd_name();
    loop {
        match types.get_opt(name).await {
            Ok(found) => match missing(name, found.as_ref()) {
                None => return,
                Some(words) => requests.refused(&Asked::clusters(), words),
            },
            Err(error) if requests::is_told(&error) => {}
            Err(error) => tracing::warn!("look for the type {name}: {error}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why the type is not served, and what to do.
fn missing(name: &str, found: Option<&CustomResourceDefinition>) -> Option<String> {
    let Some(found) = found else {
        return Some(format!(
            "the type {name} is not there: apply what `flotilla-operator crd` prints"
        ));
    };
    let conditions = found.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let (mut established, mut why) = (false, "no reason is given yet");
    for condition in conditions {
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Established", status) => established = status == "True",
            ("NamesAccepted", "False") => why = condition.message.as_deref().unwrap_or(why),
            _ => {}
        }
    }
    (!established).then(|| {
        format!(
            "the type {name} is there and not established ({why}): another definition may have its names; `kubectl \
             describe crd {name}` says which"
        )
    })
}

/// Turns true with the first SIGTERM or SIGINT; the second ends the process.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        for last in [false, true] {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal, "stopping");
            sender.send_replace(true);
            if last {
                std::process::exit(1);
            }
        }
    });
    Ok(receiver)
}

fn stopped(
    mut stopping: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + Sync + 'static {
    let (sender, receiver) = futures::channel::oneshot::channel::<()>();
    tokio::spawn(async move {
        // The sender lives as long as the process.
        let _ = stopping.wait_for(|stop| *stop).await;
        let _ = sender.send(());
    });
    async move {
        let _ = receiver.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_that_is_there_and_not_established_is_waited_for() {
        let with = |conditions: serde_json::Value| -> CustomResourceDefinition {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "kvclusters.flotilla.dev"},
                "spec": {"group": "flotilla.dev", "scope": "Namespaced", "versions": [],
                    "names": {"kind": "KvCluster", "plural": "kvclusters"}},
                "status": {"conditions": conditions},
            }))
            .expect("a definition")
        };
        let condition = |kind: &str, status: &str, message: &str| serde_json::json!({"type": kind, "status": status, "message": message});
        for (why, found, want) in [
            ("none", None, Some("apply what")),
            ("just made", Some(with(serde_json::json!([]))), Some("not established")),
            (
                "its names are taken",
                Some(with(serde_json::json!([
                    condition("NamesAccepted", "False", "\"kvc\" is already in use"),
                    condition("Established", "False", ""),
                ]))),
                Some("is already in use"),
            ),
            ("it is", Some(with(serde_json::json!([condition("Established", "True", "")]))), None),
        ] {
            let words = missing("kvclusters.flotilla.dev", found.as_ref());
            match want {
                None => assert_eq!(words, None, "{why}"),
                Some(part) => assert!(words.is_some_and(|words| words.contains(part)), "{why}"),
            }
        }
    }

    #[test]
    fn no_two_operators_have_one_name_in_the_lease() {
        for given in [None, Some("flotilla-operator-0")] {
            let (one, other) = (names(given), names(given));
            assert_eq!(one.0, other.0, "for people");
            assert_ne!(one.1, other.1, "{given:?}");
            assert!(one.1.starts_with(&format!("{}_", one.0)), "{one:?}");
        }
    }
}
