//! What is told of the disruption budget, and what else it counts.

use super::*;
use crate::{
    events,
    pass::{Did, Outcome},
    status,
};

/// The budget of a cluster whose pods are to be restarted cannot be written.
fn cannot_close(change: &dyn Fn(&mut Seen)) -> Seen {
    let mut seen = well(3, json!({"config": {"log_level": "debug"}}), json!({}));
    let now_wanted = children_of(&desired(&seen.cluster), 3);
    seen.children.insert(Child::ConfigMap, now_wanted[&Child::ConfigMap].clone());
    record(&mut seen, "RollingUpdate", "kv-2-0", "EvictLeaders");
    let budget = children::budget(&desired(&seen.cluster), 3, false);
    let change_of = Change::Apply(Child::DisruptionBudget, Box::new(budget), None);
    let refused = crate::error::Error::Refused("a policy".into());
    seen.answers.learn(&change_of, Err(&refused), now());
    change(&mut seen);
    seen
}

fn told(seen: &Seen, reason: &str) -> Option<String> {
    let plan = plan(seen, &defaults(), now());
    let told = plan.troubles.into_iter().find(|trouble| trouble.reason == reason);
    told.map(|trouble| trouble.message)
}

#[test]
fn budget_that_cannot_be_closed_while_pods_are_restarted_is_told() {
    let open = cannot_close(&|_| {});
    let message = told(&open, "BudgetOpen").expect("told");
    for part in ["PodDisruptionBudget kv", "cannot be closed", "a policy"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    type Change<'a> = &'a dyn Fn(&mut Seen);
    let others: [(&str, Change<'_>); 4] = [
        ("it is closed", &|seen| turn_budget(seen, false)),
        ("nothing is restarted", &|seen| {
            record(seen, "ScaleUp", "kv-3-0", "AddPod");
        }),
        ("it is not refused", &|seen| seen.answers = Default::default()),
        ("there is to be none", &|seen| {
            seen.cluster.spec.pod_disruption_budget = false;
        }),
    ];
    for (why, change) in others {
        assert_eq!(told(&cannot_close(change), "BudgetOpen"), None, "{why}");
    }
}

#[test]
fn budget_that_cannot_be_closed_is_a_condition_and_an_event() {
    let seen = cannot_close(&|_| {});
    let plan = plan(&seen, &defaults(), now());
    let status = status::compute(&seen, &plan, &defaults(), now());
    let degraded = status.conditions.iter().find(|known| known.kind == "Degraded").expect("said");
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "BudgetOpen"));
    let message = degraded.message.clone();
    let requeue = plan.requeue;
    let outcome = Outcome { seen, plan, status, did: Did::Noted, requeue };
    let events = events::of(&outcome);
    let event = events.iter().find(|event| event.reason == "BudgetOpen").expect("an event");
    assert!(event.warning && event.note == message, "{event:?}");
}

#[test]
fn budget_counts_the_pods_that_bear_our_labels_and_they_are_told() {
    let seen = |strays: &[&str]| {
        let mut seen = settled(3, json!({}));
        let whose = |name: &&str| ((*name).to_owned(), "no KvCluster made it".to_owned());
        seen.strays = strays.iter().map(whose).collect();
        seen
    };
    assert_eq!(budget_of(&plan(&seen(&[]), &defaults(), now())), None, "two of three stay");
    let stray = seen(&["kv-debug"]);
    let plan = plan(&stray, &defaults(), now());
    assert_eq!(budget_of(&plan), Some(3), "two of ours, and it: {plan:#?}");
    let message = told(&stray, "StrayPod").expect("told");
    assert!(message.contains("kv-debug") && message.contains("no KvCluster"), "{message}");
    let mut one = well(
        1,
        json!({"replicas": 1, "replicationFactor": 1}),
        json!({"replicas": 1, "replicationFactor": 1}),
    );
    one.strays = stray.strays;
    let desired = desired(&one.cluster);
    assert!(!View::new(&one, &desired, now()).is_wanted(Child::DisruptionBudget), "one node");
}
