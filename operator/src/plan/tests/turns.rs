//! Whose turn it is to be restarted, and with which template.

use super::*;

fn of_config(level: &str) -> Value {
    json!({"config": {"log_level": level}})
}

/// Pods of the first spec; the StatefulSet of the last one has the template of a second; a third is asked for.
fn ahead(wished: Value, change: &dyn Fn(&mut Seen)) -> (Seen, Option<String>) {
    let mut seen = well(3, wished, json!({}));
    let now = children_of(&desired(&seen.cluster), 3);
    seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
    let second = children_of(&desired(&cluster(of_config("debug"))), 3);
    let child = Child::StatefulSet(2);
    seen.children.insert(child, second[&child].clone());
    turn_budget(&mut seen, false);
    change(&mut seen);
    keep_budget(&mut seen);
    let first = seen.pods[&2].template_hash.clone();
    (seen, first)
}

fn writes(plan: &Plan, ordinal: i32) -> Option<String> {
    match &plan.action {
        Some(Action::Change(Change::Apply(Child::StatefulSet(at), set, _))) if *at == ordinal => {
            children::template_hash(set).map(str::to_owned)
        }
        _ => None,
    }
}

#[test]
fn template_that_is_ahead_of_its_pod_is_taken_back_whatever_is_asked_for_by_now() {
    let (seen, first) = ahead(of_config("trace"), &|seen| silent(seen, 0));
    let taken = plan(&seen, &defaults(), now());
    assert_eq!(writes(&taken, 2), first, "another node is down: {taken:#?}");
    let (seen, _) = ahead(of_config("trace"), &|_| {});
    let wished = desired(&seen.cluster).template_hash;
    let goes_on = plan(&seen, &defaults(), now());
    assert_eq!(writes(&goes_on, 2), Some(wished), "its turn goes on: {goes_on:#?}");
    // A version that no pod is given: none has its turn until that is put right.
    let (seen, first) = ahead(json!({"image": "flotilla:9.9.0"}), &|_| {});
    let held = plan(&seen, &defaults(), now());
    assert_eq!(writes(&held, 2), first, "{held:#?}");
    let (seen, _) = ahead(of_config("trace"), &|seen| does_not_run(seen, 2, 5));
    let wished = desired(&seen.cluster).template_hash;
    let plan = plan(&seen, &defaults(), now());
    assert_eq!(writes(&plan, 2), Some(wished), "it does not run anyway: {plan:#?}");
}

#[test]
fn leaders_leave_a_pod_before_each_of_its_restarts() {
    let after = |step: &str| {
        let (mut seen, _) = ahead(of_config("trace"), &|seen| {
            table(seen).nodes[2].leaders = 1;
            let mut operation = record(seen, "RollingUpdate", "kv-2-0", "");
            operation.started_at = ago(60);
            seen.cluster.status.get_or_insert_default().operation = Some(operation);
        });
        let status = seen.cluster.status.as_mut().expect("a status");
        step.clone_into(&mut status.operation.as_mut().expect("one").step);
        plan(&seen, &defaults(), now()).action.map(|action| action.name())
    };
    let evicts = Some("EvictLeaders");
    for step in ["WaitForNode", "EndEviction", "WaitForPod", "Blocked", "TakeTemplateBack"] {
        assert_eq!(after(step), evicts, "{step}: the wait before the next restart begins now");
    }
    for step in ["EvictLeaders", "WriteTemplate", "DeletePod"] {
        assert_eq!(after(step), Some("Apply"), "{step}: it was waited for long enough");
    }
}
