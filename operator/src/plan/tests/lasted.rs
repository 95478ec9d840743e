//! What an operator has waited for is not waited for once more by whoever comes after it, while it is the same.

use super::*;
use crate::crd::Lasted;

/// An operator that has watched this for so many seconds.
fn watch(seen: &mut Seen, seconds: i64) {
    let stamps = stamps(seen);
    for before in [seconds, 0] {
        let look = Timestamp::from_second(now().as_second() - before).expect("a time");
        seen.answers.watch_stamps(stamps.clone(), look);
    }
}

/// The next one, at its first look at what the one before has left: its note.
fn take_over(seen: &mut Seen, left: &Plan) {
    seen.cluster.status.get_or_insert_default().operation = left.operation.clone();
    seen.answers = Default::default();
    watch(seen, 0);
}

/// The last pod was restarted and is ready, and the one before is next, which leads.
fn second_turn() -> Seen {
    let mut seen = well(3, json!({"config": {"log_level": "debug"}}), json!({}));
    let now = children_of(&desired(&seen.cluster), 3);
    seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
    turn_budget(&mut seen, false);
    has_its_turn(&mut seen, 2);
    the(&mut seen, 2).running_since = Some(ago(3700));
    table(&mut seen).nodes.iter_mut().for_each(|row| row.leaders = 1);
    seen
}

fn planned(seen: &Seen) -> Plan {
    plan(seen, &defaults(), now())
}

fn the(seen: &mut Seen, ordinal: i32) -> &mut Pod {
    seen.pods.get_mut(&ordinal).expect("a pod")
}

fn waits(plan: &Plan) -> bool {
    plan.action.is_none() && plan.why.contains("kv-2-0 is ready since a moment ago")
}

#[test]
fn operator_that_comes_in_the_middle_of_a_turn_does_what_was_noted() {
    let mut seen = second_turn();
    watch(&mut seen, 14);
    assert!(waits(&planned(&seen)), "{:#?}", planned(&seen));
    watch(&mut seen, 15);
    let begun = planned(&seen);
    assert_eq!(begun.action.as_ref().map(Action::name), Some("EvictLeaders"), "{begun:#?}");
    let lasted = &begun.operation.as_ref().expect("noted").lasted;
    let (of, since) = ("pod-2".to_owned(), ago(3600));
    assert_eq!(*lasted, [Lasted { of, since, seconds: 15 }]);
    // Again and again: each ends before it has waited for anything.
    for _ in 0..3 {
        take_over(&mut seen, &begun);
        assert_eq!(planned(&seen), begun, "nothing is to be noted, so it is done");
    }
    // The next step of the same turn.
    table(&mut seen).nodes[1].leaders = 0;
    let next = planned(&seen);
    assert_eq!(next.action.as_ref().map(Action::name), Some("Apply"), "{next:#?}");
    take_over(&mut seen, &next);
    assert_eq!(planned(&seen), next);
}

#[test]
fn pod_that_went_and_came_while_nobody_watched_is_watched_anew() {
    type Change<'a> = &'a dyn Fn(&mut Pod);
    let changes: [(&str, Change<'_>); 4] = [
        ("another one", &|pod| pod.uid = "another".into()),
        ("it was not ready", &|pod| pod.ready_since = Some(ago(2))),
        ("its container ended", &|pod| (pod.restarts, pod.running_since) = (1, Some(ago(3)))),
        // By a clock that is an hour behind.
        ("it was not ready", &|pod| pod.ready_since = Some(ago(7200))),
    ];
    for (why, change) in changes {
        let mut seen = second_turn();
        watch(&mut seen, 15);
        let begun = planned(&seen);
        change(the(&mut seen, 2));
        take_over(&mut seen, &begun);
        let now = planned(&seen);
        assert!(waits(&now), "{why}: {now:#?}");
        let noted = now.operation.as_ref().expect("noted");
        let ready = |lasted: &&Lasted| lasted.of == "pod-2";
        let known = noted.lasted.iter().filter(ready).count();
        // A container that ends with its pod ready again by the second: that alone is still so.
        assert_eq!(known, usize::from(why == "its container ended"), "{why}: {noted:#?}");
    }
}

#[test]
fn what_was_noted_without_a_watch_or_for_less_proves_nothing() {
    // A pod that serves nobody is made anew without a look at the others.
    let mut seen = second_turn();
    record(&mut seen, "RollingUpdate", "kv-1-0", "DeletePod");
    watch(&mut seen, 0);
    assert!(waits(&planned(&seen)), "{:#?}", planned(&seen));
    let mut seen = second_turn();
    watch(&mut seen, 15);
    let mut begun = planned(&seen);
    begun.operation.as_mut().expect("noted").lasted[0].seconds = 14;
    take_over(&mut seen, &begun);
    assert!(waits(&planned(&seen)), "{:#?}", planned(&seen));
}

#[test]
fn what_has_lasted_stays_noted_while_something_else_is_done_and_goes_with_what_it_is_about() {
    let mut seen = second_turn();
    has_its_turn(&mut seen, 0);
    watch(&mut seen, 15);
    let begun = planned(&seen);
    let noted = begun.operation.as_ref().expect("noted").lasted.clone();
    // A node has lost its disk.
    the(&mut seen, 0).node = Node::Unjoined { version: "0.1.0".into() };
    table(&mut seen).nodes[0].alive = false;
    take_over(&mut seen, &begun);
    let repair = planned(&seen);
    let operation = repair.operation.as_ref().expect("noted");
    assert_eq!((operation.kind.as_str(), &operation.lasted), ("Repair", &noted), "{repair:#?}");
    the(&mut seen, 2).uid = "another".into();
    take_over(&mut seen, &repair);
    let later = planned(&seen);
    let later = &later.operation.as_ref().expect("noted").lasted;
    assert!(noted.len() == 2 && *later == noted[..1], "{later:?} {noted:?}");
}

/// Of whatever is begun after a wait the same holds.
#[test]
fn every_wait_before_a_deed_is_over_for_whoever_goes_on() {
    let gone = || {
        let mut seen = settled(4, json!({"replicas": 4}));
        does_not_run(&mut seen, 3, 5);
        seen.volumes.get_mut(&3).expect("a volume").machine_is_gone = true;
        keep_budget(&mut seen);
        seen
    };
    let fails = || {
        let mut seen = well(3, json!({"config": {"log_level": "debug"}}), json!({}));
        let now = children_of(&desired(&seen.cluster), 3);
        seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
        turn_budget(&mut seen, false);
        silent(&mut seen, 2);
        the(&mut seen, 2).terminating = true;
        does_not_run(&mut seen, 0, 5);
        the(&mut seen, 0).problem = Some(("CrashLoopBackOff".into(), "x".into()));
        seen
    };
    let leaders_stay = || {
        let mut seen = second_turn();
        has_its_turn(&mut seen, 1);
        has_its_turn(&mut seen, 2);
        table(&mut seen).nodes[0].leaders = 1;
        table(&mut seen).nodes[0].leaders_evicted = true;
        let mut operation = record(&mut seen, "RollingUpdate", "kv-0-0", "EvictLeaders");
        operation.started_at = ago(1);
        seen.cluster.status.get_or_insert_default().operation = Some(operation);
        seen
    };
    type Case<'a> = (&'a str, &'a dyn Fn() -> Seen, i64, &'a str);
    let cases: [Case<'_>; 3] = [
        ("its machine is gone", &gone, 60, "RemoveNode"),
        (
            "it fails while another is missed, and another template is asked for",
            &fails,
            30,
            "Apply",
        ),
        ("its leaders do not leave", &leaders_stay, 30, "Apply"),
    ];
    for (why, case, wait, deed) in cases {
        let mut seen = case();
        watch(&mut seen, wait - 1);
        let early = planned(&seen);
        assert_eq!(early.action, None, "{why}: {early:#?}");
        watch(&mut seen, wait);
        let begun = planned(&seen);
        assert_eq!(begun.action.as_ref().map(Action::name), Some(deed), "{why}: {begun:#?}");
        take_over(&mut seen, &begun);
        assert_eq!(planned(&seen), begun, "{why}");
        let begun = Plan { operation: early.operation, ..begun };
        take_over(&mut seen, &begun);
        assert_eq!(planned(&seen).action, None, "{why}: nobody has noted it");
    }
}
