//! One call of a history, through Flotilla's own client.

use bytes::Bytes;
use flotilla_client::{Client, Error, Expected, KeyValue, Swapped};

use crate::history::{Answer, Call};

/// Makes one call, and answers what came back and the key's revision where that is told.
///
/// Ordering: the client repeats a write only when the earlier attempt certainly had no effect, so one
/// call is one operation of the history.
pub(super) async fn ask(
    client: &Client,
    key: &Bytes,
    call: &Call,
) -> Result<(Answer, Option<u64>), Error> {
    let key = key.clone();
    let value = |kv: Option<KeyValue>| kv.map(|kv| kv.value);
    let swapped = |swapped: Swapped| {
        if swapped.succeeded {
            (Answer::Conditional(Ok(())), Some(swapped.revision))
        } else {
            // Nothing was written, so no revision is claimed.
            (Answer::Conditional(Err(value(swapped.current))), None)
        }
    };
    Ok(match call {
        Call::Read => {
            let found = client.get(key).await?;
            let revision = found.as_ref().map(|kv| kv.revision);
            (Answer::Value(value(found)), revision)
        }
        Call::Write(new) => (Answer::Written, Some(client.put(key, new.clone()).await?.revision)),
        Call::CompareAndPut { expected, new } => {
            let expected = expected.clone().map_or(Expected::Absent, Expected::Value);
            swapped(client.compare_and_put(key, expected, new.clone(), None).await?)
        }
        Call::Delete => {
            let answer = client.delete(key).await?;
            // A delete of nothing may or may not raise the revision.
            (Answer::Deleted(answer.deleted), answer.deleted.then_some(answer.revision))
        }
        Call::Increment(delta) => {
            let answer = client.increment(key, *delta).await?;
            (Answer::Range(answer.start, answer.end), Some(answer.revision))
        }
        Call::PutIfAbsent(new) => swapped(client.put_if_absent(key, new.clone(), None).await?),
        Call::GetAndPut(new) => {
            let answer = client.get_and_put(key, new.clone(), None).await?;
            (Answer::Previous(value(answer.previous)), Some(answer.revision))
        }
    })
}
