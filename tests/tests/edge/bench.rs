//! The load generator against a server of known behaviour: what it counts is what happened.
//!
//! The server is in this process and answers both APIs from a map, so nothing but the generator can
//! be wrong. Speed is not judged here; `flotilla-bench compare` does that.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::v1;
use flotilla_tests::bench::{
    api::{Api, Route, etcdserverpb as etcd},
    data::{Data, split_keys},
    load::{self, Connections, Load, Operation},
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    server::Grpc,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

const APIS: [Api; 2] = [Api::Flotilla, Api::Etcd];
const KEYS: usize = 500;
const VALUE_BYTES: usize = 256;

/// A map behind the calls that the generator makes.
#[derive(Clone, Default)]
struct Fake {
    rows: Arc<Mutex<HashMap<Bytes, Bytes>>>,
    puts: Arc<AtomicU64>,
    gets: Arc<AtomicU64>,
    /// Refuses this put and each multiple of it; 0 refuses none.
    refused_put: u64,
}

impl Fake {
    /// Serves on a free port until the test ends.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let endpoint = listener.local_addr().expect("it is bound").to_string();
        let fake = self.clone();
        let handle = async move |request: axum::extract::Request| {
            fake.clone().answer(request.map(Body::new)).await.map(axum::body::Body::new)
        };
        let routes = Routes::from(axum::Router::new().fallback(handle));
        let serving = Server::builder()
            .add_routes(routes)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::spawn(serving);
        endpoint
    }

    fn put(&self, key: Bytes, value: Bytes) -> Result<(), Status> {
        let number = self.puts.fetch_add(1, Ordering::Relaxed) + 1;
        if self.refused_put > 0 && number.is_multiple_of(self.refused_put) {
            return Err(Status::new(Code::ResourceExhausted, "refused on purpose"));
        }
        self.rows.lock().insert(key, value);
        Ok(())
    }

    fn get(&self, key: &Bytes) -> Option<Bytes> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.rows.lock().get(key).cloned()
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path() {
            "/flotilla.v1.Kv/Put" => {
                unary(request, move |put: v1::PutRequest| {
                    self.put(put.key, put.value)?;
                    Ok(v1::PutResponse::default())
                })
                .await
            }
            "/flotilla.v1.Kv/Get" => {
                unary(request, move |get: v1::GetRequest| {
                    let context = get.context.unwrap_or_default();
                    if context.read_mode() == v1::ReadMode::Stale {
                        return Err(Status::invalid_argument("a stale read is not compared"));
                    }
                    let value = self.get(&get.key);
                    let kv = value.map(|value| v1::KeyValue { value, ..Default::default() });
                    Ok(v1::GetResponse { kv, applied_revision: 1 })
                })
                .await
            }
            "/etcdserverpb.KV/Put" => {
                unary(request, move |put: etcd::PutRequest| {
                    self.put(put.key, put.value)?;
                    Ok(etcd::PutResponse::default())
                })
                .await
            }
            "/etcdserverpb.KV/Range" => {
                unary(request, move |range: etcd::RangeRequest| {
                    let value = self.get(&range.key);
                    let kvs: Vec<_> = value
                        .map(|value| etcd::KeyValue { value, ..Default::default() })
                        .into_iter()
                        .collect();
                    Ok(etcd::RangeResponse { count: kvs.len() as i64, kvs, ..Default::default() })
                })
                .await
            }
            _ => Status::unimplemented("the generator calls nothing else").into_http(),
        }
    }
}

/// Decodes a call, has it answered, encodes the answer.
async fn unary<Q, A>(
    request: http::Request<Body>,
    answer: impl FnOnce(Q) -> Result<A, Status> + Clone + Send + 'static,
) -> http::Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let method = service_fn(move |request: Request<Q>| {
        let answer = answer.clone();
        async move { answer(request.into_inner()).map(Response::new) }
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(method, request).await
}

fn load(operation: Operation) -> Load {
    Load {
        operation,
        callers: 32,
        warm_up: Duration::from_millis(50),
        window: Duration::from_millis(200),
        windows: 2,
    }
}

fn data() -> Data {
    Data::new(KEYS, VALUE_BYTES, 0).expect("valid sizes")
}

#[tokio::test]
async fn every_counted_operation_reached_the_server() {
    for api in APIS {
        let fake = Fake::default();
        let endpoints = [fake.serve().await];
        let connections = Connections::spread(api, &endpoints, 4).await.expect("it serves");
        let data = data();
        load::preload(&connections, &data).await.expect("it takes every key");
        assert_eq!(fake.puts.load(Ordering::Relaxed), KEYS as u64, "{api:?}");
        assert!(
            (0..KEYS).all(|number| fake.rows.lock().contains_key(&data.key(number))),
            "{api:?}: the fake does not hold every key"
        );

        for operation in [Operation::Put, Operation::Get] {
            let calls = match operation {
                Operation::Put => &fake.puts,
                Operation::Get => &fake.gets,
            };
            let before = calls.load(Ordering::Relaxed);
            let own = [std::process::id()];
            let windows = load::run(&load(operation), &connections, &data, &own)
                .await
                .expect("this process runs");
            let served = calls.load(Ordering::Relaxed) - before;

            assert_eq!(windows.len(), 2);
            let counted: u64 = windows.iter().map(|window| window.operations).sum();
            assert!(counted > 0 && counted <= served, "{api:?} {operation:?}: {counted} {served}");
            for window in &windows {
                assert_eq!((window.errors, &window.first_error), (0, &None), "{api:?}");
                assert!(window.p50_us > 0.0 && window.p50_us <= window.p99_us, "{window:?}");
                assert!(window.p99_us <= window.max_us, "{window:?}");
                assert_eq!(window.resident_bytes.len(), 1);
            }
        }
    }
}

#[tokio::test]
async fn refused_puts_are_errors_and_not_operations() {
    for api in APIS {
        let fake = Fake { refused_put: 10, ..Fake::default() };
        let endpoints = [fake.serve().await];
        let connections = Connections::spread(api, &endpoints, 2).await.expect("it serves");
        let windows = load::run(&load(Operation::Put), &connections, &data(), &[])
            .await
            .expect("no server is watched");

        let errors: u64 = windows.iter().map(|window| window.errors).sum();
        let counted: u64 = windows.iter().map(|window| window.operations).sum();
        let served = fake.puts.load(Ordering::Relaxed);
        assert!(errors > 0 && errors <= served / 10, "{api:?}: {errors} of {served}");
        assert!(counted <= served - errors, "{api:?}: {counted} of {served}");
        let said = windows.iter().find_map(|window| window.first_error.clone());
        assert!(said.is_some_and(|said| said.contains("refused on purpose")), "{api:?}");
    }
}

#[tokio::test]
async fn a_read_that_finds_nothing_is_an_error() {
    for api in APIS {
        let endpoints = [Fake::default().serve().await];
        let connections = Connections::spread(api, &endpoints, 1).await.expect("it serves");
        let windows = load::run(&load(Operation::Get), &connections, &data(), &[])
            .await
            .expect("no server is watched");
        for window in windows {
            assert_eq!(window.operations, 0, "{api:?}");
            assert!(window.errors > 0, "{api:?}");
            assert_eq!(window.first_error.as_deref(), Some("a stored key is absent"));
        }
    }
}

#[tokio::test]
async fn a_read_of_a_value_that_was_cut_is_an_error() {
    let fake = Fake::default();
    let data = data();
    for number in 0..KEYS {
        fake.rows.lock().insert(data.key(number), Bytes::from_static(b"cut"));
    }
    let endpoints = [fake.serve().await];
    let connections = Connections::spread(Api::Etcd, &endpoints, 1).await.expect("it serves");
    let windows = load::run(&load(Operation::Get), &connections, &data, &[])
        .await
        .expect("no server is watched");
    assert!(windows.iter().all(|window| window.operations == 0 && window.errors > 0));
}

#[tokio::test]
async fn loading_fails_when_the_server_refuses_for_good() {
    let fake = Fake { refused_put: 1, ..Fake::default() };
    let endpoints = [fake.serve().await];
    let connections = Connections::spread(Api::Flotilla, &endpoints, 1).await.expect("it serves");
    let error = load::preload(&connections, &data()).await.expect_err("nothing was stored");
    assert!(error.to_string().contains("refused on purpose"), "{error:#}");
}

#[tokio::test]
async fn connections_are_spread_over_all_endpoints() {
    let fakes = [Fake::default(), Fake::default(), Fake::default()];
    let mut endpoints = Vec::new();
    for fake in &fakes {
        endpoints.push(fake.serve().await);
    }
    let connections = Connections::spread(Api::Flotilla, &endpoints, 4).await.expect("they serve");
    load::run(&load(Operation::Put), &connections, &data(), &[]).await.expect("nothing is watched");
    assert!(fakes.iter().all(|fake| fake.puts.load(Ordering::Relaxed) > 0));
}

#[tokio::test]
async fn every_key_goes_to_the_leader_of_its_range() {
    let fakes = [Fake::default(), Fake::default()];
    let endpoints = [fakes[0].serve().await, fakes[1].serve().await];
    // Two leaders take turns over four regions.
    let starts = std::iter::once(Bytes::new()).chain(split_keys(4));
    let routes: Vec<Route> = starts
        .zip(endpoints.iter().cycle())
        .map(|(start_key, endpoint)| Route { start_key, endpoint: endpoint.clone() })
        .collect();
    let connections = Connections::to_leaders(Api::Flotilla, &routes, 4).await.expect("they serve");
    let data = data();
    load::preload(&connections, &data).await.expect("they take every key");

    for (turn, fake) in fakes.iter().enumerate() {
        let rows = fake.rows.lock();
        assert!(!rows.is_empty());
        for key in rows.keys() {
            let region = routes.iter().filter(|route| route.start_key <= *key).count() - 1;
            assert_eq!(region % 2, turn, "{key:?} went to the wrong leader");
        }
    }
}

#[tokio::test]
async fn a_server_that_ends_ends_the_measurement() {
    let endpoints = [Fake::default().serve().await];
    let connections = Connections::spread(Api::Etcd, &endpoints, 1).await.expect("it serves");
    let error = load::run(&load(Operation::Put), &connections, &data(), &[u32::MAX])
        .await
        .expect_err("no process has this id");
    assert!(format!("{error:#}").contains("/proc/4294967295/"), "{error:#}");
}
