//! The endpoints of etcd and the one connection that is in use.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::watch;

use super::failure;
use super::options::Etcd3Options;
use super::srv;

/// etcd answers more frequent pings with an error (its `--grpc-keepalive-min-time` is 5 s).
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Endpoints {
    options: Etcd3Options,
    inner: Mutex<Inner>,
    /// Grows whenever a connection is given up.
    generation: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    urls: Vec<String>,
    current: usize,
    client: Option<Client>,
}

/// A connection, and which one it is.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) url: String,
    pub(super) generation: u64,
}

/// There is no connection, so nothing was sent. `hopeless`: another try will not help.
pub(super) struct NoConnection {
    pub(super) text: String,
    pub(super) hopeless: bool,
}

impl Endpoints {
    pub(super) fn new(options: Etcd3Options) -> Self {
        let inner = Inner { urls: options.endpoints.clone(), ..Inner::default() };
        Endpoints { options, inner: Mutex::new(inner), generation: watch::Sender::new(0) }
    }

    /// The connection in use, or a new one to the current endpoint. Connecting is lazy unless there are credentials.
    pub(super) async fn connection(&self, patience: Duration) -> Result<Connection, NoConnection> {
        if let Some(connection) = self.present() {
            return Ok(connection);
        }
        let (generation, url) = self.current().await?;
        let options = self.connect_options(&url, patience).await?;
        let client = Client::connect([&url], Some(options)).await.map_err(|error| NoConnection {
            text: format!("{url}: {}", failure::text(&error)),
            hopeless: failure::fate(&error) == failure::Fate::Refused,
        })?;
        let mut inner = self.lock();
        if *self.generation.borrow() == generation {
            inner.client.get_or_insert_with(|| client.clone());
        }
        Ok(Connection { client, url, generation })
    }

    /// Gives up the connection of this generation; the next one goes to the next endpoint.
    pub(super) fn failed(&self, generation: u64) {
        let mut inner = self.lock();
        if *self.generation.borrow() != generation {
            return;
        }
        inner.client = None;
        inner.current = (inner.current + 1) % inner.urls.len().max(1);
        if inner.current == 0 && self.options.srv.is_some() {
            // Every endpoint was tried: the records may have changed.
            inner.urls = self.options.endpoints.clone();
        }
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The generation that is current. A changed one means that connections of older ones are suspect.
    pub(super) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    pub(super) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    pub(super) fn count(&self) -> usize {
        self.lock().urls.len().max(1)
    }

    /// Adds the addresses that the members of etcd announce, unless the configured ones are proxies.
    pub(super) fn learn(&self, announced: impl Iterator<Item = String>) {
        if self.options.use_proxies {
            return;
        }
        let mut inner = self.lock();
        let scheme = if inner.urls.first().is_some_and(|url| url.starts_with("https:")) { "https:" } else { "http:" };
        for url in announced.filter(|url| url.starts_with(scheme)) {
            let url = url.trim_end_matches('/').to_owned();
            if !inner.urls.contains(&url) && inner.urls.len() < 64 {
                inner.urls.push(url);
            }
        }
    }

    fn present(&self) -> Option<Connection> {
        let inner = self.lock();
        let client = inner.client.clone()?;
        Some(Connection { client, url: inner.urls.get(inner.current)?.clone(), generation: *self.generation.borrow() })
    }

    async fn current(&self) -> Result<(u64, String), NoConnection> {
        let known = |inner: &Inner| inner.urls.get(inner.current % inner.urls.len().max(1)).cloned();
        if let Some(url) = known(&self.lock()) {
            return Ok((self.generation(), url));
        }
        let domain = self.options.srv.as_deref().unwrap_or_default();
        let found = srv::system_endpoints(domain, self.options.srv_suffix.as_deref())
            .await
            .map_err(|text| NoConnection { text, hopeless: false })?;
        let mut inner = self.lock();
        if inner.urls.is_empty() {
            inner.urls = found;
            inner.current = 0;
        }
        let missing = || NoConnection { text: "no endpoint of etcd is known".into(), hopeless: false };
        known(&inner).map(|url| (*self.generation.borrow(), url)).ok_or_else(missing)
    }

    async fn connect_options(&self, url: &str, patience: Duration) -> Result<ConnectOptions, NoConnection> {
        // Shorter than the limit of the whole attempt, so that "not connected" is known and not only "no answer".
        let mut options = ConnectOptions::new()
            .with_connect_timeout(patience.mul_f32(0.7))
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &self.options.credentials {
            options = options.with_user(name, password);
        }
        if url.starts_with("https://") {
            options = options.with_tls(self.tls().await?);
        }
        Ok(options)
    }

    /// Files are read at each new connection, so that renewed certificates are used.
    async fn tls(&self) -> Result<TlsOptions, NoConnection> {
        let mut tls = TlsOptions::new();
        match &self.options.cacert {
            Some(path) => tls = tls.ca_certificate(Certificate::from_pem(read("cacert", path).await?)),
            None => tls = tls.with_native_roots(),
        }
        if let Some(cert) = &self.options.cert {
            let key = self.options.key.as_ref().unwrap_or(cert);
            tls = tls.identity(Identity::from_pem(read("cert", cert).await?, read("key", key).await?));
        }
        Ok(tls)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(setting: &str, path: &str) -> Result<Vec<u8>, NoConnection> {
    let failed = |error| NoConnection { text: format!("etcd3.{setting}: cannot read {path}: {error}"), hopeless: true };
    tokio::fs::read(path).await.map_err(failed)
}
