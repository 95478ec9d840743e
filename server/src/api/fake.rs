//! A router over one map, cut into regions, with errors and splits on demand; and a membership that
//! answers from a table. For tests of this hop alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::v1::{self, compare::Condition, op::Op, op_result::Result as Outcome};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{ClusterAnswer, Context, Keyspace, Limits, Membership, Requests, kv::KvApi};
use crate::{error::Error, ids::RegionId, storage::engine::KeyRange};

/// A deadline that no test reaches unless it fails.
pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(super) fn api(requests: &FakeRequests) -> KvApi<FakeRequests> {
    KvApi::new(requests.clone(), Arc::new(Limits::default()))
}

/// What a client that routes sends for the region of `key`, as it is known now.
pub(super) fn region_context(requests: &FakeRequests, key: &str) -> v1::RequestContext {
    let state = requests.0.lock();
    let key = Keyspace::DEFAULT.encode(key.as_bytes());
    let region = region_of(&state.actual, &key);
    v1::RequestContext {
        region_id: region.region_id,
        epoch: region.epoch,
        ..v1::RequestContext::default()
    }
}

#[derive(Clone)]
pub(super) struct FakeRequests(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
struct Stored {
    value: Bytes,
    revision: u64,
    ttl_ms: u64,
}

struct State {
    map: BTreeMap<Bytes, Stored>,
    revision: u64,
    /// What the regions are.
    actual: Vec<v1::Region>,
    /// What `regions_of` answers until a refusal teaches better.
    known: Vec<v1::Region>,
    reads: usize,
    writes: usize,
    points_max: usize,
    /// Keys in a page, below what was asked for.
    page_max: u64,
    /// What happens before the read or write of that number.
    before_read: BTreeMap<usize, Event>,
    before_write: BTreeMap<usize, Event>,
    last_context: Option<Context>,
    last_command: Option<v1::WriteCommand>,
    hangs: bool,
}

enum Event {
    Fail(Error),
    Split(Bytes),
    Merge(Bytes),
}

impl FakeRequests {
    /// Regions cut at encoded keys.
    pub(super) fn with_regions(splits: &[&[u8]]) -> Self {
        let mut regions = vec![v1::Region {
            region_id: 2,
            epoch: Some(v1::RegionEpoch { conf_ver: 1, version: 1 }),
            ..v1::Region::default()
        }];
        for key in splits {
            split(&mut regions, &Bytes::copy_from_slice(key));
        }
        Self(Arc::new(Mutex::new(State {
            map: BTreeMap::new(),
            revision: 0,
            actual: regions.clone(),
            known: regions,
            reads: 0,
            writes: 0,
            points_max: usize::MAX,
            page_max: u64::MAX,
            before_read: BTreeMap::new(),
            before_write: BTreeMap::new(),
            last_context: None,
            last_command: None,
            hangs: false,
        })))
    }

    /// Regions cut at keys of the default keyspace.
    pub(super) fn with_user_regions(splits: &[&str]) -> Self {
        let keys: Vec<Bytes> =
            splits.iter().map(|key| Keyspace::DEFAULT.encode(key.as_bytes())).collect();
        Self::with_regions(&keys.iter().map(|key| &key[..]).collect::<Vec<_>>())
    }

    pub(super) fn fill(&self, pairs: &[(&str, &str)]) {
        self.fill_encoded(pairs.iter().map(|(key, value)| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            (Keyspace::DEFAULT.encode(key.as_bytes()), value)
        }));
    }

    /// Encoded keys and their values, in any keyspace.
    pub(super) fn fill_encoded(&self, pairs: impl IntoIterator<Item = (Bytes, Bytes)>) {
        let mut state = self.0.lock();
        for (key, value) in pairs {
            state.revision += 1;
            let revision = state.revision;
            state.map.insert(key, Stored { value, revision, ttl_ms: 0 });
        }
    }

    /// Keys of the default keyspace, as text.
    pub(super) fn keys(&self) -> Vec<String> {
        let state = self.0.lock();
        let prefix = Keyspace::DEFAULT.encode(b"");
        let keys = state.map.keys().filter(|key| key.starts_with(&prefix));
        keys.map(|key| String::from_utf8_lossy(&key[3..]).into_owned()).collect()
    }

    /// The stored value of an encoded key.
    pub(super) fn stored(&self, key: &[u8]) -> Option<(Bytes, u64)> {
        self.0.lock().map.get(key).map(|stored| (stored.value.clone(), stored.ttl_ms))
    }

    pub(super) fn user_region_ids(&self) -> Vec<u64> {
        self.0.lock().actual.iter().map(|region| region.region_id).collect()
    }

    pub(super) fn reads(&self) -> usize {
        self.0.lock().reads
    }

    pub(super) fn writes(&self) -> usize {
        self.0.lock().writes
    }

    pub(super) fn last_context(&self) -> Context {
        self.0.lock().last_context.clone().expect("there was a request")
    }

    pub(super) fn last_command(&self) -> v1::WriteCommand {
        self.0.lock().last_command.clone().expect("there was a write")
    }

    /// Splits a region; who asks for regions sees the old ones until a request is refused.
    pub(super) fn split_unnoticed(&self, key: &str) {
        split(&mut self.0.lock().actual, &Keyspace::DEFAULT.encode(key.as_bytes()));
    }

    /// Reads of points answer at most so many.
    pub(super) fn limit_points(&self, max: usize) {
        self.0.lock().points_max = max;
    }

    pub(super) fn limit_pages(&self, max: u64) {
        self.0.lock().page_max = max;
    }

    /// The write after `after` more fails, before anything is applied.
    pub(super) fn fail_write(&self, after: usize, error: Error) {
        let mut state = self.0.lock();
        let number = state.writes + after;
        state.before_write.insert(number, Event::Fail(error));
    }

    pub(super) fn fail_read(&self, after: usize, error: Error) {
        let mut state = self.0.lock();
        let number = state.reads + after;
        state.before_read.insert(number, Event::Fail(error));
    }

    pub(super) fn split_before_read(&self, after: usize, key: &str) {
        let mut state = self.0.lock();
        let number = state.reads + after;
        let key = Keyspace::DEFAULT.encode(key.as_bytes());
        state.before_read.insert(number, Event::Split(key));
    }

    pub(super) fn merge_before_read(&self, after: usize, key: &str) {
        let mut state = self.0.lock();
        let number = state.reads + after;
        let key = Keyspace::DEFAULT.encode(key.as_bytes());
        state.before_read.insert(number, Event::Merge(key));
    }

    /// From now on no request is answered.
    pub(super) fn hang(&self, hangs: bool) {
        self.0.lock().hangs = hangs;
    }

    async fn wait_while_hanging(&self) {
        if self.0.lock().hangs {
            std::future::pending::<()>().await;
        }
    }
}

impl Requests for FakeRequests {
    async fn write(&self, cx: Context, command: v1::WriteCommand) -> Result<v1::WriteReply, Error> {
        self.wait_while_hanging().await;
        let mut state = self.0.lock();
        state.last_context = Some(cx.clone());
        state.last_command = Some(command.clone());
        let number = state.writes;
        state.writes += 1;
        let event = state.before_write.remove(&number);
        state.happen(event)?;
        let ranges: Vec<KeyRange> = command
            .compare
            .iter()
            .map(|compare| point(&compare.key))
            .chain(command.success.iter().chain(&command.failure).map(touched))
            .collect();
        state.check(&cx, &ranges)?;
        Ok(state.apply(command))
    }

    async fn read_points(&self, cx: Context, keys: Vec<Bytes>) -> Result<v1::ReadReply, Error> {
        self.wait_while_hanging().await;
        let mut state = self.0.lock();
        state.begin_read(&cx)?;
        state.check(&cx, &keys.iter().map(point).collect::<Vec<_>>())?;
        let max = state.points_max;
        let items = keys.into_iter().take(max).map(|key| match state.get(&key) {
            Some(kv) => v1::ReadItem { present: true, kv: Some(kv) },
            None => v1::ReadItem {
                present: false,
                kv: Some(v1::KeyValue { key, ..v1::KeyValue::default() }),
            },
        });
        let items = items.collect();
        Ok(v1::ReadReply { items, applied_revision: state.revision, more: false })
    }

    async fn read_range(&self, cx: Context, range: v1::RangeRead) -> Result<v1::ReadReply, Error> {
        self.wait_while_hanging().await;
        let mut state = self.0.lock();
        state.begin_read(&cx)?;
        let asked = KeyRange { start: range.start_key, end: range.end_key };
        assert!(asked.end.is_empty() || asked.start < asked.end, "an empty range: {asked:?}");
        state.check(&cx, std::slice::from_ref(&asked))?;
        let mut keys: Vec<Bytes> =
            state.map.keys().filter(|key| asked.contains(key)).cloned().collect();
        if range.reverse {
            keys.reverse();
        }
        let max = range.limit.min(state.page_max);
        let (mut items, mut bytes) = (Vec::new(), 0);
        let total = keys.len();
        for key in keys {
            if items.len() as u64 >= max || (bytes >= range.bytes_max && !items.is_empty()) {
                break;
            }
            let mut kv = state.get(&key).expect("it was just seen");
            bytes += (kv.key.len() + kv.value.len()) as u64;
            if range.keys_only {
                kv.value = Bytes::new();
            }
            items.push(v1::ReadItem { present: true, kv: Some(kv) });
        }
        let more = items.len() < total;
        Ok(v1::ReadReply { items, applied_revision: state.revision, more })
    }

    fn regions_of(&self, range: &KeyRange) -> Result<Vec<v1::Region>, Error> {
        Ok(overlapping(&self.0.lock().known, range))
    }
}

impl State {
    fn begin_read(&mut self, cx: &Context) -> Result<(), Error> {
        self.last_context = Some(cx.clone());
        let number = self.reads;
        self.reads += 1;
        let event = self.before_read.remove(&number);
        self.happen(event)
    }

    fn happen(&mut self, event: Option<Event>) -> Result<(), Error> {
        match event {
            None => {}
            Some(Event::Fail(error)) => return Err(error),
            Some(Event::Split(key)) => split(&mut self.actual, &key),
            Some(Event::Merge(key)) => merge(&mut self.actual, &key),
        }
        Ok(())
    }

    /// All of a request must lie in one region, and in the one that a routing caller names.
    fn check(&mut self, cx: &Context, ranges: &[KeyRange]) -> Result<(), Error> {
        if let Some((id, epoch)) = cx.route {
            let Some(region) = self.actual.iter().find(|region| region.region_id == id.0) else {
                return Err(Error::RegionNotFound { region: id });
            };
            if region.epoch != Some(epoch) {
                return Err(Error::EpochNotMatch { regions: self.actual.clone() });
            }
            let inside = ranges.iter().all(|range| {
                let regions = overlapping(&self.actual, range);
                regions.len() == 1 && regions[0].region_id == id.0
            });
            if !inside {
                return Err(Error::KeyNotInRegion { region: Box::new(region.clone()) });
            }
            return Ok(());
        }
        let mut regions: Vec<RegionId> = ranges
            .iter()
            .flat_map(|range| overlapping(&self.actual, range))
            .map(|region| RegionId(region.region_id))
            .collect();
        regions.sort_unstable();
        regions.dedup();
        if regions.len() > 1 {
            self.known = self.actual.clone();
            return Err(Error::CrossRegion { regions });
        }
        Ok(())
    }

    fn get(&self, key: &Bytes) -> Option<v1::KeyValue> {
        let stored = self.map.get(key)?;
        Some(v1::KeyValue {
            key: key.clone(),
            value: stored.value.clone(),
            revision: stored.revision,
            ttl_ms: (stored.ttl_ms != 0).then_some(stored.ttl_ms),
        })
    }

    fn apply(&mut self, command: v1::WriteCommand) -> v1::WriteReply {
        let succeeded = command.compare.iter().all(|compare| {
            let stored = self.map.get(&compare.key);
            match compare.condition.as_ref().expect("checked by the API") {
                Condition::Absent(_) => stored.is_none(),
                Condition::Present(_) => stored.is_some(),
                Condition::ValueEquals(value) => stored.is_some_and(|s| s.value == *value),
                Condition::RevisionEquals(revision) => {
                    stored.is_some_and(|s| s.revision == *revision)
                }
            }
        });
        let before = (self.map.clone(), self.revision);
        self.revision += 1;
        let ops = if succeeded { command.success } else { command.failure };
        let mut results = Vec::new();
        for op in ops {
            match self.apply_op(op) {
                Ok(result) => results.push(v1::OpResult { result: Some(result) }),
                Err(refused) => {
                    (self.map, self.revision) = before;
                    return v1::WriteReply { refused, ..v1::WriteReply::default() };
                }
            }
        }
        v1::WriteReply { succeeded, revision: self.revision, results, refused: String::new() }
    }

    fn apply_op(&mut self, op: v1::Op) -> Result<Outcome, String> {
        let revision = self.revision;
        Ok(match op.op.expect("checked by the API") {
            Op::Put(put) => {
                let previous = self.get(&put.key).filter(|_| put.return_previous);
                let kept = self.map.get(&put.key).map_or(0, |stored| stored.ttl_ms);
                let ttl_ms = if put.keep_ttl { kept } else { put.ttl_ms };
                self.map.insert(put.key, Stored { value: put.value, revision, ttl_ms });
                Outcome::Put(v1::PutResult { previous })
            }
            Op::Delete(delete) => {
                let previous = self.get(&delete.key);
                self.map.remove(&delete.key);
                Outcome::Delete(v1::DeleteResult {
                    deleted: u64::from(previous.is_some()),
                    previous: previous.filter(|_| delete.return_previous),
                })
            }
            Op::DeleteRange(range) => {
                let range = KeyRange { start: range.start_key, end: range.end_key };
                let before = self.map.len();
                self.map.retain(|key, _| !range.contains(key));
                let deleted = (before - self.map.len()) as u64;
                Outcome::DeleteRange(v1::DeleteResult { deleted, previous: None })
            }
            Op::Add(add) => {
                let stored = self.map.get(&add.key);
                let text = stored.map_or_else(|| Bytes::from("0"), |stored| stored.value.clone());
                let ttl_ms = stored.map_or(0, |stored| stored.ttl_ms);
                let start: i64 = std::str::from_utf8(&text)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .ok_or("the value is not a counter")?;
                let end = start.checked_add(add.delta).ok_or("the counter would overflow")?;
                let value = end.to_string().into();
                self.map.insert(add.key, Stored { value, revision, ttl_ms });
                Outcome::Add(v1::AddResult { start, end })
            }
            Op::Append(append) => {
                let stored = self.map.get(&append.key);
                let mut value = stored.map_or_else(Vec::new, |stored| stored.value.to_vec());
                let ttl_ms = stored.map_or(0, |stored| stored.ttl_ms);
                value.extend_from_slice(&append.value);
                let value_bytes = value.len() as u64;
                let value = value.into();
                self.map.insert(append.key, Stored { value, revision, ttl_ms });
                Outcome::Append(v1::AppendResult { value_bytes })
            }
            Op::Get(get) => Outcome::Get(v1::GetResult { kv: self.get(&get.key) }),
        })
    }
}

fn point(key: &Bytes) -> KeyRange {
    let mut end = key.to_vec();
    end.push(0);
    KeyRange::new(key.clone(), end)
}

fn touched(op: &v1::Op) -> KeyRange {
    match op.op.as_ref().expect("checked by the API") {
        Op::Put(op) => point(&op.key),
        Op::Delete(op) => point(&op.key),
        Op::Add(op) => point(&op.key),
        Op::Append(op) => point(&op.key),
        Op::Get(op) => point(&op.key),
        Op::DeleteRange(op) => KeyRange::new(op.start_key.clone(), op.end_key.clone()),
    }
}

fn overlapping(regions: &[v1::Region], range: &KeyRange) -> Vec<v1::Region> {
    let touches = |region: &&v1::Region| {
        (range.end.is_empty() || region.start_key < range.end)
            && (region.end_key.is_empty() || region.end_key > range.start)
    };
    regions.iter().filter(touches).cloned().collect()
}

fn region_of<'a>(regions: &'a [v1::Region], key: &[u8]) -> &'a v1::Region {
    let after = regions.partition_point(|region| region.start_key <= key);
    &regions[after - 1]
}

fn split(regions: &mut Vec<v1::Region>, key: &Bytes) {
    let index = regions.partition_point(|region| region.start_key <= key) - 1;
    let region_id = regions.iter().map(|region| region.region_id).max().unwrap_or(1) + 1;
    let parent = &mut regions[index];
    parent.epoch.as_mut().expect("set at birth").version += 1;
    let child = v1::Region { region_id, start_key: key.clone(), ..parent.clone() };
    parent.end_key = key.clone();
    regions.insert(index + 1, child);
}

/// Joins the region that begins at `key` to its left neighbour.
fn merge(regions: &mut Vec<v1::Region>, key: &Bytes) {
    let index = regions.iter().position(|region| region.start_key == key).expect("a border");
    let right = regions.remove(index);
    let left = &mut regions[index - 1];
    left.end_key = right.end_key;
    left.epoch.as_mut().expect("set at birth").version += 1;
}

/// Remembers what it was asked and answers from a table.
#[derive(Default)]
pub(super) struct FakeMembership(Mutex<Table>);

#[derive(Default)]
struct Table {
    version: u64,
    nodes: Vec<v1::Node>,
    not_ready: Vec<String>,
    not_live: Vec<String>,
    failures: BTreeMap<usize, Error>,
    hangs: bool,
    calls: Vec<String>,
    looks: usize,
}

impl FakeMembership {
    pub(super) fn set_ready(&self, reasons: &[&str]) {
        self.0.lock().not_ready = reasons.iter().map(|reason| (*reason).into()).collect();
    }

    pub(super) fn set_live(&self, reasons: &[&str]) {
        self.0.lock().not_live = reasons.iter().map(|reason| (*reason).into()).collect();
    }

    /// The call after `after` more fails.
    pub(super) fn fail_after(&self, after: usize, error: Error) {
        let mut table = self.0.lock();
        let number = table.calls.len() + after;
        table.failures.insert(number, error);
    }

    /// From now on no call is answered.
    pub(super) fn hang(&self) {
        self.0.lock().hangs = true;
    }

    /// How often somebody looked whether the node is ready.
    pub(super) fn looks(&self) -> usize {
        self.0.lock().looks
    }

    /// What was asked, in order.
    pub(super) fn calls(&self) -> Vec<String> {
        self.0.lock().calls.clone()
    }

    fn answer<T: Send + 'static>(
        &self,
        call: String,
        expected: Option<u64>,
        act: impl FnOnce(&mut Table) -> T,
    ) -> ClusterAnswer<'_, T> {
        let mut table = self.0.lock();
        let number = table.calls.len();
        table.calls.push(call);
        if table.hangs {
            return Box::pin(std::future::pending());
        }
        let result = match (table.failures.remove(&number), expected) {
            (Some(error), _) => Err(error),
            (None, Some(expected)) if expected != table.version => {
                Err(Error::VersionMoved { expected, actual: table.version })
            }
            _ => Ok(act(&mut table)),
        };
        Box::pin(std::future::ready(result))
    }
}

impl Table {
    fn set_state(&mut self, id: u64, state: v1::NodeState) {
        let other = |node: &&mut v1::Node| node.node_id == id && node.state() != state;
        for node in self.nodes.iter_mut().filter(other) {
            node.set_state(state);
            self.version += 1;
        }
    }
}

impl Membership for FakeMembership {
    fn initialize(
        &self,
        request: v1::InitializeRequest,
    ) -> ClusterAnswer<'_, v1::InitializeResponse> {
        self.answer(format!("{request:?}"), None, |table| {
            table.version += 1;
            table.nodes.push(v1::Node { node_id: 1, ..v1::Node::default() });
            v1::InitializeResponse { cluster_id: "c1".into(), node_id: 1 }
        })
    }

    fn add_learner(
        &self,
        request: v1::AddLearnerRequest,
    ) -> ClusterAnswer<'_, v1::AddLearnerResponse> {
        self.answer(format!("{request:?}"), request.expected_version, |table| {
            let known = table.nodes.iter().find(|node| node.client_address == request.address);
            if let Some(known) = known {
                return v1::AddLearnerResponse { node_id: known.node_id, version: table.version };
            }
            table.version += 1;
            let node_id = table.nodes.len() as u64 + 1;
            let state = v1::NodeState::NodeLearner.into();
            let client_address = request.address.clone();
            let labels = request.labels.clone();
            let node = v1::Node { node_id, client_address, labels, state, ..v1::Node::default() };
            table.nodes.push(node);
            v1::AddLearnerResponse { node_id, version: table.version }
        })
    }

    fn change_membership(
        &self,
        request: v1::ChangeMembershipRequest,
    ) -> ClusterAnswer<'_, v1::ChangeMembershipResponse> {
        self.answer(format!("{request:?}"), request.expected_version, |table| {
            for id in request.promote {
                table.set_state(id, v1::NodeState::Up);
            }
            v1::ChangeMembershipResponse { version: table.version }
        })
    }

    fn remove_node(
        &self,
        request: v1::RemoveNodeRequest,
    ) -> ClusterAnswer<'_, v1::RemoveNodeResponse> {
        self.answer(format!("{request:?}"), request.expected_version, |table| {
            let gone = request.force;
            let state = if gone { v1::NodeState::Removed } else { v1::NodeState::Draining };
            table.set_state(request.node_id, state);
            let left = u32::from(!gone) * 3;
            v1::RemoveNodeResponse {
                state: state.into(),
                peers_left: left,
                leaders_left: 0,
                version: table.version,
            }
        })
    }

    fn cancel_remove_node(
        &self,
        request: v1::CancelRemoveNodeRequest,
    ) -> ClusterAnswer<'_, v1::CancelRemoveNodeResponse> {
        self.answer(format!("{request:?}"), request.expected_version, |table| {
            table.set_state(request.node_id, v1::NodeState::Up);
            let state = v1::NodeState::Up.into();
            v1::CancelRemoveNodeResponse { state, version: table.version }
        })
    }

    fn evict_leaders(
        &self,
        request: v1::EvictLeadersRequest,
    ) -> ClusterAnswer<'_, v1::EvictLeadersResponse> {
        self.answer(format!("{request:?}"), None, |_| v1::EvictLeadersResponse { leaders_left: 2 })
    }

    fn transfer_leader(
        &self,
        request: v1::TransferLeaderRequest,
    ) -> ClusterAnswer<'_, v1::TransferLeaderResponse> {
        self.answer(format!("{request:?}"), None, |_| v1::TransferLeaderResponse {})
    }

    fn status(&self, request: v1::StatusRequest) -> ClusterAnswer<'_, v1::StatusResponse> {
        self.answer(format!("{request:?}"), None, |table| v1::StatusResponse {
            joined: true,
            cluster_id: "c1".into(),
            node_id: 1,
            table_version: table.version,
            ready: table.not_ready.is_empty(),
            not_ready_reasons: table.not_ready.clone(),
            disk_level: "normal".into(),
            peers: vec![v1::PeerStatus {
                region: Some(v1::Region { region_id: 2, ..v1::Region::default() }),
                peer_id: 21,
                role: "leader".into(),
                ..v1::PeerStatus::default()
            }],
            ..v1::StatusResponse::default()
        })
    }

    fn list_nodes(
        &self,
        request: v1::ListNodesRequest,
    ) -> ClusterAnswer<'_, v1::ListNodesResponse> {
        self.answer(format!("{request:?}"), None, |table| v1::ListNodesResponse {
            cluster_id: "c1".into(),
            version: table.version,
            nodes: table.nodes.clone(),
            replication_factor: 3,
            told_by_node: 0,
        })
    }

    fn list_regions(
        &self,
        request: v1::ListRegionsRequest,
    ) -> ClusterAnswer<'_, v1::ListRegionsResponse> {
        self.answer(format!("{request:?}"), None, |_| v1::ListRegionsResponse {
            regions: vec![v1::RegionInfo { term: 7, ..v1::RegionInfo::default() }],
            ..v1::ListRegionsResponse::default()
        })
    }

    fn locate(&self, request: v1::LocateRequest) -> ClusterAnswer<'_, v1::LocateResponse> {
        let regions = vec![v1::RegionInfo::default(); request.keys.len()];
        self.answer(format!("{request:?}"), None, |_| v1::LocateResponse { regions })
    }

    fn check_region(
        &self,
        request: v1::CheckRegionRequest,
    ) -> ClusterAnswer<'_, v1::CheckRegionResponse> {
        self.answer(format!("{request:?}"), None, |_| v1::CheckRegionResponse {
            consistent: true,
            done: true,
            ..v1::CheckRegionResponse::default()
        })
    }

    fn is_ready(&self) -> Vec<String> {
        let mut table = self.0.lock();
        table.looks += 1;
        table.not_ready.clone()
    }

    fn is_live(&self) -> Vec<String> {
        self.0.lock().not_live.clone()
    }

    fn checks(&self) -> Vec<(&'static str, Result<String, String>)> {
        let table = self.0.lock();
        let result = |reasons: &[String]| match reasons.first() {
            None => Ok("fine".to_string()),
            Some(reason) => Err(reason.clone()),
        };
        vec![("joined", result(&table.not_ready)), ("log writer", result(&table.not_live))]
    }
}
