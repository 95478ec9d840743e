//! Addresses as `host:port`, an IPv6 address in brackets.

use std::net::{IpAddr, Ipv6Addr};

/// Host, without brackets, and port.
///
/// # Errors
/// What is wrong with it, as "it …".
pub fn parse(address: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("is not HOST:PORT")?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| digits && *port != 0);
    let port = port.ok_or("is not HOST:PORT with a port from 1 to 65535")?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(ip) if ip.parse::<Ipv6Addr>().is_ok() => Ok((ip, port)),
        Some(_) => Err("has no IPv6 address between the brackets"),
        None if host.contains(':') => Err("needs brackets around an IPv6 address"),
        None => check_name(host).map(|()| (host, port)),
    }
}

/// Whether others can be told to dial it: as [`parse`], and it is one address.
///
/// # Errors
/// As for [`parse`].
pub fn check(address: &str) -> Result<(), &'static str> {
    check_host(parse(address)?.0)
}

/// Whether others can be told a host, a name or an IP without brackets.
///
/// # Errors
/// As for [`parse`].
pub fn check_host(host: &str) -> Result<(), &'static str> {
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Err("others cannot dial it"),
        Ok(_) => Ok(()),
        Err(_) => check_name(host),
    }
}

fn check_name(host: &str) -> Result<(), &'static str> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_dialled_is_an_address() {
        for (why, address, want) in [
            ("a name", "node-1.flotilla.svc:7420", Some(("node-1.flotilla.svc", 7420))),
            ("a name that ends", "n1.:7420", Some(("n1.", 7420))),
            ("an underscore", "a_b:80", Some(("a_b", 80))),
            ("IPv4", "10.0.0.1:1", Some(("10.0.0.1", 1))),
            ("IPv6", "[fd00::1]:65535", Some(("fd00::1", 65535))),
            ("empty", "", None),
            ("no port", "n1", None),
            ("empty port", "n1:", None),
            ("port 0", "n1:0", None),
            ("port too large", "n1:65536", None),
            ("signed port", "n1:+80", None),
            ("no host", ":7420", None),
            ("IPv6 without brackets", "fd00::1:7420", None),
            ("bracket left open", "[::1:7420", None),
            ("brackets around a name", "[n1]:7420", None),
            ("a URL", "http://n1:7420", None),
            ("a path", "n1:7420/x", None),
            ("a space", "n 1:7420", None),
            ("a line end", "n1\n:7420", None),
            ("a name without a label", "a..b:7420", None),
        ] {
            assert_eq!(parse(address).ok(), want, "{why}: {address}");
            assert_eq!(check(address).is_ok(), want.is_some(), "{why}: {address}");
        }
        assert!(parse(&format!("{}:7420", "a.".repeat(200))).is_err(), "longer than a name can be");
    }

    #[test]
    fn every_address_of_a_machine_can_be_dialled_there_and_told_to_nobody() {
        for address in ["0.0.0.0:7420", "[::]:7420"] {
            assert!(parse(address).is_ok(), "{address}");
            assert!(check(address).is_err(), "{address}");
        }
        assert!(check_host("::").is_err() && check_host("::1").is_ok() && check_host("n1").is_ok());
    }
}
