//! Connecting to a name with several addresses: one that does not answer does not keep the others waiting.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

/// How long one address is waited for before the next is tried as well (RFC 8305 recommends a quarter of a second).
const STAGGER: Duration = Duration::from_millis(250);

/// A connection to the first address of this host that answers. The caller has a deadline.
///
/// # Errors
/// The name cannot be resolved, or none of its addresses takes the connection: the error of the last one.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    first_of(lookup_host((host, port)).await?).await
}

async fn first_of(mut addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    loop {
        let more = addresses.next();
        let is_last = more.is_none();
        if let Some(address) = more {
            attempts.spawn(TcpStream::connect(address));
        }
        // The next address is due after a moment, or when one has failed.
        let patience = if is_last { Duration::MAX } else { STAGGER };
        match tokio::time::timeout(patience, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failure = error,
            Ok(Some(Err(error))) => failure = io::Error::other(error),
            Ok(None) if is_last => return Err(failure),
            Ok(None) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn an_address_that_is_silent_or_refuses_does_not_matter() {
        // Its queue is full, so the kernel drops what comes.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = socket.listen(0).unwrap();
        let silent_address = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(silent_address)).await {
            waiting.push(stream);
        }
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good_address = good.local_addr().unwrap();
        let refusing = SocketAddr::from(([127, 0, 0, 1], patroni_ports::free_port()));
        for addresses in
            [vec![silent_address, good_address], vec![refusing, good_address], vec![good_address, refusing]]
        {
            let stream = timeout(LIMIT, first_of(addresses.into_iter())).await.expect("in time").unwrap();
            assert_eq!(stream.peer_addr().unwrap(), good_address);
        }
        let refused = timeout(LIMIT, first_of([refusing, refusing].into_iter())).await.expect("in time").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_of(std::iter::empty()).await.is_err());
    }
}
