//! etcd: built from its own modules, started with its default options.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{
    api::{Api, etcdserverpb::StatusRequest, etcdserverpb::maintenance_client::MaintenanceClient},
    cluster::{Cluster, free_ports},
    progress,
    transport::Http2,
};

/// The server's module and package.
const MODULE: &str = "go.etcd.io/etcd/server/v3";
/// Where Go is when it is not in the path.
const GO_DEFAULT: &str = "/usr/local/go/bin/go";

/// The program, built unless it was before.
///
/// The version is the one in `tests/bench/etcd/go.mod`; the program is kept outside the checkout, in
/// the cache of the user.
///
/// # Errors
///
/// When there is no Go, or the build fails (it needs the Go module proxy the first time).
pub fn build() -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/etcd");
    let module = fs::read_to_string(source.join("go.mod")).context("read etcd's go.mod")?;
    let version = required_version(&module).context("find etcd's version in go.mod")?;
    let dir = cache_dir()?.join("tools").join(format!("etcd-{}", version.trim_start_matches('v')));
    let program = dir.join("etcd");
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    progress::tell(format_args!("building etcd {version}; the first time takes minutes"));
    // Another build may run: each writes its own file, the last one to finish stays.
    let unfinished = dir.join(format!("etcd.{}", std::process::id()));
    let go = if Path::new(GO_DEFAULT).exists() { GO_DEFAULT } else { "go" };
    let status = Command::new(go)
        .args(["build", "-trimpath", "-o"])
        .arg(&unfinished)
        .arg(MODULE)
        .current_dir(&source)
        .env("CGO_ENABLED", "0")
        .status()
        .with_context(|| format!("start {go}: building etcd needs Go"))?;
    anyhow::ensure!(status.success(), "building etcd failed ({status})");
    fs::rename(&unfinished, &program).context("keep the built etcd")?;
    Ok(program)
}

/// Where things are kept that can be made again.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("flotilla"))
}

/// What the program says of itself.
pub fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().next().context("etcd does not say its version")?;
    Ok(line.rsplit(' ').next().unwrap_or(line).to_owned())
}

/// Starts three and waits until each knows the leader.
pub async fn start(program: &Path, parent: &Path) -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::empty(Api::Etcd, parent)?;
    let ports: [u16; 6] = free_ports()?;
    let (clients, peers) = ports.split_at(3);
    let url = |port: &u16| format!("http://127.0.0.1:{port}");
    let members: Vec<String> =
        peers.iter().enumerate().map(|(i, port)| format!("etcd-{}={}", i + 1, url(port))).collect();
    for (index, (client, peer)) in clients.iter().zip(peers).enumerate() {
        let name = format!("etcd-{}", index + 1);
        let mut command = Command::new(program);
        command
            .args(["--name", &name])
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"])
            .arg("--data-dir")
            .arg(cluster.dir().join(format!("{name}.data")));
        cluster.start(&name, command, format!("127.0.0.1:{client}"))?;
    }
    cluster.until("etcd has no leader", check_leader).await?;
    Ok(cluster)
}

/// Errors unless all members know the same leader.
async fn check_leader(endpoints: &[String]) -> anyhow::Result<()> {
    let mut leaders = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let (transport, origin) = Http2::connect(endpoint).await?;
        let mut client = MaintenanceClient::with_origin(transport, origin);
        leaders.push(client.status(StatusRequest {}).await?.into_inner().leader);
    }
    leaders.dedup();
    anyhow::ensure!(leaders.len() == 1 && leaders[0] != 0, "leaders seen: {leaders:?}");
    Ok(())
}

/// The version that a `go.mod` requires of the server.
fn required_version(module: &str) -> Option<&str> {
    module.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next()? == MODULE).then(|| words.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_both_forms_of_require() {
        let block = "tool go.etcd.io/etcd/server/v3\n\nrequire (\n\tgo.etcd.io/etcd/server/v3 v3.7.3 // indirect\n)\n";
        assert_eq!(required_version(block), Some("v3.7.3"));
        let line = "require go.etcd.io/etcd/server/v3 v3.7.4\n";
        assert_eq!(required_version(line), Some("v3.7.4"));
        assert_eq!(required_version("require go.etcd.io/etcd/api/v3 v3.7.3\n"), None);
    }

    #[test]
    fn the_peer_is_etcd_3_7() {
        let module = include_str!("../../bench/etcd/go.mod");
        let version = required_version(module).expect("go.mod requires the server");
        assert!(version.starts_with("v3.7."), "{version}");
    }
}
