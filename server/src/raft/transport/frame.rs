//! What goes over a stream between nodes at a time: many messages, and no more than can be held.

use bytes::{Buf as _, Bytes};
use flotilla_proto::{
    v1::{self, log_entry::Payload, message::Body},
    wire::{MESSAGE_BATCH, TOP, TooManyFields, check_fields},
};
use prost::Message as _;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Most messages and bytes in one frame; one message is always taken, however large.
pub(super) const FRAME_MESSAGES_MAX: usize = 1024;
const FRAME_BYTES_MAX: usize = 2 << 20;
/// Bound: largest message between two nodes. A larger one fails by itself, and with it nobody else's.
/// Above all that a node accepts of a client, and above what reads and transactions answer.
pub const NODE_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Largest frame that is read: one that was nearly full, a largest message more, and what is around it.
pub(super) const FRAME_BYTES_ACCEPTED: usize =
    FRAME_BYTES_MAX + NODE_MESSAGE_BYTES_MAX + (64 << 10);
/// More than any frame has beside its messages.
const FRAME_OTHERS_MAX: usize = 32;
/// Bound: fields in one frame, with those of its log entries and of clients' requests and answers. Above what
/// fits into one, of two bytes each, and what the message after that has: some for each of its entries, of
/// which there are 65 536 at most (`raft.append_entries_max`), or one for each of as many rows.
const FRAME_FIELDS_MAX: usize = FRAME_BYTES_MAX / 2 + (1 << 19);
/// A smaller payload is copied out of what it arrived in, which may be as large as this.
const BUFFER_BYTES: usize = 64 << 10;
/// What a message takes in memory beyond its parts of variable length.
const MESSAGE_OVERHEAD: usize = 256;

const _: () = assert!(NODE_MESSAGE_BYTES_MAX > flotilla_proto::MESSAGE_BYTES_MAX + (1 << 20));

/// What a message counts where bytes are bounded.
pub(super) fn counted_bytes(message: &v1::Message) -> usize {
    message.encoded_len() + MESSAGE_OVERHEAD
}

/// Whether one more message may join a frame.
pub(super) fn fits(messages: usize, bytes: usize) -> bool {
    messages < FRAME_MESSAGES_MAX && bytes < FRAME_BYTES_MAX
}

/// Frames as tonic's own codec writes them. Before one is decoded, what is in it is counted: an empty
/// message is two bytes, and a hundred times as many in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = v1::MessageBatch;
    type Decode = v1::MessageBatch;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for FrameCodec {
    type Item = v1::MessageBatch;
    type Error = Status;

    fn encode(&mut self, frame: v1::MessageBatch, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        frame.encode(buf).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for FrameCodec {
    type Item = v1::MessageBatch;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<v1::MessageBatch>, Status> {
        let len = buf.remaining();
        decode(buf.copy_to_bytes(len)).map(Some)
    }
}

fn decode(frame: Bytes) -> Result<v1::MessageBatch, Status> {
    count(&frame)?;
    let frame_bytes = frame.len();
    let mut batch = v1::MessageBatch::decode(frame)
        .map_err(|error| Status::invalid_argument(format!("a frame does not decode: {error}")))?;
    for message in &mut batch.messages {
        let Some(Body::Append(append)) = &mut message.body else { continue };
        for entry in &mut append.entries {
            if let Some(Payload::Command(command)) = &mut entry.payload {
                let len = command.len();
                // Entries stay in memory for long, and a slice keeps all of what it is a slice of.
                if len < BUFFER_BYTES || len < frame_bytes / 2 {
                    *command = Bytes::copy_from_slice(command);
                }
            }
        }
    }
    Ok(batch)
}

/// Refuses a frame that has more in it than this program would ever put in.
fn count(frame: &[u8]) -> Result<(), Status> {
    let too_many = |what: &str, most: usize| {
        Status::resource_exhausted(format!("a frame has more than {most} {what}"))
    };
    check_fields(frame, &TOP, FRAME_MESSAGES_MAX + FRAME_OTHERS_MAX)
        .map_err(|TooManyFields| too_many("messages", FRAME_MESSAGES_MAX))?;
    check_fields(frame, &MESSAGE_BATCH, FRAME_FIELDS_MAX)
        .map_err(|TooManyFields| too_many("fields", FRAME_FIELDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(payloads: &[usize]) -> v1::Message {
        let entries = payloads.iter().zip(1..).map(|(bytes, index)| v1::LogEntry {
            term: 1,
            index,
            payload: Some(Payload::Command(vec![7; *bytes].into())),
        });
        let append = v1::AppendEntries { entries: entries.collect(), ..Default::default() };
        v1::Message { request_id: 1, body: Some(Body::Append(append)), ..Default::default() }
    }

    fn frame(messages: Vec<v1::Message>) -> v1::MessageBatch {
        let cluster_id = vec![1; 16].into();
        v1::MessageBatch { cluster_id, to_node: 1 << 40, messages, ..Default::default() }
    }

    #[test]
    fn frames_arrive_as_they_were_sent() {
        for messages in [
            vec![],
            vec![append(&[])],
            vec![append(&[0, 1, 100]), v1::Message::default(), append(&[1 << 20, 9])],
            vec![v1::Message::default(); FRAME_MESSAGES_MAX],
        ] {
            let sent = frame(messages);
            assert_eq!(decode(sent.encode_to_vec().into()).unwrap(), sent);
        }
    }

    #[test]
    fn frame_is_counted_before_it_is_decoded() {
        let messages = FRAME_MESSAGES_MAX + FRAME_OTHERS_MAX;
        let many = frame(vec![v1::Message::default(); messages]).encode_to_vec();
        let refused = decode(many.into()).unwrap_err();
        assert!(refused.message().contains("more than 1024 messages"), "{refused}");

        let entries = vec![v1::LogEntry::default(); FRAME_FIELDS_MAX / 2];
        let entries = Body::Append(v1::AppendEntries { entries, ..Default::default() });
        let success = vec![v1::Op::default(); FRAME_FIELDS_MAX / 2];
        let write = v1::WriteCommand { success, ..Default::default() };
        let request = Some(v1::forward::Request::Write(write));
        let ops = Body::Forward(v1::Forward { request, ..Default::default() });
        for half in [entries, ops] {
            let half = v1::Message { body: Some(half), ..Default::default() };
            let many = frame(vec![half.clone(), half]).encode_to_vec();
            let refused = decode(many.into()).unwrap_err();
            assert!(refused.message().contains("more than 1572864 fields"), "{refused}");
        }
    }

    #[test]
    fn damaged_frame_is_an_error() {
        let whole = frame(vec![append(&[3, 200])]).encode_to_vec();
        for len in 1..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..len]);
            // Cut between two fields it is a shorter frame.
            if let Ok(batch) = decode(cut) {
                assert!(batch.messages.is_empty(), "cut at {len}");
            }
        }
        assert!(decode(Bytes::from_static(&[0xff; 40])).is_err());
    }

    /// A slice keeps the whole buffer that it was received in.
    #[test]
    fn entry_keeps_no_more_than_twice_its_size_in_memory() {
        for (why, payloads, shared) in [
            ("small entries", vec![10, 1000], vec![false, false]),
            ("a large one among larger ones", vec![600 << 10, 700 << 10], vec![false, true]),
            ("one that is nearly all", vec![1 << 20], vec![true]),
        ] {
            let sent: Bytes = frame(vec![append(&payloads)]).encode_to_vec().into();
            let within = sent.as_ptr_range();
            let batch = decode(sent).unwrap();
            let Some(Body::Append(append)) = &batch.messages[0].body else { panic!("{why}") };
            let found: Vec<bool> = append
                .entries
                .iter()
                .map(|entry| match &entry.payload {
                    Some(Payload::Command(command)) => within.contains(&command.as_ptr()),
                    other => panic!("{why}: {other:?}"),
                })
                .collect();
            assert_eq!(found, shared, "{why}");
        }
    }
}
