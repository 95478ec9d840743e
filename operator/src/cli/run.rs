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
    controller::{self, Context},
    crd::KvCluster,
    events::Events,
    http::{self, Readiness},
    kubernetes::Kubernetes,
    lease::{Election, Leadership},
    metrics::Metrics,
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
    let ready = Readiness::default();
    let http = http::serve(args.http_addr, metrics.clone(), ready.clone()).await?;
    let mut http = tokio::spawn(http);
    let stopping = stop_signal()?;

    tokio::select! {
        ended = &mut http => Err(anyhow::anyhow!("the metrics port failed: {ended:?}")),
        worked = work(args, metrics, ready, stopping) => worked,
    }
}

async fn work(
    args: &RunArgs,
    metrics: Metrics,
    ready: Readiness,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let ApiServer { requests: client, watches } = ApiServer::find().await?;
    tokio::select! {
        () = wait_for_type(&client) => {}
        () = stopped(stopping.clone()) => return Ok(()),
    }
    ready.set();

    let (identity, holder) = names(args.identity.as_deref());
    let namespace =
        args.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
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
    metrics.lead(true);

    let defaults = args.defaults.defaults();
    let world =
        Kubernetes::new(client.clone(), defaults.clone(), metrics.clone(), Arc::clone(&leadership));
    let context = Arc::new(Context {
        world,
        defaults,
        metrics: metrics.clone(),
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
    metrics.lead(false);
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

/// Without the type every watch would fail; it may come right after us.
async fn wait_for_type(client: &Client) {
    let types: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = KvCluster::crd_name();
    let mut told = false;
    loop {
        match types.get_metadata_opt(name).await {
            Ok(Some(_)) => return,
            Ok(None) if told => {}
            Ok(None) => {
                tracing::warn!(
                    name,
                    "the type is not there yet: apply what `flotilla-operator crd` prints"
                );
                told = true;
            }
            Err(error) => tracing::warn!("look for the type {name}: {error}"),
        }
        tokio::time::sleep(LOOK).await;
    }
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
    fn no_two_operators_have_one_name_in_the_lease() {
        for given in [None, Some("flotilla-operator-0")] {
            let (one, other) = (names(given), names(given));
            assert_eq!(one.0, other.0, "for people");
            assert_ne!(one.1, other.1, "{given:?}");
            assert!(one.1.starts_with(&format!("{}_", one.0)), "{one:?}");
        }
    }
}
