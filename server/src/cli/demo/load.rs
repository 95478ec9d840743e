//! Many callers that write at once.

use flotilla_proto::v1::{Op, PutOp, WriteRequest, WriteResponse, op};
use futures::{TryStreamExt as _, stream};
use tonic::Status;

use super::{
    data::Record,
    screen::Progress,
    session::{Session, ask_until_answered, request},
};

/// Requests under way at once, spread over the nodes.
pub(super) const CALLERS: usize = 32;
/// Records in a request.
pub(super) const BATCH: usize = 256;

/// Stores all records, and returns when every one was acknowledged.
///
/// # Errors
/// When a batch is refused, or nobody takes it for twenty seconds.
pub(super) async fn load(sessions: &[Session], records: &[Record]) -> anyhow::Result<()> {
    let progress = Progress::new("load", records.len());
    let batches = records.chunks(BATCH).enumerate().map(Ok::<_, anyhow::Error>);
    stream::iter(batches)
        .try_for_each_concurrent(CALLERS, async |(number, batch)| {
            let ops: Vec<Op> = batch.iter().map(put).collect();
            ask_until_answered(sessions, number, async |session| {
                let write = WriteRequest { ops: ops.clone(), ..Default::default() };
                let answer = session.kv.clone().write(request(write)).await?.into_inner();
                everything_applied(&answer, batch.len())
            })
            .await?;
            progress.add(batch.len());
            Ok(())
        })
        .await
}

fn put(record: &Record) -> Op {
    let put = PutOp { key: record.key.clone(), value: record.value.clone(), ..Default::default() };
    Op { op: Some(op::Op::Put(put)) }
}

/// A write over several regions can succeed in part; then it counts as failed.
fn everything_applied(answer: &WriteResponse, count: usize) -> Result<(), Status> {
    if let Some(failed) = answer.regions.iter().find(|region| !region.error.is_empty()) {
        return Err(Status::unavailable(format!("region {}: {}", failed.region_id, failed.error)));
    }
    let applied: usize = answer.regions.iter().map(|region| region.op_indexes.len()).sum();
    if applied == count {
        Ok(())
    } else {
        Err(Status::data_loss(format!("only {applied} of {count} records were acknowledged")))
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::RegionWriteResult;

    use super::*;

    #[test]
    fn batch_that_was_applied_in_part_is_not_acknowledged() {
        let region = |ops: Vec<u32>, error: &str| RegionWriteResult {
            op_indexes: ops,
            error: error.to_owned(),
            ..Default::default()
        };
        for (regions, whole) in [
            (vec![region(vec![0, 1, 2], "")], true),
            (vec![region(vec![0, 2], ""), region(vec![1], "")], true),
            (vec![region(vec![0, 2], ""), region(vec![1], "no leader")], false),
            (vec![region(vec![0, 1], "")], false),
            (vec![], false),
        ] {
            let answer = WriteResponse { atomic: false, regions };
            assert_eq!(everything_applied(&answer, 3).is_ok(), whole, "{answer:?}");
        }
    }
}
