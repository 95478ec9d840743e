//! How many fields a message has, told from its bytes before it is decoded.
//!
//! Two bytes of a message can become a hundred in memory: an empty element of a repeated field. So who
//! takes messages from others counts first and refuses what has too many. Nothing here allocates, and
//! what is counted is never less than what a decoder would make.

/// Counts the fields at the top of messages that arrive in pieces, framed as gRPC does.
///
/// The walk steps over what is in a field, so its time is that of the fields and not of their bytes.
#[derive(Clone, Debug)]
pub struct FieldCount {
    /// Fields that may still come.
    left: usize,
    state: State,
    /// Of the present message.
    bytes_left: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Compressed or not, then the length, of which so many bytes are here.
    Head {
        taken: u8,
        length: u32,
    },
    Tag(Varint),
    /// Inside of a number.
    Number,
    Length(Varint),
    Skip {
        bytes: u64,
    },
    /// No decoder gets further than this.
    Malformed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    /// The value, once its last byte is here.
    fn push(&mut self, byte: u8) -> Option<u64> {
        self.value |= u64::from(byte & 0x7f).checked_shl(self.shift).unwrap_or(0);
        self.shift = self.shift.saturating_add(7);
        (byte < 0x80).then_some(self.value)
    }
}

/// A message, or several on one stream, has more fields than are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyFields;

impl FieldCount {
    /// Accepts `max` fields, over all messages of the stream.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { left: max, state: State::Head { taken: 0, length: 0 }, bytes_left: 0 }
    }

    /// The next piece of the stream.
    ///
    /// # Errors
    /// Once there are too many fields; the rest is not looked at.
    pub fn take(&mut self, mut piece: &[u8]) -> Result<(), TooManyFields> {
        while let Some((&byte, rest)) = piece.split_first() {
            match &mut self.state {
                State::Malformed => return Ok(()),
                State::Head { taken, length } => {
                    // The first byte says whether the message is compressed: none is taken then.
                    if *taken > 0 {
                        *length = *length << 8 | u32::from(byte);
                    }
                    *taken += 1;
                    piece = rest;
                    if *taken == 5 {
                        self.bytes_left = u64::from(*length);
                        self.state = State::Tag(Varint::default());
                        self.end_of_message();
                    }
                    continue;
                }
                State::Skip { bytes } => {
                    let step = (*bytes).min(piece.len() as u64);
                    *bytes -= step;
                    let done = *bytes == 0;
                    self.bytes_left -= step;
                    // It is at most the length of a slice.
                    piece = &piece[usize::try_from(step).unwrap_or(piece.len())..];
                    if done {
                        self.state = State::Tag(Varint::default());
                        self.end_of_message();
                    }
                    continue;
                }
                State::Tag(tag) => {
                    if let Some(tag) = tag.push(byte) {
                        self.left = self.left.checked_sub(1).ok_or(TooManyFields)?;
                        self.state = match tag & 7 {
                            0 => State::Number,
                            1 => State::Skip { bytes: 8 },
                            2 => State::Length(Varint::default()),
                            // A group: its fields are counted as if they stood alone.
                            3 | 4 => State::Tag(Varint::default()),
                            5 => State::Skip { bytes: 4 },
                            _ => State::Malformed,
                        };
                    }
                }
                State::Number => {
                    if byte < 0x80 {
                        self.state = State::Tag(Varint::default());
                    }
                }
                State::Length(length) => {
                    if let Some(bytes) = length.push(byte) {
                        self.state = match bytes {
                            0 => State::Tag(Varint::default()),
                            bytes => State::Skip { bytes },
                        };
                    }
                }
            }
            piece = rest;
            self.bytes_left -= 1;
            match self.state {
                State::Skip { bytes } if bytes > self.bytes_left => self.state = State::Malformed,
                _ => self.end_of_message(),
            }
        }
        Ok(())
    }

    fn end_of_message(&mut self) {
        if self.bytes_left == 0 && !matches!(self.state, State::Malformed) {
            self.state = State::Head { taken: 0, length: 0 };
        }
    }
}

/// Which fields of a message hold messages of which the fields count as well.
#[derive(Debug)]
pub struct Shape(&'static [(u64, &'static Shape)]);

const LEAF: Shape = Shape(&[]);
/// `WriteCommand`: comparisons and both branches.
const WRITE: Shape = Shape(&[(1, &LEAF), (2, &LEAF), (3, &LEAF)]);
/// `ReadCommand`: keys of a read of points, and a transaction.
const READ: Shape = Shape(&[(10, &LEAF), (12, &WRITE)]);
const FORWARD: Shape = Shape(&[(3, &WRITE), (4, &READ)]);
/// `WriteReply` and `ReadReply`: results and items; a transaction's reply in the latter.
const WRITE_REPLY: Shape = Shape(&[(3, &LEAF)]);
const READ_REPLY: Shape = Shape(&[(1, &LEAF), (4, &WRITE_REPLY)]);
/// Errors travel with them as bytes.
const FORWARD_RESULT: Shape = Shape(&[(1, &WRITE_REPLY), (2, &READ_REPLY)]);
/// `Membership`: sets of voters with their members, and peers.
const MEMBERSHIP: Shape = Shape(&[(1, &LEAF), (2, &LEAF)]);
const ENTRY: Shape = Shape(&[(5, &MEMBERSHIP)]);
const APPEND: Shape = Shape(&[(3, &ENTRY)]);
const MESSAGE: Shape = Shape(&[(10, &APPEND), (18, &FORWARD), (19, &FORWARD_RESULT)]);

/// Any message, of which only the fields at its top count.
pub const TOP: Shape = LEAF;
/// `MessageBatch`, as nodes send it to each other.
pub const MESSAGE_BATCH: Shape = Shape(&[(6, &MESSAGE)]);

/// Refuses `message` when it has more than `max` fields, those inside of its parts that `shape` names
/// included. A message that no decoder understands is not this function's to refuse.
///
/// # Errors
/// When there are more.
pub fn check_fields(message: &[u8], shape: &Shape, max: usize) -> Result<(), TooManyFields> {
    // A field takes a byte at least, an element of a repeated message two.
    if message.len() <= max {
        return Ok(());
    }
    let mut left = max;
    walk(message, shape, &mut left)
}

fn walk(mut bytes: &[u8], shape: &Shape, left: &mut usize) -> Result<(), TooManyFields> {
    while !bytes.is_empty() {
        let Some(tag) = varint(&mut bytes) else { return Ok(()) };
        *left = left.checked_sub(1).ok_or(TooManyFields)?;
        let skip = match tag & 7 {
            0 => {
                if varint(&mut bytes).is_none() {
                    return Ok(());
                }
                0
            }
            1 => 8,
            2 => {
                let Some(length) = varint(&mut bytes) else { return Ok(()) };
                let Ok(length) = usize::try_from(length) else { return Ok(()) };
                let Some(part) = bytes.get(..length) else { return Ok(()) };
                if let Some((_, shape)) = shape.0.iter().find(|(field, _)| *field == tag >> 3) {
                    walk(part, shape, left)?;
                }
                length
            }
            3 | 4 => 0,
            5 => 4,
            _ => return Ok(()),
        };
        let Some(rest) = bytes.get(skip..) else { return Ok(()) };
        bytes = rest;
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut varint = Varint::default();
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if let Some(value) = varint.push(byte) {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::v1;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("small").to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    fn txn(ops: usize) -> v1::TxnRequest {
        let put = v1::PutOp { key: "key".into(), value: vec![0; 300].into(), ..Default::default() };
        let op = v1::Op { op: Some(v1::op::Op::Put(put)) };
        let context = Some(v1::RequestContext { keyspace: 300, ..Default::default() });
        let compare = vec![v1::Compare::default()];
        v1::TxnRequest { context, compare, success: vec![op; ops], failure: vec![] }
    }

    #[test]
    fn the_fields_at_the_top_are_counted_however_the_bytes_arrive() {
        let bytes = framed(&txn(10).encode_to_vec());
        for piece in [1, 2, 3, 7, 250, bytes.len()] {
            let count = |max| {
                let mut count = FieldCount::new(max);
                bytes.chunks(piece).try_for_each(|piece| count.take(piece))
            };
            assert_eq!(count(12), Ok(()), "pieces of {piece}");
            assert_eq!(count(11), Err(TooManyFields), "pieces of {piece}");
        }
    }

    #[test]
    fn messages_of_one_stream_share_the_bound() {
        let bytes = [framed(&[]), framed(&txn(1).encode_to_vec()), framed(&txn(1).encode_to_vec())];
        let count = |max| FieldCount::new(max).take(&bytes.concat());
        assert_eq!((count(6), count(5)), (Ok(()), Err(TooManyFields)));
    }

    #[test]
    fn two_bytes_for_an_element_are_an_element() {
        let empty_ops = [0x1a, 0].repeat(1000);
        assert_eq!(FieldCount::new(999).take(&framed(&empty_ops)), Err(TooManyFields));
        assert_eq!(FieldCount::new(1000).take(&framed(&empty_ops)), Ok(()));
    }

    #[test]
    fn every_kind_of_field_is_stepped_over() {
        // A number of ten bytes, eight bytes, bytes, a group with a field in it, four bytes.
        let all = [
            &[0x08][..],
            &[0xff; 9],
            &[0x01],
            &[0x11, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x1a, 3, 0x1a, 0x1a, 0x1a],
            &[0x23, 0x08, 0x01, 0x24],
            &[0x2d, 1, 2, 3, 4],
            &[0x1a, 0],
        ]
        .concat();
        let fields = 8;
        assert_eq!(FieldCount::new(fields).take(&framed(&all)), Ok(()));
        assert_eq!(FieldCount::new(fields - 1).take(&framed(&all)), Err(TooManyFields));
        let mut left = fields;
        assert_eq!((walk(&all, &LEAF, &mut left), left), (Ok(()), 0));
    }

    #[test]
    fn a_frame_of_nodes_is_counted_inside() {
        let entries = vec![v1::LogEntry::default(); 50];
        let append = v1::AppendEntries { entries, ..Default::default() };
        let write = v1::WriteCommand { success: vec![v1::Op::default(); 60], ..Default::default() };
        let keys = vec![Bytes::new(); 70];
        let points = v1::read_command::Body::Points(v1::PointReads { keys });
        let read = v1::ReadCommand { body: Some(points), ..Default::default() };
        let results = vec![v1::OpResult::default(); 80];
        let reply = v1::WriteReply { results, ..Default::default() };
        let forward = |request| {
            let request = Some(request);
            v1::message::Body::Forward(v1::Forward { request, ..Default::default() })
        };
        for (why, elements, body) in [
            ("entries", 50, v1::message::Body::Append(append)),
            ("operations", 60, forward(v1::forward::Request::Write(write))),
            ("keys", 70, forward(v1::forward::Request::Read(read))),
            (
                "results",
                80,
                v1::message::Body::ForwardResult(v1::ForwardResult {
                    result: Some(v1::forward_result::Result::Write(reply)),
                }),
            ),
        ] {
            let message = v1::Message { body: Some(body), ..Default::default() };
            let batch = v1::MessageBatch { messages: vec![message], ..Default::default() };
            let bytes = batch.encode_to_vec();
            assert_eq!(check_fields(&bytes, &MESSAGE_BATCH, elements + 5), Ok(()), "{why}");
            let too_many = check_fields(&bytes, &MESSAGE_BATCH, elements);
            assert_eq!(too_many, Err(TooManyFields), "{why}");
        }
        let empty = [0x32, 0].repeat(1000);
        assert_eq!(check_fields(&empty, &MESSAGE_BATCH, 999), Err(TooManyFields));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_walked_without_a_panic_and_no_less_is_counted_than_decoded(
            bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..200),
            piece in 1..20_usize,
        ) {
            let mut count = FieldCount::new(usize::MAX);
            let framed = framed(&bytes);
            for piece in framed.chunks(piece) {
                proptest::prop_assert_eq!(count.take(piece), Ok(()));
            }
            let mut left = usize::MAX;
            let _ = walk(&bytes, &MESSAGE_BATCH, &mut left);
            if let Ok(batch) = v1::MessageBatch::decode(&bytes[..]) {
                proptest::prop_assert!(batch.messages.len() <= usize::MAX - left);
            }
            if let Ok(txn) = v1::TxnRequest::decode(&bytes[..]) {
                let elements = txn.compare.len() + txn.success.len() + txn.failure.len();
                proptest::prop_assert!(elements <= usize::MAX - count.left);
            }
        }
    }
}
