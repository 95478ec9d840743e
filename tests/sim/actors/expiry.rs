//! A client of keys that expire: none goes before its time, whatever the wall clocks say, and all go in the end.

use std::time::Duration;

use flotilla_client::PutOptions;
use rand::RngExt as _;
use tokio::time::Instant;

use super::library;
use crate::{
    marks,
    stage::{Phase, Stage},
};

/// Bound: how much later than its time a key may go when all is well. Time stands still for a region without a leader,
/// and is made up for.
const LATE_MAX: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);

/// A key, and until when it must be there.
struct Written {
    key: String,
    lives_until: Instant,
    ttl: Duration,
}

pub(super) async fn act(stage: Stage) -> turmoil::Result {
    stage.until(Phase::Faults).await;
    let mut random = stage.random("expiry");
    let client = library::client(&stage).await?;
    let mut written: Vec<Written> = Vec::new();
    let mut number = 0;
    while stage.phase() < Phase::End {
        tokio::time::sleep(Duration::from_millis(random.random_range(5..120))).await;
        if written.is_empty() || random.random_bool(0.3) {
            let ttl = Duration::from_millis(random.random_range(300..3_000));
            let key = format!("expiry/{number}");
            number += 1;
            let lives_until = Instant::now() + ttl;
            let options = PutOptions { ttl: Some(ttl), ..PutOptions::default() };
            if client.put_with(key.clone(), "lives", options).await.is_ok() {
                written.push(Written { key, lives_until, ttl });
            }
            continue;
        }
        let one = &written[random.random_range(0..written.len())];
        let Ok(found) = client.get(one.key.clone()).await else { continue };
        stage.add_answered(1);
        if found.is_none() && Instant::now() < one.lives_until {
            let left = one.lives_until - Instant::now();
            let Written { key, ttl, .. } = one;
            let how = format!("{key}, which was to live for {ttl:?}, is gone {left:?} before that");
            stage.broke("nothing-expires-early", how);
            return Ok(());
        }
        stage.marks.hit_if(marks::KEY_EXPIRED, found.is_none());
    }
    let deadline = Instant::now() + LATE_MAX;
    for one in &written {
        loop {
            let words = match client.get(one.key.clone()).await {
                Ok(None) => break,
                Ok(Some(_)) => format!("{} is there", one.key),
                Err(error) => format!("{} cannot be read: {error}", one.key),
            };
            if Instant::now() > deadline.max(one.lives_until + LATE_MAX) {
                stage.broke("what-expires-goes", words);
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}
