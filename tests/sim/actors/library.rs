//! Our own client library, as a client of the whole cluster.

use std::time::Duration;

use flotilla_client::{Client, Connector, Options};

use crate::{
    stage::{Phase, Stage},
    world::connect,
};

/// How long the library may try.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A client that is told of every host, and asks until one answers.
pub(super) async fn client(stage: &Stage) -> turmoil::Result<Client> {
    loop {
        let connector = Connector::new(connect);
        let options = Options { connector, timeout: TIMEOUT, ..Options::default() };
        match Client::connect_with(stage.addresses(), options).await {
            Ok(client) => return Ok(client),
            Err(error) if stage.phase() == Phase::End => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
