//! What is shown, in this order. Each step says what it found, or ends the demo.

use flotilla_proto::v1::ReadMode;

use super::{
    data,
    failover::{self, Outcome, WRITERS},
    fleet::Fleet,
    form,
    load::{self, BATCH, CALLERS},
    screen::{grouped, list, rate, say, time},
    verify,
};
use crate::world::clock;

/// # Errors
/// The first thing that is not as promised.
pub(super) async fn tell(fleet: &mut Fleet) -> anyhow::Result<()> {
    let begun = clock::now();
    say("", "");
    say("", "Flotilla: real nodes on this machine, real data, and a leader that is killed.");
    say("", "");
    start(fleet).await?;
    form(fleet).await?;
    let mut records = data::records();
    let loaded = records.len() as u64;
    load(fleet, &records).await?;

    let Outcome {
        acknowledged,
        killed,
        successor,
        led,
        before,
        after,
        longest_gap,
        failed_calls,
        ..
    } = failover::kill_leader(fleet).await?;
    let [dead, heir] = [killed, successor].map(|index| fleet.servers[index].number);
    let written = acknowledged.len() as u64;
    let speed = rate(before.0, before.1);
    say("kill", format!("{WRITERS} callers write single records: {speed} acknowledged a second"));
    say(
        "",
        format!("kill -9 of node {dead}, which leads {}; node {heir} takes over", regions(&led)),
    );
    say("", format!("longest time without an acknowledged write: {}", time(longest_gap)));
    say(
        "",
        "(a follower here campaigns after 0.75 to 1 s of silence; by default after 4.5 to 6 s)",
    );
    say("", format!("{} calls failed and were repeated on another node", grouped(failed_calls)));

    records.extend(acknowledged);
    let total = records.len() as u64;
    let survivors = fleet.sessions_without(killed);
    let read = clock::now();
    verify::verify(&survivors, &records, ReadMode::Linearizable).await?;
    let took = time(clock::now() - read);
    say("verify", format!("without node {dead}: all {} loaded records and all", grouped(loaded)));
    say("", format!("{} acknowledged writes are there and equal ({took})", grouped(written)));

    restart(fleet, killed, &led, after).await?;
    let read = clock::now();
    let alone = &fleet.sessions[killed..=killed];
    verify::verify(alone, &records, ReadMode::Stale).await?;
    let took = time(clock::now() - read);
    say("verify", format!("node {dead} by itself has all {} records ({took})", grouped(total)));
    fleet.expect_all_running()?;
    let memory = fleet.servers.iter().filter_map(|server| {
        let mebibytes = server.resident_bytes()? >> 20;
        Some(format!("{mebibytes} MiB in node {}", server.number))
    });
    say("memory", list(memory));

    say("", "");
    let took = time(clock::now() - begun);
    say("done", format!("Nothing that was acknowledged was lost. All of this took {took}."));
    say("", "");
    Ok(())
}

async fn start(fleet: &mut Fleet) -> anyhow::Result<()> {
    for server in &mut fleet.servers {
        server.launch()?;
    }
    for (index, server) in fleet.servers.iter().enumerate() {
        let label = if index == 0 { "start" } else { "" };
        let (client, http) = (server.ports.client(), server.ports.http());
        let pid = server.pid().unwrap_or_default();
        say(label, format!("node {}   gRPC {client}   HTTP {http}   process {pid}", server.number));
    }
    Ok(())
}

async fn form(fleet: &mut Fleet) -> anyhow::Result<()> {
    let begun = clock::now();
    form::wait_for_cluster(fleet).await?;
    let regions = form::wait_whole(&fleet.sessions).await?;
    let took = time(clock::now() - begun);
    let numbers = list(fleet.servers.iter().map(|server| server.number));
    say("form", format!("nodes {numbers}, started alike, found each other and are one cluster"));
    say("", format!("{regions} regions, each with {} voters ({took})", form::REPLICAS));
    Ok(())
}

async fn load(fleet: &Fleet, records: &[data::Record]) -> anyhow::Result<()> {
    let count = records.len() as u64;
    let begun = clock::now();
    load::load(&fleet.sessions, records).await?;
    let took = clock::now() - begun;
    say("load", format!("{} records, the characters of Unicode and their names", grouped(count)));
    let (speed, took) = (rate(count, took), time(took));
    say(
        "",
        format!(
            "{speed} a second by {CALLERS} callers in batches of {BATCH}, to all nodes ({took})"
        ),
    );

    let begun = clock::now();
    verify::verify(&fleet.sessions, records, ReadMode::Linearizable).await?;
    let took = clock::now() - begun;
    let (speed, took) = (rate(count, took), time(took));
    say("verify", format!("all {} read back, linearizable, and equal", grouped(count)));
    say("", format!("{speed} a second ({took})"));
    Ok(())
}

async fn restart(fleet: &mut Fleet, index: usize, led: &[u64], missed: u64) -> anyhow::Result<()> {
    let begun = clock::now();
    fleet.servers[index].launch()?;
    form::wait_whole(&fleet.sessions).await?;
    let applied = verify::wait_equal(&fleet.sessions, &fleet.sessions[index], led).await?;
    let took = time(clock::now() - begun);
    let (number, missed) = (fleet.servers[index].number, grouped(missed));
    say(
        "restart",
        format!("node {number} runs again and has the {missed} writes it missed ({took})"),
    );
    let applied =
        applied.iter().map(|(region, index)| format!("{} in region {region}", grouped(*index)));
    say("", format!("applied index of all peers: {}", list(applied)));
    let compared = verify::check_regions(&fleet.sessions[0]).await?;
    say("check", format!("{compared} checksums of all peers of all regions: equal"));
    Ok(())
}

fn regions(ids: &[u64]) -> String {
    let noun = if ids.len() == 1 { "region" } else { "regions" };
    format!("{noun} {}", list(ids))
}
