//! What is installed is what this program says: the definition, the rights, and samples that it takes.

use std::{fs, path::PathBuf, process::Command};

use flotilla_operator::crd::KvCluster;

fn file(path: &str) -> String {
    // Cargo runs tests in the folder of their package, wherever they were compiled.
    let path = PathBuf::from("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn printed(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_flotilla-operator"))
        .arg(command)
        .output()
        .expect("started");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn chart_installs_the_definition_and_the_rights_of_this_version() {
    for command in ["crd", "rbac", "admission"] {
        let path = &format!("helm/flotilla/files/{command}.yaml");
        assert!(file(path) == printed(command), "{path} is not current: run `make manifests`");
    }
}

/// Fields that are misspelt are refused by the type; what the API server would refuse beyond that is
/// tried on a real one.
#[test]
fn samples_are_clusters_of_this_version() {
    for path in ["minimal", "zones", "large"].map(|name| format!("deploy/samples/{name}.yaml")) {
        let cluster: KvCluster =
            serde_yaml::from_str(&file(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(cluster.spec.replication_factor <= cluster.spec.replicas, "{path}");
    }
}
