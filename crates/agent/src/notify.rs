//! What the service manager is told (`sd_notify(3)`): the agent is ready, reloads, stops, and what the last tick found.
//!
//! The crate `sd-notify` neither knows abstract sockets nor keeps a deadline. Programs that the agent starts do not
//! inherit the socket: see [`patroni_postgres::programs::command_for`].

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::time::Duration;

use patroni_core::units::in_words;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// How long the service manager may take to take a message.
const LIMIT: Duration = Duration::from_millis(200);

/// Where the agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It serves, or waits for nothing but its store.
    Ready,
    /// It was told to end, or has to.
    Stopping,
}

/// The way to the service manager; without one nothing is sent.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// The last message that arrived.
    told: String,
    complained: bool,
}

impl Notifier {
    /// To the socket in the environment variable `NOTIFY_SOCKET`. Needs a tokio runtime.
    pub fn of_process() -> Self {
        Self::to(std::env::var_os("NOTIFY_SOCKET"))
    }

    fn to(address: Option<OsString>) -> Self {
        let socket = address.filter(|address| !address.is_empty()).and_then(|address| match connect(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("systemd cannot be told anything: NOTIFY_SOCKET {}: {error}", address.to_string_lossy());
                None
            }
        });
        Notifier { socket, told: String::new(), complained: false }
    }

    /// Reports where the agent is and what `systemctl status` shows; what was said already is not repeated.
    pub async fn report(&mut self, stage: Stage, status: &str) {
        // With each status: a PostgreSQL that others started may have said for itself that it stops.
        let stage = match stage {
            Stage::Ready => "READY=1",
            Stage::Stopping => "STOPPING=1",
        };
        let message = format!("{stage}\nSTATUS={}\n", status.replace('\n', " "));
        if message != self.told && self.send(&message).await {
            self.told = message;
        }
    }

    /// The configuration is read again; the next report tells that this is done.
    pub async fn reloading(&mut self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n")).await;
        self.told.clear();
    }

    /// After [`Self::reloading`].
    pub async fn reloaded(&mut self) {
        self.send("READY=1\n").await;
    }

    async fn send(&mut self, message: &str) -> bool {
        let Some(socket) = &self.socket else { return true };
        let problem = match timeout(LIMIT, socket.send(message.as_bytes())).await {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took nothing within {}", in_words(LIMIT)),
        };
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!("systemd could not be told {:?}: {problem}", message.lines().next().unwrap_or_default());
        }
        false
    }
}

/// A path, or a name in the abstract namespace after an `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract socket")),
    };
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram as Receiver;

    use super::*;

    fn received(receiver: &Receiver) -> Option<String> {
        let mut buffer = [0; 1000];
        let length = receiver.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The life of an agent as the service manager sees it.
    async fn check(address: &OsStr, receiver: Receiver) {
        receiver.set_nonblocking(true).unwrap();
        let mut notifier = Notifier::to(Some(address.to_owned()));
        notifier.report(Stage::Ready, "no action").await;
        assert_eq!(received(&receiver).as_deref(), Some("READY=1\nSTATUS=no action\n"));
        notifier.report(Stage::Ready, "no action").await;
        assert_eq!(received(&receiver), None, "nothing new");
        notifier.reloading().await;
        let reloading = received(&receiver).unwrap();
        let at = reloading.trim().strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
        assert!(at.parse::<u64>().is_ok_and(|at| at > 0), "{reloading}");
        notifier.reloaded().await;
        assert_eq!(received(&receiver).as_deref(), Some("READY=1\n"));
        notifier.report(Stage::Stopping, "two\nlines").await;
        assert_eq!(received(&receiver).as_deref(), Some("STOPPING=1\nSTATUS=two lines\n"));
    }

    #[tokio::test]
    async fn sockets_with_a_path_and_without() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        check(path.as_os_str(), Receiver::bind(&path).unwrap()).await;
        let name = format!("patroni-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        check(OsStr::new(&format!("@{name}")), Receiver::bind_addr(&abstract_name).unwrap()).await;
    }

    #[tokio::test]
    async fn nobody_listens_and_nobody_minds() {
        for address in [None, Some("".into()), Some("/nonexistent/notify".into()), Some("vsock:2:1".into())] {
            let mut notifier = Notifier::to(address);
            notifier.report(Stage::Ready, "").await;
            notifier.reloading().await;
        }
    }

    #[tokio::test]
    async fn what_was_not_taken_is_said_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let receiver = Receiver::bind(&path).unwrap();
        let mut notifier = Notifier::to(Some(path.into()));
        // Until the queue of the receiver is full.
        for number in 0..100_000 {
            notifier.report(Stage::Ready, &number.to_string()).await;
            if notifier.complained {
                break;
            }
        }
        assert!(notifier.complained, "a queue without an end");
        receiver.set_nonblocking(true).unwrap();
        while received(&receiver).is_some() {}
        notifier.report(Stage::Stopping, "").await;
        assert_eq!(received(&receiver).as_deref(), Some("STOPPING=1\nSTATUS=\n"));
    }
}
