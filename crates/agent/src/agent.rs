//! The life of an agent: put together from its configuration, run, taken apart.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use patroni_config::Loaded;
use patroni_core::cluster::Cluster;
use patroni_core::plan::Exit;
use patroni_core::server::{DataDir, Postmaster, Server};
use patroni_core::view::View;
use patroni_dcs::wire::ClusterPath;
use patroni_dcs::{Dcs, Timing};
use patroni_postgres::conf::Conf;
use patroni_postgres::control::Control;
use patroni_postgres::monitor::Monitor;
use patroni_postgres::unfinished::end_leftover_copy;
use patroni_tick::agreement::Agreement;
use patroni_tick::driver;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiParts, Signal, StatusProbe};
use crate::configuration::Configuration;
use crate::guard::Guard;
use crate::hang::HangWatch;
use crate::jobs::Jobs;
use crate::log::Log;
use crate::maintenance::Maintenance;
use crate::metrics::{Metrics, Takeover};
use crate::node::Node;
use crate::notify::{Notifier, Stage};
use crate::publisher::Publisher;
use crate::requests::Requests;
use crate::slots::Slots;
use crate::store::{self, Store};
use crate::synchronous::Synchronous;
use crate::watchdog::WatchdogDevice;
use crate::{clock, options, peers};

/// How many requests of operators, and signals of the API, may wait for the loop.
const QUEUE: usize = 64;

/// The pause between attempts to reach the store at start.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// How long the last writes may take when the agent ends.
const FAREWELL: Duration = Duration::from_secs(3);

/// Runs the agent until it is told to stop, or cannot go on.
///
/// # Errors
/// It cannot start: the text says why and what helps.
pub async fn run(loaded: Loaded, log: Arc<Log>) -> anyhow::Result<Exit> {
    let (shutdown, mut reload) = (watch::Sender::new(false), mpsc::channel(QUEUE));
    listen_for_signals(shutdown.clone(), reload.0.clone())?;
    let mut configuration = Configuration::new(loaded.config, Arc::clone(&log))?;
    let dcs = open_store(&configuration)?;
    let mut notifier = Notifier::of_process();
    let first = first_load(&*dcs, &mut configuration, shutdown.subscribe(), &mut reload.1, &mut notifier).await;
    let Some(cluster) = first else {
        notifier.report(Stage::Stopping, "").await;
        return Ok(Exit::Clean);
    };
    refuse_double(&configuration, &cluster).await?;
    configuration.take_dynamic(cluster.config.as_ref());
    let mut node = assemble(configuration, dcs, shutdown.subscribe(), reload, notifier, &log).await?;
    let shown = node.view.borrow().clone();
    let exit = driver::run(&mut node, shown).await;
    node.finish(FAREWELL).await;
    Ok(exit)
}

fn open_store(configuration: &Configuration) -> anyhow::Result<Arc<dyn Dcs>> {
    let config = configuration.config();
    let settings = configuration.settings();
    let timing = Timing { ttl: settings.ttl, loop_wait: settings.loop_wait, retry_timeout: settings.retry_timeout };
    let path = ClusterPath { namespace: config.namespace.clone(), scope: config.scope.clone() };
    Ok(patroni_dcs::open_for_agent(config.effective(), &path, config.name.clone(), timing)?)
}

/// Reads the store for the first time, however long it takes to be there. `None`: told to stop meanwhile. A reload may bring
/// the password that it takes. A store that is away is no reason for the service manager to give this agent up.
async fn first_load(
    dcs: &dyn Dcs,
    configuration: &mut Configuration,
    mut shutdown: watch::Receiver<bool>,
    reload: &mut mpsc::Receiver<Signal>,
    notifier: &mut Notifier,
) -> Option<Cluster> {
    loop {
        let load = async {
            let problem = match dcs.load().await {
                Ok(cluster) => return Some(cluster),
                Err(why) => format!("Can not get cluster from dcs: {why}"),
            };
            tracing::warn!("{problem}");
            notifier.report(Stage::Ready, &problem).await;
            sleep(STORE_PAUSE).await;
            None
        };
        tokio::select! {
            cluster = load => if cluster.is_some() { return cluster },
            _ = shutdown.wait_for(|asked| *asked) => return None,
            Some(Signal::Reload) = reload.recv() => {
                notifier.reloading().await;
                configuration.reload().await;
                store::reload(dcs, configuration.config().effective());
                notifier.reloaded().await;
            }
        }
    }
}

/// Two agents of one name would take turns in ruining each other's work.
async fn refuse_double(configuration: &Configuration, cluster: &Cluster) -> anyhow::Result<()> {
    let name = &configuration.settings().name;
    let Some(api_url) = cluster.members.get(name).and_then(|member| member.data.api_url.as_ref()) else {
        return Ok(());
    };
    if peers::is_alive(&configuration.http_client(), api_url).await {
        tracing::error!(critical = true, "Can't start; there is already a node named '{name}' running");
        bail!("there is already a node named '{name}' running at {api_url}: stop it, or give this one another name");
    }
    Ok(())
}

async fn assemble(
    mut configuration: Configuration,
    dcs: Arc<dyn Dcs>,
    shutdown: watch::Receiver<bool>,
    signals: (mpsc::Sender<Signal>, mpsc::Receiver<Signal>),
    notifier: Notifier,
    log: &Log,
) -> anyhow::Result<Node> {
    let settings = configuration.settings();
    let monitor = Monitor::new(configuration.server_options());
    let woken = Arc::new(Notify::new());
    let view = watch::Sender::new(Arc::new(View::initial(Arc::clone(&settings), unknown_server(), clock::boot())));
    let http = watch::Sender::new(configuration.http_client());
    let (requests, incoming) = mpsc::channel(QUEUE);
    let metrics: Arc<Metrics> = Arc::default();
    let agreement: Arc<Agreement> = Arc::default();
    let (server, files, handle) = (configuration.server_options(), configuration.file_options(), monitor.clone());
    let data_dir = server.borrow().data_dir.clone();
    let control = move || {
        let conf = Conf::new(server.borrow().clone(), Arc::clone(&files), 0);
        Control::new(server.clone(), handle.clone(), conf)
    };
    let jobs = Jobs::new(control, Arc::clone(&woken));
    let parts = ApiParts {
        view: view.subscribe(),
        probe: Arc::new(Probe(monitor.clone())),
        working: jobs.working(),
        requests,
        signals: signals.0,
        agreement: Arc::clone(&agreement),
        dcs: Arc::clone(&dcs),
        http: http.subscribe(),
        clock: Arc::new(clock::now),
        log: Arc::new(log.queue_state()),
        metrics: Arc::clone(&metrics),
    };
    let config = Arc::clone(configuration.config());
    let api = api::serve(options::api_options(&config), parts, CancellationToken::new()).await?;
    configuration.serve(Arc::new(api));
    // Whatever an agent that was killed has left at work here would work against this one.
    end_leftover_copy(&monitor.programs(), &data_dir).await;
    Ok(Node {
        publisher: Publisher::start(Arc::clone(&dcs), Arc::clone(&woken)),
        store: Store::new(dcs, http, Arc::clone(&metrics)),
        jobs,
        maintenance: Maintenance::new(monitor.clone()),
        slots: Slots::new(monitor.clone()),
        disks: patroni_postgres::disks::watch(configuration.server_options(), Arc::clone(&woken)),
        synchronous: Synchronous::new(monitor.clone()),
        watchdog: WatchdogDevice::new(config.watchdog.clone()),
        hang: HangWatch::new(monitor.clone()),
        guard: Guard::new(data_dir, monitor.clone()),
        requests: Requests::new(incoming),
        signals: signals.1,
        notifier,
        postmaster_seen: false,
        agreement,
        takeover: Takeover::default(),
        tick_began: Instant::now(),
        store_handed_over: false,
        metrics,
        configuration,
        monitor,
        shutdown,
        woken,
        view,
    })
}

fn unknown_server() -> Arc<Server> {
    let why = "not looked at yet".to_owned();
    Arc::new(Server {
        data_dir: DataDir::Unknown(why.clone()),
        postmaster: Postmaster::Unreachable(why),
        other_wal: false,
    })
}

/// SIGTERM and SIGINT stop the agent, SIGHUP makes it read its configuration again.
fn listen_for_signals(shutdown: watch::Sender<bool>, reload: mpsc::Sender<Signal>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be handled")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = terminate.recv() => { shutdown.send_replace(true); }
                Some(()) = interrupt.recv() => { shutdown.send_replace(true); }
                Some(()) = hangup.recv() => {
                    if reload.try_send(Signal::Reload).is_err() {
                        tracing::warn!("too much to do to reload the configuration now; send SIGHUP again");
                    }
                }
            }
        }
    });
    Ok(())
}

/// The status of the server, for the REST API.
struct Probe(Monitor);

#[async_trait]
impl StatusProbe for Probe {
    async fn probe(&self) -> Postmaster {
        self.0.postmaster_state(Instant::now() + api::QUERY_LIMIT).await
    }

    async fn refusal(&self) -> Option<String> {
        patroni_postgres::upstream::refusal(&self.0).await
    }
}
