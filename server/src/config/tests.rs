use std::path::Path;

use clap::Parser as _;

use super::{layers::Setting, *};

fn flag(key: &str, text: &str) -> Setting {
    Setting { key: key.to_owned(), text: text.to_owned(), origin: "flag --set".to_owned() }
}

fn variable(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

fn merged(
    file: &str,
    environment: &[(String, String)],
    flags: &[Setting],
) -> (Config, Vec<String>) {
    let mut errors = Vec::new();
    let config = layers::merge(Some(("f.yaml", file)), environment, flags, &mut errors);
    (config, errors.iter().map(ToString::to_string).collect())
}

fn with_flags(flags: &[Setting]) -> (Config, Vec<String>) {
    merged("", &[], flags)
}

fn violations(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = Config { data_dir: "d".into(), ..Config::default() };
    change(&mut config);
    let mut errors = Vec::new();
    config.check(&mut errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_need_only_a_directory() {
    assert_eq!(violations(|_| {}), [""; 0]);
    assert_eq!(
        violations(|config| config.data_dir = PathBuf::new()),
        ["data_dir: is required: give --data-dir DIR"]
    );
}

#[test]
fn later_source_wins() {
    let file = "raft: {heartbeat_interval: 100ms, election_timeout_min: 1s}\nlog_level: debug";
    let environment =
        [variable("FLOTILLA_RAFT__HEARTBEAT_INTERVAL", "200ms"), variable("FLOTILLA_INIT", "true")];
    let flags = [flag("raft.heartbeat_interval", "300ms")];
    let (config, errors) = merged(file, &environment, &flags);
    assert_eq!(errors, [""; 0]);
    assert_eq!(config.raft.heartbeat_interval, Duration::from_millis(300), "flag over variable");
    assert_eq!(config.raft.election_timeout_min, Duration::from_secs(1), "file over default");
    assert_eq!(config.raft.election_timeout_max, Duration::from_secs(6), "default");
    assert_eq!((config.log_level.as_str(), config.init), ("debug", true));
    let (config, _) = merged(file, &environment, &[]);
    assert_eq!(config.raft.heartbeat_interval, Duration::from_millis(200), "variable over file");
}

#[test]
fn every_mistake_of_every_source_is_reported_at_once() {
    let file = "raft:\n  hartbeat_interval: 1s\n  election_timeout_min: 5\nlimits: 7\nspeed: 9\n";
    let environment = [variable("FLOTILLA_DATADIR", "/d"), variable("FLOTILLA_INIT", "maybe")];
    let flags = [flag("raft", "x"), flag("limits.key_bytes_max", "big"), flag("raft.x.y", "1")];
    let (config, errors) = merged(file, &environment, &flags);
    let expected = [
        ("raft.hartbeat_interval (file f.yaml)", "did you mean raft.heartbeat_interval?"),
        ("raft.election_timeout_min (file f.yaml)", "a duration with its unit"),
        ("limits (file f.yaml)", "is a group of settings"),
        ("speed (file f.yaml)", "no such setting"),
        ("datadir (variable FLOTILLA_DATADIR)", "did you mean data_dir?"),
        ("init (variable FLOTILLA_INIT)", "boolean"),
        ("raft (flag --set)", "is a group of settings"),
        ("limits.key_bytes_max (flag --set)", "is no size"),
        ("raft.x.y (flag --set)", "no such setting"),
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, (start, hint)) in errors.iter().zip(expected) {
        assert!(error.starts_with(start) && error.contains(hint), "{error}\nwants {start}: {hint}");
    }
    assert_eq!(config, Config::default(), "what cannot be read changes nothing");
}

#[test]
fn files_without_settings_are_allowed_and_broken_ones_say_where() {
    for text in ["", "# nothing\n", "raft:\n# nothing either\n", "{}"] {
        assert_eq!(merged(text, &[], &[]), (Config::default(), vec![]), "{text:?}");
    }
    for text in ["raft: [", "just text", "- a list", "init: true\ninit: false"] {
        let (_, errors) = merged(text, &[], &[]);
        assert_eq!(errors.len(), 1, "{text:?}: {errors:?}");
        assert!(errors[0].contains("f.yaml"), "{text:?}: {errors:?}");
    }
}

#[test]
fn variables_of_others_are_passed_over() {
    let environment = [
        "FLOTILLA_SERVICE_HOST",
        "FLOTILLA_SERVICE_PORT",
        "FLOTILLA_SERVICE_PORT_GRPC",
        "FLOTILLA_PORT",
        "FLOTILLA_PORT_7420_TCP",
        "FLOTILLA_PORT_7420_TCP_ADDR",
        "FLOTILLA_CLIENT_PORT_7420_TCP_PROTO",
        "FLOTILLA_ENDPOINTS",
        "PATH",
    ]
    .map(|name| variable(name, "tcp://10.0.0.1:7420"));
    assert_eq!(merged("", &environment, &[]), (Config::default(), vec![]));
}

#[test]
fn labels_come_from_all_sources_and_keep_dots_in_keys() {
    let environment = [variable("FLOTILLA_LABELS__RACK", "7")];
    let flags = [flag("labels.topology.kubernetes.io/zone", "b"), flag("labels.zone", "2")];
    let (config, errors) = merged("labels: {zone: a, disk: ssd}", &environment, &flags);
    assert_eq!(errors, [""; 0]);
    let labels: Vec<_> = config.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["disk=ssd", "rack=7", "topology.kubernetes.io/zone=b", "zone=2"]);
    let (config, errors) = merged("", &[variable("FLOTILLA_LABELS", "zone=a, host=h1")], &[]);
    assert_eq!((config.labels.len(), errors), (2, vec![]));
    let (_, errors) = merged("", &[variable("FLOTILLA_LABELS", "zone")], &[]);
    assert!(errors[0].contains("KEY=VALUE"), "{errors:?}");
    assert_eq!(violations(|config| drop(config.labels.insert("a b".into(), "c".into()))).len(), 1);
}

#[test]
fn printed_settings_are_read_back_the_same() {
    let flags = [
        flag("data_dir", "/var/lib/flotilla"),
        flag("join", "a:1,b:2"),
        flag("labels.zone", "a"),
        flag("advertise_host", "node-1"),
        flag("raft.heartbeat_interval", "1500ms"),
        flag("limits.value_bytes_max", "1000001"),
        flag("storage.engine", "memory"),
        flag("disk.low_bytes", "3GiB"),
        flag("disk.critical_bytes", "auto"),
        flag("log_format", "json"),
    ];
    let (config, errors) = with_flags(&flags);
    assert_eq!(errors, [""; 0]);
    assert_eq!(config.join, ["a:1", "b:2"]);
    assert_eq!(merged(&config.to_yaml(), &[], &[]), (config, vec![]));
    let defaults = Config::default();
    assert_eq!(merged(&defaults.to_yaml(), &[], &[]), (defaults, vec![]));
}

#[test]
fn every_setting_can_be_given_as_variable_and_as_flag() {
    for (key, default) in layers::defaults() {
        let text = match default {
            serde_yaml::Value::String(text) => text,
            serde_yaml::Value::Number(number) => number.to_string(),
            serde_yaml::Value::Bool(value) => value.to_string(),
            _ => continue, // Nothing, an empty list or map: see the tests above.
        };
        let environment = [variable(&layers::variable_name(&key), &text)];
        let (config, errors) = merged("", &environment, &[flag(&key, &text)]);
        assert_eq!((config, errors), (Config::default(), vec![]), "{key}={text}");
    }
}

#[test]
fn contradictions_are_refused() {
    for (why, change, start) in [
        (
            "less than three heartbeats",
            (|c| c.raft.election_timeout_min = Duration::from_secs(1)) as fn(&mut Config),
            "raft.election_timeout_min",
        ),
        (
            "an empty range to draw from",
            |c| c.raft.election_timeout_max = c.raft.election_timeout_min,
            "raft.election_timeout_max",
        ),
        ("0 does nothing", |c| c.raft.append_entries_max = 0, "raft.append_entries_max"),
        ("alone or with others", |c| (c.init, c.bootstrap_expect) = (true, 1), "bootstrap_expect"),
        (
            "somebody is not named",
            |c| (c.bootstrap_expect, c.join) = (3, vec!["a:1".into(), "a:1".into()]),
            "bootstrap_expect",
        ),
        (
            "more than a cluster begins with",
            |c| {
                c.bootstrap_expect = 33;
                c.join = (1..40).map(|n| format!("n{n}:1")).collect();
            },
            "bootstrap_expect",
        ),
        ("no port", |c| c.join = vec!["a".into()], "join"),
        ("one port twice", |c| c.peer_addr = c.client_addr, "peer_addr"),
        (
            "nobody can dial 0.0.0.0",
            |c| c.client_addr = "0.0.0.0:7420".parse().expect("an address"),
            "advertise_host",
        ),
        ("a URL is no host", |c| c.advertise_host = Some("http://a".into()), "advertise_host"),
        ("no such filter", |c| c.log_level = "a=b=c".into(), "log_level"),
        ("a misspelt level", |c| c.log_level = "verbose".into(), "log_level"),
        ("a misspelt level beside a target", |c| c.log_level = "h2=warn,inf".into(), "log_level"),
        (
            "the largest value does not fit",
            |c| c.limits.request_bytes_max = c.limits.value_bytes_max,
            "limits.request_bytes_max",
        ),
        (
            "the largest request never starts",
            |c| c.limits.proposal_bytes_in_flight_max = 1 << 20,
            "limits.proposal_bytes_in_flight_max",
        ),
        ("queue below a request", |c| c.log.queue_bytes_max = 1 << 20, "log.queue_bytes_max"),
        (
            "a chunk takes so long that its sender seems to have stopped",
            |c| c.snapshot.bytes_per_second_max = 64 << 10,
            "snapshot.idle_timeout",
        ),
        (
            "default above the most",
            |c| c.limits.request_timeout_default = Duration::from_secs(31),
            "limits.request_timeout_default",
        ),
        (
            "critical above low",
            |c| (c.disk.low_bytes, c.disk.critical_bytes) = (Some(1 << 30), Some(2 << 30)),
            "disk.critical_bytes",
        ),
        (
            "memtables do not fit",
            |c| c.storage.memtables_bytes_max = 1,
            "storage.memtables_bytes_max",
        ),
        (
            "down before disconnected",
            |c| c.placement.node_down_after = Duration::from_secs(19),
            "placement.node_down_after",
        ),
    ] {
        let errors = violations(change);
        assert_eq!(errors.len(), 1, "{why}: {errors:?}");
        assert!(errors[0].starts_with(&format!("{start}: ")), "{why}: {errors:?}");
    }
}

#[test]
fn port_0_may_be_given_three_times() {
    let free: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let change = |c: &mut Config| (c.client_addr, c.peer_addr, c.http_addr) = (free, free, free);
    assert_eq!(violations(change), [""; 0]);
}

#[test]
fn timings_of_the_process_tests_are_allowed() {
    let errors = violations(|config| {
        config.raft.heartbeat_interval = Duration::from_millis(100);
        config.raft.election_timeout_min = Duration::from_millis(500);
        config.raft.election_timeout_max = Duration::from_secs(1);
    });
    assert_eq!(errors, [""; 0]);
}

#[test]
fn flags_become_settings() {
    let args = Args::try_parse_from([
        "flotilla-server",
        "--data-dir=/d",
        "--client-addr=0.0.0.0:1",
        "--peer-addr=[::]:2",
        "--http-addr=127.0.0.1:3",
        "--advertise-host=h",
        "--join=a:1,b:2",
        "--label=zone=a",
        "--label=host=x=y",
        "--set=limits.txn_ops_max=7",
    ])
    .expect("valid flags");
    let (config, errors) = with_flags(&args.settings.settings());
    assert_eq!(errors, [""; 0]);
    assert_eq!(config.data_dir, Path::new("/d"));
    assert_eq!((config.client_addr.port(), config.http_addr.port()), (1, 3));
    assert!(config.peer_addr.ip().is_ipv6());
    assert_eq!((config.advertise_host.as_deref(), config.init), (Some("h"), false));
    assert_eq!(config.join, ["a:1", "b:2"]);
    assert_eq!(config.labels.get("host").map(String::as_str), Some("x=y"));
    assert_eq!(config.limits.txn_ops_max, 7);
}

#[test]
fn command_line_is_well_formed() {
    use clap::CommandFactory as _;
    Args::command().debug_assert();
    for (why, line, ok) in [
        ("nothing", vec![], true),
        ("start, unless one of these answers", vec!["--init", "--join=a:1"], true),
        ("alone and with others", vec!["--init", "--bootstrap-expect=3"], false),
        ("with others", vec!["--bootstrap-expect=2", "--join=a:1,b:1"], true),
        ("a setting without value", vec!["--set=raft"], false),
        ("print with flags", vec!["config", "print", "--set=a=b"], true),
        ("too few nodes to lose one", vec!["demo", "--nodes=2"], false),
        ("flags that nobody would read", vec!["--init", "version"], false),
    ] {
        let line = ["flotilla-server"].into_iter().chain(line);
        assert_eq!(Args::try_parse_from(line).is_ok(), ok, "{why}");
    }
}

/// `export FLOTILLA_IMAGE=…` is meant for a compose file, and no reason for a node not to start; a misspelt
/// setting is.
#[test]
fn variable_of_another_program_is_passed_over_and_told() {
    let names = ["FLOTILLA_IMAGE", "FLOTILLA_DATADIR", "FLOTILLA_RAFT__NO_SUCH", "FLOTILLA_INIT"];
    let environment = names.map(|name| variable(name, "true"));
    let (_, errors) = merged("", &environment, &[]);
    assert!(!errors.iter().any(|error| error.contains("IMAGE")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("FLOTILLA_DATADIR")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("FLOTILLA_RAFT__NO_SUCH")), "{errors:?}");
    let others = ["FLOTILLA_SERVICE_HOST", "FLOTILLA_ENDPOINTS", "FLOTILLA_LABELS__RACK", "HOME"];
    let all = names.into_iter().chain(others);
    assert_eq!(layers::strays(all), ["FLOTILLA_IMAGE"]);
}
