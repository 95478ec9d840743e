//! A router over one map, cut into regions, with errors and splits on demand; and a membership that
//! answers from a table. For tests of this hop alone. What commands and reads do is not restated:
//! it is `command/` over an engine in memory.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    range::KeyRange,
    region::borders_of,
    touched,
    v1::{self, command::Body, command_reply::Reply},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Check, ClusterAnswer, ClusterCalls, Health, Keyspace, Limits, kv::KvApi};
use crate::{
    command::{self, AsOf, Overlay, POINTS_BYTES_MAX, RegionState, StoredValue},
    error::Error,
    ids::{ClusterId, RegionId},
    router::{Context, Requests},
    storage::{
        batch::{Family, WriteBatch},
        engine::{Direction, Durability, Engine as _, Read as _},
        memory::MemoryEngine,
    },
};

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

struct State {
    data: Arc<MemoryEngine>,
    /// All regions as one: its time stands still.
    applied: RegionState,
    /// What the regions are.
    actual: Vec<v1::Region>,
    /// What `regions_of` answers until a refusal teaches better.
    known: Vec<v1::Region>,
    reads: usize,
    value_bytes_read: usize,
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
            data: MemoryEngine::new(),
            applied: RegionState::default(),
            actual: regions.clone(),
            known: regions,
            reads: 0,
            value_bytes_read: 0,
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
            let put = v1::PutOp { key, value, ..v1::PutOp::default() };
            let success = vec![v1::Op { op: Some(v1::op::Op::Put(put)) }];
            state.apply(v1::WriteCommand { success, ..v1::WriteCommand::default() });
        }
    }

    /// Keys of the default keyspace, as text.
    pub(super) fn keys(&self) -> Vec<String> {
        let state = self.0.lock();
        let range = Keyspace::DEFAULT.range(b"", b"");
        let mut cursor = state.data.scan(Family::Default, &range, Direction::Forward);
        let mut keys = Vec::new();
        while let Some((key, _)) = cursor.next().expect("the memory does not fail") {
            keys.push(String::from_utf8_lossy(&key[3..]).into_owned());
        }
        keys
    }

    /// The stored value of an encoded key.
    pub(super) fn stored(&self, key: &[u8]) -> Option<(Bytes, u64)> {
        let stored =
            self.0.lock().data.get(Family::Default, key).expect("the memory does not fail")?;
        let value = StoredValue::decode(&stored).expect("what apply wrote");
        Some((value.payload, value.expires_at_ms))
    }

    pub(super) fn user_region_ids(&self) -> Vec<u64> {
        self.0.lock().actual.iter().map(|region| region.region_id).collect()
    }

    pub(super) fn reads(&self) -> usize {
        self.0.lock().reads
    }

    /// Of all pages of ranges that were read.
    pub(super) fn value_bytes_read(&self) -> usize {
        self.0.lock().value_bytes_read
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
        let ranges: Vec<KeyRange> =
            touched::of_write(&command).map(|touched| touched.range()).collect();
        state.check(&cx, &ranges)?;
        Ok(state.apply(command))
    }

    async fn read_points(&self, cx: Context, keys: Vec<Bytes>) -> Result<v1::ReadReply, Error> {
        self.wait_while_hanging().await;
        let mut state = self.0.lock();
        state.begin_read(&cx)?;
        let ranges: Vec<KeyRange> =
            keys.iter().map(|key| touched::Touched::Key(key).range()).collect();
        state.check(&cx, &ranges)?;
        let keys = keys.into_iter().take(state.points_max).collect();
        let points = v1::PointReads { keys };
        let read = state.data.read_view();
        let reply = command::read_points(&*read, &points, state.as_of(), POINTS_BYTES_MAX);
        Ok(reply.expect("the memory does not fail"))
    }

    async fn read_range(&self, cx: Context, range: v1::RangeRead) -> Result<v1::ReadReply, Error> {
        self.wait_while_hanging().await;
        let mut state = self.0.lock();
        state.begin_read(&cx)?;
        let asked = KeyRange { start: range.start_key.clone(), end: range.end_key.clone() };
        assert!(!asked.is_empty(), "an empty range: {asked:?}");
        state.check(&cx, std::slice::from_ref(&asked))?;
        let limit = range.limit.min(state.page_max);
        let read = state.data.read_view();
        let page = v1::RangeRead { limit, ..range };
        let reply = command::read_range(&*read, &page, state.as_of());
        let reply = reply.expect("the memory does not fail");
        let values = reply.items.iter().filter_map(|item| item.kv.as_ref());
        state.value_bytes_read += values.map(|kv| kv.value.len()).sum::<usize>();
        Ok(reply)
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

    fn as_of(&self) -> AsOf {
        let state = &self.applied.state;
        AsOf { time_ms: state.time_ms, revision: state.revision }
    }

    fn apply(&mut self, write: v1::WriteCommand) -> v1::WriteReply {
        let command = v1::Command { body: Some(Body::Write(write)), ..v1::Command::default() };
        let mut batch = WriteBatch::new();
        let mut overlay = Overlay::new(self.data.as_ref(), &mut batch);
        let applied = command::apply(&command, &mut self.applied, &mut overlay);
        let (reply, _) = applied.expect("the memory does not fail");
        self.data.write(&batch, Durability::Buffered).expect("the memory does not fail");
        match reply.reply {
            Some(Reply::Write(reply)) => reply,
            other => panic!("not the answer to a write: {other:?}"),
        }
    }
}

fn overlapping(regions: &[v1::Region], range: &KeyRange) -> Vec<v1::Region> {
    let touches = |region: &&v1::Region| borders_of(region).overlaps(range.borders());
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

/// The cluster that [`FakeMembership`] is of.
pub(super) const FAKE_CLUSTER: ClusterId = ClusterId([7; 16]);

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

impl ClusterCalls for FakeMembership {
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
            // Of two, each a page of its own.
            peers: match request.after_region {
                _ if request.without_peers => Vec::new(),
                after @ (0 | 2) => vec![v1::PeerStatus {
                    region: Some(v1::Region { region_id: after + 2, ..v1::Region::default() }),
                    peer_id: 21,
                    role: "leader".into(),
                    ..v1::PeerStatus::default()
                }],
                _ => Vec::new(),
            },
            more_peers: !request.without_peers && request.after_region == 0,
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
}

impl Health for FakeMembership {
    fn cluster_id(&self) -> Option<ClusterId> {
        Some(FAKE_CLUSTER)
    }

    fn why_not_ready(&self) -> Vec<String> {
        let mut table = self.0.lock();
        table.looks += 1;
        table.not_ready.clone()
    }

    fn why_not_live(&self) -> Vec<String> {
        self.0.lock().not_live.clone()
    }

    fn checks(&self) -> Vec<Check> {
        let table = self.0.lock();
        let result = |reasons: &[String]| match reasons.first() {
            None => Ok("fine".to_string()),
            Some(reason) => Err(reason.clone()),
        };
        vec![
            Check::decisive("joined", result(&table.not_ready)),
            Check::told("leaders", Err("not heard in 1 of 2 regions".to_owned())),
        ]
    }
}
