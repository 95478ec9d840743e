//! Volumes that were asked to grow, and what comes of it.

use super::*;
use crate::seen::Growth;

/// All volumes have 1Gi and were asked to have `asked`, where `size` is wanted by now.
fn asked(asked: &str, size: &str, growth: Option<&Growth>) -> Seen {
    let mut seen = settled(3, json!({"storage": {"size": size}}));
    for volume in seen.volumes.values_mut() {
        volume.requested = Quantity(asked.into());
        volume.growth = growth.cloned();
    }
    seen
}

fn refused() -> Growth {
    Growth::Refused {
        reason: "ControllerResizeInfeasible".into(),
        message: "at most 2Gi of this type".into(),
    }
}

fn fails() -> Growth {
    Growth::Fails { reason: "ControllerResizeError".into(), message: "quota of the zone".into() }
}

/// An operator that has looked for so long, and another one before this look.
fn watched(mut seen: Seen, seconds: i64) -> Seen {
    let stamps = stamps(&seen);
    for before in [seconds, 0] {
        let look = Timestamp::from_second(now().as_second() - before).expect("a time");
        seen.answers.watch_stamps(stamps.clone(), look);
    }
    seen
}

#[test]
fn growth_is_waited_for_and_what_keeps_a_volume_from_it_is_told() {
    let plain = || asked("4Gi", "4Gi", None);
    let waits = || Want::Waits("volume data-kv-0-0 grows from 1Gi to 4Gi");
    let pending = || asked("4Gi", "4Gi", Some(&Growth::WaitsForPod));
    check(vec![
        ("it is under way, and found so by whoever comes", plain(), waits(), ""),
        ("it takes its time", watched(plain(), 599), waits(), ""),
        ("nothing comes of it", watched(plain(), 600), Want::Nothing, "VolumesCannotGrow"),
        ("the file system comes last", watched(pending(), 30), waits(), ""),
        ("it does not", watched(pending(), 600), Want::Nothing, "VolumesCannotGrow"),
        (
            "the driver will not",
            asked("4Gi", "4Gi", Some(&refused())),
            Want::Nothing,
            "VolumesCannotGrow",
        ),
        ("it fails", asked("4Gi", "4Gi", Some(&fails())), Want::Nothing, "VolumesCannotGrow"),
        (
            "one has more than was asked for, and a driver once failed",
            {
                let mut seen = asked("1Gi", "1Gi", Some(&fails()));
                let volume = seen.volumes.get_mut(&1).expect("a volume");
                volume.capacity = Some(Quantity("10Gi".into()));
                seen
            },
            Want::Nothing,
            "",
        ),
        (
            "what it has is not known",
            {
                let mut seen = plain();
                seen.volumes.values_mut().for_each(|volume| volume.capacity = None);
                seen
            },
            Want::Nothing,
            "",
        ),
    ]);
}

#[test]
fn who_is_told_of_a_growth_that_fails_knows_which_claim_why_and_what_to_do() {
    let told = |seen: &Seen| {
        let plan = plan(seen, &defaults(), now());
        plan.troubles.into_iter().map(|trouble| trouble.message).collect::<Vec<_>>().join("; ")
    };
    let all = told(&asked("4Gi", "4Gi", Some(&refused())));
    for part in [
        "volume claim data-kv-1-0 asks for 4Gi and has 1Gi",
        "ControllerResizeInfeasible: at most 2Gi of this type",
        "take storage.size back",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert!(told(&asked("4Gi", "4Gi", Some(&fails()))).contains("quota of the zone"));
    // Nobody acts on it then, and it is told no less.
    let mut paused = asked("4Gi", "4Gi", Some(&refused()));
    paused.cluster.spec.paused = true;
    assert!(told(&paused).contains("at most 2Gi"), "{}", told(&paused));
    let mut many = settled(9, json!({"replicas": 9, "storage": {"size": "4Gi"}}));
    for volume in many.volumes.values_mut() {
        (volume.requested, volume.growth) = (Quantity("4Gi".into()), Some(refused()));
    }
    assert!(told(&many).contains("so do 4 others"), "{}", told(&many));
}

/// What cannot be done is not advised.
#[test]
fn who_is_told_of_a_growth_that_fails_knows_whether_the_size_can_be_taken_back() {
    let told = |seen: &Seen| {
        let plan = plan(seen, &defaults(), now());
        let troubles = plan.troubles.into_iter().map(|trouble| trouble.message);
        let lines = preview(seen, &defaults(), now()).join("; ");
        (troubles.collect::<Vec<_>>().join("; "), lines)
    };
    let one_has = |mut seen: Seen, size: &str| {
        let volume = seen.volumes.get_mut(&1).expect("a volume");
        (volume.capacity, volume.growth) = (Some(Quantity(size.into())), None);
        seen
    };
    let failing = || asked("4Gi", "4Gi", Some(&refused()));
    for (why, seen, can) in [
        ("none has got it", failing(), Some("1Gi")),
        ("one has a part of it", one_has(failing(), "2Gi"), Some("2Gi")),
        ("one has it", one_has(failing(), "4Gi"), None),
    ] {
        let (all, lines) = told(&seen);
        let (message, line) = match can {
            Some(least) => (
                format!("take storage.size back: to {least},"),
                format!("can be taken back to {least}"),
            ),
            None => (
                "storage.size cannot be taken back, since a volume has 4Gi already".to_owned(),
                "cannot be taken back, since a volume has it already".to_owned(),
            ),
        };
        assert!(all.contains(&message), "{why}: {all}");
        assert!(lines.contains(&line), "{why}: {lines}");
    }
    // An older Kubernetes takes no request back.
    for (mut seen, words) in [
        (asked("4Gi", "2Gi", None), "set storage.size to what the largest volume has (1Gi"),
        (one_has(asked("4Gi", "2Gi", None), "2Gi"), "set to 4Gi it asks"),
    ] {
        let back = plan(&seen, &defaults(), now()).action.expect("it is taken back");
        ladder::refuse(&mut seen, &back);
        assert!(told(&seen).0.contains(words), "{words}: {}", told(&seen).0);
    }
    // Nor is a spec that would be refused called as good as done.
    let (_, lines) = told(&one_has(asked("4Gi", "2Gi", None), "4Gi"));
    assert!(lines.contains("less than the 4Gi that one has"), "{lines}");
}

#[test]
fn what_volumes_have_not_got_is_taken_back_and_what_they_have_is_not() {
    let small = |seen: &mut Seen, ordinal: i32| {
        seen.volumes.get_mut(&ordinal).expect("a volume").requested = Quantity("2Gi".into());
    };
    let back = || asked("4Gi", "2Gi", Some(&refused()));
    check(vec![
        (
            "to less than was asked for",
            back(),
            Want::Does("TakeSizeBack", "\"data-kv-0-0\", uid: \"volume-0\", version: \"7\""),
            "",
        ),
        (
            "the next, while the first is given it",
            {
                let mut seen = back();
                small(&mut seen, 0);
                seen.volumes.get_mut(&0).expect("a volume").growth = None;
                seen
            },
            Want::Does("TakeSizeBack", "volume-1"),
            "",
        ),
        ("to what they have: nothing is asked", asked("4Gi", "1Gi", None), Want::Nothing, ""),
        (
            "one has got it meanwhile",
            {
                let mut seen = back();
                small(&mut seen, 1);
                small(&mut seen, 2);
                for volume in seen.volumes.values_mut() {
                    volume.capacity = Some(Quantity("4Gi".into()));
                }
                seen
            },
            Want::Nothing,
            "",
        ),
        (
            "new ones are made as is wanted now",
            {
                let mut seen = well(
                    3,
                    json!({"storage": {"size": "1Gi"}}),
                    json!({"storage": {"size": "4Gi"}}),
                );
                for volume in seen.volumes.values_mut() {
                    volume.requested = Quantity("4Gi".into());
                }
                seen
            },
            Want::Does("Delete", "keep_dependents: true"),
            "",
        ),
    ]);
}

#[test]
fn size_can_be_taken_back_to_what_the_largest_volume_has() {
    let largest = |change: &dyn Fn(&mut VolumeClaim)| {
        let mut seen = asked("4Gi", "4Gi", None);
        change(seen.volumes.get_mut(&1).expect("a volume"));
        let plan = plan(&seen, &defaults(), now());
        let status = crate::status::compute(&seen, &plan, &defaults(), now());
        status.largest_volume.expect("a size")
    };
    assert_eq!(largest(&|_| {}), "1Gi", "none has got it");
    let has = |size: &'static str| {
        move |volume: &mut VolumeClaim| volume.capacity = Some(Quantity(size.into()))
    };
    assert_eq!(largest(&has("4Gi")), "4Gi", "one has");
    assert_eq!(largest(&has("3Gi")), "3Gi", "one has a part of it");
    assert_eq!(largest(&has("9Gi")), "4Gi", "it has more, which nobody has asked for");
    assert_eq!(largest(&|volume| volume.capacity = None), "4Gi", "it is not known");
}

#[test]
fn growth_holds_up_nothing_that_takes_a_pod_away() {
    let mut seen = well(
        3,
        json!({"storage": {"size": "4Gi"}, "config": {"log_level": "debug"}}),
        json!({"storage": {"size": "4Gi"}}),
    );
    let now_made = children_of(&desired(&seen.cluster), 3);
    seen.children.insert(Child::ConfigMap, now_made[&Child::ConfigMap].clone());
    turn_budget(&mut seen, false);
    for volume in seen.volumes.values_mut() {
        volume.requested = Quantity("4Gi".into());
    }
    let plan = plan(&seen, &defaults(), now());
    let operation = plan.operation.as_ref().expect("an operation");
    assert_eq!(operation.kind, "RollingUpdate", "{plan:#?}");
    assert!(plan.action.is_some(), "{plan:#?}");
}
