//! The operator against a Kubernetes and a Flotilla of memory, ended before and after every change it
//! makes.
//!
//! First a story is played without a fault. Then it goes on another way from every change of it, once with the
//! operator ended right before the change and once right after: the change is then
//! made or not, and the operator does not know. Whoever comes after knows only what is noted and what is
//! seen. Each time the cluster must end as the spec says, and on the way no change may take a quorum
//! away, begin a cluster twice, or be the second of one pass. And each story is played by operators of which every
//! one ends at its first note.

mod chaos;
mod claims;
mod fake;

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use self::fake::{Crash, Fake, Moment};
use crate::{
    children::Child,
    crd::KvClusterStatus,
    desired::{Defaults, Desired},
    error::Error,
    key::Key,
    pass::{self, Did},
    plan::{self, Action, Change, Deed},
    seen::{Node, Pod, Seen, State},
    status, unreached,
    world::{Made, World},
};

/// Bound: passes in which a story must come to its end.
const PASSES_MAX: usize = 3000;

fn defaults() -> Defaults {
    Defaults { server_image: "flotilla:1".into(), ..Defaults::default() }
}

fn key() -> Key {
    Key { namespace: "ns".into(), name: "kv".into() }
}

/// Passes until the cluster is ready and a look leads to nothing, also a minute later.
async fn settle(fake: &Fake, why: &str) {
    settle_on(fake, why, false, |_| {}).await;
}

/// The same, from where the minute has passed already or not. `before`: what is done before each pass.
async fn settle_on(fake: &Fake, why: &str, mut waited: bool, mut before: impl FnMut(bool)) {
    for _ in 0..PASSES_MAX {
        before(waited);
        let outcome = pass::pass(fake, &key(), &defaults()).await;
        fake.end_of_pass();
        if let Ok(Some(outcome)) = &outcome {
            let ready = condition(&outcome.status, "Ready") || outcome.seen.cluster.spec.stopped;
            // Nor is a budget that is opened anything that a cluster lacks.
            let action = outcome.plan.action.as_ref();
            let idle = action.is_none_or(|action| {
                matches!(action, Action::Change(Change::Apply(Child::DisruptionBudget, ..)))
            });
            assert!(idle || !condition(&outcome.status, "Ready"), "{why}: {}", outcome.plan.why);
            if outcome.did == Did::Nothing && outcome.plan.operation.is_none() && ready {
                if !is_budget_closed(&outcome.seen) || waited {
                    return;
                }
                // It is opened when that has lasted.
                waited = true;
                (0..60).for_each(|_| fake.tick());
            }
        }
        fake.tick();
    }
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    panic!("{why}: not settled; {:#?}\n{:#?}\n{}", seen.cluster.status, seen.table, fake.journal());
}

fn is_budget_closed(seen: &Seen) -> bool {
    let budget = seen.children.get(&Child::DisruptionBudget);
    let stay = budget.and_then(|budget| budget["spec"]["minAvailable"].as_u64());
    stay.is_some_and(|stay| stay >= seen.pods.len() as u64)
}

fn condition(status: &KvClusterStatus, kind: &str) -> bool {
    status.conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
}

/// Steps of a story: how the world is changed by others, and what must hold when all is done.
#[derive(Clone, Copy)]
struct Story {
    name: &'static str,
    spec: fn() -> Value,
    turns: &'static [fn(&Fake)],
    holds: fn(&Fake, &Seen),
}

/// A story at the beginning of a pass.
struct Scene {
    fake: Fake,
    /// How many of its turns are behind it.
    turns: usize,
    waited: bool,
}

/// To the end. `before`: what is done before each pass.
async fn play(
    story: &Story,
    scene: Scene,
    why: &str,
    mut before: impl FnMut(&Fake, usize, bool),
) -> Fake {
    let Scene { fake, turns, waited } = scene;
    settle_on(&fake, why, waited, |waited| before(&fake, turns, waited)).await;
    for (number, turn) in story.turns.iter().enumerate().skip(turns) {
        turn(&fake);
        settle_on(&fake, why, false, |waited| before(&fake, number + 1, waited)).await;
    }
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    (story.holds)(&fake, &seen);
    assert_eq!(fake.begun(), 1, "{why}: a cluster begins once\n{}", fake.journal());
    fake
}

fn in_service(seen: &Seen) -> usize {
    let table = seen.table.as_ref().expect("a table");
    table.nodes.iter().filter(|row| row.state == State::Up && row.alive).count()
}

/// How many voters regions have, as their peers say.
fn voters(seen: &Seen) -> BTreeSet<usize> {
    let desired = Desired::of(&seen.cluster, &defaults()).expect("a valid spec");
    let joined = seen.joined(&desired.cluster_id);
    joined.flat_map(|(_, joined)| &joined.peers).map(|peer| peer.voters.len()).collect()
}

fn replicas(fake: &Fake, replicas: i32) {
    fake.edit(|spec| spec["replicas"] = json!(replicas));
}

const STORIES: [Story; 24] = [
    Story {
        name: "a claim loses the note whose it is",
        spec: || json!({"replicas": 1, "replicationFactor": 1}),
        turns: &[|fake| fake.annotate_claim(0, "")],
        holds: |_, seen| assert!(!seen.volumes[&0].unnoted),
    },
    Story {
        name: "a node that was to go is wanted again",
        spec: || json!({"replicas": 4, "replicationFactor": 3}),
        turns: &[|fake| {
            replicas(fake, 3);
            fake.have_a_second_thought(4);
        }],
        holds: |_, seen| assert_eq!(in_service(seen), 4),
    },
    Story {
        name: "a pod that nobody has joined in yet is to go, and is wanted again",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| {
            replicas(fake, 4);
            fake.change_minds(&[(Moment::Pod(3), 3), (Moment::Marked(3), 4)]);
        }],
        holds: |_, seen| {
            assert_eq!(in_service(seen), 4);
            assert!(seen.volumes.values().all(|volume| volume.decommissioned.is_none()));
        },
    },
    Story {
        name: "somebody adds a variable to the pods' template",
        spec: || json!({"replicas": 1, "replicationFactor": 1}),
        turns: &[|fake| {
            let path = "/spec/template/spec/containers/0/env";
            let item = json!({"name": "X", "value": "y"});
            fake.push_to_child(Child::StatefulSet(0), path, item);
        }],
        holds: |_, seen| {
            let set = seen.children[&Child::StatefulSet(0)].to_string();
            assert!(!set.contains("\"X\""), "{set}");
        },
    },
    Story {
        name: "somebody adds a variable in the second in which the configuration changes",
        spec: || json!({"replicas": 1, "replicationFactor": 1}),
        turns: &[|fake| {
            let path = "/spec/template/spec/containers/0/env";
            fake.push_to_child(Child::StatefulSet(0), path, json!({"name": "X", "value": "y"}));
            fake.edit(|spec| spec["config"] = json!({"log_level": "debug"}));
        }],
        holds: |_, seen| {
            let set = seen.children[&Child::StatefulSet(0)].to_string();
            assert!(!set.contains("\"X\""), "{set}");
        },
    },
    Story {
        name: "create three",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[],
        holds: |_, seen| assert_eq!(in_service(seen), 3),
    },
    Story {
        name: "three, five, three",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| replicas(fake, 5), |fake| replicas(fake, 3)],
        holds: |_, seen| {
            assert_eq!((in_service(seen), seen.pods.len()), (3, 3));
            for ordinal in [3, 4] {
                assert!(seen.volumes[&ordinal].decommissioned.is_some(), "{:?}", seen.volumes);
            }
        },
    },
    Story {
        name: "volumes that are not kept go with their nodes, and ordinals are used again",
        spec: || {
            json!({"replicas": 5, "replicationFactor": 3,
            "storage": {"size": "1Gi", "retain": false}})
        },
        turns: &[|fake| replicas(fake, 3), |fake| replicas(fake, 4)],
        holds: |fake, seen| {
            assert_eq!(fake.kept(), 0);
            assert_eq!((in_service(seen), seen.volumes.len()), (4, 4));
            assert!(seen.volumes.values().all(|volume| volume.decommissioned.is_none()));
        },
    },
    Story {
        name: "a kept volume of a removed node is emptied before its ordinal is used again",
        spec: || json!({"replicas": 4, "replicationFactor": 3}),
        turns: &[|fake| replicas(fake, 3), |fake| replicas(fake, 4)],
        holds: |fake, seen| {
            assert_eq!(in_service(seen), 4);
            let table = seen.table.as_ref().expect("a table");
            assert_eq!(table.nodes.len(), 5, "the new node has an id of its own: {table:?}");
            assert_eq!(fake.kept(), 1, "the old disk is kept\n{}", fake.journal());
        },
    },
    Story {
        name: "rolling update of a setting",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| fake.edit(|spec| spec["config"] = json!({"log_level": "debug"}))],
        holds: |fake, seen| {
            assert_eq!(in_service(seen), 3);
            assert!(fake.pods_made() >= 6, "{}", fake.journal());
            assert_eq!(fake.configs().len(), 1, "settings that nobody uses are gone");
        },
    },
    Story {
        name: "pods are lost before their turn with other settings",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| {
            fake.edit(|spec| spec["config"] = json!({"log_level": "debug"}));
            fake.evict(0);
        }],
        holds: |fake, seen| {
            assert_eq!(in_service(seen), 3);
            assert_eq!(fake.configs().len(), 1, "settings that nobody uses are gone");
        },
    },
    Story {
        name: "a lost volume",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| fake.lose_volume(1)],
        holds: |_, seen| assert_eq!(in_service(seen), 3),
    },
    Story {
        name: "a claim that somebody deletes goes with its pod only, and its disk is kept",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| {
            fake.delete_claim(1, 60);
            fake.edit(|spec| spec["restartedAt"] = json!("2026-01-01T00:00:00Z"));
        }],
        holds: |fake, seen| {
            assert_eq!(in_service(seen), 3);
            assert_eq!(fake.kept(), 1, "{}", fake.journal());
        },
    },
    Story {
        name: "volumes of a stopped cluster are to stay",
        spec: || {
            json!({"replicas": 2, "replicationFactor": 1,
            "storage": {"size": "1Gi", "retain": false}})
        },
        turns: &[
            |fake| fake.edit(|spec| spec["stopped"] = json!(true)),
            |fake| {
                assert!(fake.owned_claims() == 2, "{}", fake.journal());
                fake.edit(|spec| spec["storage"]["retain"] = json!(true));
            },
        ],
        holds: |fake, _| assert_eq!(fake.owned_claims(), 0, "{}", fake.journal()),
    },
    Story {
        name: "StatefulSets that somebody deletes take no data along",
        spec: || {
            json!({"replicas": 3, "replicationFactor": 3,
            "storage": {"size": "1Gi", "retain": false}})
        },
        turns: &[
            |fake| fake.delete_sets(),
            |fake| {
                // As an earlier operator left them, which is put right first.
                fake.tie_claims_to_sets();
            },
            |fake| {
                assert_eq!(fake.owned_claims(), 3, "{}", fake.journal());
                fake.delete_sets();
            },
        ],
        holds: |fake, seen| {
            assert_eq!(in_service(seen), 3);
            let ids: Vec<u64> =
                seen.table.iter().flat_map(|table| &table.nodes).map(|row| row.node_id).collect();
            assert_eq!(ids, [1, 2, 3], "the nodes of before\n{}", fake.journal());
        },
    },
    Story {
        name: "a lost first volume begins no second cluster",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| fake.lose_volume(0)],
        holds: |_, seen| assert_eq!(in_service(seen), 3),
    },
    Story {
        name: "a disk that the server cannot live on",
        spec: || json!({"replicas": 4, "replicationFactor": 3, "placement": {"maxNodeDown": "30s"}}),
        turns: &[|fake| fake.break_disk(2)],
        holds: |fake, seen| {
            assert_eq!(in_service(seen), 4);
            assert_eq!(fake.kept(), 1, "what is on it is a person's to judge\n{}", fake.journal());
        },
    },
    Story {
        name: "volumes grow",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| fake.edit(|spec| spec["storage"]["size"] = json!("2Gi"))],
        holds: |fake, seen| {
            assert!(seen.volumes.values().all(|volume| volume.requested.0 == "2Gi"));
            for ordinal in 0..3 {
                let set = &seen.children[&Child::StatefulSet(ordinal)];
                let claims = &set["spec"]["volumeClaimTemplates"];
                assert_eq!(claims[0]["spec"]["resources"]["requests"]["storage"], json!("2Gi"));
            }
            assert_eq!(fake.pods_made(), 3, "no pod was restarted");
        },
    },
    Story {
        name: "volumes get less than was asked for, and are asked for less",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[|fake| {
            fake.give_at_most(Some("2Gi"));
            fake.take_size_back_to("1536Mi");
            fake.edit(|spec| spec["storage"]["size"] = json!("4Gi"));
        }],
        holds: |fake, seen| {
            for ordinal in 0..3 {
                let volume = &seen.volumes[&ordinal];
                assert_eq!(volume.requested.0, "1536Mi", "{}", fake.journal());
                assert_eq!(volume.capacity.as_ref(), Some(&volume.requested));
                let set = &seen.children[&Child::StatefulSet(ordinal)];
                let claims = &set["spec"]["volumeClaimTemplates"];
                assert_eq!(claims[0]["spec"]["resources"]["requests"]["storage"], json!("1536Mi"));
            }
            assert_eq!(fake.pods_made(), 3, "no pod was restarted");
        },
    },
    Story {
        name: "somebody scales StatefulSets",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[
            |fake| fake.edit_child(Child::StatefulSet(1), "/spec/replicas", json!(0)),
            |fake| fake.edit_child(Child::StatefulSet(2), "/spec/replicas", json!(2)),
            |fake| fake.remove_child(Child::StatefulSet(0)),
            |fake| fake.edit_child(Child::Service, "/spec/ports/0/port", json!(1)),
            |fake| fake.remove_configs(),
        ],
        holds: |_, seen| {
            assert_eq!((in_service(seen), seen.pods.len()), (3, 3));
            assert_eq!(seen.children[&Child::Service]["spec"]["ports"][0]["port"], json!(7420));
        },
    },
    Story {
        name: "stop and start",
        spec: || json!({"replicas": 3, "replicationFactor": 3}),
        turns: &[
            |fake| fake.edit(|spec| spec["stopped"] = json!(true)),
            |fake| fake.edit(|spec| spec["stopped"] = json!(false)),
        ],
        holds: |_, seen| {
            assert_eq!(in_service(seen), 3);
            assert_eq!(
                seen.table.as_ref().map(|table| table.nodes.len()),
                Some(3),
                "the same nodes"
            );
        },
    },
    Story {
        name: "one node with one peer becomes three with three",
        spec: || json!({"replicas": 1, "replicationFactor": 1}),
        turns: &[|fake| {
            fake.edit(|spec| {
                spec["replicas"] = json!(3);
                spec["replicationFactor"] = json!(3);
            })
        }],
        holds: |_, seen| {
            assert_eq!(in_service(seen), 3);
            assert_eq!(voters(seen), BTreeSet::from([3]));
        },
    },
    Story {
        name: "five nodes with three peers become one with one",
        spec: || json!({"replicas": 5, "replicationFactor": 3}),
        turns: &[|fake| {
            fake.edit(|spec| {
                spec["replicas"] = json!(1);
                spec["replicationFactor"] = json!(1);
            })
        }],
        holds: |_, seen| {
            assert_eq!((in_service(seen), seen.pods.len()), (1, 1));
            assert_eq!(voters(seen), BTreeSet::from([1]));
        },
    },
    Story {
        name: "one node",
        spec: || json!({"replicas": 1, "replicationFactor": 1}),
        turns: &[|fake| replicas(fake, 3), |fake| replicas(fake, 1)],
        holds: |_, seen| {
            assert_eq!((in_service(seen), seen.pods.len()), (1, 1));
            assert!(!seen.children.contains_key(&Child::DisruptionBudget));
        },
    },
];

#[tokio::test]
async fn every_story_ends_well_wherever_the_operator_ends() {
    let mut ended_around = BTreeSet::new();
    for story in &STORIES {
        // Each is the last before the changes that follow.
        let mut scenes: Vec<Scene> = Vec::new();
        let begin = Scene { fake: Fake::new((story.spec)()), turns: 0, waited: false };
        let ended = play(story, begin, story.name, |fake, turns, waited| {
            scenes.pop_if(|last| last.fake.changes() == fake.changes());
            scenes.push(Scene { fake: fake.fork(), turns, waited });
        })
        .await;
        let changes = ended.changes();
        assert!(changes > 5, "{}: {changes} changes", story.name);
        for number in 0..changes {
            let scene = scenes.iter().rfind(|scene| scene.fake.changes() <= number);
            let Scene { fake, turns, waited } = scene.expect("nothing is changed before the first");
            for crash in [Crash::Before(number), Crash::After(number)] {
                let scene = Scene { fake: fake.fork(), turns: *turns, waited: *waited };
                scene.fake.crash_at(crash);
                let why = format!("{}, crash {crash:?}", story.name);
                let ended = play(story, scene, &why, |_, _, _| {}).await;
                ended_around.extend(ended.ended_around());
            }
        }
    }
    let all: BTreeSet<Deed> = Deed::ALL.iter().copied().collect();
    assert_eq!(ended_around, all, "something is done in no story, so nothing is shown of its end");
}

/// Each note is the last of its operator: whoever comes next must make the same of it, or they turn between two notes
/// for ever and nothing is done.
#[tokio::test]
async fn every_story_ends_well_though_every_operator_ends_at_its_first_note() {
    for story in &STORIES {
        let fake = Fake::new((story.spec)());
        fake.end_at_every_note(true);
        let begin = Scene { fake, turns: 0, waited: false };
        let ended = play(story, begin, story.name, |_, _, _| {}).await;
        assert!(ended.journal().contains("(ended after)"), "{}", ended.journal());
        let seen = ended.look(&key()).await.expect("a look").expect("a cluster");
        let is_closed = is_budget_closed(&seen) && !seen.cluster.spec.stopped;
        assert!(!is_closed, "{}: nothing can be drained\n{}", story.name, ended.journal());
    }
}

/// Nobody can go on with what a definition does not keep; who began goes on by itself.
#[tokio::test]
async fn roll_ends_under_a_definition_that_does_not_keep_what_has_lasted() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.define(|status| {
        status.operation.iter_mut().for_each(|operation| operation.lasted.clear());
    });
    fake.edit(|spec| spec["config"] = json!({"log_level": "debug"}));
    settle(&fake, "rolled").await;
    assert!(fake.pods_made() >= 6, "{}", fake.journal());
}

/// Waits, as the tests of a person would, for the operator to come to a state by itself.
async fn until(fake: &Fake, why: &str, mut holds: impl FnMut(&Seen, &KvClusterStatus) -> bool) {
    for _ in 0..PASSES_MAX {
        let outcome = pass::pass(fake, &key(), &defaults()).await;
        fake.end_of_pass();
        if let Ok(Some(outcome)) = &outcome
            && holds(&outcome.seen, &outcome.status)
        {
            return;
        }
        fake.tick();
    }
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    panic!("{why}: never; {:#?}\n{}", seen.cluster.status, fake.journal());
}

async fn until_one_drains(fake: &Fake) {
    until(fake, "a drain", |seen, _| {
        let table = seen.table.as_ref();
        table.is_some_and(|table| table.nodes.iter().any(|row| row.state == State::Draining))
    })
    .await;
}

fn degraded(status: &KvClusterStatus) -> Option<&str> {
    let condition = status.conditions.iter().find(|condition| condition.kind == "Degraded")?;
    (condition.status == "True").then_some(condition.reason.as_str())
}

#[tokio::test]
async fn broken_image_stops_after_one_pod_and_heals_when_it_is_put_back() {
    // A cluster that names its image, and one that names none before and after.
    for image in [json!("flotilla:1"), json!(null)] {
        let mut spec = json!({"replicas": 3, "replicationFactor": 3});
        spec["image"] = image.clone();
        let fake = Fake::new(spec);
        settle(&fake, "create").await;
        fake.edit(|spec| spec["image"] = json!("broken:2"));
        until(&fake, "one pod fails", |_, status| degraded(status) == Some("PodFailing")).await;
        for _ in 0..100 {
            let outcome = pass::pass(&fake, &key(), &defaults()).await.expect("a pass");
            let outcome = outcome.expect("one");
            fake.end_of_pass();
            let failing = outcome.seen.pods.values().filter(|pod| !pod.running).count();
            assert!(failing <= 1, "{}", fake.journal());
            assert!(condition(&outcome.status, "Available"), "{:?}", outcome.status);
            fake.tick();
        }
        fake.edit(|spec| spec["image"] = image);
        settle(&fake, "put back").await;
        let made = fake.pods_made();
        assert_eq!(made, 5, "three, the broken one, and the one in its place\n{}", fake.journal());
    }
}

/// The heart of a template that comes in turn: what a pod is made with after an accident.
#[tokio::test]
async fn pod_that_has_an_accident_before_its_turn_comes_back_as_it_was() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let look = async || fake.look(&key()).await.expect("a look").expect("a cluster");
    let hashes = |seen: &Seen| -> Vec<_> {
        seen.pods.values().map(|pod| (pod.template_hash.clone(), pod.configs.clone())).collect()
    };
    let before = hashes(&look().await);
    // Nothing may be restarted on purpose meanwhile.
    fake.break_disk(2);
    fake.edit(|spec| {
        spec["config"] = json!({"log_level": "debug"});
        spec["image"] = json!("flotilla:2");
    });
    until(&fake, "held up", |seen, _| {
        seen.pods.get(&2).is_some_and(|pod| pod.template_hash != before[2].0 && !pod.terminating)
    })
    .await;
    for accident in [Fake::run_out_of_memory, Fake::evict, Fake::evict] {
        accident(&fake, 0);
        until(&fake, "it is back", |seen, _| seen.pods.get(&0).is_some_and(|pod| pod.ready)).await;
        assert_eq!(hashes(&look().await)[..2], before[..2], "{}", fake.journal());
    }
    fake.mend_disk(2);
    settle(&fake, "the roll goes on").await;
    let after = hashes(&look().await);
    assert!(after.iter().all(|now| *now == after[0] && *now != before[0]), "{after:?}");
    assert_eq!(fake.configs().len(), 1, "the settings of before are gone");
}

/// Contradictory values of settings are found by the server only; so is an image that does not start.
/// A volume of a cloud takes its time to another machine. The roll waits for a node that drains, so that it is not the
/// turn of any pod.
#[tokio::test]
async fn pod_that_is_slow_to_start_before_its_turn_comes_back_as_it_was() {
    let fake = Fake::new(json!({"replicas": 4, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let hash = |seen: &Seen| seen.pods[&0].template_hash.clone();
    let before = hash(&fake.look(&key()).await.expect("a look").expect("a cluster"));
    let made = fake.pods_made();
    fake.rest_placement(150);
    replicas(&fake, 3);
    until_one_drains(&fake).await;
    fake.start_slowly(60);
    fake.evict(0);
    fake.edit(|spec| spec["restartedAt"] = json!("2026-01-01T00:00:00Z"));
    passes(&fake, 2).await;
    until(&fake, "it runs", |seen, _| seen.pods.get(&0).is_some_and(|pod| pod.ready)).await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert_eq!(hash(&seen), before, "{}", fake.journal());
    assert_eq!(fake.pods_made(), made + 1, "{}", fake.journal());
    fake.start_slowly(1);
    settle(&fake, "all have their turn").await;
    assert_eq!(fake.pods_made(), made + 4, "{}", fake.journal());
}

#[tokio::test]
async fn broken_template_and_two_accidents_cost_no_quorum_and_putting_it_back_heals() {
    for broken in [
        json!({"image": "broken:2"}),
        json!({"config": {"raft.election_timeout_min": fake::BROKEN_SETTING}}),
        // It runs, and does not find its data.
        json!({"image": "elsewhere:1"}),
    ] {
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3, "image": "flotilla:1"}));
        settle(&fake, "create").await;
        let old = fake.configs();
        fake.edit(|spec| {
            for (field, value) in broken.as_object().expect("an object") {
                spec[field] = value.clone();
            }
        });
        let is_told = |status: &KvClusterStatus| {
            matches!(degraded(status), Some("PodFailing" | "TemplateHidesDisk"))
        };
        until(&fake, "one pod fails", |_, status| is_told(status)).await;
        let fails = |pod: &Pod| pod.problem.is_some() || matches!(pod.node, Node::Unjoined { .. });
        let failing =
            |seen: &Seen| seen.pods.iter().find(|(_, pod)| fails(pod)).map(|(ordinal, _)| *ordinal);
        let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
        let first = failing(&seen).expect("it is seen");
        // For long enough that it could be taken for a pod that never will.
        fake.start_slowly(60);
        for other in (0..3).filter(|ordinal| *ordinal != first) {
            // One at a time: that is what the disruption budget is for.
            fake.evict(other);
            until(&fake, "the other is back", |seen, _| {
                seen.pods.get(&other).is_some_and(|pod| pod.ready)
            })
            .await;
            assert_eq!(fake.quorums_lost(), 0, "{broken}: {}", fake.journal());
        }
        until(&fake, "told why", |seen, status| is_told(status) && failing(seen) == Some(first))
            .await;
        fake.start_slowly(1);
        fake.edit(|spec| {
            spec["image"] = json!("flotilla:1");
            spec["config"] = json!({});
        });
        settle(&fake, "put back").await;
        assert_eq!(fake.configs(), old, "{broken}: {}", fake.journal());
        assert_eq!(fake.pods_made(), 3 + 1 + 2 + 1, "{broken}: {}", fake.journal());
    }
}

/// As a quota or a policy does. Such a pod would hang until somebody puts that right.
#[tokio::test]
async fn no_pod_is_restarted_for_settings_that_cannot_be_made() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.refuse(Some(Child::ConfigMap));
    fake.edit(|spec| spec["config"] = json!({"log_level": "debug"}));
    let status = passes(&fake, 100).await;
    assert_eq!(fake.pods_made(), 3, "{}", fake.journal());
    assert!(told(&status).contains("is not there"), "{}", told(&status));
    // Nor is one that was evicted made with them.
    fake.start_slowly(60);
    fake.evict(1);
    passes(&fake, 100).await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert_eq!((in_service(&seen), fake.pods_made()), (3, 4), "{}", fake.journal());
    fake.start_slowly(1);
    fake.refuse(None);
    settle(&fake, "it is made").await;
}

/// A memory limit, say, that is enough to start and too small to serve.
#[tokio::test]
async fn template_that_dies_a_while_after_it_is_ready_reaches_one_pod() {
    for seconds in [1, 10, 14] {
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
        settle(&fake, "create").await;
        fake.die_after_ready("dies:2", seconds);
        fake.edit(|spec| spec["image"] = json!("dies:2"));
        for _ in 0..200 {
            pass::pass(&fake, &key(), &defaults()).await.expect("a pass");
            fake.end_of_pass();
            fake.tick();
            assert_eq!(fake.quorums_lost(), 0, "{seconds}: {}", fake.journal());
        }
        assert_eq!(fake.pods_made(), 4, "{seconds}: {}", fake.journal());
        fake.edit(|spec| spec["image"] = json!(null));
        settle(&fake, "put back").await;
    }
}

/// Else a template that Kubernetes makes no pod of could never be mended.
#[tokio::test]
async fn pod_that_cannot_be_made_with_its_old_template_gets_the_new_one() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    fake.refuse_pods_of(seen.pods[&0].template_hash.clone());
    fake.evict(0);
    until(&fake, "it stays away", |_, status| degraded(status) == Some("NodeDown")).await;
    fake.edit(|spec| spec["podTemplate"] = json!({"metadata": {"labels": {"team": "a"}}}));
    settle(&fake, "mended").await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert_eq!(in_service(&seen), 3);
}

/// With fewer nodes, one disk would hold for a time all that was acknowledged.
#[tokio::test]
async fn cluster_begins_with_all_its_nodes_as_voters_or_not_at_all() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3,
        "regions": {"splitKeys": ["g", "p"]}}));
    fake.refuse_pods_after(2);
    let status = passes(&fake, 60).await;
    assert_eq!(fake.begun(), 0, "{}", fake.journal());
    let available = status.conditions.iter().find(|condition| condition.kind == "Available");
    let words = available.map(|condition| condition.message.as_str()).unwrap_or_default();
    assert!(words.contains("waiting for pod kv-2-0"), "{words}");
    fake.refuse_pods_after(3);
    until(&fake, "it begins", |seen, _| seen.table.is_some()).await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert_eq!(
        (in_service(&seen), voters(&seen)),
        (3, BTreeSet::from([3])),
        "from the first moment"
    );
    settle(&fake, "create").await;
    assert!(!fake.journal().contains("AddLearner"), "{}", fake.journal());
    assert_eq!(fake.split_keys(), ["g", "p"]);
}

#[tokio::test]
async fn cancelled_scale_in_keeps_the_node() {
    let fake = Fake::new(json!({"replicas": 5, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.hold_placement();
    replicas(&fake, 4);
    until_one_drains(&fake).await;
    replicas(&fake, 5);
    settle(&fake, "cancelled").await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert_eq!(in_service(&seen), 5);
    assert_eq!(seen.table.map(|table| table.nodes.len()), Some(5), "no node was made anew");
}

#[tokio::test]
async fn lost_quorum_is_told_and_nothing_is_given_up() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.lose_volume(1);
    fake.lose_volume(2);
    until(&fake, "told", |_, status| degraded(status) == Some("QuorumLost")).await;
    let before = fake.journal();
    for _ in 0..200 {
        // Refusals are answers, too.
        let outcome = pass::pass(&fake, &key(), &defaults()).await.expect("a pass").expect("one");
        fake.end_of_pass();
        assert!(!condition(&outcome.status, "Available"));
        let lost = outcome.status.regions.expect("regions").quorum_lost;
        assert_eq!(lost, [1, 2, 3], "exactly which");
        fake.tick();
    }
    let done: Vec<_> = fake.journal().lines().map(ToOwned::to_owned).collect();
    let new = &done[before.lines().count()..];
    assert!(new.iter().all(|line| line.contains("note")), "{new:#?}");
}

/// The rules of the alerts are tested with these figures (`of-chart/outage.yaml`).
#[tokio::test]
async fn regions_that_are_lost_are_not_told_as_some_that_lack_peers() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    let figures = async || {
        let seen = fake.look(&key()).await.expect("a look").expect("one");
        let desired = Desired::of(&seen.cluster, &defaults()).expect("a valid spec");
        let unreached = unreached::nodes(&seen, &desired);
        let tally = status::tally(&seen, &desired, &unreached, fake.now());
        tally.figures().map(|(_, count)| count)
    };
    assert_eq!(figures().await, [0; 4], "it has not begun");
    settle(&fake, "create").await;
    let [regions, others @ ..] = figures().await;
    assert!(regions > 1 && others == [0; 3], "{regions}, {others:?}");
    fake.lose_volume(1);
    until(&fake, "one is down", |_, status| degraded(status) == Some("NodeDown")).await;
    let [healthy, under_replicated, leaderless, unseen] = figures().await;
    assert_eq!((healthy, unseen, under_replicated + leaderless), (0, 0, regions));
    fake.lose_volume(2);
    until(&fake, "told", |_, status| degraded(status) == Some("QuorumLost")).await;
    assert_eq!(figures().await, [0, 0, regions, 0]);
    fake.edit(|spec| spec["stopped"] = json!(true));
    let status = passes(&fake, 30).await;
    assert_eq!(figures().await, [0; 4], "nobody asks for them: {status:#?}");
}

/// A policy keeps the operator out, or it asks in the wrong domain; clients are served all the while.
#[tokio::test]
async fn what_the_operator_alone_does_not_reach_is_not_called_lost() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let (defaults, now) = (defaults(), fake.now());
    let told = |cut_off: &[i32], change: &dyn Fn(&mut Seen)| {
        let mut seen =
            futures::executor::block_on(fake.look(&key())).expect("a look").expect("one");
        for ordinal in cut_off {
            let pod = seen.pods.get_mut(ordinal).expect("a pod");
            pod.node = Node::Silent("no route to host".into());
        }
        change(&mut seen);
        let plan = plan::plan(&seen, &defaults, now);
        let status = status::compute(&seen, &plan, &defaults, now);
        let desired = Desired::of(&seen.cluster, &defaults).expect("a valid spec");
        let reason = |kind: &str| {
            let condition = status.conditions.iter().find(|condition| condition.kind == kind);
            condition.expect("a condition").reason.clone()
        };
        let ids: Vec<u64> = unreached::nodes(&seen, &desired).into_iter().collect();
        (reason("Available"), reason("Degraded"), ids)
    };
    let no_table = |seen: &mut Seen| seen.table = None;
    let does_not_run = |seen: &mut Seen, ordinals: &[i32]| {
        for ordinal in ordinals {
            seen.pods.get_mut(ordinal).expect("a pod").ready = false;
        }
    };
    for (why, cut_off, change, available, degraded, ids) in [
        (
            "all answer",
            &[][..],
            &(|_: &mut Seen| {}) as &dyn Fn(&mut Seen),
            "Serving",
            "AsExpected",
            &[][..],
        ),
        (
            "none does, all are ready",
            &[0, 1, 2],
            &no_table,
            "Unreachable",
            "Unreachable",
            &[1, 2, 3],
        ),
        (
            "one does, and the driver hears the others",
            &[1, 2],
            &|_| {},
            "Unreachable",
            "Unreachable",
            &[2, 3],
        ),
        (
            "one does, the driver does not, the others are ready",
            &[1, 2],
            &no_table,
            "Unreachable",
            "Unreachable",
            &[2, 3],
        ),
        ("two do", &[2], &|_| {}, "Serving", "NodeDown", &[3]),
        (
            "none does, and none is ready",
            &[0, 1, 2],
            &|seen| {
                seen.table = None;
                does_not_run(seen, &[0, 1, 2]);
            },
            "QuorumLost",
            "QuorumLost",
            &[],
        ),
        (
            "none does, and one is ready: no two of three live",
            &[0, 1, 2],
            &|seen| {
                seen.table = None;
                does_not_run(seen, &[1, 2]);
            },
            "QuorumLost",
            "QuorumLost",
            &[1],
        ),
        (
            "the driver lives and has not heard of the others",
            &[1, 2],
            &|seen| {
                let rows = &mut seen.table.as_mut().expect("a table").nodes;
                rows.iter_mut().filter(|row| row.node_id > 1).for_each(|row| row.alive = false);
            },
            "QuorumLost",
            "QuorumLost",
            &[],
        ),
    ] {
        let want = (available.to_owned(), degraded.to_owned(), ids.to_vec());
        assert_eq!(told(cut_off, change), want, "{why}");
    }
}

/// A mark that an operator writes which slept, on the disk of a node that has joined meanwhile.
#[tokio::test]
async fn disk_of_a_member_is_never_emptied_whatever_its_claim_says() {
    for mark in ["none", "4", "9"] {
        let fake = Fake::new(json!({"replicas": 4, "replicationFactor": 3}));
        settle(&fake, "create").await;
        fake.mark(3, mark);
        fake.edit(|spec| spec["stopped"] = json!(true));
        settle(&fake, "stopped").await;
        fake.edit(|spec| spec["stopped"] = json!(false));
        settle(&fake, "started").await;
        let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
        assert_eq!(in_service(&seen), 4, "{mark}: {}", fake.journal());
        assert_eq!(seen.volumes[&3].decommissioned, None, "{mark}");
        assert_eq!(tries(&fake, "DeleteVolume"), 0, "{mark}: {}", fake.journal());
    }
}

/// What the operator notes gives way to the next thing that it does.
#[tokio::test]
async fn node_that_was_given_up_is_replaced_whatever_else_happens_meanwhile() {
    let fake = Fake::new(
        json!({"replicas": 4, "replicationFactor": 3, "placement": {"maxNodeDown": "30s"}}),
    );
    settle(&fake, "create").await;
    fake.break_disk(2);
    until(&fake, "it is given up", |seen, _| {
        let table = seen.table.as_ref();
        let given_up = table.is_some_and(|table| table.nodes.iter().any(|row| row.forced));
        if given_up {
            fake.rest_placement(60);
        }
        given_up
    })
    .await;
    fake.edit(|spec| spec["restartedAt"] = json!("2026-01-01T00:00:00Z"));
    fake.start_slowly(20);
    fake.evict(0);
    passes(&fake, 10).await;
    fake.start_slowly(1);
    settle(&fake, "it is replaced").await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert_eq!(in_service(&seen), 4, "{}", fake.journal());
    assert_eq!(fake.kept(), 1, "what is on it is a person's to judge\n{}", fake.journal());
}

/// The size is what would make the room.
#[tokio::test]
async fn volumes_grow_while_a_drain_waits_for_room() {
    let fake = Fake::new(json!({"replicas": 5, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.hold_placement();
    replicas(&fake, 4);
    until_one_drains(&fake).await;
    fake.edit(|spec| spec["storage"]["size"] = json!("2Gi"));
    until(&fake, "grown", |seen, status| {
        let drains = status.operation.as_ref().is_some_and(|operation| operation.step == "Drain");
        drains && seen.volumes.values().all(|volume| volume.requested.0 == "2Gi")
    })
    .await;
    assert_eq!(fake.pods_made(), 5, "{}", fake.journal());
}

#[tokio::test]
async fn budget_is_opened_again_while_a_roll_is_held_up() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let before_all = tries(&fake, "apply DisruptionBudget");
    fake.refuse(Some(Child::ConfigMap));
    fake.edit(|spec| spec["config"] = json!({"log_level": "debug"}));
    fake.evict(1);
    let stay =
        |seen: &Seen| seen.children[&Child::DisruptionBudget]["spec"]["minAvailable"].as_i64();
    until(&fake, "closed", |seen, _| stay(seen) == Some(3)).await;
    until(&fake, "opened", |seen, status| {
        stay(seen) == Some(2) && degraded(status) == Some("RollingUpdateBlocked")
    })
    .await;
    let before = fake.changes();
    passes(&fake, 100).await;
    let turned = tries(&fake, "apply DisruptionBudget") - before_all;
    assert_eq!(turned, 2, "closed and opened: {}", fake.journal());
    assert!(fake.changes() - before < 20, "{}", fake.journal());
}

/// Else a wrong key in the settings would hide, for as long as it stands, that the cluster is down.
#[tokio::test]
async fn cluster_whose_spec_cannot_be_acted_on_is_told_of_as_it_is() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let before = fake.child(Child::StatefulSet(0));
    fake.edit(|spec| spec["config"] = json!({"nonsense": 1}));
    let status = passes(&fake, 5).await;
    assert_eq!(degraded(&status), Some("InvalidSpec"), "{status:#?}");
    assert!(condition(&status, "Available") && !condition(&status, "Ready"), "{status:#?}");
    assert_eq!((status.ready_replicas, status.members.len()), (3, 3), "{status:#?}");
    fake.start_slowly(100_000);
    fake.evict(0);
    let status = passes(&fake, 5).await;
    assert!(condition(&status, "Available") && status.ready_replicas == 2, "{status:#?}");
    assert!(told(&status).contains("node 1 does not answer"), "{}", told(&status));
    fake.evict(1);
    let status = passes(&fake, 5).await;
    assert!(!condition(&status, "Available"), "{status:#?}");
    assert!(told(&status).contains("nonsense"), "{}", told(&status));
    assert_eq!(fake.child(Child::StatefulSet(0)), before, "nothing is done");
}

/// A mistake in the spec, or a pause, is not what costs a disk: the drain of a machine asks the budget, and deletes the
/// pod.
#[tokio::test]
async fn disk_is_kept_and_its_pod_not_evicted_also_while_nothing_else_is_done() {
    type Edit = fn(&mut Value);
    let halts: [(&str, Edit, Edit); 2] = [
        (
            "a wrong spec",
            |spec| spec["config"] = json!({"nonsense": 1}),
            |spec| {
                spec["config"] = json!({});
            },
        ),
        ("a pause", |spec| spec["paused"] = json!(true), |spec| spec["paused"] = json!(false)),
    ];
    for (why, halt, undo) in halts {
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
        settle(&fake, "create").await;
        fake.edit(halt);
        passes(&fake, 5).await;
        let before = fake.child(Child::StatefulSet(1));
        fake.delete_claim(1, 30);
        let status = passes(&fake, 10).await;
        let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
        assert_eq!(fake.kept(), 1, "{why}: {}", fake.journal());
        assert!(is_budget_closed(&seen), "{why}: {}", fake.journal());
        assert!(told(&status).contains("is kept"), "{why}: {}", told(&status));
        let done = fake.changes();
        passes(&fake, 10).await;
        assert_eq!(fake.changes(), done, "{why}: and nothing else\n{}", fake.journal());
        passes(&fake, 30).await;
        assert_eq!(fake.child(Child::StatefulSet(1)), before, "{why}: nothing is done");
        fake.edit(undo);
        settle(&fake, why).await;
        let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
        assert_eq!(in_service(&seen), 3, "{why}: {}", fake.journal());
    }
}

#[tokio::test]
async fn sick_pod_holds_a_roll_up_and_is_told() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.break_disk(2);
    fake.edit(|spec| spec["restartedAt"] = json!("2026-01-01T00:00:00Z"));
    let made = fake.pods_made();
    until(&fake, "told", |_, status| degraded(status).is_some()).await;
    for _ in 0..50 {
        let outcome = pass::pass(&fake, &key(), &defaults()).await.expect("a pass").expect("one");
        fake.end_of_pass();
        assert!(condition(&outcome.status, "Available"), "{:?}", outcome.status.conditions);
        fake.tick();
    }
    assert!(fake.pods_made() <= made + 1, "only the sick one may be restarted\n{}", fake.journal());
    fake.mend_disk(2);
    settle(&fake, "well again").await;
    assert!(fake.pods_made() >= made + 3);
}

#[tokio::test]
async fn service_monitor_goes_when_it_is_no_longer_wanted() {
    let spec = json!({"replicas": 1, "replicationFactor": 1, "metrics": {"serviceMonitor": true}});
    let fake = Fake::new(spec);
    settle(&fake, "create").await;
    assert!(fake.child(Child::ServiceMonitor).is_some());
    fake.edit(|spec| spec["metrics"]["serviceMonitor"] = json!(false));
    settle(&fake, "not wanted").await;
    assert_eq!(fake.child(Child::ServiceMonitor), None);
}

#[tokio::test]
async fn budget_is_closed_while_a_copy_is_missed_and_turns_twice() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let stay = |fake: &Fake| {
        fake.child(Child::DisruptionBudget).expect("a budget")["spec"]["minAvailable"].as_i64()
    };
    assert_eq!(stay(&fake), Some(2));
    let turns: [fn(&Fake); 2] = [
        |fake| fake.lose_volume(1),
        |fake| fake.edit(|spec| spec["restartedAt"] = json!("2026-01-01T00:00:00Z")),
    ];
    for turn in turns {
        let before = tries(&fake, "apply DisruptionBudget");
        turn(&fake);
        until(&fake, "closed", |seen, _| {
            seen.children[&Child::DisruptionBudget]["spec"]["minAvailable"] == 3
        })
        .await;
        settle(&fake, "whole again").await;
        assert_eq!(stay(&fake), Some(2));
        let turned = tries(&fake, "apply DisruptionBudget") - before;
        assert_eq!(turned, 2, "{}", fake.journal());
    }
}

#[tokio::test]
async fn cluster_of_an_earlier_operator_is_told_and_not_touched() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    fake.made_by_an_earlier_operator();
    let status = passes(&fake, 200).await;
    assert_eq!(degraded(&status), Some("MadeByEarlierOperator"), "{status:#?}");
    for words in ["pod kv-0", "kvctl export", "kvctl import", "earlier operator"] {
        assert!(told(&status).contains(words), "{words}: {}", told(&status));
    }
    let members: Vec<_> = status.members.iter().map(|member| member.pod_name.as_str()).collect();
    assert_eq!(members, ["kv-0", "kv-1", "kv-2"], "what is known of it stays");
    assert_eq!((fake.begun(), fake.pods_made(), fake.configs().len()), (0, 0, 0));
    assert_eq!(fake.changes(), 1, "the note in its status: {}", fake.journal());
}

/// Kubernetes would make the pod anew around the same claim, again and again.
#[tokio::test]
async fn pod_is_not_deleted_while_its_claim_may_be_somebody_elses() {
    for theirs in ["", "another"] {
        let fake = Fake::new(json!({"replicas": 4, "replicationFactor": 3}));
        settle(&fake, "create").await;
        let made = fake.pods_made();
        fake.forget_volumes();
        fake.annotate_claim(1, theirs);
        fake.remove_node(1);
        let status = passes(&fake, 200).await;
        let reason = if theirs.is_empty() { "NameTaken" } else { "ForeignVolume" };
        assert_eq!(degraded(&status), Some(reason), "{status:#?}");
        // Nor when it has another template.
        fake.edit(|spec| spec["config"] = json!({"log_level": "debug"}));
        passes(&fake, 200).await;
        assert_eq!(tries(&fake, "DeletePod { name: \"kv-1-0\""), 0, "{}", fake.journal());
        assert_eq!(tries(&fake, "DeleteVolume"), 0, "{}", fake.journal());
        assert!(fake.pods_made() > made, "the others are restarted");
        fake.annotate_claim(1, &fake.first_cluster_id());
        settle(&fake, "it is said to be ours").await;
    }
}

#[tokio::test]
async fn growth_that_is_refused_keeps_nobody_from_repairs_restarts_and_joins() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.refuse_growth(true);
    fake.edit(|spec| spec["storage"]["size"] = json!("2Gi"));
    until(&fake, "told", |_, status| degraded(status) == Some("VolumesCannotGrow")).await;
    fake.lose_volume(1);
    fake.edit(|spec| {
        spec["config"] = json!({"log_level": "debug"});
        spec["replicas"] = json!(4);
    });
    let wished = fake.desired().template_hash;
    until(&fake, "all else is done", |seen, status| {
        degraded(status) == Some("VolumesCannotGrow")
            && seen.table.as_ref().is_some_and(|_| in_service(seen) == 4)
            && seen.pods.values().all(|pod| pod.template_hash.as_ref() == Some(&wished))
    })
    .await;
    let status = passes(&fake, 60).await;
    assert!(told(&status).contains("exceeded quota"), "{}", told(&status));
    let before = tries(&fake, "GrowVolume {");
    passes(&fake, 600).await;
    let tried = tries(&fake, "GrowVolume {") - before;
    assert!((1..=40).contains(&tried), "three claims, each once a minute: {tried}");
    // Taken back, as no volume has got it; and asked for again where there is room.
    fake.edit(|spec| spec["storage"]["size"] = json!("1Gi"));
    settle(&fake, "taken back").await;
    fake.edit(|spec| spec["storage"]["size"] = json!("2Gi"));
    fake.refuse_growth(false);
    settle(&fake, "grown").await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert!(seen.volumes.values().all(|volume| volume.requested.0 == "2Gi"), "{seen:#?}");
}

/// Kubernetes takes a request back to more than what the volume has, and not to just that; an older one not at all.
#[tokio::test]
async fn size_that_the_driver_does_not_give_is_told_and_can_be_taken_back() {
    for keeps_requests in [false, true] {
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
        settle(&fake, "create").await;
        fake.give_at_most(Some("2Gi"));
        if keeps_requests {
            fake.keep_requests();
        }
        fake.edit(|spec| spec["storage"]["size"] = json!("4Gi"));
        let asked = |seen: &Seen| seen.volumes.values().all(|claim| claim.requested.0 == "4Gi");
        until(&fake, "told", |seen, status| {
            asked(seen) && degraded(status) == Some("VolumesCannotGrow")
        })
        .await;
        let status = passes(&fake, 60).await;
        let told = told(&status);
        for part in
            ["data-kv-0-0 asks for 4Gi and has 1Gi", "no such size", "take storage.size back"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(status.largest_volume.as_deref(), Some("1Gi"), "it may be taken back to that");
        let writes = fake.changes();
        passes(&fake, 600).await;
        assert_eq!(fake.changes(), writes, "nothing is written while it stands");
        if keeps_requests {
            fake.edit(|spec| spec["storage"]["size"] = json!("1536Mi"));
            until(&fake, "not taken back", |_, status| {
                let told = self::told(status);
                told.contains("than previous value") && told.contains("Before Kubernetes 1.32")
            })
            .await;
        }
        fake.edit(|spec| spec["storage"]["size"] = json!("1Gi"));
        settle(&fake, "as the volumes are").await;
        let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
        assert!(asked(&seen), "that is no more than what they have, so it is let be");
        assert_eq!((fake.pods_made(), in_service(&seen)), (3, 3));
        // The claims still ask for it, and it is there.
        fake.give_at_most(None);
        settle(&fake, "given after all").await;
    }
}

#[tokio::test]
async fn steady_cluster_is_read_and_never_written() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let before = fake.changes();
    for _ in 0..50 {
        pass::pass(&fake, &key(), &defaults()).await.expect("a pass");
        fake.end_of_pass();
        fake.tick();
    }
    assert_eq!(fake.changes(), before, "{}", fake.journal());
}

fn strangers(desired: &Desired, child: Child) -> Value {
    json!({
        "kind": child.kind(),
        "metadata": {"name": child.name(desired), "namespace": "ns", "uid": "theirs",
            "resourceVersion": "1", "labels": desired.names.labels(),
            "ownerReferences": [{"apiVersion": "v1", "kind": "HelmRelease", "name": "theirs",
                "uid": "release", "controller": true}]},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "theirs"}}},
    })
}

async fn passes(fake: &Fake, count: usize) -> KvClusterStatus {
    let mut status = KvClusterStatus::default();
    for _ in 0..count {
        let outcome = pass::pass(fake, &key(), &defaults()).await.expect("a pass").expect("one");
        status = outcome.status;
        fake.end_of_pass();
        fake.tick();
    }
    status
}

fn told(status: &KvClusterStatus) -> String {
    let degraded = status.conditions.iter().find(|condition| condition.kind == "Degraded");
    degraded.map(|condition| condition.message.clone()).unwrap_or_default()
}

#[tokio::test]
async fn objects_of_others_are_left_alone_and_begin_no_cluster_until_they_are_gone() {
    for child in Child::SHARED.into_iter().chain([Child::StatefulSet(1)]) {
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3,
            "metrics": {"serviceMonitor": true}}));
        let theirs = strangers(&fake.desired(), child);
        fake.take_name(child, theirs.clone());
        if child == Child::ServiceMonitor {
            // Nothing but a scrape depends on it.
            until(&fake, "told", |seen, status| {
                degraded(status) == Some("NameTaken")
                    && seen.table.as_ref().is_some_and(|_| in_service(seen) == 3)
            })
            .await;
            assert_eq!(fake.child(child), Some(theirs));
            continue;
        }
        let status = passes(&fake, 20).await;
        assert_eq!(degraded(&status), Some("NameTaken"), "{child:?}: {status:#?}");
        let title = child.title(&fake.desired());
        assert!(told(&status).contains(&title), "{title} is not named: {}", told(&status));
        assert_eq!(fake.child(child), Some(theirs), "{child:?}");
        assert_eq!((fake.begun(), fake.pods_made()), (0, 0), "{child:?}: nothing begins in part");
        fake.remove_child(child);
        settle(&fake, "it is gone").await;
    }
}

#[tokio::test]
async fn running_cluster_lives_on_beside_objects_of_others() {
    for child in Child::SHARED {
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3,
            "metrics": {"serviceMonitor": true}}));
        settle(&fake, "create").await;
        let theirs = strangers(&fake.desired(), child);
        fake.take_name(child, theirs.clone());
        // It is repaired, and nothing that is not wanted is anybody's to delete.
        fake.lose_volume(1);
        fake.edit(|spec| {
            spec["podDisruptionBudget"] = json!(false);
            spec["metrics"]["serviceMonitor"] = json!(false);
        });
        let status = passes(&fake, 60).await;
        assert_eq!(fake.child(child), Some(theirs), "{child:?}");
        assert!(condition(&status, "Available"), "{child:?}: {status:#?}");
        let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
        assert_eq!(in_service(&seen), 3, "{child:?}: {}", fake.journal());
        fake.remove_child(child);
        settle(&fake, "it is gone").await;
    }
}

/// The old volumes are nobody's to mark or delete, however many are wanted.
#[tokio::test]
async fn volumes_of_an_earlier_cluster_are_not_deleted() {
    let fake = Fake::new(json!({"replicas": 5, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let kept = fake.claims();
    fake.recreate();
    for replicas in [5, 3, 4, 1, 5] {
        fake.edit(|spec| {
            spec["replicas"] = json!(replicas);
            spec["replicationFactor"] = json!(1);
            spec["storage"]["retain"] = json!(false);
        });
        passes(&fake, 20).await;
    }
    assert_eq!(fake.claims(), kept, "{}", fake.journal());
}

/// As policies do: the registry of images rewritten, resources raised, a variable injected, labels added
/// and changed, a selector that cannot be changed later.
fn policy(child: Child, object: &mut Value) {
    object["metadata"]["labels"]["policy"] = json!("seen");
    object["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("policy");
    if let Child::StatefulSet(_) = child {
        let template = &mut object["spec"]["template"];
        template["metadata"]["labels"]["policy"] = json!("seen");
        let container = &mut template["spec"]["containers"][0];
        let image = container["image"].as_str().unwrap_or_default().replace("mirror/", "");
        container["image"] = json!(format!("mirror/{image}"));
        container["resources"]["requests"]["cpu"] = json!("2");
        let injected = json!({"name": "INJECTED", "value": "1"});
        if let Some(env) = container["env"].as_array_mut()
            && !env.contains(&injected)
        {
            env.insert(0, injected);
        }
        object["spec"]["podManagementPolicy"] = json!("OrderedReady");
    }
}

const UNDER_A_POLICY: Story = Story {
    name: "a policy changes every object on its way",
    spec: || {
        json!({"replicas": 3, "replicationFactor": 3,
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}})
    },
    turns: &[
        |fake| fake.edit(|spec| spec["config"] = json!({"log_level": "debug"})),
        |fake| fake.edit(|spec| spec["image"] = json!("flotilla:2")),
        |fake| replicas(fake, 5),
        |fake| replicas(fake, 3),
        |fake| fake.lose_volume(1),
        |fake| fake.edit_child(Child::Service, "/spec/ports/0/port", json!(1)),
    ],
    holds: |_, seen| {
        assert_eq!(in_service(seen), 3);
        let set = &seen.children[&Child::StatefulSet(0)];
        let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
        assert_eq!(image, "mirror/flotilla:2", "the policy has its way");
        assert_eq!(seen.children[&Child::Service]["spec"]["ports"][0]["port"], json!(7420));
    },
};

#[tokio::test]
async fn policies_that_change_our_objects_neither_starve_the_plan_nor_make_writes() {
    let fake = Fake::new((UNDER_A_POLICY.spec)());
    fake.admit(policy);
    settle(&fake, "create").await;
    for (number, turn) in UNDER_A_POLICY.turns.iter().enumerate() {
        turn(&fake);
        settle(&fake, &format!("turn {number}")).await;
        let before = fake.changes();
        let status = passes(&fake, 50).await;
        assert_eq!(fake.changes(), before, "turn {number}: {}", fake.journal());
        assert!(condition(&status, "Ready"), "turn {number}: {status:#?}");
    }
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    (UNDER_A_POLICY.holds)(&fake, &seen);
    // One that comes later, or an operator that has just been started: once more, and no more.
    fake.forget();
    settle(&fake, "a new operator").await;
    let before = fake.changes();
    passes(&fake, 50).await;
    assert_eq!(fake.changes(), before, "{}", fake.journal());
}

#[tokio::test]
async fn object_that_another_controller_changes_again_and_again_does_not_keep_nodes_from_joining() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.meddle(|child, object| {
        if child == Child::Service {
            object["spec"]["ports"][0]["port"] = json!(1);
        }
    });
    let before = fake.changes();
    let status = passes(&fake, 300).await;
    assert_eq!(degraded(&status), Some("Contended"), "{status:#?}");
    assert!(told(&status).contains("Service kv: .spec.ports"), "{}", told(&status));
    // The applies, and what the status says of them.
    assert!(fake.changes() - before < 30, "{}", fake.journal());
    replicas(&fake, 5);
    fake.lose_volume(1);
    until(&fake, "five nodes beside the quarrel", |seen, _| {
        seen.table.as_ref().is_some_and(|_| in_service(seen) == 5)
    })
    .await;
    fake.meddle(|_, _| {});
    settle(&fake, "the quarrel has ended").await;
}

#[tokio::test]
async fn object_that_is_refused_does_not_keep_a_running_cluster_from_repairs() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    fake.refuse(Some(Child::NetworkPolicy));
    let status = passes(&fake, 30).await;
    assert_eq!(degraded(&status), Some("ApplyRefused"), "{status:#?}");
    assert!(told(&status).contains("NetworkPolicy kv"), "{}", told(&status));
    assert_eq!(fake.pods_made(), 0, "nothing begins without it");
    fake.refuse(None);
    settle(&fake, "create").await;
    fake.refuse(Some(Child::NetworkPolicy));
    fake.remove_child(Child::NetworkPolicy);
    fake.lose_volume(1);
    until(&fake, "three nodes without it", |seen, status| {
        degraded(status) == Some("ApplyRefused")
            && seen.table.as_ref().is_some_and(|table| table.nodes.len() == 4)
            && in_service(seen) == 3
    })
    .await;
    fake.refuse(None);
    settle(&fake, "taken").await;
}

/// Lines of the journal about changes of an object.
fn tries(fake: &Fake, what: &str) -> usize {
    fake.journal().lines().filter(|line| line.contains(what)).count()
}

#[tokio::test]
async fn whatever_is_refused_is_tried_ever_more_seldom_told_and_done_once_it_may_be() {
    let remove: fn(&Fake) = |fake| replicas(fake, 2);
    let restart: fn(&Fake) =
        |fake| fake.edit(|spec| spec["restartedAt"] = json!("2026-01-01T00:00:00Z"));
    // Its claim is deleted, too, and its pod ends by nobody's hand but the operator's.
    let leave: fn(&Fake) = |fake| {
        replicas(fake, 2);
        fake.delete_claim(2, 1_000_000);
    };
    for (deed, reason, turn) in [
        (Deed::DeletePod, "ActionRefused", restart),
        (Deed::RemoveNode, "CallRefused", remove),
        (Deed::Scale, "ApplyRefused", remove),
        (Deed::Delete, "ApplyRefused", remove),
        (Deed::DeleteVolume, "ActionRefused", remove),
        (Deed::KeepVolume, "ActionRefused", leave),
    ] {
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 1,
            "storage": {"size": "1Gi", "retain": deed == Deed::KeepVolume}}));
        settle(&fake, "create").await;
        fake.refuse_deed(Some(deed));
        turn(&fake);
        until(&fake, deed.name(), |_, status| degraded(status) == Some(reason)).await;
        let (tried, noted) = (fake.refused_by_policy(), tries(&fake, " note "));
        let status = passes(&fake, 300).await;
        assert_eq!(degraded(&status), Some(reason), "{deed:?}: {}", fake.journal());
        assert!(told(&status).contains("a policy refuses it"), "{deed:?}: {}", told(&status));
        let (tried, noted) = (fake.refused_by_policy() - tried, tries(&fake, " note ") - noted);
        assert!((4..=9).contains(&tried), "{deed:?}: {tried} tries in five minutes");
        assert!(
            noted <= 2 * tried + 2,
            "{deed:?}: {noted} notes, {tried} tries\n{}",
            fake.journal()
        );
        fake.refuse_deed(None);
        settle(&fake, deed.name()).await;
    }
}

#[tokio::test]
async fn status_that_an_older_definition_does_not_keep_is_told_and_sent_once() {
    let fake = Fake::new(json!({"replicas": 2, "replicationFactor": 1}));
    settle(&fake, "create").await;
    fake.define(|status| {
        status.largest_volume = None;
        status.members.iter_mut().for_each(|member| member.version = None);
    });
    fake.edit(|spec| spec["podDisruptionBudget"] = json!(false));
    until(&fake, "told", |_, status| degraded(status) == Some("DefinitionOutdated")).await;
    let status = passes(&fake, 5).await;
    let told = told(&status);
    assert!(told.contains(".status.largestVolume, .status.members[].version"), "{told}");
    let noted = tries(&fake, " note ");
    passes(&fake, 100).await;
    assert_eq!(tries(&fake, " note "), noted, "{}", fake.journal());
    // What changes is noted all the same, and the cluster is cared for.
    replicas(&fake, 3);
    until(&fake, "grown", |seen, _| in_service(seen) == 3).await;
    until(&fake, "told", |_, status| degraded(status) == Some("DefinitionOutdated")).await;
    passes(&fake, 5).await;
    fake.define(|_| {});
    (0..600).for_each(|_| fake.tick());
    settle(&fake, "the definition is that of the operator").await;
}

#[tokio::test]
async fn standing_trouble_is_told_without_a_break_and_in_few_notes() {
    type Start = fn(&Fake);
    let refusal: Start = |fake| {
        fake.refuse(Some(Child::NetworkPolicy));
        fake.remove_child(Child::NetworkPolicy);
    };
    let quarrel: Start = |fake| {
        fake.meddle(|child, object| {
            if child == Child::Service {
                object["spec"]["ports"][0]["port"] = json!(1);
            }
        });
    };
    let deletions: Start = |fake| fake.delete_again_and_again(Some(Child::Service));
    for (reason, start) in
        [("ApplyRefused", refusal), ("Contended", quarrel), ("Contended", deletions)]
    {
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
        settle(&fake, "create").await;
        start(&fake);
        until(&fake, "told", |_, status| degraded(status) == Some(reason)).await;
        passes(&fake, 60).await;
        let before = (tries(&fake, " note "), tries(&fake, "apply"));
        // Half an hour, at the pace of a cluster that is in trouble.
        for second in (0..1800).step_by(5) {
            let outcome =
                pass::pass(&fake, &key(), &defaults()).await.expect("a pass or a refusal");
            fake.end_of_pass();
            let status = outcome.expect("one").status;
            assert_eq!(degraded(&status), Some(reason), "second {second}: {status:#?}");
            for _ in 0..5 {
                fake.tick();
            }
        }
        let notes = tries(&fake, " note ") - before.0;
        let tried = tries(&fake, "apply") - before.1;
        assert!(tried > 1 && tried < 40, "{reason}: {tried}");
        assert!(
            notes <= tried * 2 + 1,
            "{reason}: {notes} notes, {tried} tries\n{}",
            fake.journal()
        );
        if reason == "ApplyRefused" {
            assert!(notes <= 1, "nothing of it changes: {}", fake.journal());
        }
    }
}

#[tokio::test]
async fn object_that_is_deleted_again_and_again_keeps_no_node_from_joining() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.delete_again_and_again(Some(Child::NetworkPolicy));
    fake.lose_volume(1);
    replicas(&fake, 5);
    until(&fake, "five nodes beside it", |seen, status| {
        degraded(status) == Some("Contended")
            && seen.table.as_ref().is_some_and(|_| in_service(seen) == 5)
    })
    .await;
    fake.delete_again_and_again(None);
    settle(&fake, "it is left alone").await;
}

#[tokio::test]
async fn object_that_cannot_go_is_deleted_once_and_keeps_nobody_from_repairs() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.edit_child(Child::DisruptionBudget, "/metadata", {
        let mut budget = fake.child(Child::DisruptionBudget).expect("a budget");
        budget["metadata"]["finalizers"] = json!(["example.com/audit"]);
        budget["metadata"].clone()
    });
    fake.edit(|spec| spec["podDisruptionBudget"] = json!(false));
    fake.lose_volume(1);
    until(&fake, "three nodes beside it", |seen, status| {
        degraded(status) == Some("Contended")
            && told(status).contains("a finalizer keeps it")
            && seen.table.as_ref().is_some_and(|table| table.nodes.len() == 4)
            && in_service(seen) == 3
    })
    .await;
    assert_eq!(tries(&fake, "Delete {"), 1, "{}", fake.journal());
    fake.remove_child(Child::DisruptionBudget);
    settle(&fake, "it is gone").await;
}

#[tokio::test]
async fn version_that_is_refused_reaches_no_pod_and_keeps_nobody_from_repairs() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    let set = fake.child(Child::StatefulSet(0));
    fake.edit(|spec| spec["image"] = json!("flotilla:9.9.0"));
    fake.lose_volume(1);
    until(&fake, "told, and the lost node replaced", |seen, status| {
        degraded(status) == Some("VersionRefused")
            && seen.table.as_ref().is_some_and(|table| table.nodes.len() == 4)
            && in_service(seen) == 3
    })
    .await;
    let status = passes(&fake, 20).await;
    assert!(told(&status).contains("9.9.0"), "{}", told(&status));
    assert_eq!(fake.child(Child::StatefulSet(0)), set, "its template stays as it was");
    assert_eq!(status.feature_level, Some(1));
    fake.edit(|spec| spec["image"] = json!("flotilla:1"));
    settle(&fake, "put right").await;
}

/// With another user its nodes may not open their disks: each is told apart from the others by its turn only.
#[tokio::test]
async fn what_the_operator_itself_puts_into_templates_reaches_pods_in_their_turn() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "begun").await;
    let newer = Defaults { user: Some(7), ..defaults() };
    let users = |fake: &Fake| -> Vec<i64> {
        let sets = (0..3).filter_map(|ordinal| fake.child(Child::StatefulSet(ordinal)));
        let user = "/spec/template/spec/securityContext/runAsUser";
        sets.map(|set| set.pointer(user).and_then(Value::as_i64).expect("a user")).collect()
    };
    let before = users(&fake);
    let pass = async |fake: &Fake| {
        let outcome = pass::pass(fake, &key(), &newer).await.expect("a pass").expect("a cluster");
        fake.end_of_pass();
        fake.tick();
        outcome
    };
    for second in 0..60 {
        match second {
            10 => fake.evict(1),
            // Made anew as the others are.
            20 => fake.remove_child(Child::StatefulSet(2)),
            30 => fake.edit_child(Child::StatefulSet(0), "/spec/replicas", json!(0)),
            40 => fake.edit(|spec| spec["storage"]["size"] = json!("2Gi")),
            _ => {}
        }
        pass(&fake).await;
    }
    assert_eq!(users(&fake), before, "{}", fake.journal());
    fake.edit(|spec| spec["restartedAt"] = json!("2026-01-01T00:00:00Z"));
    for _ in 0..PASSES_MAX {
        let outcome = pass(&fake).await;
        if outcome.plan.operation.is_none() && users(&fake) == [7, 7, 7] {
            return;
        }
    }
    panic!("never: {:?}\n{}", users(&fake), fake.journal());
}

#[tokio::test]
async fn deleted_cluster_that_others_keep_is_told_with_who_keeps_it() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.delete_cluster(&["foregroundDeletion", "example.com/backup"]);
    let before = fake.changes();
    let status = passes(&fake, 55).await;
    assert_eq!((degraded(&status), fake.changes()), (None, before), "they may need a while");
    until(&fake, "told", |_, status| degraded(status) == Some("DeletionHeld")).await;
    let told = told(&passes(&fake, 20).await).to_owned();
    assert!(told.contains("(example.com/backup)") && told.contains("edit kvcluster kv"), "{told}");
    assert_eq!(fake.changes(), before + 1, "one note, and nothing else\n{}", fake.journal());
    fake.delete_cluster(&["foregroundDeletion"]);
    passes(&fake, 100).await;
    assert_eq!(fake.changes(), before + 1, "Kubernetes deletes it\n{}", fake.journal());
}

#[tokio::test]
async fn deleted_cluster_that_others_keep_leaves_the_disks_that_are_to_stay() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3,
        "storage": {"size": "1Gi", "retain": false}}));
    settle(&fake, "create").await;
    fake.delete_cluster(&["example.com/backup"]);
    let before = fake.changes();
    passes(&fake, 10).await;
    assert_eq!((fake.owned_claims(), fake.changes()), (3, before), "they go with it");
    // The cluster cannot be had back, and its data can.
    fake.edit(|spec| spec["storage"]["retain"] = json!(true));
    passes(&fake, 10).await;
    assert_eq!(fake.owned_claims(), 0, "{}", fake.journal());
    let before = fake.child(Child::StatefulSet(1));
    fake.delete_claim(1, 100);
    passes(&fake, 10).await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert_eq!(fake.kept(), 1, "{}", fake.journal());
    assert!(is_budget_closed(&seen), "{}", fake.journal());
    let done = fake.changes();
    passes(&fake, 20).await;
    assert_eq!(fake.changes(), done, "and nothing else\n{}", fake.journal());
    let told = told(&passes(&fake, 40).await);
    assert!(told.contains("is kept") && told.contains("example.com/backup"), "{told}");
    passes(&fake, 60).await;
    assert_eq!(fake.kept(), 1, "it outlives its claim\n{}", fake.journal());
    assert_eq!(fake.child(Child::StatefulSet(1)), before, "nothing is done\n{}", fake.journal());
}

#[tokio::test]
async fn recreated_cluster_does_not_take_old_volumes_for_its_own() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.recreate();
    until(&fake, "told", |_, status| degraded(status) == Some("ForeignVolume")).await;
    for _ in 0..100 {
        pass::pass(&fake, &key(), &defaults()).await.expect("a pass");
        fake.end_of_pass();
        fake.tick();
    }
    assert_eq!(fake.begun(), 1, "no second cluster begins beside old disks");
    let old = fake.first_cluster_id();
    fake.annotate(crate::names::ADOPT, &old);
    settle(&fake, "taken over").await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    assert_eq!(in_service(&seen), 3);
    assert_eq!(fake.begun(), 1);
}

/// Else the roll would give up one node after another, each as one whose disk was lost.
#[tokio::test]
async fn image_that_finds_no_data_stops_after_one_pod_and_costs_no_node() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3, "image": "flotilla:1"}));
    settle(&fake, "create").await;
    fake.edit(|spec| spec["image"] = json!("elsewhere:1"));
    until(&fake, "told", |_, status| degraded(status) == Some("TemplateHidesDisk")).await;
    let status = passes(&fake, 1200).await;
    assert_eq!(degraded(&status), Some("TemplateHidesDisk"), "{}", fake.journal());
    assert_eq!(fake.pods_made(), 4, "{}", fake.journal());
    // Nor by whoever comes next.
    fake.forget();
    passes(&fake, 600).await;
    fake.edit(|spec| spec["image"] = json!("flotilla:1"));
    settle(&fake, "put back").await;
    let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
    let table = seen.table.as_ref().expect("a table");
    let ids: Vec<u64> = table.nodes.iter().map(|row| row.node_id).collect();
    assert_eq!((ids, in_service(&seen)), (vec![1, 2, 3], 3), "{}", fake.journal());
}

#[tokio::test]
async fn paused_cluster_is_told_of_and_left_alone() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.edit(|spec| {
        spec["paused"] = json!(true);
        spec["replicas"] = json!(5);
        spec["image"] = json!("other:1");
    });
    let pods = fake.pods_made();
    until(&fake, "told", |_, status| condition(status, "ReconciliationPaused")).await;
    let before = fake.changes();
    for _ in 0..50 {
        pass::pass(&fake, &key(), &defaults()).await.expect("a pass");
        fake.end_of_pass();
        fake.tick();
    }
    assert_eq!((fake.pods_made(), fake.changes()), (pods, before));
    fake.edit(|spec| spec["paused"] = json!(false));
    settle(&fake, "goes on").await;
}

#[tokio::test]
async fn claims_that_are_to_stay_are_let_go_by_their_cluster_also_while_it_is_paused() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3,
        "storage": {"size": "1Gi", "retain": false}}));
    settle(&fake, "create").await;
    assert_eq!(fake.owned_claims(), 3, "{}", fake.journal());
    fake.edit(|spec| {
        spec["paused"] = json!(true);
        spec["replicas"] = json!(5);
    });
    passes(&fake, 20).await;
    assert_eq!(fake.owned_claims(), 3, "{}", fake.journal());
    fake.edit(|spec| spec["storage"]["retain"] = json!(true));
    passes(&fake, 20).await;
    assert_eq!((fake.owned_claims(), fake.pods_made()), (0, 3), "{}", fake.journal());
    // What is to go waits for the end of the pause.
    fake.edit(|spec| spec["storage"]["retain"] = json!(false));
    passes(&fake, 20).await;
    assert_eq!(fake.owned_claims(), 0, "{}", fake.journal());
}

/// Another operator that was frozen with what it had seen, and wakes up late.
struct Late<'a> {
    fake: &'a Fake,
    seen: Seen,
}

impl World for Late<'_> {
    async fn look(&self, _: &Key) -> Result<Option<Seen>, Error> {
        Ok(Some(self.seen.clone()))
    }

    async fn note(
        &self,
        cluster: &crate::crd::KvCluster,
        status: &KvClusterStatus,
    ) -> Result<(), Error> {
        self.fake.note(cluster, status).await
    }

    async fn change(&self, key: &Key, change: &Change) -> Result<Made, Error> {
        self.fake.change(key, change).await
    }

    async fn call(&self, seen: &Seen, call: &plan::Call) -> Result<(), Error> {
        self.fake.call(seen, call).await
    }

    fn now(&self) -> Timestamp {
        self.fake.now()
    }
}

/// The lease keeps this from happening; were it to fail, no data may be lost by it.
#[tokio::test]
async fn operator_that_wakes_up_late_loses_no_data() {
    for lateness in [1, 3, 10, 40] {
        for story in &STORIES {
            let fake = Fake::new((story.spec)());
            // Two at once may restart two pods at once: that costs time, not data.
            fake.judge_disks_only();
            let mut views = Vec::new();
            for turn in std::iter::once(None).chain(story.turns.iter().map(Some)) {
                if let Some(turn) = turn {
                    turn(&fake);
                }
                for _ in 0..120 {
                    views.push(fake.look(&key()).await.expect("a look").expect("a cluster"));
                    if let Some(seen) = views.len().checked_sub(lateness + 1).map(|at| &views[at]) {
                        let late = Late { fake: &fake, seen: seen.clone() };
                        // Refused or not: what counts is what it did.
                        let _ = pass::pass(&late, &key(), &defaults()).await;
                        fake.end_of_pass();
                    }
                    let _ = pass::pass(&fake, &key(), &defaults()).await;
                    fake.end_of_pass();
                    fake.tick();
                }
            }
            settle(&fake, story.name).await;
            assert_eq!(fake.begun(), 1, "{}: {}", story.name, fake.journal());
        }
    }
}
