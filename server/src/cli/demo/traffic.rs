//! Writers that go on while a node dies, and remember what was acknowledged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use super::{api::Api, records::Record};
use crate::clock;

const WRITERS: usize = 8;

/// Writes of single keys, one after another in each writer, until [`Traffic::finish`].
pub(super) struct Traffic {
    writers: JoinSet<anyhow::Result<Vec<(Instant, Record)>>>,
    stop: Arc<AtomicBool>,
}

/// What was acknowledged.
pub(super) struct Acknowledged {
    pub(super) records: Vec<Record>,
    /// Longest time without an acknowledgement.
    pub(super) longest_pause: Duration,
}

impl Traffic {
    /// Runs on the present [`tokio::task::LocalSet`].
    pub(super) fn start(api: &Arc<Api>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (api, stop) = (Arc::clone(api), Arc::clone(&stop));
            writers.spawn_local(async move {
                let mut acknowledged = Vec::new();
                for number in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let record = Record {
                        key: format!("traffic/{writer}/{number:08}"),
                        value: format!("write {number} of writer {writer}"),
                    };
                    api.put(&record).await?;
                    acknowledged.push((clock::now(), record));
                }
                Ok(acknowledged)
            });
        }
        Self { writers, stop }
    }

    /// Lets each writer end its last write.
    ///
    /// # Errors
    /// A write that no node acknowledged in time.
    pub(super) async fn finish(mut self) -> anyhow::Result<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(writer) = self.writers.join_next().await {
            all.extend(writer??);
        }
        let mut times: Vec<_> = all.iter().map(|(time, _)| *time).collect();
        times.sort_unstable();
        Ok(Acknowledged {
            longest_pause: longest_pause(&times),
            records: all.into_iter().map(|(_, record)| record).collect(),
        })
    }
}

/// Between two neighbours of `times`, which ascend.
fn longest_pause(times: &[Instant]) -> Duration {
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_pause_is_between_neighbours() {
        let start = clock::now();
        let at = |ms: &[u64]| -> Vec<_> {
            ms.iter().map(|ms| start + Duration::from_millis(*ms)).collect()
        };
        for (why, times, want) in [
            ("nothing was acknowledged", at(&[]), 0),
            ("one", at(&[5]), 0),
            ("the middle one", at(&[0, 10, 1510, 1520]), 1500),
        ] {
            assert_eq!(longest_pause(&times), Duration::from_millis(want), "{why}");
        }
    }
}
