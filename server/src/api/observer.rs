//! Who is told of each call: the seam to the metrics.

use std::time::Duration;

use crate::trail::Trail;

/// Told once when a call is taken in and once when it is over, on the path of the call: an
/// implementation must not block or allocate.
pub trait Observer: Send + Sync + 'static {
    fn started(&self, method: Method);
    /// `code` is `Cancelled` when the client went before the answer was ready.
    fn finished(&self, method: Method, code: tonic::Code, seconds: f64);

    /// Whether a call that took so long is to be told of in detail.
    fn is_slow(&self, _: Method, _: Duration) -> bool {
        false
    }

    /// Such a call is over.
    fn slow(&self, _: Method, _: tonic::Code, _: Duration, _: Trail) {}
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn started(&self, _: Method) {}
    fn finished(&self, _: Method, _: tonic::Code, _: f64) {}
}

/// Which queue a call counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Request,
    Scan,
    Cluster,
    /// Health, reflection and the node's own status, which wait for nobody: bounded by the connection's
    /// streams alone, so that a node whose queues are full can still say how it is.
    Free,
}

macro_rules! methods {
    ($($variant:ident = $class:ident $path:literal,)*) => {
        /// Every call that a client can make. A closed set: a metric keeps one child for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $(#[doc = $path] $variant,)*
        }

        impl Method {
            /// All of them; `method as usize` is the index.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// For a label: `service/method` of gRPC, `http/act` of HTTP.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        const PATH: &str = $path;
                        PATH.split_at(1).1
                    })*
                }
            }

            /// The method of a gRPC path. `Unknown` if there is none.
            pub(super) fn from_path(path: &str) -> Self {
                match path {
                    $($path => Self::$variant,)*
                    _ => Self::Unknown,
                }
            }

            pub(super) fn class(self) -> Class {
                match self {
                    $(Self::$variant => Class::$class,)*
                }
            }
        }
    };
}

methods! {
    Get = Request "/flotilla.v1.Kv/Get",
    BatchGet = Request "/flotilla.v1.Kv/BatchGet",
    Put = Request "/flotilla.v1.Kv/Put",
    Delete = Request "/flotilla.v1.Kv/Delete",
    Write = Request "/flotilla.v1.Kv/Write",
    Txn = Request "/flotilla.v1.Kv/Txn",
    CompareAndPut = Request "/flotilla.v1.Kv/CompareAndPut",
    PutIfAbsent = Request "/flotilla.v1.Kv/PutIfAbsent",
    GetAndPut = Request "/flotilla.v1.Kv/GetAndPut",
    Append = Request "/flotilla.v1.Kv/Append",
    Increment = Request "/flotilla.v1.Kv/Increment",
    DeleteRange = Request "/flotilla.v1.Kv/DeleteRange",
    Scan = Scan "/flotilla.v1.Kv/Scan",
    SeedSet = Request "/kv.KvService/set",
    SeedDelete = Request "/kv.KvService/delete",
    SeedGet = Request "/kv.KvService/get",
    SeedExists = Request "/kv.KvService/exists",
    Initialize = Cluster "/flotilla.v1.Cluster/Initialize",
    AddLearner = Cluster "/flotilla.v1.Cluster/AddLearner",
    ChangeMembership = Cluster "/flotilla.v1.Cluster/ChangeMembership",
    RemoveNode = Cluster "/flotilla.v1.Cluster/RemoveNode",
    CancelRemoveNode = Cluster "/flotilla.v1.Cluster/CancelRemoveNode",
    EvictLeaders = Cluster "/flotilla.v1.Cluster/EvictLeaders",
    TransferLeader = Cluster "/flotilla.v1.Cluster/TransferLeader",
    Status = Free "/flotilla.v1.Cluster/Status",
    ListNodes = Cluster "/flotilla.v1.Cluster/ListNodes",
    ListRegions = Cluster "/flotilla.v1.Cluster/ListRegions",
    Locate = Cluster "/flotilla.v1.Cluster/Locate",
    CheckRegion = Cluster "/flotilla.v1.Cluster/CheckRegion",
    HealthCheck = Free "/grpc.health.v1.Health/Check",
    HealthWatch = Free "/grpc.health.v1.Health/Watch",
    Reflection = Free "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ReflectionAlpha = Free "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    HttpGet = Request "/http/get",
    HttpPut = Request "/http/put",
    HttpDelete = Request "/http/delete",
    HttpList = Scan "/http/list",
    HttpCluster = Cluster "/http/cluster",
    Unknown = Free "/unknown",
}

impl Method {
    /// Whether the answer is a stream, over when its last message is sent.
    #[must_use]
    pub fn streams(self) -> bool {
        matches!(self, Self::Scan | Self::HealthWatch | Self::Reflection | Self::ReflectionAlpha)
    }

    /// Whether nothing can have changed when the answer is there, so that it may still be refused.
    pub(super) fn only_reads(self) -> bool {
        matches!(
            self,
            Self::Get
                | Self::BatchGet
                | Self::SeedGet
                | Self::SeedExists
                | Self::Status
                | Self::ListNodes
                | Self::ListRegions
                | Self::Locate
                | Self::HttpGet
        )
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_rpc_of_the_contracts_for_clients_is_a_method() {
        let files = prost_types_of_descriptors();
        let mut seen = 0;
        for (service, rpc) in files {
            if ["flotilla.v1.Raft", "flotilla.v1.Placement"].contains(&service.as_str()) {
                continue;
            }
            let path = format!("/{service}/{rpc}");
            assert_ne!(Method::from_path(&path), Method::Unknown, "{path}");
            seen += 1;
        }
        assert_eq!(seen, 29);
    }

    #[test]
    fn methods_are_indexed_by_their_number_and_named_by_their_path() {
        for (index, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, index);
            assert_eq!(Method::from_path(&format!("/{}", method.name())), *method);
        }
    }

    /// (service, method) pairs of the compiled contracts.
    fn prost_types_of_descriptors() -> Vec<(String, String)> {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Set {
            #[prost(message, repeated, tag = "1")]
            files: Vec<File>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct File {
            #[prost(string, tag = "2")]
            package: String,
            #[prost(message, repeated, tag = "6")]
            services: Vec<Service>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct Service {
            #[prost(string, tag = "1")]
            name: String,
            #[prost(message, repeated, tag = "2")]
            methods: Vec<Rpc>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct Rpc {
            #[prost(string, tag = "1")]
            name: String,
        }
        let set = Set::decode(flotilla_proto::DESCRIPTORS).expect("compiled by protox");
        set.files
            .into_iter()
            .flat_map(|file| {
                file.services.into_iter().flat_map(move |service| {
                    let name = format!("{}.{}", file.package, service.name);
                    service.methods.into_iter().map(move |rpc| (name.clone(), rpc.name))
                })
            })
            .collect()
    }
}
