//! `kvctl transfer`

use clap::Args;

use super::{Context, exit::Failure};
use crate::v1;

#[derive(Debug, Args)]
pub(super) struct Transfer {
    /// Id of the region
    region: u64,
    /// Id of the node whose peer is to lead it
    node: u64,
}

impl Transfer {
    pub(super) async fn run(self, mut context: Context) -> Result<(), Failure> {
        let Self { region: region_id, node: to_node_id } = self;
        let request = v1::TransferLeaderRequest { region_id, to_node_id };
        context.client.cluster().transfer_leader(request).await?;
        let answer = serde_json::json!({ "region_id": region_id, "to_node_id": to_node_id });
        let line = format!("node {to_node_id} leads region {region_id}");
        context.out.say(&answer, &line)
    }
}
