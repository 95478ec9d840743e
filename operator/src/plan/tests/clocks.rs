//! Waits by stamps of other clocks than the operator's own.

use super::*;

/// The same, of an operator that has seen it for so many seconds. Its wall clock is `ahead` of those of the others.
fn watched(seconds: i64, ahead: i64, change: &dyn Fn(&mut Seen, &str)) -> Seen {
    let mut seen = settled(4, json!({"replicas": 4}));
    change(&mut seen, &ago(ahead));
    let stamps = stamps(&seen);
    let since = Timestamp::from_second(now().as_second() - seconds).expect("a time");
    for look in [since, now()] {
        seen.answers.watch_stamps(stamps.clone(), look);
    }
    seen
}

const HOUR: i64 = 3600;

#[test]
fn no_clock_that_is_wrong_gives_a_node_up_early_or_never() {
    let gone = |seen: &mut Seen, since: &str| {
        does_not_run(seen, 3, 0);
        seen.pods.get_mut(&3).expect("a pod").not_ready_since = Some(since.to_owned());
        seen.volumes.get_mut(&3).expect("a volume").machine_is_gone = true;
    };
    let again_and_again = |seen: &mut Seen, since: &str| {
        does_not_run(seen, 3, 0);
        let pod = seen.pods.get_mut(&3).expect("a pod");
        pod.not_ready_since = Some(since.to_owned());
        (pod.restarts, pod.last_exit) = (9, Some(Exit { code: 134, out_of_memory: false }));
        pod.problem = Some(("CrashLoopBackOff".into(), "x".into()));
    };
    let down = desired(&cluster(json!({}))).settings.node_down_after_seconds() + 1;
    type Change<'a> = &'a dyn Fn(&mut Seen, &str);
    let cases: [(Change<'_>, i64); 2] = [(&gone, 60), (&again_and_again, down)];
    for ahead in [-HOUR, 0, HOUR] {
        for (change, wait) in cases {
            let mut early = watched(wait - 1, ahead, change);
            keep_budget(&mut early);
            let early = plan(&early, &defaults(), now());
            assert_eq!(early.action, None, "{ahead}: {early:#?}");
            let due = watched(wait, ahead, change);
            check(vec![(
                "due",
                due,
                Want::Does("RemoveNode", "node_id: 4, force: true"),
                "NodeLost",
            )]);
        }
    }
}

#[test]
fn no_clock_that_is_wrong_ends_the_watch_over_a_restarted_pod_early_or_never() {
    let runs_well = |seconds: i64, ahead: i64, restarts: i32| {
        let seen = watched(seconds, ahead, &|seen, since| {
            let pod = seen.pods.get_mut(&1).expect("a pod");
            (pod.ready_since, pod.running_since) = (Some(since.into()), Some(since.into()));
            pod.restarts = restarts;
        });
        let desired = desired(&seen.cluster);
        View::new(&seen, &desired, now()).runs_well(&seen.pods[&1])
    };
    for ahead in [-HOUR, 0, HOUR] {
        for (restarts, wait) in [(0, 15), (1, 300)] {
            assert!(!runs_well(wait - 1, ahead, restarts), "{ahead}: {restarts}");
            assert!(runs_well(wait, ahead, restarts), "{ahead}: {restarts}");
        }
    }
}

#[test]
fn operation_that_another_operator_began_is_waited_for_by_ones_own_clock() {
    for ahead in [-HOUR, 0, HOUR] {
        let lasts = |watched_for: i64| {
            let seen = watched(watched_for, ahead, &|seen, since| {
                record(seen, "RollingUpdate", "kv-3-0", "EvictLeaders");
                let status = seen.cluster.status.as_mut().expect("a status");
                status.operation.as_mut().expect("noted").started_at = since.to_owned();
            });
            let desired = desired(&seen.cluster);
            let view = View::new(&seen, &desired, now());
            view.lasts(view.recorded.expect("noted"), 30)
        };
        assert_eq!([0, 29, 30].map(lasts), [false, false, true], "{ahead}");
    }
}

#[test]
fn stamp_that_changes_is_watched_anew_and_a_clock_that_is_set_back_costs_the_wait_itself() {
    let mut answers = crate::answers::Answers::default();
    let at = |second: i64| Timestamp::from_second(HOUR + second).expect("a time");
    for (why, second, stamp, want) in [
        ("first", 0, "a", 0),
        ("the same", 40, "a", 40),
        ("another", 50, "b", 0),
        ("set back", -60, "b", 0),
        ("after that", 0, "b", 60),
    ] {
        answers.watch_stamps(vec![("pod".to_owned(), stamp.to_owned())], at(second));
        assert_eq!(answers.lasted("pod", stamp), Some(want), "{why}");
    }
    assert_eq!(answers.lasted("pod", "a"), None);
}
