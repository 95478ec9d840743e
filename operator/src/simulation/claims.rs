//! Volume claims that are marked, or deleted by somebody.

use super::*;

async fn look(fake: &Fake) -> Seen {
    fake.look(&key()).await.expect("a look").expect("a cluster")
}

fn stop(fake: &Fake, stopped: bool) {
    fake.edit(|spec| spec["stopped"] = json!(stopped));
}

/// As an operator that did not ask for proof left them.
#[tokio::test]
async fn members_whose_claims_are_marked_are_started_with_them() {
    let fake = Fake::new(json!({"replicas": 5, "replicationFactor": 5}));
    settle(&fake, "create").await;
    let before = fake.claims();
    stop(&fake, true);
    settle(&fake, "stop").await;
    // Without them there is no majority, and so no node table.
    (2..5).for_each(|ordinal| fake.mark(ordinal, "none"));
    stop(&fake, false);
    settle(&fake, "start").await;
    assert_eq!(in_service(&look(&fake).await), 5);
    assert_eq!(fake.claims(), before, "{}", fake.journal());
}

#[tokio::test]
async fn disk_that_others_let_go_again_and_again_keeps_no_node_from_joining() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.let_disks_go();
    fake.delete_claim(1, 1_000_000);
    replicas(&fake, 4);
    until(&fake, "joined", |seen, _| in_service(seen) == 4).await;
    let told = told(&passes(&fake, 120).await);
    assert!(told.contains("KeepVolume") && told.contains("somebody undoes it"), "{told}");
    let before = fake.changes();
    passes(&fake, 300).await;
    let tries = fake.changes() - before;
    assert!((4..=6).contains(&tries), "it is tried once a minute: {tries}\n{}", fake.journal());
    assert!(look(&fake).await.pods.contains_key(&1), "{}", fake.journal());
}

/// Also where the API server does not say what becomes of it.
#[tokio::test]
async fn claim_that_is_deleted_while_its_node_leaves_or_is_given_up_leaves_its_disk() {
    for given_up in [false, true] {
        let fake = Fake::new(
            json!({"replicas": 4, "replicationFactor": 3, "placement": {"maxNodeDown": "30s"}}),
        );
        settle(&fake, "create").await;
        fake.silence_volumes(true);
        if given_up {
            fake.break_disk(3);
            until(&fake, "given up", |seen, _| {
                seen.table.iter().flat_map(|table| &table.nodes).any(|row| row.forced)
            })
            .await;
        } else {
            fake.rest_placement(20);
            replicas(&fake, 3);
            until_one_drains(&fake).await;
        }
        fake.refuse_deed(Some(Deed::KeepVolume));
        fake.delete_claim(3, 1_000_000);
        passes(&fake, 60).await;
        assert!(look(&fake).await.pods.contains_key(&3), "{}", fake.journal());
        fake.refuse_deed(None);
        fake.silence_volumes(false);
        settle(&fake, "it may be kept").await;
        assert_eq!(fake.kept(), 1, "{}", fake.journal());
    }
}

#[tokio::test]
async fn stopped_cluster_takes_no_claim_that_goes_along_with_a_stateful_set() {
    let fake = Fake::new(json!({"replicas": 3, "replicationFactor": 3}));
    settle(&fake, "create").await;
    fake.delete_claim(1, 1_000_000);
    fake.remove_child(Child::StatefulSet(1));
    stop(&fake, true);
    passes(&fake, 60).await;
    let seen = look(&fake).await;
    assert_eq!(seen.pods.keys().collect::<Vec<_>>(), [&1], "{}", fake.journal());
    assert!(seen.volumes.contains_key(&1), "{}", fake.journal());
}
