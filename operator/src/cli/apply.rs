//! `flotilla-operator apply -f FILE`: makes a KvCluster as soon as Kubernetes knows the type.
//!
//! For the chart. Helm looks every type of a release up before it makes the first object, so a release
//! cannot have a KvCluster beside the definition of KvCluster. At the very first installation a Job with
//! this command makes it after the rest; from then on it is an object of the release as any other.

use anyhow::{Context as _, bail};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::Value;

use super::ApplyArgs;
use crate::{api_server::ApiServer, clock, crd::KvCluster};

/// How often it is tried until the type is there.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

pub(super) fn apply(args: &ApplyArgs) -> anyhow::Result<()> {
    // What is sent is what the file says.
    let (cluster, object) = super::read_cluster(&args.file)?;
    super::runtime()?.block_on(send(args, &cluster, &object))
}

async fn send(args: &ApplyArgs, cluster: &KvCluster, object: &Value) -> anyhow::Result<()> {
    let client = ApiServer::find().await?.requests;
    let name = cluster.metadata.name.as_deref().context("the KvCluster has no name")?;
    let namespace = cluster.metadata.namespace.as_deref().context("it has no namespace")?;
    let clusters: Api<KvCluster> = Api::namespaced(client, namespace);
    let params = PatchParams::apply(&args.field_manager);
    let deadline = clock::now() + args.timeout;
    loop {
        let error = match clusters.patch(name, &params, &Patch::Apply(object)).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if !passes(&error) || clock::now() + AGAIN > deadline {
            bail!("apply KvCluster {namespace}/{name}: {error}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether it may be another answer in a moment: the type is not served yet, or nobody answered.
fn passes(error: &kube::Error) -> bool {
    match error {
        // By the code: a path that is not served yet is answered with plain text.
        kube::Error::Api(status) => status.code == 404 || status.code >= 500,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{Status, response::StatusSummary};

    use super::*;

    #[test]
    fn only_what_passes_is_waited_for() {
        for (why, code, want) in [
            ("the type is not served yet", 404, true),
            ("the API server starts", 503, true),
            ("a rule of the definition", 422, false),
            ("another owner of a field", 409, false),
            ("no right to", 403, false),
        ] {
            let status = Status { status: Some(StatusSummary::Failure), code, ..Status::default() };
            assert_eq!(passes(&kube::Error::Api(Box::new(status))), want, "{why}");
        }
    }
}
