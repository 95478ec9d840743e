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

#[cfg(test)]
mod tests {
    use super::*;

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
