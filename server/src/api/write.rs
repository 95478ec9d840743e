//! Many mutations: atomically in one region, or region by region.

use flotilla_proto::{
    range::KeyRange,
    touched,
    v1::{self, op::Op},
};
use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::{
    batch::REGIONS_IN_PARALLEL,
    context,
    kv::KvApi,
    ops::{self, Gets},
    refused::Entries,
    regions::RegionMap,
    retry::{Backoff, mends},
    status::code,
};
use crate::{
    command::RESULT_BYTES,
    error::Error,
    ids::RegionId,
    router::{Context, Requests},
};

/// What an operation's index, and its share of a region's head, take in an answer.
const PIECE_BYTES: usize = 32;

/// An operation, or the part of a range deletion that lies in one region.
#[derive(Clone, Debug)]
struct Piece {
    /// Of the operation in the request.
    index: u32,
    op: v1::Op,
}

/// The pieces of one region, in the order of the request.
#[derive(Debug)]
struct Group {
    region: RegionId,
    pieces: Vec<Piece>,
}

impl<R: Requests> KvApi<R> {
    pub(super) async fn write(
        &self,
        deadline: Instant,
        request: v1::WriteRequest,
    ) -> Result<v1::WriteResponse, Error> {
        let v1::WriteRequest { context, ops: mut list, require_atomic } = request;
        self.limits.check_count("ops", list.len())?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let bytes = ops::encode_ops(&self.limits, keyspace, "ops", Gets::Refused, &mut list)?;
        self.limits.check_request_bytes(bytes)?;
        let pieces: Vec<Piece> = (0..).zip(list).map(|(index, op)| Piece { index, op }).collect();
        if let Some((region, _)) = cx.route {
            let group = Group { region, pieces };
            let result = self.write_group(&cx, &group, self.limits.answer_bytes_max).await?;
            return Ok(v1::WriteResponse { atomic: true, regions: vec![result] });
        }
        self.write_regions(&cx, pieces, require_atomic).await
    }

    /// Writes group by group, and cuts what was refused because regions had changed once more.
    ///
    /// Invariant: each piece is applied at most once: it is tried again only after an error that
    /// promises that nothing of its group was applied.
    async fn write_regions(
        &self,
        cx: &Context,
        mut open: Vec<Piece>,
        require_atomic: bool,
    ) -> Result<v1::WriteResponse, Error> {
        let mut backoff = Backoff::until(cx.deadline);
        let mut done = Vec::new();
        let mut failed: Vec<(Group, Error)> = Vec::new();
        let mut answer_left = self.limits.answer_bytes_max;
        loop {
            let groups = match self.cut(open) {
                Ok(groups) => groups,
                // Nothing to add to what the other regions did.
                Err((_, error)) if done.is_empty() && failed.is_empty() => return Err(error),
                Err((pieces, error)) => {
                    failed.push((Group { region: RegionId(0), pieces }, error));
                    break;
                }
            };
            if require_atomic && groups.len() > 1 {
                let regions = groups.iter().map(|group| group.region).collect();
                return Err(Error::CrossRegion { regions });
            }
            // Bound: what all regions answer together fits into one message, or it could not be told
            // that they have applied it.
            let Some(shares) = share(answer_left, &groups) else {
                let error = Error::InvalidArgument {
                    field: "answer".into(),
                    message: "the regions of these operations would answer too much".into(),
                    limit: self.limits.answer_bytes_max as u64,
                };
                if done.is_empty() && failed.is_empty() {
                    return Err(error);
                }
                failed.extend(groups.into_iter().map(|group| (group, error.clone())));
                break;
            };
            let cx = &cx.in_parts(groups.len());
            let writes: Vec<_> =
                groups
                    .into_iter()
                    .zip(shares)
                    .map(|(group, share)| async move {
                        (self.write_group(cx, &group, share).await, group)
                    })
                    .collect();
            let mut writes = stream::iter(writes).buffer_unordered(REGIONS_IN_PARALLEL);
            let mut moved: Vec<(Group, Error)> = Vec::new();
            while let Some((result, group)) = writes.next().await {
                match result {
                    Ok(result) => {
                        let bytes = result.results.iter().map(prost::Message::encoded_len);
                        answer_left = answer_left.saturating_sub(bytes.sum());
                        done.push(result);
                    }
                    Err(error) if mends(&error) => moved.push((group, error)),
                    Err(error) => failed.push((group, error)),
                }
            }
            let Some((_, error)) = moved.first() else { break };
            if backoff.wait(error.clone()).await.is_err() {
                failed.append(&mut moved);
                break;
            }
            open = moved.into_iter().flat_map(|(group, _)| group.pieces).collect();
            open.sort_by_key(|piece| piece.index);
        }
        let nothing_applied =
            done.is_empty() && failed.iter().all(|(_, error)| !error.maybe_applied());
        if nothing_applied || (done.is_empty() && failed.len() == 1) {
            let first = failed.into_iter().next();
            return Err(first.map_or_else(no_outcome, |(_, error)| error));
        }
        let atomic = done.len() == 1 && failed.is_empty();
        done.extend(failed.into_iter().map(|(group, error)| v1::RegionWriteResult {
            region_id: group.region.0,
            op_indexes: group.indexes(),
            error: error.to_string(),
            maybe_applied: error.maybe_applied(),
            code: code(&error) as i32,
            detail: Some(error.detail()),
            ..v1::RegionWriteResult::default()
        }));
        Ok(v1::WriteResponse { atomic, regions: done })
    }

    async fn write_group(
        &self,
        cx: &Context,
        group: &Group,
        answer_bytes_max: usize,
    ) -> Result<v1::RegionWriteResult, Error> {
        let success = group.pieces.iter().map(|piece| piece.op.clone()).collect();
        let answer_bytes_max = answer_bytes_max as u64;
        let command = v1::WriteCommand { success, answer_bytes_max, ..v1::WriteCommand::default() };
        let op_indexes = group.indexes();
        let mut reply = self.apply(cx.clone(), command, Entries::Ops(&op_indexes)).await?;
        ops::decode_results(&mut reply.results)?;
        Ok(v1::RegionWriteResult {
            region_id: group.region.0,
            op_indexes,
            revision: reply.revision,
            results: reply.results,
            ..v1::RegionWriteResult::default()
        })
    }

    /// Cuts pieces into one group per region; gives them back when the regions are not known.
    fn cut(&self, pieces: Vec<Piece>) -> Result<Vec<Group>, (Vec<Piece>, Error)> {
        let map = match hull(&pieces) {
            Some(range) => RegionMap::covering(&self.requests, &range),
            None => return Ok(vec![]),
        };
        match map.and_then(|map| cut_by(&map, &pieces)) {
            Ok(groups) => Ok(groups),
            Err(error) => Err((pieces, error)),
        }
    }
}

impl Group {
    fn indexes(&self) -> Vec<u32> {
        self.pieces.iter().map(|piece| piece.index).collect()
    }
}

/// What each group may answer of `left` bytes: its results without values, and of the rest as much as it
/// has operations that ask for values. `None` when there is not even room for the former.
fn share(left: usize, groups: &[Group]) -> Option<Vec<usize>> {
    let plain = |group: &Group| group.pieces.len() * (RESULT_BYTES + PIECE_BYTES);
    let asking =
        |group: &Group| group.pieces.iter().filter(|piece| answers_value(&piece.op)).count();
    let rest = left.checked_sub(groups.iter().map(plain).sum())?;
    let all = groups.iter().map(asking).sum::<usize>().max(1);
    // Each below `left`, which is far from the end of the numbers.
    Some(groups.iter().map(|group| plain(group) + rest / all * asking(group)).collect())
}

fn answers_value(op: &v1::Op) -> bool {
    match &op.op {
        Some(Op::Put(put)) => put.return_previous,
        Some(Op::Delete(delete)) => delete.return_previous,
        Some(Op::Get(_)) => true,
        Some(Op::DeleteRange(_) | Op::Add(_) | Op::Append(_)) | None => false,
    }
}

fn cut_by(map: &RegionMap, pieces: &[Piece]) -> Result<Vec<Group>, Error> {
    let mut groups: Vec<Group> =
        map.ids().into_iter().map(|region| Group { region, pieces: Vec::new() }).collect();
    for piece in pieces {
        let range = range_of(&piece.op);
        if !matches!(piece.op.op, Some(Op::DeleteRange(_))) {
            groups[map.index_of(&range.start)?].pieces.push(piece.clone());
            continue;
        }
        for (index, part) in map.split(&range)? {
            let part = v1::DeleteRangeOp {
                start_key: part.start,
                end_key: part.end,
                ..v1::DeleteRangeOp::default()
            };
            let op = v1::Op { op: Some(Op::DeleteRange(part)) };
            groups[index].pieces.push(Piece { index: piece.index, op });
        }
    }
    groups.retain(|group| !group.pieces.is_empty());
    Ok(groups)
}

/// The smallest range that holds all pieces; `None` without any.
fn hull(pieces: &[Piece]) -> Option<KeyRange> {
    pieces.iter().map(|piece| range_of(&piece.op)).reduce(|left, right| left.span(&right))
}

/// The keys that an operation touches.
fn range_of(op: &v1::Op) -> KeyRange {
    touched::of_op(op).map_or_else(KeyRange::default, |part| part.range())
}

fn no_outcome() -> Error {
    Error::Internal { message: "a write had no outcome".into() }
}

#[cfg(test)]
mod tests;
