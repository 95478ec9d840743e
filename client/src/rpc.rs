//! One trait over all unary calls, so that there is one loop that routes and retries.

use std::future::Future;

use bytes::Bytes;
use flotilla_proto::{
    clients,
    keyspace::{KeyspaceId, encode, keyspace_range, prefix_range, range},
    touched::{self, Touched},
    v1::{self, RequestContext},
};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{routes::Span, verdict::Kind};

/// A request message of a unary method.
pub(crate) trait Rpc: Clone + Send + Sync + 'static {
    type Response: Send + 'static;
    const KIND: Kind;

    /// What the request touches, in encoded keys.
    fn span(&self, keyspace: KeyspaceId) -> Span;

    fn set_context(&mut self, context: RequestContext);

    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

macro_rules! kv_rpc {
    ($kind:ident $method:ident($request:ident) -> $response:ident, |$this:ident, $keyspace:ident| $span:expr) => {
        impl Rpc for v1::$request {
            type Response = v1::$response;
            const KIND: Kind = Kind::$kind;

            fn span(&self, $keyspace: KeyspaceId) -> Span {
                let $this = self;
                $span
            }

            fn set_context(&mut self, context: RequestContext) {
                self.context = Some(context);
            }

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Response>, Status> {
                clients::kv(channel).$method(request).await
            }
        }
    };
}

macro_rules! cluster_rpc {
    ($kind:ident $method:ident($request:ident) -> $response:ident) => {
        impl Rpc for v1::$request {
            type Response = v1::$response;
            const KIND: Kind = Kind::$kind;

            fn span(&self, _: KeyspaceId) -> Span {
                Span::Nowhere
            }

            fn set_context(&mut self, _: RequestContext) {}

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Response>, Status> {
                clients::cluster(channel).$method(request).await
            }
        }
    };
}

kv_rpc!(Read get(GetRequest) -> GetResponse, |r, ks| Span::Key(encode(ks, &r.key)));
kv_rpc!(Read batch_get(BatchGetRequest) -> BatchGetResponse, |r, ks| {
    Span::Keys(r.keys.iter().map(|key| encode(ks, key)).collect())
});
kv_rpc!(Write put(PutRequest) -> PutResponse, |r, ks| Span::Key(encode(ks, &r.key)));
kv_rpc!(Write delete(DeleteRequest) -> DeleteResponse, |r, ks| Span::Key(encode(ks, &r.key)));
kv_rpc!(Write write(WriteRequest) -> WriteResponse, |r, ks| span_of_ops(ks, r.ops.iter(), &[]));
kv_rpc!(Write txn(TxnRequest) -> TxnResponse, |r, ks| {
    span_of_ops(ks, r.success.iter().chain(&r.failure), &r.compare)
});
kv_rpc!(Write compare_and_put(CompareAndPutRequest) -> CompareAndPutResponse, |r, ks| {
    Span::Key(encode(ks, &r.key))
});
kv_rpc!(Write put_if_absent(PutIfAbsentRequest) -> PutIfAbsentResponse, |r, ks| {
    Span::Key(encode(ks, &r.key))
});
kv_rpc!(Write get_and_put(GetAndPutRequest) -> GetAndPutResponse, |r, ks| {
    Span::Key(encode(ks, &r.key))
});
kv_rpc!(Write append(AppendRequest) -> AppendResponse, |r, ks| Span::Key(encode(ks, &r.key)));
kv_rpc!(Write increment(IncrementRequest) -> IncrementResponse, |r, ks| {
    Span::Key(encode(ks, &r.key))
});
kv_rpc!(Write delete_range(DeleteRangeRequest) -> DeleteRangeResponse, |r, ks| {
    if r.prefix.is_empty() {
        return Span::Range(range(ks, &r.start_key, &r.end_key));
    }
    Span::Range(prefix_range(ks, &r.prefix))
});

// Mutating calls converge when they are repeated, but a lost answer is still reported: with
// `expected_version` the repeat would say VersionMoved, which is not what happened.
cluster_rpc!(Write initialize(InitializeRequest) -> InitializeResponse);
cluster_rpc!(Write add_learner(AddLearnerRequest) -> AddLearnerResponse);
cluster_rpc!(Write change_membership(ChangeMembershipRequest) -> ChangeMembershipResponse);
cluster_rpc!(Write remove_node(RemoveNodeRequest) -> RemoveNodeResponse);
cluster_rpc!(Write cancel_remove_node(CancelRemoveNodeRequest) -> CancelRemoveNodeResponse);
cluster_rpc!(Write evict_leaders(EvictLeadersRequest) -> EvictLeadersResponse);
cluster_rpc!(Write transfer_leader(TransferLeaderRequest) -> TransferLeaderResponse);
cluster_rpc!(Read status(StatusRequest) -> StatusResponse);
cluster_rpc!(Read list_nodes(ListNodesRequest) -> ListNodesResponse);
cluster_rpc!(Read list_regions(ListRegionsRequest) -> ListRegionsResponse);
cluster_rpc!(Read locate(LocateRequest) -> LocateResponse);
// It proposes an entry, but one that changes nothing a caller can see.
cluster_rpc!(Read check_region(CheckRegionRequest) -> CheckRegionResponse);

/// The keys of operations; the whole keyspace as soon as one of them is a range, because a range and
/// points have no cheaper common description. Such a request has a route only when one region
/// holds the keyspace, and is forwarded otherwise.
fn span_of_ops<'a>(
    keyspace: KeyspaceId,
    ops: impl Iterator<Item = &'a v1::Op>,
    compare: &[v1::Compare],
) -> Span {
    let mut keys: Vec<Bytes> =
        compare.iter().map(|compare| encode(keyspace, &compare.key)).collect();
    for touched in ops.filter_map(touched::of_op) {
        match touched {
            Touched::Key(key) => keys.push(encode(keyspace, key)),
            Touched::Range { .. } => return Span::Range(keyspace_range(keyspace)),
        }
    }
    Span::Keys(keys)
}
