//! Where a node listens, and what it tells others to dial.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::Config;

/// What the three ports were bound to, with real port numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundAddresses {
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub http: SocketAddr,
}

impl BoundAddresses {
    /// File in the data directory; rewritten at each start.
    pub const FILE: &'static str = "addresses.json";

    /// Leaves a whole file or none, also for a reader that is waiting for it.
    ///
    /// # Errors
    /// A failed write; the old file, if any, is still there.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        let new = data_dir.join("addresses.json.new");
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(new, data_dir.join(Self::FILE))
    }

    /// What the last start in `data_dir` was bound to.
    ///
    /// # Errors
    /// No such file, or one that was not written by [`BoundAddresses::write`].
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let text = fs::read(data_dir.join(Self::FILE))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }
}

/// `HOST:PORT` of the three ports, as others reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    pub client: String,
    pub peer: String,
    pub http: String,
}

impl Config {
    /// The advertised host with the ports that were bound.
    #[must_use]
    pub fn advertised(&self, bound: &BoundAddresses) -> Advertised {
        let host = match &self.advertise_host {
            Some(host) => match host.parse() {
                Ok(ip) => host_of(ip),
                Err(_) => host.clone(),
            },
            None => host_of(bound.client.ip()),
        };
        let at = |address: SocketAddr| format!("{host}:{}", address.port());
        Advertised { client: at(bound.client), peer: at(bound.peer), http: at(bound.http) }
    }
}

fn host_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// A name or an IP, without scheme and port.
pub(super) fn check_host(host: &str) -> Result<(), &'static str> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return if ip.is_unspecified() { Err("others cannot dial it") } else { Ok(()) };
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err("is no host name or IP (without scheme and port)")
    }
}

pub(super) fn check_host_port(address: &str) -> Result<(), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("is not HOST:PORT")?;
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err("is not HOST:PORT with a port from 1 to 65535");
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(ip) if ip.parse::<std::net::Ipv6Addr>().is_ok() => Ok(()),
        Some(_) => Err("has no IPv6 address between the brackets"),
        None if host.contains(':') => Err("needs brackets around an IPv6 address"),
        None => check_host(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_addresses_are_host_and_port() {
        for (why, address, ok) in [
            ("name", "node-1.flotilla.svc:7420", true),
            ("IPv4", "10.0.0.1:7420", true),
            ("IPv6", "[fd00::1]:7420", true),
            ("no port", "node-1", false),
            ("port 0", "node-1:0", false),
            ("a URL", "http://node-1:7420", false),
            ("IPv6 without brackets", "fd00::1:7420", false),
            ("nobody", ":7420", false),
            ("every address", "0.0.0.0:7420", false),
        ] {
            assert_eq!(check_host_port(address).is_ok(), ok, "{why}: {address}");
        }
    }

    #[test]
    fn others_are_told_the_advertised_host_with_the_bound_ports() {
        let at = |text: &str| text.parse().expect("an address");
        let bound = BoundAddresses {
            client: at("0.0.0.0:1001"),
            peer: at("0.0.0.0:1002"),
            http: at("0.0.0.0:1003"),
        };
        let told = |host: Option<&str>, bound: &BoundAddresses| {
            let config =
                Config { advertise_host: host.map(ToOwned::to_owned), ..Config::default() };
            config.advertised(bound)
        };
        let named = told(Some("node-1"), &bound);
        assert_eq!(
            [&named.client, &named.peer, &named.http],
            ["node-1:1001", "node-1:1002", "node-1:1003"]
        );
        assert_eq!(told(Some("fd00::1"), &bound).peer, "[fd00::1]:1002");
        let local = BoundAddresses { client: at("127.0.0.1:1001"), ..bound };
        assert_eq!(told(None, &local).http, "127.0.0.1:1003");
    }

    #[test]
    fn written_addresses_are_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let first = BoundAddresses { client: at(1), peer: at(2), http: at(3) };
        let second = BoundAddresses { client: at(4), ..first };
        for addresses in [first, second] {
            addresses.write(dir.path()).expect("written");
            assert_eq!(BoundAddresses::read(dir.path()).expect("read"), addresses);
        }
        let names: Vec<_> = fs::read_dir(dir.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, [BoundAddresses::FILE], "no half-written file stays behind");
    }
}
