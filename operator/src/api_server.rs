//! How the API server is reached.
//!
//! A connection whose other end has vanished (a machine that died, a load balancer that forgot it) says nothing for
//! a quarter of an hour, and one whose request was taken says nothing for ever. Whoever waits for it does nothing
//! else: a pass ends the care of its cluster, without an error. So silence has a bound, here and for every request.
//!
//! Nothing is tried again below those who ask: a change that is sent a minute after its lease was looked at may be
//! sent by one that does not lead any more.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};

use crate::requests::Requests;

/// Bound: for so long a request may hear nothing; then it has failed, and may have been done or not. Longer than
/// the API server itself takes for one, with all that it asks before: what is slow is not given up, or it would
/// be never done.
const SILENCE: Duration = Duration::from_secs(65);
/// Bound: the same of watches, which end after 290 s by themselves.
const WATCH_SILENCE: Duration = Duration::from_secs(310);

/// For looks and changes, and for watches.
#[derive(Clone)]
pub struct ApiServer {
    pub requests: Client,
    pub watches: Client,
}

impl ApiServer {
    /// That of this pod, or of the kubeconfig.
    ///
    /// # Errors
    /// There is neither, or what is there cannot be used.
    pub async fn find() -> anyhow::Result<Self> {
        let config = Config::infer().await.context("find Kubernetes")?;
        Self::of(config, SILENCE, WATCH_SILENCE).context("find Kubernetes")
    }

    /// The same, all of whose requests are counted there.
    #[must_use]
    pub fn counted(self, by: &Requests) -> Self {
        Self { requests: by.counted(self.requests), watches: by.counted(self.watches) }
    }

    fn of(config: Config, silence: Duration, watch_silence: Duration) -> kube::Result<Self> {
        let client = |silence| {
            let mut config = config.clone();
            config.connect_timeout = config.connect_timeout.map(|longest| longest.min(silence));
            config.write_timeout = Some(silence);
            config.read_timeout = Some(silence);
            // It counts from when a request is sent, and not from when its connection was used last.
            config.reset_reader_on_write = true;
            config.default_retry = false;
            Client::try_from(config)
        };
        Ok(Self { requests: client(silence)?, watches: client(watch_silence)? })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        collections::BTreeMap,
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use axum::{Json, http::StatusCode};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    /// Bound: what is to fail by itself has failed by then.
    const LONG: Duration = Duration::from_secs(20);

    /// How a request of a path is answered: the bytes of it all, and whether the connection is silent then.
    pub(crate) type Answers = BTreeMap<&'static str, String>;

    /// As it answers what it does not do.
    pub(crate) fn failure(code: StatusCode) -> (StatusCode, Json<Value>) {
        let reason = match code {
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::CONFLICT => "Conflict",
            _ => "",
        };
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code.as_u16(), "reason": reason, "message": "no"});
        (code, Json(status))
    }

    pub(crate) fn whole(status: u16, body: &str) -> String {
        format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn serve(
        mut connection: TcpStream,
        answers: Arc<Answers>,
        asked: Arc<AtomicUsize>,
    ) -> io::Result<()> {
        let mut read = Vec::new();
        loop {
            while !read.windows(4).any(|end| end == b"\r\n\r\n") {
                if connection.read_buf(&mut read).await? == 0 {
                    return Ok(());
                }
            }
            asked.fetch_add(1, Ordering::Relaxed);
            let head = String::from_utf8_lossy(&read).into_owned();
            let answer = answers.iter().find(|(path, _)| head.contains(**path));
            read.clear();
            // Without one it was taken, and nothing comes of it.
            if let Some((_, answer)) = answer {
                connection.write_all(answer.as_bytes()).await?;
            }
        }
    }

    /// An API server that answers some paths, and others never; and how often it was asked.
    pub(crate) async fn server(answers: Answers) -> (ApiServer, Arc<AtomicUsize>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (answers, asked) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
        let counts = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&answers), Arc::clone(&counts)));
            }
        });
        let config = Config::new(format!("http://{address}").parse().expect("an address"));
        (ApiServer::of(config, SHORT, 2 * SHORT).expect("a client"), asked)
    }

    #[tokio::test]
    async fn request_that_hears_nothing_fails() {
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned();
        let there = whole(200, r#"{"metadata": {"name": "there"}}"#);
        let answers = [("/configmaps/half ", half), ("/configmaps/there ", there)];
        let (api_server, _) = server(answers.into()).await;
        for (why, client) in [("a request", &api_server.requests), ("a watch", &api_server.watches)]
        {
            let configs: Api<ConfigMap> = Api::namespaced(client.clone(), "ns");
            for name in ["silent", "half"] {
                let answer = tokio::time::timeout(LONG, configs.get_opt(name)).await;
                let answer = answer.unwrap_or_else(|_| panic!("{why} waits for {name} for ever"));
                assert!(answer.is_err(), "{why} of {name}: {answer:?}");
            }
            // A connection that nobody used for longer is none that is silent.
            for pause in [Duration::ZERO, SHORT / 2, 3 * SHORT] {
                tokio::time::sleep(pause).await;
                let answer = tokio::time::timeout(LONG, configs.get_opt("there")).await;
                answer.expect("in time").unwrap_or_else(|error| panic!("{why}: {error:?}"));
            }
        }
    }

    #[tokio::test]
    async fn request_that_is_put_off_is_sent_once() {
        let busy = r#"{"kind": "Status", "status": "Failure", "code": 503, "message": "busy"}"#;
        let (api_server, asked) = server([("/configmaps/", whole(503, busy))].into()).await;
        let configs: Api<ConfigMap> = Api::namespaced(api_server.requests, "ns");
        assert!(configs.get_opt("kv").await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
