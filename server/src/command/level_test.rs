//! What each feature level means, as bytes: encoded commands, and what applying them answers and leaves.
//!
//! Logs are applied again by newer programs, beside peers that have applied them long ago. So a row here never
//! changes. One that does not hold any more is a change of an apply rule: it needs a level, see `OURS` in
//! `feature_level.rs`, and rows of its own for that level.

use std::fmt::Write as _;

use bytes::Bytes;
use prost::Message as _;

use super::{
    bounds::{ANSWER_BYTES_MAX, EFFECT_BYTES_MAX, READ_BYTES_MAX, VALUE_BYTES_CEILING},
    codec::{decode, encode},
    fixture::*,
};
use flotilla_proto::v1::{WriteCommand, WriteReply, command::Body, command_reply::Reply};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

fn unhex(text: &str) -> Bytes {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

/// The region every row begins with.
fn before() -> Fixture {
    let mut region = Fixture::new();
    let puts = vec![put("b", "old"), put("c", 7_i64.to_string()), put_ttl("d", "soon", 100)];
    region.apply(&write(10, puts));
    region
}

fn rows(region: &Fixture) -> String {
    let rows = &region.store.rows;
    rows.iter().map(|(key, row)| format!("{}={} ", hex(key), hex(row))).collect()
}

/// A row of which only the command is there is completed by what the failure prints.
#[test]
fn entries_of_a_level_mean_for_ever_what_they_meant() {
    let mut got = String::new();
    for line in include_str!("level_1.txt").lines().filter(|line| !line.starts_with('#')) {
        let (why, rest) = line.split_once(": ").expect("a row");
        let bytes = unhex(rest.split(' ').next().expect("a command"));
        let command = decode(bytes.clone()).unwrap_or_else(|error| panic!("{why}: {error}"));
        assert_eq!(encode(&command), bytes, "{why}: one form");
        let mut region = before();
        let mut reply = region.apply(&command);
        if let Some(Reply::Write(WriteReply { refused: Some(refused), .. })) = &mut reply.reply {
            // Words for people, of whichever program answers.
            refused.message.clear();
        }
        let (reply, time_ms) = (hex(&reply.encode_to_vec()), region.region.state.time_ms);
        let row = format!("{why}: {} {reply} {time_ms} {}", hex(&bytes), rows(&region));
        writeln!(got, "{}", row.trim_end()).expect("a string takes it");
    }
    let want: String = include_str!("level_1.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(got, want, "an entry that lies in logs has come to mean something else");
}

/// What is too large to be written down.
#[test]
fn bounds_of_the_first_level_are_what_they_were() {
    assert_eq!(VALUE_BYTES_CEILING, 16 << 20);
    assert_eq!(ANSWER_BYTES_MAX, 18 << 20);
    assert_eq!(EFFECT_BYTES_MAX, 32 << 20);
    assert_eq!(READ_BYTES_MAX, 128 << 20);
    // An append that names no bound has that of a value.
    for (why, bytes, is_refused) in [("full", 16 << 20, false), ("one more", (16 << 20) + 1, true)]
    {
        let mut region = Fixture::new();
        region.write(vec![put("a", vec![0; (16 << 20) - 1])]);
        let more = vec![1; bytes + 1 - (16 << 20)];
        let success = vec![append_bytes("a", &more)];
        let append = WriteCommand { success, ..WriteCommand::default() };
        assert_eq!(append.value_bytes_max, 0);
        let reply = region.apply(&command(1, Body::Write(append)));
        assert_eq!(written(&reply).refused.is_some(), is_refused, "{why}");
    }
}
