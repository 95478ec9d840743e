//! What people and machines do to a cluster, in any order, at once and twice.

use super::*;

/// How many different lives are lived; more by `CHAOS`.
const LIVES: u64 = 6;
/// Times in each that all is left alone until it is well.
const ROUNDS: usize = 4;
/// Things that happen in between, at most.
const DEEDS_MAX: u64 = 6;

/// Numbers that are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn ordinal(&mut self) -> i32 {
        i32::try_from(self.below(5)).expect("small")
    }
}

/// Answers whether a disk was lost by it.
fn happen(fake: &Fake, chance: &mut Chance, may_lose: bool) -> bool {
    let at = chance.ordinal();
    let set = Child::StatefulSet(at);
    let text = format!("t{}", chance.below(1000));
    // So it is for a while: what is not known is not done.
    fake.silence_volumes(chance.below(3) == 0);
    match chance.below(if may_lose { 18 } else { 15 }) {
        0 | 1 => replicas(fake, 3 + i32::try_from(chance.below(3)).expect("small")),
        2 | 3 => fake.evict(at),
        4 => fake.run_out_of_memory(at),
        5 => fake.edit(|spec| spec["restartedAt"] = json!(text)),
        6 => {
            let level = if chance.below(2) == 0 { "debug" } else { "info" };
            fake.edit(|spec| spec["config"] = json!({"log_level": level}));
        }
        7 => {
            let stopped = chance.below(2) == 0;
            fake.edit(|spec| spec["stopped"] = json!(stopped));
        }
        8 => {
            let paused = chance.below(2) == 0;
            fake.edit(|spec| spec["paused"] = json!(paused));
        }
        9 => fake.wipe_status(),
        10 => fake.remove_child(set),
        11 => fake.delete_sets(),
        12 => {
            let child = Child::SHARED[usize::try_from(chance.below(7)).expect("small")];
            // A pod that is made meanwhile waits for its settings, which this Kubernetes does not know.
            if child != Child::ConfigMap {
                fake.remove_child(child);
            }
        }
        13 => {
            if fake.child(set).is_some() {
                fake.edit_child(set, "/spec/replicas", json!(chance.below(3)));
            }
        }
        14 => fake.forget(),
        15 => {
            fake.lose_volume(at);
            return true;
        }
        16 => {
            // It could not be begun with.
            let wrong = chance.below(2) == 0;
            let size = if wrong { json!({"nonsense": 1}) } else { json!({}) };
            fake.edit(|spec| spec["config"] = size);
        }
        _ => {
            if usize::try_from(at).expect("an ordinal") >= fake.claims().len() {
                return false;
            }
            fake.delete_claim(at, i64::try_from(chance.below(60)).expect("small"));
            return true;
        }
    }
    false
}

#[tokio::test]
async fn whatever_happens_ends_well_and_costs_no_data() {
    let lives = std::env::var("CHAOS").ok().and_then(|lives| lives.parse().ok()).unwrap_or(LIVES);
    let first = std::env::var("CHAOS_FROM").ok().and_then(|from| from.parse().ok()).unwrap_or(0);
    for life in first..first + lives {
        let mut chance = Chance(life * 7919 + 1);
        let retain = chance.below(2) == 0;
        let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3,
            "storage": {"size": "1Gi", "retain": retain}}));
        fake.note_in_journal(&format!("life {life}"));
        settle(&fake, "create").await;
        for round in 0..ROUNDS {
            let mut may_lose = true;
            for _ in 0..=chance.below(DEEDS_MAX) {
                may_lose &= !happen(&fake, &mut chance, may_lose);
                for _ in 0..chance.below(25) {
                    let _ = pass::pass(&fake, &key(), &defaults()).await;
                    fake.end_of_pass();
                    fake.tick();
                }
            }
            fake.silence_volumes(false);
            fake.edit(|spec| {
                spec["stopped"] = json!(false);
                spec["paused"] = json!(false);
                if !spec["config"]["nonsense"].is_null() {
                    spec["config"] = json!({});
                }
            });
            settle(&fake, &format!("life {life}, round {round}")).await;
            let seen = fake.look(&key()).await.expect("a look").expect("a cluster");
            let wanted = usize::try_from(seen.cluster.spec.replicas).expect("a number");
            assert_eq!(in_service(&seen), wanted, "life {life}\n{}", fake.journal());
            assert_eq!(fake.begun(), 1, "life {life}\n{}", fake.journal());
            assert_eq!(fake.quorums_lost(), 0, "life {life}\n{}", fake.journal());
        }
    }
}
