//! The checkers that give every region its peers, in the order in which they are asked.
//!
//! Each takes one region whose voters have a live majority (but for [`finish_joint`]) and says what
//! it wants, or nothing. `replicas` is how many voters the region is to have now.

use super::{Act, Urgency, Wish, change, leaders, nodes::Nodes};
use crate::{
    ids::PeerId,
    placement::{
        config::{PlacementConfig, millis},
        members::{Member, Members, Standing},
        steps,
        view::NodeView,
    },
};

/// A joint change that nobody completes: finish it. While it lasts the region gets nothing else.
pub(super) fn finish_joint(since_ms: u64, config: &PlacementConfig, now_ms: u64) -> Option<Wish> {
    (now_ms.saturating_sub(since_ms) >= millis(config.joint_patience)).then(|| Wish {
        urgency: Urgency::Finish,
        reason: "finish the joint change that lost its leader".to_owned(),
        act: Act::Change(steps::finish()),
    })
}

/// A learner that has caught up and is wanted becomes a voter, together with the removal of the
/// voter it replaces.
///
/// Invariant: no live voter is given up for a learner on a node without room, which may end the next moment for want
/// of it. In the place of one that does not answer, or of none, it is better than nothing.
pub(super) fn finish_learner(members: &Members, replicas: usize, nodes: &Nodes) -> Option<Wish> {
    if staying(members) >= replicas {
        return None;
    }
    let ready = members
        .learners()
        .filter(|learner| learner.standing == Standing::Stays && learner.caught_up)
        .max_by_key(|learner| (has_room(learner, nodes), learner.matched_index, learner.peer))?;
    let roomy = has_room(ready, nodes);
    let swap = |old: &Member| {
        let why = match old.standing {
            Standing::Gone => "whose data is gone",
            Standing::Down => "which is down",
            Standing::Leaving | Standing::Stays => "whose node is not in service",
        };
        let reason = format!("promote peer {} in place of peer {}, {why}", ready.peer, old.peer);
        promote(members, ready, Some(old.peer), reason, nodes)
    };
    if let Some(gone) = standing(members, Standing::Gone).next() {
        return swap(gone);
    }
    if kept(members) < replicas {
        let reason = format!("promote peer {}, caught up", ready.peer);
        return promote(members, ready, None, reason, nodes);
    }
    let replaceable = standing(members, Standing::Down)
        .chain(standing(members, Standing::Leaving))
        .find(|member| !member.leader && (roomy || !member.live));
    if let Some(old) = replaceable {
        return swap(old);
    }
    if !roomy {
        return None;
    }
    // What is to be replaced is the leader. It hands over if it can; else the learner is promoted
    // beside it, to be handed over to.
    leave_lead(members, nodes).or_else(|| {
        let reason = format!("promote peer {} to take over the lead", ready.peer);
        promote(members, ready, None, reason, nodes)
    })
}

/// A peer whose data is given up leaves at once, unless its vote is still needed; so does a learner
/// that will not become a voter where it is, before another is added.
pub(super) fn drop_lost(members: &Members) -> Option<Wish> {
    let gone = members
        .iter()
        .filter(|member| member.standing == Standing::Gone && !member.leader)
        .find_map(|lost| {
            let Member { peer, node, .. } = lost;
            let reason = format!("remove peer {peer}: its data on node {node} is given up");
            remove(members, &[*peer], Urgency::Replace, reason)
        });
    gone.or_else(|| {
        let idle = members.learners().find(|learner| learner.standing != Standing::Stays)?;
        let Member { peer, node, .. } = idle;
        let reason = format!("remove learner {peer}: node {node} is down or not in service");
        remove(members, &[*peer], Urgency::Replace, reason)
    })
}

/// For a voter that is down a learner is added elsewhere; while there is no other node it stays,
/// since it may come back.
pub(super) fn replace_down(members: &Members, replicas: usize, nodes: &Nodes) -> Option<Wish> {
    let down = standing(members, Standing::Down).next()?;
    let reason = format!("replace peer {}: node {} is down", down.peer, down.node);
    add(members, replicas, nodes, Urgency::Replace, reason)
}

/// A region with fewer voters than it is to have gets a learner.
pub(super) fn fill(members: &Members, replicas: usize, nodes: &Nodes) -> Option<Wish> {
    let voters = kept(members);
    if voters >= replicas {
        return None;
    }
    let reason = format!("add a peer: {voters} of {replicas} voters");
    add(members, replicas, nodes, Urgency::Fill, reason)
}

/// Off a node that is not in service: the lead first, then for each voter a learner elsewhere.
pub(super) fn vacate(members: &Members, replicas: usize, nodes: &Nodes) -> Option<Wish> {
    leave_lead(members, nodes).or_else(|| {
        let leaving = standing(members, Standing::Leaving).next()?;
        let reason = format!("move peer {}: node {} is not in service", leaving.peer, leaving.node);
        add(members, replicas, nodes, Urgency::Move, reason)
    })
}

/// What is too much goes: voters beyond the number wanted, the down and the leaving before those
/// that stay; then learners that nobody waits for.
pub(super) fn drop_surplus(members: &Members, replicas: usize, nodes: &Nodes) -> Option<Wish> {
    let voters = kept(members);
    if voters > replicas
        && let Some(wish) = drop_voters(members, voters, replicas, nodes)
    {
        return Some(wish);
    }
    let spreads = usize::from(spreading(members, nodes).is_some());
    let wanted = replicas.saturating_sub(staying(members)) + spreads;
    // The furthest are kept; one that does not come is kept only while there is no other. What nobody else has is.
    let mut learners: Vec<&Member> =
        members.learners().filter(|learner| !learner.contradicted).collect();
    learners.sort_by_key(|learner| {
        (!is_coming(learner, nodes), std::cmp::Reverse(learner.matched_index), learner.peer)
    });
    let idle = learners.get(wanted)?;
    let reason = format!("remove learner {}: it is not needed", idle.peer);
    remove(members, &[idle.peer], Urgency::Surplus, reason)
}

/// Of an odd number two go at once where two are too many: with an even number in between, one loss less is survived than
/// before and after, and of two voters none.
fn drop_voters(members: &Members, voters: usize, replicas: usize, nodes: &Nodes) -> Option<Wish> {
    let at_once = if voters % 2 == 1 && voters - replicas > 1 { 2 } else { 1 };
    let mut dispensable: Vec<&Member> = standing(members, Standing::Down)
        .chain(standing(members, Standing::Leaving))
        .filter(|member| !member.leader)
        .collect();
    for _ in replicas..staying(members).min(replicas + at_once) {
        let stay = standing(members, Standing::Stays);
        let others = stay.filter(|member| dispensable.iter().all(|of| of.peer != member.peer));
        let worst = nodes.worst_of(others, members, &dispensable);
        dispensable.extend(worst);
    }
    let both = dispensable.get(..at_once).into_iter();
    both.chain(dispensable.chunks(1)).find_map(|going| {
        let peers: Vec<PeerId> = going.iter().map(|member| member.peer).collect();
        let named: Vec<String> = peers.iter().map(ToString::to_string).collect();
        let reason = format!("remove peer {}: {voters} voters of {replicas}", named.join(" and "));
        remove(members, &peers, Urgency::Surplus, reason)
    })
}

/// A region that wants nothing else is spread over failure domains: of two voters that one zone or one host
/// would take together, one moves to where it shares less.
///
/// Each move takes a peer from where it shares domains with more of the others to where it shares them with
/// fewer, so the sum over all pairs falls with every move: it comes to rest and cannot go in circles.
pub(super) fn spread(members: &Members, replicas: usize, nodes: &Nodes) -> Option<Wish> {
    if staying(members) != replicas || kept(members) != replicas {
        return None;
    }
    if members.iter().any(|member| member.contradicted) {
        return None;
    }
    if let Some((learner, old)) = spreading(members, nodes) {
        if !is_coming(learner, nodes) {
            return move_apart(members, nodes);
        }
        if !learner.caught_up {
            return None;
        }
        let reason = format!(
            "promote peer {} in place of peer {}, which shares a failure domain",
            learner.peer, old.peer
        );
        return promote(members, learner, Some(old.peer), reason, nodes);
    }
    if members.learners().next().is_some() {
        return None;
    }
    move_apart(members, nodes)
}

/// A learner where a peer would share less than the voter does that shares the most.
fn move_apart(members: &Members, nodes: &Nodes) -> Option<Wish> {
    let (old, _) = nodes.most_crowded(members)?;
    nodes.apart_from(members, old.peer)?;
    Some(Wish {
        urgency: Urgency::Spread,
        reason: format!("move peer {}: it shares a failure domain with another", old.peer),
        act: Act::AddInstead(old.peer),
    })
}

/// A learner that is to take the place of a voter with which others share failure domains, and that voter.
fn spreading<'a>(members: &'a Members, nodes: &Nodes) -> Option<(&'a Member, &'a Member)> {
    let (old, now) = nodes.most_crowded(members)?;
    let learner = members
        .learners()
        .filter(|learner| learner.standing == Standing::Stays && is_alive(learner, nodes))
        .filter(|learner| {
            nodes.get(learner.node).is_some_and(|node| nodes.shared(node, members, old.peer) < now)
        })
        .min_by_key(|learner| (!is_coming(learner, nodes), learner.peer))?;
    Some((learner, old))
}

/// A leader whose node is not in service hands over.
fn leave_lead(members: &Members, nodes: &Nodes) -> Option<Wish> {
    let leader = members.leader().filter(|leader| leader.standing != Standing::Stays)?;
    leaders::successor(members, nodes)?;
    Some(Wish {
        urgency: Urgency::LeaderAway,
        reason: format!("lead away from node {}: it is not in service", leader.node),
        act: Act::HandOver,
    })
}

/// A learner, unless as many as are missing are being initialized, or no node can take one.
fn add(
    members: &Members,
    replicas: usize,
    nodes: &Nodes,
    urgency: Urgency,
    reason: String,
) -> Option<Wish> {
    let coming = members
        .learners()
        .filter(|learner| learner.standing == Standing::Stays && is_coming(learner, nodes))
        .count();
    if staying(members) + coming >= replicas {
        return None;
    }
    nodes.best_for(members)?;
    Some(Wish { urgency, reason, act: Act::Add })
}

fn promote(
    members: &Members,
    learner: &Member,
    instead_of: Option<PeerId>,
    reason: String,
    nodes: &Nodes,
) -> Option<Wish> {
    let removed: Vec<PeerId> = instead_of.into_iter().collect();
    let keeps_quorum = if has_room(learner, nodes) {
        members.keeps_quorum(&[learner.peer], &removed)
    } else {
        members.keeps_quorum_without(&[learner.peer], &removed)
    };
    keeps_quorum.then(|| Wish {
        urgency: Urgency::Finish,
        reason,
        act: Act::Change(change(Some(learner.peer), &removed)),
    })
}

fn remove(members: &Members, peers: &[PeerId], urgency: Urgency, reason: String) -> Option<Wish> {
    members.keeps_quorum(&[], peers).then(|| Wish {
        urgency,
        reason,
        act: Act::Change(change(None, peers)),
    })
}

fn standing(members: &Members, standing: Standing) -> impl Iterator<Item = &Member> {
    members.voters().filter(move |member| member.standing == standing)
}

/// Voters whose data is not given up.
fn kept(members: &Members) -> usize {
    members.voters().filter(|member| member.standing != Standing::Gone).count()
}

/// Voters that count towards the replication factor.
pub(super) fn staying(members: &Members) -> usize {
    standing(members, Standing::Stays).count()
}

/// Whether a learner is waited for, and no other is added.
pub(super) fn is_coming(learner: &Member, nodes: &Nodes) -> bool {
    is_alive(learner, nodes)
        && has_room(learner, nodes)
        && !learner.refused
        && !learner.contradicted
}

fn has_room(member: &Member, nodes: &Nodes) -> bool {
    nodes.get(member.node).is_some_and(NodeView::has_room)
}

fn is_alive(member: &Member, nodes: &Nodes) -> bool {
    nodes.get(member.node).is_some_and(|node| node.is_alive())
}
