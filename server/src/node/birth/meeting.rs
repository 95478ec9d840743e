//! What a node without a cluster does next, decided on what the nodes it was told of answer. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::v1;
use tokio::time::Instant;

/// The node itself, as it was before it asked.
///
/// Ordering: its promise is read before anybody is asked. An answer from before the promise says nothing
/// about what became of it.
#[derive(Clone, Debug)]
pub(in crate::node) struct Own {
    /// What it answers to others.
    pub(in crate::node) status: v1::StatusResponse,
    pub(in crate::node) promised: Option<v1::Birth>,
    /// For how long every round before this one has found that the disk of the founder is gone.
    pub(in crate::node) founder_gone_for: Duration,
}

/// How long the founder's disk must be gone before a node takes the others' word that they were not born. Twice as
/// long as a question may take: one that heard from the founder just before its end acts on that when all its
/// questions are answered, and until then it says that it was not born.
const FOUNDER_GONE_MIN: Duration = Duration::from_secs(6);

/// What an address answered.
#[derive(Clone, Debug)]
pub(in crate::node) struct Asked {
    pub(in crate::node) address: String,
    pub(in crate::node) answer: Result<v1::StatusResponse, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::node) enum Next {
    /// Be added to the cluster of the nodes at these addresses.
    Join(Vec<String>),
    /// Make the cluster, with these.
    Found(Vec<v1::StatusResponse>),
    /// Wait until the others have met all that they were told of, too: soon.
    Meet(String),
    /// The birth that it was promised to has taken place.
    BeBorn,
    /// The birth that it was promised to will never take place.
    Release(String),
    Wait(String),
}

/// See the module. The protocol is described in `node/birth.rs`.
pub(in crate::node) fn next(own: &Own, asked: &[Asked]) -> Next {
    match &own.promised {
        Some(birth) => next_of_promised(own, birth, asked),
        None => next_of_free(own, asked),
    }
}

/// How long an answer stands for an address that does not answer now. Of many nodes on a network that loses
/// messages hardly ever all reach all in the same moment; in these seconds each reaches each.
const MET_MAX: Duration = Duration::from_secs(10);

/// Who answered at the addresses that the node was told of. Bound: one disk for each of them.
#[derive(Default)]
pub(in crate::node) struct Met(BTreeMap<String, (Bytes, Instant)>);

impl Met {
    /// The disks that the node was told of, its own among them, in ascending order; empty unless each of its
    /// addresses has answered. However addresses are spelt, it is the same for nodes that were told of the same
    /// nodes.
    ///
    /// Invariant: only where all of them are to promise themselves may one have answered a while ago; see
    /// `node/birth.rs`.
    pub(in crate::node) fn told_of(
        &mut self,
        own: &Own,
        asked: &[Asked],
        now: Instant,
    ) -> Vec<Bytes> {
        for (address, status) in answers(asked) {
            self.0.insert(address.to_owned(), (status.disk_id.clone(), now));
        }
        let last = |asked: &Asked| self.0.get(&asked.address).cloned();
        let Some(met) = asked.iter().map(last).collect::<Option<Vec<_>>>() else {
            return Vec::new();
        };
        let is_fresh = met.iter().all(|(_, at)| *at == now);
        let is_recent = met.iter().all(|(_, at)| now.saturating_duration_since(*at) <= MET_MAX);
        let disks = met.into_iter().map(|(disk, _)| disk);
        let disks: BTreeSet<Bytes> = disks.chain([own.status.disk_id.clone()]).collect();
        let all_promise = disks.len() == own.status.bootstrap_expect as usize;
        if is_fresh || (is_recent && all_promise) {
            disks.into_iter().collect()
        } else {
            Vec::new()
        }
    }
}

fn answers(asked: &[Asked]) -> impl Iterator<Item = (&str, &v1::StatusResponse)> {
    asked.iter().filter_map(|asked| Some((&*asked.address, asked.answer.as_ref().ok()?)))
}

fn next_of_promised(own: &Own, birth: &v1::Birth, asked: &[Asked]) -> Next {
    if answers(asked).any(|(_, status)| status.joined && status.birth_id == birth.birth_id) {
        return Next::BeBorn;
    }
    let Some((founder, members)) = birth.nodes.split_first() else {
        return Next::Release("nobody is of it".to_owned());
    };
    // The founder alone decides, and knows of one birth at a time. One that goes on with another, or with
    // none after a restart, has not decided on this one and never will.
    let of_founder = answers(asked).find(|(_, status)| status.disk_id == founder.disk_id);
    if let Some((address, status)) = of_founder {
        if status.birth_id == birth.birth_id {
            return Next::Wait(format!("{address} is about to make the cluster"));
        }
        return Next::Release(format!("{address} has given it up"));
    }
    // A founder whose disk is gone may have decided. Whoever heard of it before would be born of it, and
    // without anybody else nothing was ever acknowledged, if no region has but one voter. So each of the
    // others must say by itself that it was not born: another disk at its address says nothing of its own.
    let tells = |node: &v1::FirstNode| {
        node.disk_id == own.status.disk_id
            || answers(asked).any(|(_, status)| status.disk_id == node.disk_id)
    };
    if birth.replication_factor > 1 && founder_is_gone(birth, asked) && members.iter().all(tells) {
        let gone = "the disk of the node that was to decide is gone";
        return if own.founder_gone_for >= FOUNDER_GONE_MIN {
            Next::Release(gone.to_owned())
        } else {
            Next::Wait(format!("{gone}; the others are asked for a while whether it had decided"))
        };
    }
    let address = founder.record.as_ref().map_or("", |record| &record.client_address);
    let what = if birth.replication_factor > 1 {
        "if its disk is lost, start an empty one at its address"
    } else {
        "it may hold the only copy of what was acknowledged"
    };
    Next::Wait(format!(
        "{address}, which makes the cluster, does not answer: {what}. This disk holds a promise and nothing \
         else ('A birth whose founder is lost' in docs/operations.md)"
    ))
}

/// Whether a node that expects so many, and was told of these disks, goes with a founder that was told of `founder`'s:
/// of the same; or of none, when `Initialize` named the nodes, and then it has no list of its own.
pub(in crate::node) fn goes_with(expects: u32, told_of: &[Bytes], founder: &[Bytes]) -> bool {
    if expects > 0 { !founder.is_empty() && told_of == founder } else { founder.is_empty() }
}

/// Whether another disk answers at the address of the founder, and its own nowhere.
pub(in crate::node) fn founder_is_gone(birth: &v1::Birth, asked: &[Asked]) -> bool {
    let Some(founder) = birth.nodes.first() else { return false };
    let address = founder.record.as_ref().map_or("", |record| &record.client_address);
    answers(asked).any(|(_, status)| status.client_address == address)
        && answers(asked).all(|(_, status)| status.disk_id != founder.disk_id)
}

fn next_of_free(own: &Own, asked: &[Asked]) -> Next {
    let is_member = |status: &v1::StatusResponse| status.joined && !status.removed;
    let members: Vec<String> = answers(asked)
        .filter(|(_, status)| is_member(status))
        .map(|(address, _)| address.to_owned())
        .collect();
    if !members.is_empty() {
        return Next::Join(members);
    }
    let expects = own.status.bootstrap_expect;
    if expects == 0 {
        let silent = asked.iter().find_map(|asked| {
            asked.answer.as_ref().err().map(|why| format!("{}: {why}", asked.address))
        });
        return Next::Wait(silent.unwrap_or_else(|| {
            "none of those it was told to join (--join) is a member of a cluster".to_owned()
        }));
    }
    // Invariant: all that the founder was told of say that they were told of the same, and of two founders
    // that share one of them both are the smallest of what that one was told of: they are one. So lists that
    // overlap and differ make no cluster, instead of two.
    let told_of = &own.status.told_of;
    let mut not_met = None;
    // A node that does not answer may be of a cluster: then this one is to join it. So the founder has heard all
    // of them now, and never decides on what one said a while ago.
    let mut here = BTreeMap::from([(own.status.disk_id.clone(), own.status.clone())]);
    for Asked { address, answer } in asked {
        let status = match answer {
            Ok(status) => status,
            Err(why) => return Next::Wait(format!("{address}: {why}")),
        };
        if status.disk_id == own.status.disk_id {
            continue;
        }
        if let Some(why) = not_free(own, status) {
            return Next::Wait(format!("{address} {why}"));
        }
        if status.told_of.is_empty() {
            not_met = Some(format!("{address} has not met all the nodes that it was told of"));
        } else if status.told_of != *told_of {
            return Next::Wait(format!(
                "{address} was told of {} nodes, this one of {}, and they are not the same: start all \
                 with the same addresses (--join)",
                status.told_of.len(),
                told_of.len()
            ));
        }
        here.insert(status.disk_id.clone(), status.clone());
    }
    if here.len() < expects as usize {
        return Next::Wait(format!("{} of {expects} expected nodes are here", here.len()));
    }
    let first: Vec<v1::StatusResponse> = here.into_values().take(expects as usize).collect();
    match first.first() {
        Some(founder) if founder.disk_id == own.status.disk_id => match not_met {
            Some(why) => Next::Meet(why),
            None => Next::Found(first),
        },
        Some(founder) => {
            Next::Wait(format!("all are here; {} makes the cluster", founder.client_address))
        }
        None => Next::Wait("nobody is here".to_owned()),
    }
}

/// Why no cluster can be made with this node.
fn not_free(own: &Own, status: &v1::StatusResponse) -> Option<String> {
    if status.removed {
        return Some("was removed from a cluster".to_owned());
    }
    if status.disk_id.len() != own.status.disk_id.len() {
        return Some("does not tell the number of its disk".to_owned());
    }
    if status.bootstrap_expect != own.status.bootstrap_expect {
        return Some(format!(
            "was told to expect {} nodes, this one {} (--bootstrap-expect)",
            status.bootstrap_expect, own.status.bootstrap_expect
        ));
    }
    (!status.birth_id.is_empty()).then(|| "takes part in the birth of a cluster".to_owned())
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::world::clock;

    fn id(number: u8) -> Bytes {
        vec![number; 16].into()
    }

    /// An unjoined node `n<number>` that expects three.
    fn unjoined(number: u8) -> v1::StatusResponse {
        v1::StatusResponse {
            disk_id: id(number),
            client_address: format!("n{number}:7420"),
            bootstrap_expect: 3,
            told_of: (1..=3).map(id).collect(),
            ..v1::StatusResponse::default()
        }
    }

    /// As [`unjoined`], told of these.
    fn knows(number: u8, told_of: &[u8]) -> Asked {
        change(number, |it| it.told_of = told_of.iter().copied().map(id).collect())
    }

    /// What the node does after a first round with these answers.
    fn first(mut own: Own, asked: &[Asked]) -> Next {
        own.status.told_of = Met::default().told_of(&own, asked, clock::now());
        next(&own, asked)
    }

    fn own(number: u8) -> Own {
        Own { status: unjoined(number), promised: None, founder_gone_for: FOUNDER_GONE_MIN }
    }

    fn at(status: v1::StatusResponse) -> Asked {
        Asked { address: status.client_address.clone(), answer: Ok(status) }
    }

    fn silent(number: u8) -> Asked {
        Asked { address: format!("n{number}:7420"), answer: Err("does not answer".to_owned()) }
    }

    fn change(number: u8, change: impl Fn(&mut v1::StatusResponse)) -> Asked {
        let mut status = unjoined(number);
        change(&mut status);
        at(status)
    }

    fn word(next: &Next) -> String {
        match next {
            Next::Join(members) => format!("join {}", members.join(" ")),
            Next::Found(nodes) => {
                let names: Vec<&str> = nodes.iter().map(|node| &*node.client_address).collect();
                format!("found {}", names.join(" "))
            }
            Next::Meet(_) => "meet".to_owned(),
            Next::BeBorn => "be born".to_owned(),
            Next::Release(_) => "release".to_owned(),
            Next::Wait(_) => "wait".to_owned(),
        }
    }

    #[test]
    fn smallest_of_as_many_as_are_expected_makes_the_cluster_when_all_answer_without_one() {
        let found = "found n1:7420 n2:7420 n3:7420";
        let all = || vec![at(unjoined(1)), at(unjoined(2)), at(unjoined(3))];
        let but_last = |last: Asked| vec![at(unjoined(1)), at(unjoined(2)), last];
        for (why, own, asked, want) in [
            ("the smallest", own(1), all(), found),
            ("another one", own(2), all(), "wait"),
            ("it does not reach itself", own(1), vec![at(unjoined(3)), at(unjoined(2))], found),
            ("one is missing", own(1), but_last(silent(3)), "wait"),
            ("one address twice", own(1), but_last(at(unjoined(2))), "wait"),
            (
                "more than expected: the largest is added later",
                own(1),
                (1..=4).map(|number| knows(number, &[1, 2, 3, 4])).collect(),
                found,
            ),
            ("one has not met all that it was told of", own(1), but_last(knows(3, &[])), "meet"),
            ("one was told of others, too", own(1), but_last(knows(3, &[1, 2, 3, 4])), "wait"),
            ("one was told of fewer", own(1), but_last(knows(3, &[1, 3])), "wait"),
            ("one was told of others", own(1), but_last(knows(3, &[3, 4, 5])), "wait"),
            (
                "more than expected, and one that is silent may be of a cluster",
                own(1),
                [all(), vec![silent(4)]].concat(),
                "wait",
            ),
            (
                "a wiped first node whose neighbours have a cluster",
                own(1),
                vec![change(2, |it| it.joined = true), silent(3)],
                "join n2:7420",
            ),
            ("a wiped first node that is alone", own(1), vec![silent(2), silent(3)], "wait"),
            ("one was removed", own(1), but_last(change(3, |it| it.removed = true)), "wait"),
            (
                "one that was removed speaks for no cluster",
                own(1),
                but_last(change(3, |it| (it.joined, it.removed) = (true, true))),
                "wait",
            ),
            (
                "one expects another number",
                own(1),
                but_last(change(3, |it| it.bootstrap_expect = 5)),
                "wait",
            ),
            (
                "one was only told to join",
                own(1),
                but_last(change(3, |it| it.bootstrap_expect = 0)),
                "wait",
            ),
            (
                "one is of another birth",
                own(1),
                but_last(change(3, |it| it.birth_id = id(9))),
                "wait",
            ),
            (
                "one is of an older version",
                own(1),
                but_last(change(3, |it| it.disk_id = Bytes::new())),
                "wait",
            ),
        ] {
            assert_eq!(word(&first(own, &asked)), want, "{why}");
        }
        let refused = first(own(1), &but_last(knows(3, &[3, 4, 5])));
        let Next::Wait(words) = refused else { panic!("{refused:?}") };
        assert!(words.contains("n3:7420") && words.contains("--join"), "{words}");
        let mut alone = own(1);
        alone.status.bootstrap_expect = 1;
        assert_eq!(word(&first(alone, &[])), "found n1:7420", "one that expects itself");
        let mut joins = own(1);
        joins.status.bootstrap_expect = 0;
        assert_eq!(
            word(&first(joins, &[at(unjoined(2))])),
            "wait",
            "told to join, not to make one"
        );
    }

    #[test]
    fn what_a_node_was_told_of_is_who_answers_and_not_how_it_is_spelt() {
        let spelt = |number: u8, address: &str| Asked {
            address: address.to_owned(),
            answer: Ok(unjoined(number)),
        };
        let want: Vec<Bytes> = (1..=3).map(id).collect();
        for (why, own, asked, want) in [
            ("by names", own(1), vec![spelt(2, "n2:1"), spelt(3, "n3:1")], want.clone()),
            (
                "by others, and itself",
                own(3),
                vec![spelt(2, "10.0.0.2:1"), spelt(1, "x:1"), spelt(3, "y:1")],
                want.clone(),
            ),
            ("one twice", own(3), vec![spelt(2, "a:1"), spelt(2, "b:1"), spelt(1, "c:1")], want),
            ("one is silent", own(1), vec![spelt(2, "n2:1"), silent(3)], Vec::new()),
            ("alone", own(1), Vec::new(), vec![id(1)]),
        ] {
            assert_eq!(Met::default().told_of(&own, &asked, clock::now()), want, "{why}");
        }
    }

    #[test]
    fn node_promises_itself_to_a_founder_that_was_told_the_same() {
        let ids = |numbers: &[u8]| numbers.iter().copied().map(id).collect::<Vec<_>>();
        for (why, expects, told_of, founder, want) in [
            ("of the same", 3, ids(&[1, 2, 3]), ids(&[1, 2, 3]), true),
            ("of others", 3, ids(&[1, 2, 3]), ids(&[1, 2, 4]), false),
            ("it has not met all", 3, vec![], ids(&[1, 2, 3]), false),
            ("started with a list since `Initialize` asked, not met", 3, vec![], vec![], false),
            ("named by `Initialize`", 0, vec![], vec![], true),
            ("named by `Initialize`, and may be added elsewhere", 0, ids(&[1, 2]), vec![], true),
            ("started without a list since the founder asked", 0, vec![], ids(&[1, 2, 3]), false),
        ] {
            assert_eq!(goes_with(expects, &told_of, &founder), want, "{why}");
        }
    }

    #[test]
    fn answer_of_a_while_ago_stands_for_silence_where_all_are_to_promise() {
        let all = || vec![at(unjoined(2)), at(unjoined(3))];
        let replaced = change(3, |it| it.disk_id = id(4));
        let ids = |numbers: &[u8]| numbers.iter().copied().map(id).collect::<Vec<_>>();
        let (soon, late) = (MET_MAX, MET_MAX + Duration::from_millis(1));
        type Row = (&'static str, u32, Vec<Asked>, Vec<Asked>, Duration, Vec<Bytes>);
        let rows: [Row; 6] = [
            ("soon after", 3, all(), vec![silent(2), silent(3)], soon, ids(&[1, 2, 3])),
            ("too late", 3, all(), vec![at(unjoined(2)), silent(3)], late, vec![]),
            (
                "one never answered",
                3,
                vec![silent(2), silent(3)],
                vec![silent(2), at(unjoined(3))],
                soon,
                vec![],
            ),
            (
                "in turn",
                3,
                vec![silent(2), at(unjoined(3))],
                vec![at(unjoined(2)), silent(3)],
                soon,
                ids(&[1, 2, 3]),
            ),
            (
                "another disk answers now",
                3,
                all(),
                vec![silent(2), replaced],
                soon,
                ids(&[1, 2, 4]),
            ),
            ("one need not promise", 2, all(), vec![at(unjoined(2)), silent(3)], soon, vec![]),
        ];
        for (why, expects, before, now, passed, want) in rows {
            let mut own = own(1);
            own.status.bootstrap_expect = expects;
            let (mut met, began) = (Met::default(), clock::now());
            met.told_of(&own, &before, began);
            assert_eq!(met.told_of(&own, &now, began + passed), want, "{why}");
            // Whoever is silent may be of a cluster by now.
            own.status.told_of = want;
            assert!(!matches!(next(&own, &now), Next::Found(_)), "{why}");
        }
    }

    /// A node of which nobody answers in time takes three seconds to know it.
    #[test]
    fn many_nodes_meet_over_a_network_that_loses_messages() {
        const NODES: u8 = 32;
        let (mut random, began) = (StdRng::seed_from_u64(7), clock::now());
        let mut nodes: Vec<(Own, Met)> = (1..=NODES)
            .map(|number| {
                let mut own = own(number);
                own.status.bootstrap_expect = NODES.into();
                own.status.told_of = Vec::new();
                (own, Met::default())
            })
            .collect();
        let founded = (0..40).find(|round| {
            let now = began + *round * Duration::from_millis(3_500);
            (0..nodes.len()).any(|asking| {
                let others = nodes.iter().enumerate().filter(|(other, _)| *other != asking);
                let others = others.map(|(_, (other, _))| other.status.clone());
                let asked: Vec<Asked> = others
                    .map(|status| {
                        let address = status.client_address.clone();
                        let lost = random.random_bool(0.05);
                        let answer = if lost { Err("lost".to_owned()) } else { Ok(status) };
                        Asked { address, answer }
                    })
                    .collect();
                let (own, met) = &mut nodes[asking];
                own.status.told_of = met.told_of(own, &asked, now);
                matches!(next(own, &asked), Next::Found(_))
            })
        });
        assert!(founded.is_some(), "in more than two minutes");
    }

    /// Every node of five is told of some, asks and is asked in any order, and founds when it may: whoever does is
    /// the only one among those that share a node.
    #[test]
    fn lists_that_overlap_never_make_two_clusters() {
        // Bits of the lists of five nodes; each has itself.
        let mut founded = 0;
        for lists in 0..(1_u32 << 15) {
            let list = |node: u8| -> Vec<u8> {
                let bits = (lists >> (3 * u32::from(node))) & 0b111;
                let others = (0..5).filter(|other| *other != node);
                let mut list: Vec<u8> = others
                    .zip(0..)
                    .filter(|(_, at)| *at == 3 || bits >> at & 1 == 1)
                    .map(|(other, _)| other)
                    .collect();
                list.push(node);
                list.sort_unstable();
                list
            };
            let told = |node: u8| -> v1::StatusResponse {
                let told_of = list(node).into_iter().map(id).collect();
                v1::StatusResponse { bootstrap_expect: 2, told_of, ..unjoined(node) }
            };
            let founders: Vec<Vec<u8>> = (0..5)
                .filter_map(|node| {
                    let others = list(node).into_iter().filter(|other| *other != node);
                    let asked: Vec<Asked> = others.map(|other| at(told(other))).collect();
                    let own = Own { status: told(node), ..own(node) };
                    matches!(next(&own, &asked), Next::Found(_)).then(|| list(node))
                })
                .collect();
            founded += founders.len();
            for (at, one) in founders.iter().enumerate() {
                for other in &founders[..at] {
                    assert!(!one.iter().any(|node| other.contains(node)), "{one:?} and {other:?}");
                }
            }
        }
        assert!(founded > 0, "lists that are the same do");
    }

    #[test]
    fn promised_node_goes_on_with_what_the_birth_has_come_to() {
        let birth = v1::Birth {
            birth_id: id(99),
            replication_factor: 3,
            nodes: (1..=3)
                .map(|number| v1::FirstNode {
                    disk_id: id(number),
                    record: Some(v1::NodeRecord {
                        client_address: format!("n{number}:7420"),
                        ..v1::NodeRecord::default()
                    }),
                })
                .collect(),
            ..v1::Birth::default()
        };
        // Node 3 was promised; node 1 decides.
        let lone_voter = v1::Birth { replication_factor: 1, ..birth.clone() };
        let own = Own { promised: Some(birth), ..own(3) };
        let of_it = |number| change(number, |it| it.birth_id = id(99));
        let born = |number| change(number, |it| (it.joined, it.birth_id) = (true, id(99)));
        let wiped = |number: u8| change(number, |it| it.disk_id = id(it.disk_id[0] + 100));
        let elsewhere = |number| change(number, |it| it.joined = true);
        for (why, asked, want) in [
            ("the founder was born", vec![born(1), silent(2)], "be born"),
            ("another was, so the founder had decided", vec![silent(1), born(2)], "be born"),
            ("another was, and the founder's disk is gone", vec![wiped(1), born(2)], "be born"),
            ("the founder is about to decide", vec![of_it(1), of_it(2)], "wait"),
            ("the founder is silent: it may have decided", vec![silent(1), of_it(2)], "wait"),
            ("the founder has begun anew", vec![at(unjoined(1)), of_it(2)], "release"),
            (
                "the founder is in another birth",
                vec![change(1, |it| it.birth_id = id(98)), silent(2)],
                "release",
            ),
            ("the founder went elsewhere", vec![elsewhere(1), silent(2)], "release"),
            ("its disk is gone, and nobody was born", vec![wiped(1), of_it(2)], "release"),
            (
                "its disk is gone, and at the address of the other, which may be born, is somebody else",
                vec![wiped(1), wiped(2)],
                "wait",
            ),
            (
                "its disk is gone, and the other may have been born",
                vec![wiped(1), silent(2)],
                "wait",
            ),
        ] {
            assert_eq!(word(&next(&own, &asked)), want, "{why}");
        }
        let just_gone = Own { founder_gone_for: Duration::ZERO, ..own.clone() };
        let answers = [wiped(1), of_it(2)];
        assert_eq!(word(&next(&just_gone, &answers)), "wait", "the other may be about to be born");
        let away = next(&own, &[silent(1), of_it(2)]);
        let Next::Wait(words) = away else { panic!("{away:?}") };
        for part in [
            "n1:7420",
            "empty one at its address",
            "promise and nothing else",
            "docs/operations.md",
        ] {
            assert!(words.contains(part), "a person who reads the log knows what to do: {words}");
        }
        let own = Own { promised: Some(lone_voter), ..own };
        let asked = vec![wiped(1), of_it(2)];
        assert_eq!(word(&next(&own, &asked)), "wait", "the founder alone may have acknowledged");
    }
}
