//! Asks a node whether it is ready, so that a container needs no `curl` for its probes.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

/// Bound: a node that has not answered within this is not healthy.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Bound: of a longer answer only the beginning is read.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Returns when the node behind `url` answers 200.
///
/// # Errors
/// No answer in time, or another one; the text is the node's own.
pub(crate) fn run(url: &str) -> anyhow::Result<()> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: http::Uri = url.parse().with_context(|| format!("read address {url}"))?;
    ensure!(uri.scheme_str() == Some("http"), "{url}: only http is spoken here");
    let authority = uri.authority().with_context(|| format!("{url}: names no host"))?;
    let path = match uri.path() {
        "" | "/" => "/readyz",
        path => path,
    };
    let host = authority.host().trim_matches(['[', ']']);
    let address = (host, authority.port_u16().unwrap_or(80))
        .to_socket_addrs()
        .with_context(|| format!("look up {host}"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")
        .context("send the request")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).context("read the answer")?;
    check_answer(&String::from_utf8_lossy(&answer))
}

fn check_answer(answer: &str) -> anyhow::Result<()> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.lines().next().unwrap_or_default();
    let mut words = status.split(' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some("200")) => Ok(()),
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(code)) => bail!("not ready ({code}): {}", body.trim()),
        _ => bail!("the answer is not HTTP: {status:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Serves one request with `answer`; gives the request and what `run` made of the answer.
    fn asked(path: &str, answer: &'static str) -> (String, anyhow::Result<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let url = format!("http://{}{path}", listener.local_addr().expect("an address"));
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).expect("answered");
            String::from_utf8(request).expect("text")
        });
        let result = run(&url);
        (server.join().expect("no panic"), result)
    }

    #[test]
    fn only_200_is_healthy() {
        for (why, answer, healthy) in [
            ("ready", "HTTP/1.1 200 OK\r\n\r\nready", true),
            ("not ready", "HTTP/1.1 503 Service Unavailable\r\n\r\nnot joined", false),
            ("moved", "HTTP/1.1 302 Found\r\n\r\n", false),
            ("no HTTP", "SSH-2.0-OpenSSH\r\n", false),
            ("nothing", "", false),
        ] {
            let (_, result) = asked("", answer);
            assert_eq!(result.is_ok(), healthy, "{why}: {result:?}");
        }
    }

    #[test]
    fn refusal_repeats_the_nodes_reason() {
        let (_, result) = asked("", "HTTP/1.1 503 No\r\nA: b\r\n\r\nno region has a leader\n");
        let text = result.expect_err("not healthy").to_string();
        assert_eq!(text, "not ready (503): no region has a leader");
    }

    #[test]
    fn readiness_is_asked_for_unless_the_path_says_otherwise() {
        for (path, want) in [("", "GET /readyz "), ("/", "GET /readyz "), ("/livez", "GET /livez ")]
        {
            let (request, _) = asked(path, "HTTP/1.1 200 OK\r\n\r\n");
            assert!(request.starts_with(want), "{path}: {request}");
        }
    }

    #[test]
    fn a_closed_port_is_not_healthy() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        assert!(run(&address).is_err());
        assert!(run("https://localhost").is_err());
        assert!(run("http://").is_err());
    }
}
