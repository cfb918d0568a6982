//! The endpoints of etcd and the one connection that is in use.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::client::{Client, Error};
use super::failure;
use crate::attempts::Fate;
use crate::etcd::{Addresses, EtcdOptions, srv};

pub(super) struct Endpoints {
    inner: Mutex<Inner>,
    /// Grows whenever a connection is given up.
    generation: watch::Sender<u64>,
}

struct Inner {
    options: EtcdOptions,
    addresses: Addresses,
    connection: Option<Connection>,
    /// etcd said last time that it wants no authentication.
    is_open: bool,
}

/// A connection, and which one it is.
#[derive(Clone)]
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
    pub(super) fn new(options: EtcdOptions) -> Self {
        let addresses = Addresses::new(&options);
        let inner = Inner { options, addresses, connection: None, is_open: false };
        Endpoints { inner: Mutex::new(inner), generation: watch::Sender::new(0) }
    }

    /// Takes other credentials and certificates, with a new connection. The addresses stay: others could be those of
    /// another etcd. False: the settings name other addresses.
    pub(super) fn reconfigure(&self, options: EtcdOptions) -> bool {
        let mut inner = self.lock();
        let same_place = options.place() == inner.options.place();
        let old = std::mem::take(&mut inner.options);
        inner.options = options.at_the_place_of(&old);
        if inner.options != old {
            self.give_up(&mut inner);
        }
        same_place
    }

    /// The connection in use, or a new one to the current endpoint. Connecting is lazy unless there are credentials.
    pub(super) async fn connection(&self, patience: Duration) -> Result<Connection, NoConnection> {
        if let Some(connection) = self.lock().connection.clone() {
            return Ok(connection);
        }
        self.resolve().await?;
        let (generation, url, settings) = self.target()?;
        let client = self.connect(&url, &settings, patience).await?;
        let connection = Connection { client, url, generation };
        let mut inner = self.lock();
        if *self.generation.borrow() == generation {
            inner.connection.get_or_insert_with(|| connection.clone());
        }
        Ok(connection)
    }

    async fn connect(&self, url: &str, settings: &EtcdOptions, patience: Duration) -> Result<Client, NoConnection> {
        let tls = if url.starts_with("https://") { Some(tls(settings).await?) } else { None };
        // Shorter than the limit of the whole attempt, so that "not connected" is known and not only "no answer".
        let connect = |credentials| Client::connect(url, tls.clone(), credentials, patience.mul_f32(0.7));
        if settings.credentials.is_none() {
            return connect(None).await.map_err(|error| no_connection(url, &error));
        }
        let refused = match connect(settings.credentials.clone()).await {
            Ok(client) => {
                self.lock().is_open = false;
                return Ok(client);
            }
            Err(error) => error,
        };
        if !failure::wants_no_authentication(&refused) {
            return Err(no_connection(url, &refused));
        }
        // Once it is enabled, requests of this connection are refused, and the next one authenticates.
        if !std::mem::replace(&mut self.lock().is_open, true) {
            tracing::info!("Etcd authentication is not enabled");
        }
        connect(None).await.map_err(|error| no_connection(url, &error))
    }

    /// Gives up the connection of this generation; the next one goes to the next endpoint.
    pub(super) fn failed(&self, generation: u64) {
        let mut inner = self.lock();
        if *self.generation.borrow() != generation {
            return;
        }
        inner.addresses.advance();
        self.give_up(&mut inner);
    }

    /// What uses the connection looks for another one.
    fn give_up(&self, inner: &mut Inner) {
        inner.connection = None;
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
        self.lock().addresses.count().max(1)
    }

    /// Takes over the addresses that the members of etcd announce now, unless the configured ones are proxies.
    pub(super) fn learn(&self, announced: impl Iterator<Item = String>) {
        let mut inner = self.lock();
        if !inner.options.use_proxies {
            inner.addresses.announce(announced);
        }
    }

    fn target(&self) -> Result<(u64, String, EtcdOptions), NoConnection> {
        let inner = self.lock();
        let missing = || NoConnection { text: "no endpoint of etcd is known".into(), hopeless: false };
        let url = inner.addresses.current().ok_or_else(missing)?.to_owned();
        Ok((*self.generation.borrow(), url, inner.options.clone()))
    }

    async fn resolve(&self) -> Result<(), NoConnection> {
        let Some(records) = self.lock().addresses.unresolved() else { return Ok(()) };
        let found = srv::system_endpoints(&records.domain, records.suffix.as_deref()).await;
        self.lock().addresses.resolved(found).map_err(|text| NoConnection { text, hopeless: false })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_connection(url: &str, error: &Error) -> NoConnection {
    NoConnection { text: format!("{url}: {error}"), hopeless: failure::fate(error) == Fate::Refused }
}

/// Files are read at each new connection, so that renewed certificates are used.
async fn tls(settings: &EtcdOptions) -> Result<ClientTlsConfig, NoConnection> {
    let mut tls = ClientTlsConfig::new();
    match &settings.cacert {
        Some(path) => tls = tls.ca_certificate(Certificate::from_pem(read("cacert", path).await?)),
        None => tls = tls.with_native_roots(),
    }
    if let Some(cert) = &settings.cert {
        let key = settings.key.as_ref().unwrap_or(cert);
        tls = tls.identity(Identity::from_pem(read("cert", cert).await?, read("key", key).await?));
    }
    Ok(tls)
}

async fn read(setting: &str, path: &str) -> Result<Vec<u8>, NoConnection> {
    let failed = |error| NoConnection { text: format!("etcd3.{setting}: cannot read {path}: {error}"), hopeless: true };
    tokio::fs::read(path).await.map_err(failed)
}
