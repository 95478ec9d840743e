//! Faults that were found once and mended, to be switched on again: a simulator that does not find them is blind.
//!
//! They are compiled in by the feature `known-bad` alone, which nothing that is shipped has: the binary does not
//! compile with it. Without it `is` is `false` to the compiler, and nothing is left of a switch. With it one of them
//! is on in the whole process, chosen by `switch_on` before anything else runs, or by its name in
//! `FLOTILLA_KNOWN_BAD`.
//!
//! A switch stands where the fault is prevented, and changes as little as can be. Some of what was found is openraft's
//! to prevent, or cannot show before regions split; then what is switched on is the nearest of its kind in our seams,
//! and [`Fault`] says so. That each is a fault is shown by a test which is there anyway, and fails under it.

/// Makes the enumeration with what goes with each fault.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $test:literal;)+) => {
        /// One fault. The last paragraph of each is what has to catch it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[$doc])* $name,)+
        }

        #[cfg(feature = "known-bad")]
        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// As in `FLOTILLA_KNOWN_BAD`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The name of a test of this crate that fails while it is on, wherever that lies.
            #[must_use]
            pub fn test(self) -> &'static str {
                match self {
                    $(Self::$name => $test,)+
                }
            }
        }
    };
}

faults! {
    /// Amnesia: which peer of a region is here was known by `data` alone, which may fall back to an earlier moment.
    /// Whoever was forgotten was made anew over its own log, vote and entries with it.
    ///
    /// Needs a disk whose `data` falls back, by damage or because it was not synced. Votes and acknowledged entries
    /// go back while their peer lives; then acknowledged writes are missing.
    PeerInData = "peer-in-data",
        "voter_whose_state_is_gone_is_quarantined_and_never_taken_for_a_new_one";

    /// As [`Fault::PeerInData`], for the vote itself: what is not synced when it is told is given twice after a crash.
    ///
    /// Votes and terms never go back; two leaders in one term.
    VotesInData = "votes-in-data",
        "a_vote_that_could_not_be_saved_is_not_read";

    /// Of the kind of both, for entries and everything else that is promised: told before it is synced. It was never so;
    /// whoever does not find it does not lose what a power cut takes.
    ///
    /// Acknowledged writes are missing after a crash of all; votes, terms and acknowledged entries go back.
    AcknowledgedUnsynced = "acknowledged-unsynced",
        "votes_appends_and_promises_survive_a_power_cut_once_they_are_done";

    /// A follower's log that ends before what it acknowledged was neither noticed nor told: the leader counted on it
    /// for ever, and asked it for the same entry without a pause.
    ///
    /// Needs a disk that is set back. Acknowledged entries of a peer go back and nobody says so; in the end not all
    /// replicas are equal, or acknowledged writes are missing.
    RevertedLogCounts = "reverted-log-counts",
        "follower_that_lacks_what_it_acknowledged_sets_itself_aside_for_ever";

    /// The end of a snapshot put its peer into the map, whoever was there by then: one that was destroyed meanwhile
    /// was back, stopped, in front of whoever came after it.
    ///
    /// Needs a peer that is removed in the milliseconds after its snapshot. No peer that is buried is in the map; in
    /// the end its region has a peer that never answers.
    DeadPeerPutBack = "dead-peer-put-back",
        "peer_that_was_destroyed_during_its_snapshot_stays_gone";

    /// Of the kind of [`Fault::DeadPeerPutBack`], and easier to meet: a tombstone is not asked for, so that a late
    /// snapshot makes a peer anew that was removed, by its old id.
    ///
    /// A peer id is used once, and a tombstone outlives the peer.
    TombstoneIgnored = "tombstone-ignored",
        "peer_comes_to_a_node_whose_earlier_one_is_gone";

    /// The range of a read was checked before its index was asked for, and not again in the view that it is served
    /// from: rows were served that another region has by then.
    ///
    /// Shows once regions split or merge, and no sooner: until then an epoch's version never moves. Linearizability.
    EpochUnchecked = "epoch-unchecked",
        "a_read_is_refused_by_the_view_that_it_is_served_from";

    /// Of the kind of [`Fault::EpochUnchecked`], for today: what is proven is not what is served. A linearizable read
    /// is served from what is applied here, be it before the index that the leader told or of another log.
    ///
    /// Linearizability of reads by followers and by new leaders.
    ReadBeforeItsIndex = "read-before-its-index",
        "a_linearizable_read_waits_for_what_was_committed_before_it";

    /// Commands of one batch did not see what those before them in it did: two comparisons of the same value both
    /// held.
    ///
    /// Linearizability of compare-and-set, counters that lose increments; replicas that cut their batches differently
    /// are not equal.
    ComparedBeforeTheBatch = "compared-before-the-batch",
        "a_condition_sees_what_those_before_it_in_the_batch_did";

    /// An answer to a request from before counted as one to the request that only tells of a commit after it: a leader
    /// that was frozen found old answers in its sockets, and believed that it still leads.
    ///
    /// Needs a node that is paused with answers on their way to it. Linearizability: reads of a leader of before.
    StaleAnswer = "stale-answer",
        "answer_to_entries_does_not_answer_a_later_commit";

    /// Of the kind of [`Fault::StaleAnswer`], in our own rounds: a read that comes while a round is under way takes that
    /// round's answer, which tells of what was committed before the read began.
    ///
    /// Linearizability of reads by followers.
    StaleRound = "stale-round",
        "a_read_waits_for_a_round_that_began_after_it";

    /// A commit that was counted by the voters of before. How commits are counted is openraft's, and by which
    /// membership is in its log: what is written of a joint change there has the old voters alone. So it counts rightly
    /// for as long as the leader lives that began it, and not when another takes over in the middle.
    ///
    /// Needs a change of members, a partition and an election at once. Two leaders that both commit: leader
    /// completeness, acknowledged writes that are missing.
    OldQuorum = "old-quorum",
        "vote_commit_and_entries_of_any_kind_are_there_after_a_restart";
}

/// Whether the fault is switched on.
#[cfg(not(feature = "known-bad"))]
#[must_use]
pub(crate) const fn is(_: Fault) -> bool {
    false
}

#[cfg(feature = "known-bad")]
pub use self::switched::{is, switch_on};

#[cfg(feature = "known-bad")]
mod switched {
    use std::sync::OnceLock;

    use super::Fault;

    /// What is on. Set once, so that no part of a run is another program than the rest.
    static ON: OnceLock<Option<Fault>> = OnceLock::new();

    /// Whether the fault is switched on.
    #[must_use]
    pub fn is(fault: Fault) -> bool {
        *ON.get_or_init(by_environment) == Some(fault)
    }

    /// From now on this process has the fault, or none, whatever its environment says.
    ///
    /// # Panics
    /// When something was asked for before.
    pub fn switch_on(fault: Option<Fault>) {
        assert!(ON.set(fault).is_ok(), "a fault is chosen before anything runs");
    }

    fn by_environment() -> Option<Fault> {
        let name = std::env::var("FLOTILLA_KNOWN_BAD").ok().filter(|name| !name.is_empty())?;
        let found = Fault::ALL.iter().find(|fault| fault.name() == name);
        Some(*found.unwrap_or_else(|| panic!("no known fault is called {name}")))
    }
}

#[cfg(all(test, feature = "known-bad"))]
mod tests {
    use std::process::{Command, Output};

    use super::*;

    /// The test of that name, in a process of its own.
    fn run(test: &str, on: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        let command = command.arg(test).env("FLOTILLA_KNOWN_BAD", on);
        command.output().expect("it runs again")
    }

    /// A switch that does nothing would show as a simulator that finds nothing.
    #[test]
    fn every_fault_fails_the_test_that_it_left_behind() {
        for fault in Fault::ALL {
            let (name, test) = (fault.name(), fault.test());
            let [without, with] = ["", name].map(|on| run(test, on));
            let said = |of: &Output| String::from_utf8_lossy(&of.stdout).into_owned();
            assert!(without.status.success(), "{name}: {test}: {}", said(&without));
            assert!(said(&without).contains("1 passed"), "{name}: there is no test {test}");
            assert!(!with.status.success(), "{name} passes {test}");
            assert!(said(&with).contains("1 failed"), "{name}: {}", said(&with));
        }
    }

    #[test]
    fn faults_are_told_apart() {
        let mut names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Fault::ALL.len());
    }
}
