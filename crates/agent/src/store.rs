//! The loop's operations on the store and on peers: each with a deadline, each with an outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, FailoverRequest, Initialize, Version};
use patroni_core::facts::{InitializeWrite, Outcome};
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::peer::Peer;
use patroni_core::settings::Settings;
use patroni_core::sync::Electorate;
use patroni_core::time::Moment;
use patroni_core::units::in_words;
use patroni_dcs::{Dcs, Expected, Key, LeaderUpdate, Timing, wire};
use patroni_http::HttpClient;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::metrics::{Histogram, Metrics, StoreCall};
use crate::peers;

/// The store and the peers.
pub struct Store {
    dcs: Arc<dyn Dcs>,
    changes: watch::Receiver<u64>,
    http: watch::Sender<HttpClient>,
    timing: Option<Timing>,
    metrics: Arc<Metrics>,
}

impl Store {
    /// Over this store; peers are asked with the client that `http` holds.
    pub fn new(dcs: Arc<dyn Dcs>, http: watch::Sender<HttpClient>, metrics: Arc<Metrics>) -> Self {
        let changes = dcs.changes();
        Store { dcs, changes, http, timing: None, metrics }
    }

    /// Another client for peers, after a reload.
    pub fn set_http(&self, http: HttpClient) {
        self.http.send_replace(http);
    }

    /// Completes when something in the store changed since the last load.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes over `ttl`, `loop_wait` and `retry_timeout`.
    pub fn configure(&mut self, settings: &Settings) {
        let timing = Timing { ttl: settings.ttl, loop_wait: settings.loop_wait, retry_timeout: settings.retry_timeout };
        if self.timing != Some(timing) {
            self.dcs.configure(timing);
            self.timing = Some(timing);
        }
    }

    /// Takes over what a reloaded configuration says about access to the store.
    pub fn reload(&self, configuration: &JsonMap) {
        reload(&*self.dcs, configuration);
    }

    /// This process is about to end. See [`Dcs::hand_over`].
    pub async fn hand_over(&self, limit: Duration) {
        if timeout(limit, self.dcs.hand_over()).await.is_err() {
            tracing::warn!("the store was not prepared for the end of this agent within {limit:?}");
        }
    }

    /// Reads the cluster. Changes from here on wake the loop again.
    pub async fn load(&mut self, limit: Duration) -> Result<Arc<Cluster>, String> {
        self.changes.mark_unchanged();
        match timeout(limit, self.timed(StoreCall::Load, self.dcs.load())).await {
            Ok(read) => read.map(Arc::new).map_err(|why| why.to_string()),
            Err(_) => Err(format!("no answer within {}", in_words(limit))),
        }
    }

    /// See [`Dcs::renew`].
    pub async fn renew(&self, update: &LeaderUpdate, limit: Duration) -> Outcome<Moment> {
        within(limit, self.timed(StoreCall::Renew, self.dcs.renew(update))).await
    }

    /// See [`Dcs::acquire`].
    pub async fn acquire(&self, limit: Duration) -> Outcome<Moment> {
        within(limit, self.timed(StoreCall::Acquire, self.dcs.acquire())).await
    }

    /// See [`Dcs::release`].
    pub async fn release(&self, last_lsn: Option<Lsn>, limit: Duration) -> Outcome<()> {
        within(limit, self.timed(StoreCall::Release, self.dcs.release(last_lsn))).await
    }

    /// Asks peers for their status.
    pub async fn poll_peers(
        &self,
        members: &BTreeMap<MemberName, String>,
        limit: Duration,
    ) -> BTreeMap<MemberName, Peer> {
        let http = self.http.borrow().clone();
        peers::poll(&http, members, limit.min(peers::STATUS_LIMIT)).await
    }

    /// Asks these members whether this primary may go on without the store. Returns how far they have received its WAL.
    ///
    /// # Errors
    /// Who did not agree.
    pub async fn ask_failsafe(
        &self,
        members: &BTreeMap<MemberName, String>,
        message: &JsonMap,
        limit: Duration,
    ) -> Result<BTreeMap<MemberName, Lsn>, String> {
        let http = self.http.borrow().clone();
        peers::ask_failsafe(&http, members, message, limit.min(peers::STATUS_LIMIT * 2)).await
    }

    /// Writes `/initialize`, which was found like `present`: an absent key is raced for, anything else is replaced by
    /// whoever has the right to.
    pub async fn initialize(&self, write: InitializeWrite, present: &Initialize, limit: Duration) -> Outcome<()> {
        match write {
            InitializeWrite::Begin => self.write(Key::Initialize, "", Expected::Absent, limit).await,
            InitializeWrite::Finish(id) => {
                let expected = match present {
                    Initialize::Absent => Expected::Absent,
                    Initialize::InProgress(version) | Initialize::Invalid(_, version) => Expected::Version(*version),
                    Initialize::Done(same) if *same == id => return Outcome::Done(()),
                    Initialize::Done(_) => return Outcome::Refused,
                };
                self.write(Key::Initialize, &id.to_string(), expected, limit).await
            }
            InitializeWrite::Cancel => {
                let expected = match present {
                    Initialize::Absent => return Outcome::Done(()),
                    Initialize::InProgress(version) => Expected::Version(*version),
                    Initialize::Done(_) | Initialize::Invalid(..) => return Outcome::Refused,
                };
                let delete = self.dcs.delete(Key::Initialize, expected);
                within(limit, self.timed(StoreCall::Write, delete)).await
            }
        }
    }

    /// Writes `/config`, if it still has the version it was found with.
    pub async fn write_config(&self, found: Option<Version>, config: &JsonMap, limit: Duration) -> Outcome<()> {
        self.write(Key::Config, &wire::config(config), found.into(), limit).await
    }

    /// Replaces or deletes `/failover`.
    pub async fn write_failover(
        &self,
        found: Version,
        request: Option<&FailoverRequest>,
        limit: Duration,
    ) -> Outcome<()> {
        // Patroni deletes by writing an empty object; its members read that as no request.
        let value = request.map_or_else(|| "{}".to_owned(), wire::failover);
        self.write(Key::Failover, &value, Expected::Version(found), limit).await
    }

    /// Writes `/history`, if it still has the version it was found with: what an earlier leader wrote may come late.
    pub async fn write_history(&self, found: Option<Version>, value: &str, limit: Duration) -> Outcome<()> {
        self.write(Key::History, value, found.into(), limit).await
    }

    /// Measures the call; one that is given up at its deadline counts with that time.
    async fn timed<T>(&self, call: StoreCall, work: impl Future<Output = T>) -> T {
        let _timer = Timer { histogram: self.metrics.store(call), started: Instant::now() };
        work.await
    }

    /// Writes `/sync`, if it still has the version it was found with; without an electorate it is deleted.
    pub async fn write_sync(
        &self,
        found: Option<Version>,
        leader: &MemberName,
        electorate: Option<&Electorate>,
        limit: Duration,
    ) -> Outcome<()> {
        let expected = found.into();
        let Some(electorate) = electorate else {
            return within(limit, self.dcs.delete(Key::Sync, expected)).await;
        };
        let voters: Vec<MemberName> = electorate.voters.iter().cloned().collect();
        let quorum = u32::try_from(electorate.quorum).unwrap_or(u32::MAX);
        self.write(Key::Sync, &wire::sync(Some(leader), &voters, quorum), expected, limit).await
    }

    async fn write(&self, key: Key, value: &str, expected: Expected, limit: Duration) -> Outcome<()> {
        within(limit, self.timed(StoreCall::Write, self.dcs.write(key, value, expected))).await.map(drop)
    }
}

/// Takes over what a reloaded configuration says about access to the store. Where it cannot be used, the settings before
/// stay in force.
pub(crate) fn reload(dcs: &dyn Dcs, configuration: &JsonMap) {
    if let Err(error) = dcs.reload(configuration) {
        tracing::error!("{error}; the settings of the store before stay in force");
    }
}

/// Records the time until it is dropped.
struct Timer<'a> {
    histogram: &'a Histogram,
    started: Instant,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.histogram.record(self.started.elapsed());
    }
}

/// A write that has no answer by its deadline may have happened.
async fn within<T>(limit: Duration, write: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    match timeout(limit, write).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unknown(format!("no answer within {}", in_words(limit))),
    }
}
