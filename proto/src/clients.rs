//! Clients of the services, with the limit of messages that both sides are held to.
//!
//! A generated client takes no answer above 4 MiB unless it is told otherwise, which nobody notices until a
//! cluster has grown. So none is made but here (`clippy.toml`), and by the Raft transport, whose frames are
//! larger.
#![expect(clippy::disallowed_methods, reason = "the place where they are allowed")]

use bytes::Bytes;
use tonic::{
    body::Body,
    client::GrpcService,
    codegen::{Body as HttpBody, StdError},
};

use crate::{
    MESSAGE_BYTES_MAX,
    kv::kv_service_client::KvServiceClient,
    v1::{cluster_client::ClusterClient, kv_client::KvClient, placement_client::PlacementClient},
};

macro_rules! client {
    ($(#[$doc:meta])* $name:ident -> $client:ident) => {
        $(#[$doc])*
        pub fn $name<T>(transport: T) -> $client<T>
        where
            T: GrpcService<Body>,
            T::Error: Into<StdError>,
            T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
            <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
        {
            $client::new(transport)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        }
    };
}

client! {
    /// Keys and values.
    kv -> KvClient
}
client! {
    /// Keys and values by the simple API.
    kv_service -> KvServiceClient
}
client! {
    /// Membership, routing and state.
    cluster -> ClusterClient
}
client! {
    /// What nodes ask each other.
    placement -> PlacementClient
}
