//! What the first five minutes of a user are.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    columns::{columns, stay_true},
    programs,
    say::say,
    stage::Stage,
    world::{RELEASE, SYSTEM},
};

const AVAILABLE_WITHIN: Duration = Duration::from_secs(60);
const BOUND: Duration = Duration::from_secs(120);

pub(super) async fn sample_is_available_within_a_minute(stage: &Stage<'_>) -> anyhow::Result<()> {
    let sample = stage.world.setup.repository.join("deploy/samples/minimal.yaml");
    let sample = sample.display().to_string();
    let began = Instant::now();
    let apply = ["apply", "--namespace", &stage.namespace, "--filename", &sample];
    programs::run("kubectl", apply, BOUND).await?;
    let cluster = Cluster::named(stage, "kv");
    let become_healthy = async {
        cluster.becomes("Available", "True", AVAILABLE_WITHIN).await?;
        say(format!("    available after {:.1} s", began.elapsed().as_secs_f64()));
        cluster.healthy(3, BOUND).await?;
        say(format!("    healthy after {:.1} s", began.elapsed().as_secs_f64()));
        Ok::<(), anyhow::Error>(())
    };
    tokio::select! {
        healthy = become_healthy => healthy?,
        lie = stay_true(&cluster) => lie?,
    }

    let shown = columns(&cluster).await?;
    for column in ["Name", "Ready", "Desired", "Version", "Health", "Age"] {
        let cell = shown.get(column).map(ToString::to_string).unwrap_or_default();
        ensure!(!cell.is_empty() && cell != "\"\"" && cell != "null", "{column} in {shown:?}");
    }
    ensure!(shown["Health"] == "Healthy", "{shown:?}");

    // In the pod, without arguments about where and whom.
    cluster.exec("kv-0-0", &["kvctl", "put", "greeting", "Ahoy"]).await?;
    let greeting = cluster.exec("kv-2-0", &["kvctl", "get", "greeting"]).await?;
    ensure!(greeting.contains("Ahoy"), "another pod says {greeting}");

    let began = Instant::now();
    let test = ["test", RELEASE, "--namespace", SYSTEM, "--timeout", "4m"];
    programs::run("helm", test, Duration::from_secs(300)).await?;
    say(format!("    helm test passed in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}
