//! Ports for the servers that tests start.
//!
//! A port that the kernel chose (`bind` to port 0) and that was closed again is nobody's: until the server listens, another test
//! can be given it, and so can any outgoing connection. [`free_port`] is free of both.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const LAST: u16 = 29_999;

/// A port of loopback that nobody uses, neither for TCP nor for UDP, and that no other process gets from this function until
/// the calling process ends.
///
/// It lies below the range from which the kernel takes ports for connections.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    // Processes that start one after the other begin far from each other.
    let begin = u16::try_from(std::process::id() % 200).expect("below 200") * 100;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = LAST.min(first_of_connections().saturating_sub(1)).saturating_sub(FIRST) + 1;
    for _ in 0..range {
        let port = FIRST + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % range;
        if reserved(port)
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok()
        {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {LAST}");
}

/// Whether the port is this process's now. The reservation is a socket without a file, which ends with the process; programs that
/// it starts do not inherit it.
fn reserved(port: u16) -> bool {
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("patroni-rs test, port {port}")).expect("a short name");
    let Ok(reservation) = UnixListener::bind_addr(&name) else { return false };
    RESERVED.lock().expect("nobody panics here").push(reservation);
    true
}

fn first_of_connections() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let mut ports: Vec<u16> = (0..100).map(|_| free_port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| !reserved(*port)));
    }

    #[test]
    fn a_port_in_use_is_not_given() {
        let port = free_port();
        let _server = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!((0..200).all(|_| free_port() != port));
    }

    #[test]
    fn no_connection_can_be_given_it() {
        assert!(free_port() < first_of_connections());
    }
}
