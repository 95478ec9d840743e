//! Reading everything back, and comparing.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use anyhow::{bail, ensure};
use bytes::Bytes;
use flotilla_proto::v1::{BatchGetRequest, CheckRegionRequest, KeyValue, ReadMode, RequestContext};
use futures::{TryStreamExt as _, stream};

use super::{
    data::Record,
    form::REPLICAS,
    load::{BATCH, CALLERS},
    screen::Progress,
    session::{Session, ask_until_answered, request},
    until,
};

/// Longest time for a node to catch up, and for a region to be checked.
const BOUND: Duration = Duration::from_secs(30);

/// Reads every record from `sessions` in turn and compares its value.
///
/// # Errors
/// When one is missing or different; how many, and one of them.
pub(super) async fn verify(
    sessions: &[Session],
    records: &[Record],
    mode: ReadMode,
) -> anyhow::Result<()> {
    let progress = Progress::new("verify", records.len());
    let (wrong, example) = (Cell::new(0_usize), RefCell::new(String::new()));
    let batches = records.chunks(BATCH).enumerate().map(Ok::<_, anyhow::Error>);
    stream::iter(batches)
        .try_for_each_concurrent(CALLERS, async |(number, batch)| {
            let keys: Vec<Bytes> = batch.iter().map(|record| record.key.clone()).collect();
            let answered = ask_until_answered(sessions, number, async |session| {
                let context = RequestContext { read_mode: mode.into(), ..Default::default() };
                let read = BatchGetRequest { context: Some(context), keys: keys.clone() };
                Ok(session.kv.clone().batch_get(request(read)).await?.into_inner().kvs)
            })
            .await?;
            let differences = differences(batch, &answered.answer);
            wrong.set(wrong.get() + differences.len());
            if let Some(first) = differences.into_iter().next() {
                *example.borrow_mut() = first;
            }
            progress.add(batch.len());
            Ok(())
        })
        .await?;
    drop(progress);
    let (wrong, total) = (wrong.get(), records.len());
    ensure!(wrong == 0, "{wrong} of {total} records are wrong, such as {}", example.borrow());
    Ok(())
}

/// What is wrong with an answer, a sentence for each record.
fn differences(records: &[Record], found: &[KeyValue]) -> Vec<String> {
    let mut found = found.iter().peekable();
    let mut differences = Vec::new();
    for Record { key, value } in records {
        // Absent keys are left out of an answer; the others are in the order in which they were asked.
        let name = String::from_utf8_lossy(key);
        match found.next_if(|kv| kv.key == *key) {
            None => differences.push(format!("{name}, which is missing")),
            Some(kv) if kv.value != *value => {
                let [got, want] = [&kv.value, value].map(|value| String::from_utf8_lossy(value));
                differences.push(format!("{name}, which is {got:?} and should be {want:?}"));
            }
            Some(_) => {}
        }
    }
    differences.extend(found.map(|kv| format!("{:?}, which was not asked for", kv.key)));
    differences
}

/// Waits until all peers of every region have applied the same, those on `restarted` of `regions` too;
/// answers the index of each region.
///
/// # Errors
/// When that takes too long.
pub(super) async fn wait_equal(
    sessions: &[Session],
    restarted: &Session,
    regions: &[u64],
) -> anyhow::Result<BTreeMap<u64, u64>> {
    until("all peers to have applied the same", BOUND, async || {
        let own = applied(restarted).await?;
        if let Some(region) = regions.iter().find(|region| !own.contains_key(*region)) {
            return Err(format!("{} has no peer of region {region}", restarted.address));
        }
        let mut reports: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for session in sessions {
            for (region, index) in applied(session).await? {
                reports.entry(region).or_default().push(index);
            }
        }
        reports.into_iter().map(|(region, indexes)| equal(region, &indexes)).collect()
    })
    .await
}

/// The index that all peers of a region have applied.
fn equal(region: u64, indexes: &[u64]) -> Result<(u64, u64), String> {
    match indexes {
        [first, others @ ..]
            if indexes.len() == REPLICAS && others.iter().all(|other| other == first) =>
        {
            Ok((region, *first))
        }
        _ => Err(format!("region {region} is applied up to {indexes:?}")),
    }
}

/// Applied index of every region on one node.
async fn applied(session: &Session) -> Result<BTreeMap<u64, u64>, String> {
    let status = session.status().await?;
    let complaints = [&status.not_ready_reasons[..], &status.warnings[..]].concat();
    if !status.ready || !complaints.is_empty() {
        return Err(format!("{} is not whole: {complaints:?}", session.address));
    }
    let peers = status.peers.into_iter();
    Ok(peers.filter_map(|peer| Some((peer.region?.region_id, peer.applied_index))).collect())
}

/// Makes the peers of every region add up all they hold at one applied index; answers how many
/// checksums were compared.
///
/// # Errors
/// When two differ, or a peer cannot tell.
pub(super) async fn check_regions(session: &Session) -> anyhow::Result<usize> {
    let regions = until("the regions", BOUND, async || session.regions().await).await?;
    let mut compared = 0;
    for region in regions.into_iter().filter_map(|info| info.region) {
        let region_id = region.region_id;
        let what = format!("region {region_id} to be checked");
        let check_id = Cell::new(0);
        let answer = until(&what, BOUND, async || {
            let check = request(CheckRegionRequest { region_id, check_id: check_id.get() });
            let answer = session.cluster.clone().check_region(check).await;
            let answer = answer.map_err(|status| session.blame(&status))?.into_inner();
            check_id.set(answer.check_id);
            if !answer.done {
                return Err(format!("{:?}", answer.peers));
            }
            match answer.peers.iter().find(|peer| !peer.error.is_empty()) {
                Some(silent) => {
                    // One that forgot the check does not remember it again.
                    check_id.set(0);
                    Err(format!("node {}: {}", silent.node_id, silent.error))
                }
                None => Ok(answer),
            }
        })
        .await?;
        if !answer.consistent || answer.peers.len() != region.peers.len() {
            bail!("the peers of region {region_id} differ: {:?}", answer.peers);
        }
        compared += answer.peers.len();
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Record {
        Record::new(key.to_owned(), value.to_owned())
    }

    fn kv(key: &'static str, value: &'static str) -> KeyValue {
        KeyValue { key: key.into(), value: value.into(), ..Default::default() }
    }

    #[test]
    fn peer_that_lags_or_lacks_is_not_equal() {
        for (indexes, want) in [
            (&[7, 7, 7][..], Ok((2, 7))),
            (&[7, 6, 7], Err("region 2 is applied up to [7, 6, 7]".to_owned())),
            (&[7, 7], Err("region 2 is applied up to [7, 7]".to_owned())),
            (&[], Err("region 2 is applied up to []".to_owned())),
        ] {
            assert_eq!(equal(2, indexes), want);
        }
    }

    #[test]
    fn missing_different_and_foreign_records_are_noticed() {
        let records = [record("a", "1"), record("b", "2"), record("c", "3")];
        for (found, wrong) in [
            (vec![kv("a", "1"), kv("b", "2"), kv("c", "3")], 0),
            (vec![kv("a", "1"), kv("c", "3")], 1),
            (vec![kv("a", "1"), kv("b", "2")], 1),
            (vec![kv("a", "1"), kv("b", "old"), kv("c", "3")], 1),
            (vec![kv("a", "1"), kv("b", "2"), kv("c", "3"), kv("d", "4")], 1),
            (vec![], 3),
        ] {
            let differences = differences(&records, &found);
            assert_eq!(differences.len(), wrong, "{found:?}: {differences:?}");
        }
    }
}
