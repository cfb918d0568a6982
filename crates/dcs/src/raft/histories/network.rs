//! A network in memory: connections are pipes, which can be cut so that nothing arrives, or broken.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::{mpsc, watch};

use crate::raft::net::{Greeted, Incoming, Stream, Transport};

/// How long a connection over a cut is waited for.
const LOST: Duration = Duration::from_secs(3);
const LATENCY: Duration = Duration::from_millis(2);

#[derive(Default)]
pub(super) struct Network {
    inner: Mutex<Inner>,
    /// Counts whatever changes about the network.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    listening: BTreeMap<String, mpsc::UnboundedSender<DuplexStream>>,
    cut: BTreeSet<(String, String)>,
    isolated: BTreeSet<String>,
    /// Connections from before this are broken.
    broken: u64,
    gone: BTreeMap<String, u64>,
    count: u64,
}

impl Inner {
    fn passes(&self, from: &str, to: &str) -> bool {
        let pair = |a: &str, b: &str| self.cut.contains(&(a.to_owned(), b.to_owned()));
        !pair(from, to) && !pair(to, from) && !self.isolated.contains(from) && !self.isolated.contains(to)
    }

    fn lives(&self, from: &str, to: &str, number: u64) -> bool {
        let since = |name: &str| self.gone.get(name).copied().unwrap_or(0);
        number > self.broken && number > since(from) && number > since(to)
    }
}

impl Network {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic")
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner());
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn transport(self: &Arc<Self>, own: &str) -> Arc<dyn Transport> {
        Arc::new(From { network: Arc::clone(self), own: own.to_owned() })
    }

    pub(super) fn listen(&self, address: &str) -> impl Incoming {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.change(|inner| {
            inner.listening.insert(address.to_owned(), sender);
        });
        Listener(receiver)
    }

    /// A member has died: its connections are broken.
    pub(super) fn gone(&self, address: &str) {
        self.change(|inner| {
            inner.listening.remove(address);
            inner.gone.insert(address.to_owned(), inner.count);
        });
    }

    pub(super) fn cut(&self, a: &str, b: &str) {
        self.change(|inner| {
            inner.cut.insert((a.to_owned(), b.to_owned()));
        });
    }

    pub(super) fn isolate(&self, address: &str) {
        self.change(|inner| {
            inner.isolated.insert(address.to_owned());
        });
    }

    pub(super) fn break_all(&self) {
        self.change(|inner| inner.broken = inner.count);
    }

    pub(super) fn heal(&self) {
        self.change(|inner| {
            inner.cut.clear();
            inner.isolated.clear();
        });
    }

    /// Waits until bytes pass, or the connection is broken.
    async fn passable(&self, from: &str, to: &str, number: u64) -> bool {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let inner = self.inner();
                if !inner.lives(from, to, number) {
                    return false;
                }
                if inner.passes(from, to) {
                    return true;
                }
            }
            if changed.changed().await.is_err() {
                return false;
            }
        }
    }

    async fn broken(&self, from: &str, to: &str, number: u64) {
        let mut changed = self.changed.subscribe();
        while self.inner().lives(from, to, number) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

struct From {
    network: Arc<Network>,
    own: String,
}

#[async_trait]
impl Transport for From {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        tokio::time::sleep(LATENCY).await;
        let passes = self.network.inner().passes(&self.own, address);
        if !passes {
            tokio::time::sleep(LOST).await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (near, near_end) = duplex(1 << 16);
        let (far_end, far) = duplex(1 << 16);
        let number = {
            let mut inner = self.network.inner();
            inner.count += 1;
            let listening = inner.listening.get(address).ok_or(io::ErrorKind::ConnectionRefused)?;
            listening.send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            inner.count
        };
        let (network, from, to) = (Arc::clone(&self.network), self.own.clone(), address.to_owned());
        tokio::spawn(async move {
            let (near_read, near_write) = split(near_end);
            let (far_read, far_write) = split(far_end);
            tokio::select! {
                () = carry(&network, near_read, far_write, (&from, &to), number) => {}
                () = carry(&network, far_read, near_write, (&from, &to), number) => {}
                () = network.broken(&from, &to, number) => {}
            }
        });
        Ok(Box::new(near))
    }
}

async fn carry(
    network: &Network,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    ends: (&str, &str),
    number: u64,
) {
    let mut bytes = vec![0; 1 << 14];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        tokio::time::sleep(LATENCY).await;
        if !network.passable(ends.0, ends.1, number).await || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

struct Listener(mpsc::UnboundedReceiver<DuplexStream>);

#[async_trait]
impl Incoming for Listener {
    async fn next(&mut self) -> io::Result<Box<dyn Greeted>> {
        match self.0.recv().await {
            Some(stream) => Ok(Box::new(Pipe(stream))),
            None => std::future::pending().await,
        }
    }
}

struct Pipe(DuplexStream);

#[async_trait]
impl Greeted for Pipe {
    fn from(&self) -> Option<std::net::IpAddr> {
        None
    }

    async fn greet(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.0))
    }
}
