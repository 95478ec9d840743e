//! One committed command becomes state and an answer.

use flotilla_proto::{
    region::Epoch,
    v1::{
        ChecksumCommand, Command, CommandReply, Done, EpochChanged, TickCommand, command::Body,
        command_reply::Reply,
    },
};

use super::{overlay::Overlay, region::RegionState, write};
use crate::storage::engine::Error;

/// What the caller has to do for a command that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// Compute [`checksum`](super::checksum()) of the state as of this entry: with this entry's
    /// batch written and nothing after it.
    Checksum {
        check_id: u64,
    },
    /// The region has other members.
    Members,
}

/// Applies one committed command.
///
/// `region.state` has the log id of the entry already; `Done` answers with its index. The replicated
/// time moves to the command's, if that is later, also when the command is refused.
///
/// # Guarantees
/// State, answer and effect depend on `region`, on the values that `overlay` shows and on `command`
/// only. An expired value that is still on disk and one that is gone make no difference. A refused
/// command changes nothing but the replicated time.
///
/// # Errors
/// A failed read, a value that does not decode, or a command that [`decode`](super::decode()) does
/// not let through. The peer stops: `region` may have moved, the batch must not be written.
pub fn apply(
    command: &Command,
    region: &mut RegionState,
    overlay: &mut Overlay<'_>,
) -> Result<(CommandReply, Effect), Error> {
    region.state.time_ms = region.state.time_ms.max(command.time_ms);
    if !Epoch::of(&region.descriptor).range_verdict(command.epoch_version).fits() {
        let changed = EpochChanged { region: Some(region.descriptor.clone()) };
        return Ok((reply(Reply::EpochChanged(changed)), Effect::None));
    }
    let done = Reply::Done(Done { index: region.state.applied_index });
    match &command.body {
        Some(Body::Write(write)) => {
            let answer = write::apply(write, region, overlay)?;
            Ok((reply(Reply::Write(answer)), Effect::None))
        }
        Some(Body::Tick(TickCommand {})) => Ok((reply(done), Effect::None)),
        Some(Body::Checksum(ChecksumCommand { check_id })) => {
            Ok((reply(done), Effect::Checksum { check_id: *check_id }))
        }
        None => Err(Error::Corrupt { message: "a committed command has no body".to_owned() }),
    }
}

fn reply(reply: Reply) -> CommandReply {
    CommandReply { reply: Some(reply) }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::ApplyState;

    use super::{super::fixture::*, *};

    #[test]
    fn another_epoch_applies_nothing_but_the_time() {
        for (why, version) in
            [("a split came first", VERSION - 1), ("from a later one", VERSION + 1)]
        {
            let mut region = Fixture::new();
            let mut command = write(70, vec![put("a", "1")]);
            command.epoch_version = version;
            let before = region.clone();
            let changed = EpochChanged { region: Some(before.region.descriptor.clone()) };
            assert_eq!(region.apply(&command).reply, Some(Reply::EpochChanged(changed)), "{why}");
            assert_eq!(region.store, before.store, "{why}");
            assert_eq!(
                region.region.state,
                ApplyState { time_ms: 70, ..before.region.state },
                "{why}"
            );
        }
    }

    #[test]
    fn replicated_time_never_goes_back() {
        let mut region = Fixture::new();
        for (why, time_ms, want) in [
            ("forward", 50, 50),
            ("a leader whose clock is behind", 20, 50),
            ("the same", 50, 50),
            ("forward again", 51, 51),
        ] {
            let answer = region.apply(&tick(time_ms));
            assert!(matches!(answer.reply, Some(Reply::Done(_))), "{why}");
            assert_eq!(region.region.state.time_ms, want, "{why}");
        }
        assert_eq!(region.region.state.revision, 0, "a tick is no write");
    }

    #[test]
    fn checksum_answers_its_index_and_asks_for_the_sum() {
        let mut region = Fixture::new();
        region.region.state.applied_index = 17;
        let mut batch = crate::storage::batch::WriteBatch::new();
        let mut overlay = Overlay::new(&region.store, &mut batch);
        let command = command(5, Body::Checksum(ChecksumCommand { check_id: 9 }));
        let applied = apply(&command, &mut region.region, &mut overlay).expect("no read fails");
        assert_eq!(
            applied,
            (reply(Reply::Done(Done { index: 17 })), Effect::Checksum { check_id: 9 })
        );
        assert!(batch.is_empty());
    }

    #[test]
    fn a_command_without_a_body_stops_the_peer() {
        let mut region = Fixture::new();
        let mut batch = crate::storage::batch::WriteBatch::new();
        let mut overlay = Overlay::new(&region.store, &mut batch);
        let command = Command { epoch_version: VERSION, time_ms: 1, ..Command::default() };
        assert!(apply(&command, &mut region.region, &mut overlay).is_err());
    }
}
