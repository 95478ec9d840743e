//! Who may ask over HTTP, and what browsers may make of the answers.
//!
//! A browser sends requests for any page that it shows, also to addresses that only its user reaches. A
//! page of a stranger must not change anything here: its unsafe requests are told by their origin. Nor may
//! it read anything: answers to other origins are not readable, unless the page's own host name is made to
//! lead here (DNS rebinding). So a name that strangers can have in the public DNS must be known.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, uri::Authority};

use super::Failure;

/// For probes and scrapers, which name pods as they like. They change nothing and tell no data.
const ANY_HOST_PATHS: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Names without an owner in the public DNS: those of a machine, a network or a Kubernetes cluster.
const PRIVATE_DOMAINS: [&str; 4] = [".localhost", ".local", ".internal", ".svc"];

/// The host names by which this node may be called.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// In lower case.
    names: Vec<String>,
    /// Each begins with a dot.
    domains: Vec<String>,
    any: bool,
}

impl Hosts {
    /// `advertised` is the host that others are told. Of `allowed` each is a name, a domain with a dot in
    /// front for all names below it, or `*` for every name.
    #[must_use]
    pub fn new(advertised: &str, allowed: &[String]) -> Self {
        let mut hosts = Self::default();
        for name in allowed.iter().map(String::as_str).chain([advertised]) {
            let name = normal(name);
            if name == "*" {
                hosts.any = true;
            } else if name.starts_with('.') {
                hosts.domains.push(name);
            } else {
                // Of the same Kubernetes cluster, whatever its domain is called.
                if let Some(at) = name.find(".svc.") {
                    hosts.domains.push(name[at..].to_owned());
                }
                hosts.names.push(name);
            }
        }
        hosts
    }

    /// Without the port.
    fn know(&self, host: &str) -> bool {
        let host = normal(host);
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let below = |domain: &str| host.ends_with(domain);
        self.any
            || is_address
            // One label is looked up in the machine's own network.
            || !host.contains('.')
            || PRIVATE_DOMAINS.into_iter().any(below)
            || self.names.contains(&host)
            || self.domains.iter().any(|domain| below(domain))
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Refuses what is not asked by a client of this node, and marks all answers.
pub(super) async fn guard(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match check(&hosts, &request) {
        Ok(()) => next.run(request).await,
        Err((status, code, message)) => Failure::plain(status, code, &message),
    };
    // A value is somebody's bytes: no page, no script, no picture of this origin, and in no cache.
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let policy = header::HeaderName::from_static("cross-origin-resource-policy");
    response.headers_mut().insert(policy, HeaderValue::from_static("same-origin"));
    response
}

type Refusal = (StatusCode, &'static str, String);

fn check(hosts: &Hosts, request: &Request) -> Result<(), Refusal> {
    let host = host(request)?;
    let is_probe = ANY_HOST_PATHS.contains(&request.uri().path())
        && matches!(*request.method(), Method::GET | Method::HEAD);
    if is_probe {
        return Ok(());
    }
    let forbidden = |message: String| (StatusCode::FORBIDDEN, "PERMISSION_DENIED", message);
    if let Some(host) = host.as_ref().filter(|host| !hosts.know(host.host())) {
        let name = host.host();
        return Err(forbidden(format!(
            "this node does not know itself by the name {name}: call it by an address or its advertised name, \
             or name it in the setting http_allowed_hosts"
        )));
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    if is_of_another_origin(request.headers(), host.as_ref()) {
        let message = "a page of another origin may not change anything here";
        return Err(forbidden(message.to_owned()));
    }
    Ok(())
}

/// The host that a request names; HTTP/1.0 may name none.
fn host(request: &Request) -> Result<Option<Authority>, Refusal> {
    let bad = |message: &str| (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message.to_owned());
    let mut named = request.headers().get_all(header::HOST).iter();
    let (first, second) = (named.next(), named.next());
    if second.is_some() {
        return Err(bad("Host: is there twice"));
    }
    let first = match first {
        None if request.version() >= Version::HTTP_11 => return Err(bad("Host: is missing")),
        None => None,
        // What is asked for may have no authority.
        Some(host) if host.is_empty() => None,
        Some(host) => {
            let host = Authority::try_from(host.as_bytes());
            let host = host.ok().filter(|host| !host.as_str().contains('@'));
            Some(host.ok_or_else(|| bad("Host: is no host"))?)
        }
    };
    // In the absolute form the request line says where it goes.
    Ok(request.uri().authority().cloned().or(first))
}

/// Browsers say so, in one field or the other; other clients say nothing.
fn is_of_another_origin(headers: &HeaderMap, host: Option<&Authority>) -> bool {
    let site = headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return true;
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    origins.any(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        !authority.zip(host).is_some_and(|(own, host)| own.eq_ignore_ascii_case(host.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_strangers_can_have_must_be_known() {
        let allowed = ["db.example.org".to_owned(), ".example.net".to_owned()];
        let hosts = Hosts::new("kv-0.kv-headless.shop.svc.prod.example", &allowed);
        for (host, known) in [
            ("127.0.0.1", true),
            ("[::1]", true),
            ("10.0.0.7", true),
            ("localhost", true),
            ("LocalHost.", true),
            ("app.localhost", true),
            ("n1", true),
            ("box.local", true),
            ("kv-0.kv-headless.shop.svc.prod.example", true),
            ("kv.shop.svc", true),
            ("kv.shop.svc.cluster.local", true),
            ("kv.shop.svc.prod.example", true),
            ("kv-2.kv-headless.shop.svc.prod.example.", true),
            ("db.example.org", true),
            ("DB.Example.Org", true),
            ("a.example.net", true),
            ("evil.example", false),
            ("example.net", false),
            ("notexample.net", false),
            ("db.example.org.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("kv.shop", false),
            ("x.svc.evil.example", false),
        ] {
            assert_eq!(hosts.know(host), known, "{host}");
        }
        assert!(Hosts::new("n1", &["*".to_owned()]).know("evil.example"));
    }
}
