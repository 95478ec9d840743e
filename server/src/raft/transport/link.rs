//! The sending end of one lane to one node: what waits for it, and the stream that carries it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use flotilla_proto::v1;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, codegen::http::uri::PathAndQuery, transport::Channel};

use super::{
    Cause, Lane,
    budget::{Budget, Taken},
    frame::{FRAME_BYTES_ACCEPTED, FrameCodec, NODE_MESSAGE_BYTES_MAX, fits},
    office::{Answering, Office, connect_to},
};
use crate::{
    ids::{NodeId, RegionId},
    world::{clock, handoff, maps::HashMap},
};

/// Bound: messages that may wait for one stream, if their bytes do not bound them earlier.
const QUEUE_MAX: usize = 16_384;
/// Bounds: bytes of requests of one lane to one node that are not answered; more are refused, and log
/// entries are not read from the log. They lie in this process until the socket takes them.
const FAST_BYTES_MAX: usize = 8 << 20;
const BULK_BYTES_MAX: usize = 32 << 20;
const FORWARD_BYTES_MAX: usize = 32 << 20;
/// What a client's request counts at least, for its answer; so there are 4096 of them at most.
const FORWARD_BYTES_MIN: usize = 8 << 10;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Short: a node that is back is not heard of before, and it may be needed for a quorum.
pub const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// How often a link looks whether its node still belongs to the cluster.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
pub(super) const EXCHANGE: &str = "/flotilla.v1.Raft/Exchange";

pub(super) type Links = Mutex<HashMap<(NodeId, Lane), Link>>;
type Answer = Result<v1::Message, Cause>;

/// A message that waits for its stream.
struct Outgoing {
    message: v1::Message,
    bytes: usize,
    answer: handoff::Sender<Answer>,
    _taken: Arc<Taken>,
}

/// Where messages for one lane of a node are left.
pub(super) struct Link {
    queue: mpsc::Sender<Outgoing>,
    budget: Arc<Budget>,
}

/// A message that was left, and what it comes to.
pub(super) struct Called {
    answer: tokio::sync::oneshot::Receiver<Answer>,
    /// Given back when it is answered or nobody waits any more, and the message is in the socket or
    /// nowhere.
    _taken: Arc<Taken>,
}

impl Called {
    pub(super) async fn answered(self) -> Answer {
        let lost = || Err(Cause::Lost("the connection was given up".to_owned()));
        self.answer.await.unwrap_or_else(|_| lost())
    }
}

impl Link {
    pub(super) fn open(office: &Arc<Office>, links: &Arc<Links>, node: NodeId, lane: Lane) -> Self {
        let bytes_max = match lane {
            Lane::Bulk => BULK_BYTES_MAX,
            Lane::Forward => FORWARD_BYTES_MAX,
            Lane::Fast | Lane::Unspecified => FAST_BYTES_MAX,
        };
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let budget =
            Budget::new(bytes_max, office.metrics.raft.link_bytes.get(lane.into()).clone());
        let reached = office.reached(node);
        let (office, links) = (Arc::clone(office), Arc::downgrade(links));
        let run = Run { office, links, node, lane, reached };
        tokio::spawn(run.until_dropped(queued));
        Self { queue, budget }
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Leaves a message. What is refused here surely was not sent.
    pub(super) fn leave(
        &self,
        lane: Lane,
        message: v1::Message,
        bytes: usize,
    ) -> Result<Called, Cause> {
        if bytes > NODE_MESSAGE_BYTES_MAX {
            return Err(Cause::TooLarge { bytes });
        }
        let counted = if lane == Lane::Forward { bytes.max(FORWARD_BYTES_MIN) } else { bytes };
        let region = RegionId(message.region_id);
        let taken = match lane {
            Lane::Bulk => self.budget.try_take_let_through(region, counted),
            Lane::Fast | Lane::Forward | Lane::Unspecified => self.budget.try_take(region, counted),
        };
        let taken = Arc::new(taken.ok_or(Cause::Full)?);
        let (sender, answer) = handoff::channel();
        let outgoing = Outgoing { message, bytes, answer: sender, _taken: Arc::clone(&taken) };
        match self.queue.try_send(outgoing) {
            Ok(()) => Ok(Called { answer, _taken: taken }),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Cause::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(Cause::Unsent("this node is shutting down".to_owned()))
            }
        }
    }
}

/// What runs one link.
pub(super) struct Run {
    pub(super) office: Arc<Office>,
    /// Where it is found. It must not hold the links themselves, or none would ever end.
    pub(super) links: Weak<Links>,
    pub(super) node: NodeId,
    pub(super) lane: Lane,
    /// Told when a stream to the node is open.
    pub(super) reached: watch::Sender<u64>,
}

/// Since when no stream was answered on, of those that were tried, and when the last one was not.
#[derive(Debug, Default)]
struct Failing(Option<(std::time::Instant, std::time::Instant)>);

impl Failing {
    /// One that began then was not answered. How long that lasts: between two that are far apart the lane may have
    /// been well, and nobody had anything to send.
    fn again(
        &mut self,
        began: std::time::Instant,
        ended: std::time::Instant,
        silence_max: Duration,
    ) -> Duration {
        let far = silence_max + 2 * BACKOFF_MAX;
        let in_a_row = self.0.filter(|(_, last)| began.duration_since(*last) <= far);
        let since = in_a_row.map_or(began, |(since, _)| since);
        self.0 = Some((since, ended));
        ended.duration_since(since)
    }
}

impl Run {
    /// Owns the stream to one node on one lane, until the transport is dropped or the node is gone.
    async fn until_dropped(self, mut queued: mpsc::Receiver<Outgoing>) {
        let mut backoff = BACKOFF_MIN;
        let mut failing = Failing::default();
        loop {
            let first = tokio::select! {
                next = queued.recv() => match next {
                    Some(first) => first,
                    None => return,
                },
                () = tokio::time::sleep(LOOK_INTERVAL) => {
                    if self.is_unknown() && self.leave_map(&mut queued) {
                        return;
                    }
                    continue;
                }
            };
            if first.answer.is_closed() {
                continue;
            }
            let began = clock::monotonic();
            let address = self.office.address(self.node);
            let connected = match &address {
                Ok(address) => connect_to(address).await,
                Err(reason) => Err(reason.clone()),
            };
            let address = address.ok();
            self.office.note_attempt(self.node, connected.is_ok());
            let was_answered = match connected {
                Ok(channel) => {
                    let began = clock::monotonic();
                    let (error, was_answered) =
                        self.run_stream(channel, address.as_deref(), first, &mut queued).await;
                    tracing::debug!(node = %self.node, lane = ?self.lane, %error, "stream ended");
                    if clock::since(began) > BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                    was_answered
                }
                Err(reason) => {
                    tracing::debug!(node = %self.node, lane = ?self.lane, reason, "cannot connect");
                    fail(first, &reason);
                    false
                }
            };
            if was_answered {
                failing = Failing::default();
            } else {
                if let Some(address) = address {
                    self.office.directory.not_at(self.node, &address);
                }
                let silence_max = self.office.config.silence_max;
                let lasts = failing.again(began, clock::monotonic(), silence_max);
                self.office.note_failing(self.node, self.lane, lasts);
            }
            // What comes while we may not try again fails at once: nobody waits for a dead node.
            let retry = tokio::time::sleep(clock::jitter(backoff));
            tokio::pin!(retry);
            loop {
                tokio::select! {
                    () = &mut retry => break,
                    next = queued.recv() => match next {
                        Some(outgoing) => fail(outgoing, "waiting to reconnect"),
                        None => return,
                    },
                }
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn is_unknown(&self) -> bool {
        self.office.directory.peer_address(self.node).is_none()
    }

    /// Makes nobody find this link any more, unless somebody just did.
    fn leave_map(&self, queued: &mut mpsc::Receiver<Outgoing>) -> bool {
        let Some(links) = self.links.upgrade() else { return true };
        // Ordering: messages are left under this lock, so none comes between the look and the end.
        let mut links = links.lock();
        if !queued.is_empty() {
            return false;
        }
        links.remove(&(self.node, self.lane));
        self.office.forget(self.node);
        tracing::info!(node = %self.node, lane = ?self.lane, "node is gone, its link is closed");
        true
    }

    /// Runs one stream until it fails: why, and whether the node has answered on it. Whatever was sent and has
    /// no answer then fails with it, for the same cause.
    async fn run_stream(
        &self,
        channel: Channel,
        address: Option<&str>,
        first: Outgoing,
        queued: &mut mpsc::Receiver<Outgoing>,
    ) -> (Cause, bool) {
        let mut pending = Pending::default();
        pending.push(first);
        let mut waiting = HashMap::default();
        let mut answering = None;
        let error = self
            .exchange(channel, address, &mut pending, &mut waiting, queued, &mut answering)
            .await;
        // Somebody took the connection who is not the node, or is about to end.
        if answering.is_none() {
            self.office.note_attempt(self.node, false);
        }
        // What was not in a frame surely was not sent.
        for outgoing in pending.messages {
            fail(outgoing, &error.to_string());
        }
        for answer in waiting.into_values() {
            answer.send(Err(error.clone()));
        }
        (error, answering.is_some())
    }

    async fn exchange(
        &self,
        channel: Channel,
        address: Option<&str>,
        pending: &mut Pending,
        waiting: &mut HashMap<u64, handoff::Sender<Answer>>,
        queued: &mut mpsc::Receiver<Outgoing>,
        answering: &mut Option<Answering>,
    ) -> Cause {
        let lost = |why: &str| Cause::Lost(why.to_owned());
        let mut client = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(FRAME_BYTES_ACCEPTED)
            .max_encoding_message_size(FRAME_BYTES_ACCEPTED);
        let (frames, stream) = mpsc::channel(2);
        let opening = async {
            client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
            let path = PathAndQuery::from_static(EXCHANGE);
            client.streaming(Request::new(ReceiverStream::new(stream)), path, FrameCodec).await
        };
        tokio::pin!(opening);
        let mut sweep_at = 4096;
        let mut answers: Option<Streaming<v1::MessageBatch>> = None;
        let patience = self.office.config.silence_max;
        let mut progress = Instant::now();
        let silence = sleep_until(progress + patience);
        let look = tokio::time::sleep(LOOK_INTERVAL);
        tokio::pin!(silence, look);
        loop {
            // Answers are read also while there is no room to send. The other side stops reading while
            // its answers find no room: if both waited for the other to read, both would for ever.
            tokio::select! {
                opened = &mut opening, if answers.is_none() => match opened {
                    Ok(response) => {
                        answers = Some(response.into_inner());
                        self.reached.send_modify(|times| *times += 1);
                    }
                    Err(status) => return lost(&status.to_string()),
                },
                answer = next_answer(&mut answers) => match answer {
                    Ok(Some(batch)) => {
                        progress = Instant::now();
                        if let Err(stranger) = self.take_answers(batch, waiting) {
                            return stranger;
                        }
                        if answering.is_none() {
                            self.office.note_answer(self.node, self.lane);
                            if let Some(address) = address {
                                self.office.directory.answers_at(self.node, address);
                            }
                            *answering = Some(Answering::begin(&self.office, self.node));
                        }
                    }
                    Ok(None) => return lost("closed by the other side"),
                    Err(status) => return lost(&status.to_string()),
                },
                room = frames.reserve(), if !pending.messages.is_empty() => {
                    let Ok(room) = room else { return lost("the stream was closed") };
                    progress = Instant::now();
                    let batch = self.frame(pending, waiting);
                    if !batch.messages.is_empty() {
                        self.office.metrics.raft.add_messages(&batch.messages);
                        room.send(batch);
                    }
                    if waiting.len() > sweep_at {
                        waiting.retain(|_, answer| !answer.is_closed());
                        sweep_at = waiting.len() * 2 + 4096;
                    }
                },
                next = queued.recv(), if pending.fits() => match next {
                    Some(outgoing) => {
                        pending.push(outgoing);
                        // One turn of the runtime, so that whoever can speak now shares the frame.
                        tokio::task::yield_now().await;
                        while pending.fits() {
                            let Ok(outgoing) = queued.try_recv() else { break };
                            pending.push(outgoing);
                        }
                    }
                    None => return lost("shutting down"),
                },
                // Log entries are answered as soon as they are on the disk, whatever the load; so when
                // nothing at all gets on, the node is stuck, or what is between. What waits for its turn
                // in this process does not count, nor do the requests of clients, which may wait for
                // a leader.
                () = &mut silence, if self.lane == Lane::Bulk => {
                    waiting.retain(|_, answer| !answer.is_closed());
                    let is_idle = waiting.is_empty() && pending.messages.is_empty();
                    if is_idle {
                        progress = Instant::now();
                    }
                    if progress + patience <= Instant::now() {
                        return lost(&format!("it has answered nothing for {patience:?}"));
                    }
                    silence.as_mut().reset(progress + patience);
                }
                () = &mut look => {
                    if self.is_unknown() {
                        return lost("the node does not belong to the cluster");
                    }
                    look.as_mut().reset(Instant::now() + LOOK_INTERVAL);
                }
            }
        }
    }

    /// A frame of what waits, but for what nobody waits for any more.
    fn frame(
        &self,
        pending: &mut Pending,
        waiting: &mut HashMap<u64, handoff::Sender<Answer>>,
    ) -> v1::MessageBatch {
        let identity = &self.office.identity;
        let mut batch = v1::MessageBatch {
            cluster_id: bytes::Bytes::copy_from_slice(&identity.cluster.0),
            to_node: self.node.0,
            from_node: identity.node.0,
            from_incarnation: identity.incarnation,
            lane: self.lane.into(),
            disk_level: v1::DiskLevel::Unspecified.into(),
            messages: Vec::with_capacity(pending.messages.len()),
        };
        pending.bytes = 0;
        for Outgoing { message, answer, .. } in pending.messages.drain(..) {
            if !answer.is_closed() {
                waiting.insert(message.request_id, answer);
                batch.messages.push(message);
            }
        }
        batch
    }

    /// Hands answers to whoever waits for them. A refusal is believed whoever it is from; anything else
    /// only from the node that was asked.
    ///
    /// # Errors
    /// When it is another node: what became of all else that was sent on this stream.
    pub(super) fn take_answers(
        &self,
        batch: v1::MessageBatch,
        waiting: &mut HashMap<u64, handoff::Sender<Answer>>,
    ) -> Result<(), Cause> {
        let identity = &self.office.identity;
        let is_of_cluster = batch.cluster_id[..] == identity.cluster.0;
        let is_asked =
            is_of_cluster && batch.from_node == self.node.0 && batch.to_node == identity.node.0;
        if is_asked {
            self.office.room.heard(self.node, batch.disk_level().into());
        }
        // Who a process is does not change once it is somebody. One that is somebody else refuses every frame of this
        // stream by its head (`Inbox::admit`), and hands on none of it. One that is nobody yet may become the node.
        let is_somebody = !batch.cluster_id.is_empty() && batch.from_node != 0;
        let mut is_stranger = is_somebody && !(is_of_cluster && batch.from_node == self.node.0);
        for message in batch.messages {
            if !is_asked && !matches!(message.body, Some(v1::message::Body::Refused(_))) {
                is_stranger = false;
                break;
            }
            if let Some(answer) = waiting.remove(&message.request_id) {
                answer.send(Ok(message));
            }
        }
        if is_asked {
            return Ok(());
        }
        // The stream is of no use then, whatever it said: the node may be elsewhere by now.
        let from = batch.from_node;
        let why = format!("node {from}, maybe of another cluster, answers instead of it");
        Err(if is_stranger { Cause::Stranger(why) } else { Cause::Lost(why) })
    }
}

/// What goes into the next frame.
#[derive(Default)]
struct Pending {
    messages: Vec<Outgoing>,
    bytes: usize,
}

impl Pending {
    fn fits(&self) -> bool {
        fits(self.messages.len(), self.bytes)
    }

    fn push(&mut self, outgoing: Outgoing) {
        if !outgoing.answer.is_closed() {
            self.bytes += outgoing.bytes;
            self.messages.push(outgoing);
        }
    }
}

async fn next_answer(
    answers: &mut Option<Streaming<v1::MessageBatch>>,
) -> Result<Option<v1::MessageBatch>, Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

fn fail(outgoing: Outgoing, reason: &str) {
    outgoing.answer.send(Err(Cause::Unsent(reason.to_owned())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::clock;

    #[test]
    fn failures_that_are_hours_apart_are_not_one() {
        let start = clock::monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut failing = Failing::default();
        let silence_max = Duration::from_secs(20);
        for (why, began, ended, want) in [
            ("the first", 0, 1, 1),
            ("in a row", 3, 25, 25),
            ("hours later", 20_000, 20_001, 1),
            ("in a row again", 20_002, 20_003, 3),
        ] {
            let lasts = failing.again(at(began), at(ended), silence_max);
            assert_eq!(lasts, Duration::from_secs(want), "{why}");
        }
    }
}
