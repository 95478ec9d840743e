//! Ports that stay free while their owner is down.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

/// First port used, and how many. Below the range from which Linux takes the ports of outgoing
/// connections (32768 and up): a node that is down must find its port free again, and a client that
/// dials a dead port from that range can even reach itself.
const FIRST: u16 = 21_000;
const COUNT: u16 = 11_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on.
///
/// # Panics
/// When none is free.
pub(super) fn free_port() -> u16 {
    // Processes start at different places, so that two of them rarely try the same port.
    let offset = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Relaxed);
        let port = FIRST + (offset.wrapping_mul(37).wrapping_add(step)) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
