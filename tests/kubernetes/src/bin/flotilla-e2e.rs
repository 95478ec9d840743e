//! Runs the scenarios against the Kubernetes of `KUBECONFIG`, one after the other.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use flotilla_kubernetes_tests::{
    evidence,
    say::say,
    scenarios::{ALL, Scenario, Skip, Tier},
    stage::Stage,
    world::{Setup, World},
};
use tokio::time::Instant;

/// Bound: for one scenario, whatever it waits for.
const SCENARIO_MAX: Duration = Duration::from_secs(1_200);

/// End-to-end tests of Flotilla on Kubernetes.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Only scenarios whose name contains one of these.
    names: Vec<String>,
    /// Also those that take long. Named ones are run in any case.
    #[arg(long)]
    all: bool,
    /// Say which there are, and end.
    #[arg(long)]
    list: bool,
    /// What precedes the names of the images.
    #[arg(long, env = "FLOTILLA_E2E_REGISTRY", default_value = "localhost")]
    registry: String,
    /// Tag of the images.
    #[arg(long, env = "FLOTILLA_E2E_TAG", default_value = "e2e")]
    tag: String,
    /// Another tag of the server's image, to upgrade to.
    #[arg(long, env = "FLOTILLA_E2E_NEXT_TAG", default_value = "e2e-next")]
    next_tag: String,
    /// The checkout.
    #[arg(long, default_value = ".")]
    repository: PathBuf,
    /// Where to keep what failed.
    #[arg(long, env = "FLOTILLA_E2E_EVIDENCE", default_value = "e2e-evidence")]
    evidence: PathBuf,
    /// A scenario that cannot be run here has failed.
    #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
    strict: bool,
    /// End at the first failure, and leave what it was about as it is.
    #[arg(long)]
    stop: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.list {
        for scenario in ALL {
            say(format!("{:?} {}", scenario.tier, scenario.name));
        }
        return ExitCode::SUCCESS;
    }
    let named = |scenario: &Scenario| cli.names.iter().any(|name| scenario.name.contains(name));
    let chosen: Vec<_> = ALL
        .iter()
        .filter(|scenario| {
            if cli.names.is_empty() {
                cli.all || scenario.tier == Tier::Short
            } else {
                named(scenario)
            }
        })
        .collect();
    if chosen.is_empty() {
        say("no scenario has such a name: see --list");
        return ExitCode::from(64);
    }
    match run(&cli, &chosen).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(format!("FAILED before the first scenario: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli, chosen: &[&Scenario]) -> anyhow::Result<bool> {
    let began = Instant::now();
    let world = World::find(Setup {
        registry: cli.registry.clone(),
        tag: cli.tag.clone(),
        next_tag: cli.next_tag.clone(),
        repository: cli.repository.clone(),
        evidence: cli.evidence.clone(),
        strict: cli.strict,
    })
    .await?;
    world.install().await?;
    let (mut failed, mut skipped) = (Vec::new(), Vec::new());
    for scenario in chosen {
        say(scenario.name);
        let at = Instant::now();
        let stage = Stage::set(&world, scenario.name).await?;
        let outcome = tokio::time::timeout(SCENARIO_MAX, (scenario.run)(&stage)).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("not done in {SCENARIO_MAX:?}")));
        let took = at.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => say(format!("    ok in {took:.1} s")),
            Err(error) if error.is::<Skip>() && !cli.strict => {
                say(format!("    SKIPPED: {error}"));
                skipped.push(scenario.name);
            }
            Err(error) => {
                say(format!("    FAILED after {took:.1} s: {error:#}"));
                let folder = evidence::keep(&stage, &error).await;
                say(format!("    kept in {}", folder.display()));
                failed.push(scenario.name);
                if cli.stop {
                    break;
                }
                // A scenario that failed may have left the operator as it needed it.
                world.restore().await?;
            }
        }
        stage.strike().await?;
        // What the short ones leave behind goes while the next one begins.
        if scenario.tier == Tier::Long {
            stage.gone().await?;
        }
    }
    say(format!(
        "{} scenarios in {:.0} s, {} failed {failed:?}, {} skipped {skipped:?}",
        chosen.len(),
        began.elapsed().as_secs_f64(),
        failed.len(),
        skipped.len(),
    ));
    Ok(failed.is_empty())
}
