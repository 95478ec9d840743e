//! The tokio runtimes of this process.

use prometheus::{
    IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::runtime::Handle;

/// Reads what the runtimes say of themselves, when somebody reads the metrics.
pub struct RuntimeMetrics {
    runtimes: Vec<(String, Handle)>,
    workers: IntGaugeVec,
    alive_tasks: IntGaugeVec,
    queued_tasks: IntGaugeVec,
}

impl RuntimeMetrics {
    /// Shows `runtimes` under their names.
    ///
    /// # Errors
    /// A name that is registered already: call it once per registry, with all runtimes.
    pub fn register(
        registry: &Registry,
        runtimes: Vec<(String, Handle)>,
    ) -> prometheus::Result<()> {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["runtime"]);
        registry.register(Box::new(Self {
            runtimes,
            workers: gauge("flotilla_tokio_workers", "Threads that run tasks")?,
            alive_tasks: gauge("flotilla_tokio_alive_tasks", "Tasks that have not ended")?,
            queued_tasks: gauge(
                "flotilla_tokio_queued_tasks",
                "Tasks that can run and wait in the queue all threads share",
            )?,
        }))
    }
}

impl Collector for RuntimeMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [&self.workers, &self.alive_tasks, &self.queued_tasks]
            .into_iter()
            .flat_map(|gauge| gauge.desc())
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (name, handle) in &self.runtimes {
            let metrics = handle.metrics();
            for (gauge, value) in [
                (&self.workers, metrics.num_workers()),
                (&self.alive_tasks, metrics.num_alive_tasks()),
                (&self.queued_tasks, metrics.global_queue_depth()),
            ] {
                gauge
                    .with_label_values(&[name.as_str()])
                    .set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
        [&self.workers, &self.alive_tasks, &self.queued_tasks]
            .into_iter()
            .flat_map(|gauge| gauge.collect())
            .collect()
    }
}
