//! Addresses as `host:port`, refused with words before anything is written.

use crate::error::Error;

/// Longest name that DNS allows.
const HOST_BYTES_MAX: usize = 253;

/// Refuses what cannot be dialled: `host:port` is wanted, an IPv6 host in brackets.
///
/// # Errors
/// `InvalidArgument` that names `field`.
pub fn check_address(field: &str, address: &str) -> Result<(), Error> {
    let refuse = |message: &str| Err(Error::invalid(field, format!("{address:?} {message}")));
    let Some((host, port)) = address.rsplit_once(':') else {
        return refuse("is not host:port");
    };
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|byte| byte.is_ascii_digit()) => {}
        _ => return refuse("has no port from 1 to 65535"),
    }
    if host.len() > HOST_BYTES_MAX {
        return refuse("has a host that is too long");
    }
    let valid = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(inner)) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        Some(None) => false,
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    if valid { Ok(()) } else { refuse("has no valid host") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_dialled_is_an_address() {
        for address in ["n1:7420", "10.0.0.1:1", "[::1]:7420", "kv-0.kv.ns.svc:65535", "a_b:80"] {
            assert_eq!(check_address("address", address), Ok(()), "{address}");
        }
        let long = format!("{}:7420", "a".repeat(254));
        for (why, address) in [
            ("empty", ""),
            ("no port", "n1"),
            ("empty port", "n1:"),
            ("port 0", "n1:0"),
            ("port too large", "n1:65536"),
            ("signed port", "n1:+80"),
            ("no host", ":7420"),
            ("IPv6 without brackets", "::1:7420"),
            ("bracket left open", "[::1:7420"),
            ("brackets around a name", "[n1]:7420"),
            ("scheme", "http://n1:7420"),
            ("path", "n1:7420/x"),
            ("space", "n 1:7420"),
            ("line end", "n1\n:7420"),
            ("too long", &long),
        ] {
            let error = check_address("address", address).expect_err(why);
            assert!(
                matches!(&error, Error::InvalidArgument { field, .. } if field == "address"),
                "{why}: {error:?}"
            );
        }
    }
}
