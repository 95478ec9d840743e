//! Whoever makes the cluster by one call, of nodes that wait for it, where they do not make it by themselves: with several
//! regions from the first moment.

use std::time::Duration;

use flotilla_proto::v1;

use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn act(stage: Stage) -> turmoil::Result {
    let sizes = &stage.sizes;
    if sizes.split_keys.is_empty() {
        return Ok(());
    }
    let request = v1::InitializeRequest {
        split_keys: sizes.split_keys.iter().map(|key| (*key).into()).collect(),
        first_nodes: stage.addresses()[..sizes.nodes].to_vec(),
        ..v1::InitializeRequest::default()
    };
    // Once somebody is of a cluster all others come to it by themselves; and whoever loses its disk may make another.
    while !stage.is_founded() {
        // Always the same one: what another was asked in between would be another birth.
        let session = stage.sessions().swap_remove(0).patient(PATIENCE);
        let made = session.cluster.clone().initialize(session.request(request.clone())).await;
        match made {
            Ok(_) => return Ok(()),
            Err(status) => tracing::debug!("not made yet: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
