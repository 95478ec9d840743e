//! After the story: the cluster stays up, to be looked at and to be hurt.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{fleet::Fleet, screen::say};

/// A node that somebody killed stays away for this long, so that the others can be tried without it.
const AWAY: Duration = Duration::from_secs(15);
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(200);

/// Commands to try, with the addresses of this cluster.
pub(super) fn say_where_to_look(fleet: &Fleet) {
    let [http, other] = [0, 1].map(|index| fleet.servers[index].ports.http());
    let [grpc, others] = [0, 1].map(|index| fleet.servers[index].ports.client());
    let key = BASE64_STANDARD.encode("unicode/2603");
    say("curl", format!("curl http://{http}/kv/unicode/2603"));
    say("", format!("curl 'http://{http}/kv?prefix=unicode/1F98&text=true'"));
    say("", format!("curl -X PUT --data hello http://{http}/kv/greeting"));
    say("", format!("curl http://{other}/kv/greeting"));
    say("", format!("curl http://{http}/cluster"));
    say("", format!("curl http://{http}/metrics"));
    say("", "");
    say("grpcurl", format!("grpcurl -plaintext {grpc} list"));
    say("", format!("grpcurl -plaintext -d '{{\"key\":\"{key}\"}}' {others} kv.KvService/get"));
    say("", "(JSON of gRPC writes bytes in base64)");
    say("", "");
    let kvctl = kvctl();
    if !fleet.servers[0].ports.are_default() {
        say("kvctl", format!("export FLOTILLA_ENDPOINTS={grpc},{others}"));
    }
    let label = if fleet.servers[0].ports.are_default() { "kvctl" } else { "" };
    say(label, format!("{kvctl} get unicode/2603"));
    say("", format!("{kvctl} scan unicode/1F43 --limit 5"));
    say("", format!("{kvctl} nodes"));
    say("", format!("{kvctl} regions"));
    say("", "");
    let pids = fleet
        .servers
        .iter()
        .filter_map(|server| server.pid().map(|pid| format!("{pid} (node {})", server.number)));
    say("hurt it", format!("kill -9 any one process: {}", pids.collect::<Vec<_>>().join(", ")));
    say("", format!("The others serve on; the demo starts it again after {} s.", AWAY.as_secs()));
    say("", "");
}

/// `kvctl` as it can be typed: by its path when it was built beside this program.
fn kvctl() -> String {
    let beside = std::env::current_exe().map(|program| program.with_file_name("kvctl"));
    match beside {
        Ok(path) if path.is_file() => path.display().to_string(),
        _ => "kvctl".to_owned(),
    }
}

/// Starts nodes again that were killed. Ends only with an error.
///
/// # Errors
/// When a process cannot be started.
pub(super) async fn keep_running(fleet: &mut Fleet) -> anyhow::Result<()> {
    let mut due = vec![None; fleet.servers.len()];
    loop {
        for (server, due) in fleet.servers.iter_mut().zip(&mut due) {
            let now = crate::world::clock::now();
            if let Some(status) = server.ended() {
                let (number, seconds) = (server.number, AWAY.as_secs());
                say("ended", format!("node {number}: {status}; it starts again in {seconds} s"));
                *due = Some(now + AWAY);
            }
            if due.is_some_and(|due| due <= now) {
                *due = None;
                server.launch()?;
                let pid = server.pid().unwrap_or_default();
                say("started", format!("node {}, now process {pid}", server.number));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
