//! The configuration in force, where it comes from, and whom it has to be told.

use std::sync::Arc;
use std::time::Duration;

use patroni_config::{Config, ConfigError, Loaded, Purpose, Source, Warning, cache};
use patroni_core::JsonMap;
use patroni_core::cluster::{ClusterConfig, Version};
use patroni_core::facts::Facts;
use patroni_core::parameters::SynchronousStandbyNames;
use patroni_core::server::{Postmaster, Role, Running};
use patroni_core::settings::{Settings, SynchronousMode};
use patroni_core::view::{Addresses, View};
use patroni_http::HttpClient;
use patroni_postgres::conf::FileOptions;
use patroni_postgres::control::Control;
use patroni_postgres::options::ServerOptions;
use patroni_postgres::sql::{Connection, DEFAULT_OPTIONS};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::Api;
use crate::blocking::on_disk;
use crate::log::Log;
use crate::maintenance::Maintenance;
use crate::options;

/// How long PostgreSQL may take to compare its settings with new ones.
const COMPARE_LIMIT: Duration = Duration::from_secs(3);

/// How long a reload may take to reach a server process, and how often that is looked at.
const RELOAD_LIMIT: Duration = Duration::from_secs(1);
const RELOAD_POLL: Duration = Duration::from_millis(5);

/// The configuration of this agent.
pub struct Configuration {
    config: Arc<Config>,
    settings: Arc<Settings>,
    server: watch::Sender<Arc<ServerOptions>>,
    /// Those that led to the server when it was told of something last.
    reached: Option<ServerOptions>,
    /// A restart of the server that was started at this time brings these options into force.
    after_restart: Option<(String, Arc<ServerOptions>)>,
    addresses: Addresses,
    /// The version of `/config` that was looked at last.
    seen: Option<Version>,
    /// PostgreSQL has not been told of the configuration in force.
    untold: Option<Untold>,
    http: HttpClient,
    /// The API and the log take new settings by themselves; they are there once the agent is up.
    api: Option<Arc<Api>>,
    log: Arc<Log>,
    saved: JsonMap,
    /// The warnings about the configuration in force.
    reported: Vec<Warning>,
}

/// What PostgreSQL has to be told, and how thoroughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Untold {
    /// The agent has just started: a running server was started by another one.
    Adopted,
    /// Settings changed.
    Changed,
    /// An operator asked for a reload: everything is written again.
    Asked,
}

impl Configuration {
    /// Takes over the configuration read at start, with the content of `/config` if that could be read.
    ///
    /// # Errors
    /// A certificate cannot be used.
    pub fn new(config: Arc<Config>, log: Arc<Log>) -> Result<Self, patroni_http::TlsError> {
        let config = with_bootstrap_defaults(config);
        let server = Arc::new(options::server_options(&config));
        let http = HttpClient::new(options::client_options(&config))?;
        Ok(Configuration {
            settings: Arc::new(config.settings().clone()),
            addresses: options::addresses(&config, &server, &options::file_options(&config)),
            server: watch::Sender::new(server),
            reached: None,
            after_restart: None,
            seen: None,
            untold: Some(Untold::Adopted),
            http,
            api: None,
            log,
            saved: JsonMap::new(),
            reported: Vec::new(),
            config,
        })
    }

    /// The API is there: it learns of reloads from now on.
    pub fn serve(&mut self, api: Arc<Api>) {
        self.api = Some(api);
    }

    /// What decisions depend on.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings)
    }

    /// Everything.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Where others reach this node.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How the local server is started and reached, and its changes.
    pub fn server_options(&self) -> watch::Receiver<Arc<ServerOptions>> {
        self.server.subscribe()
    }

    /// What PostgreSQL's files should say.
    pub fn file_options(&self) -> Arc<FileOptions> {
        Arc::new(options::file_options(&self.config))
    }

    /// How peers are asked.
    pub fn http_client(&self) -> HttpClient {
        self.http.clone()
    }

    /// Takes over what the store says. Garbage, or nothing, leaves the configuration in force.
    pub fn take_dynamic(&mut self, stored: Option<&ClusterConfig>) {
        let Some(stored) = stored.filter(|stored| self.seen != Some(stored.version)) else { return };
        self.seen = Some(stored.version);
        let Some(data) = stored.data.as_ref().filter(|data| !data.is_empty()) else {
            tracing::warn!("the key /config holds no configuration; the one before stays in force");
            return;
        };
        self.take(self.config.with_dynamic(stored.version, data.clone()), Untold::Changed);
    }

    /// The dynamic configuration for a store that has none.
    pub fn dynamic_to_store(&self) -> JsonMap {
        self.config.dynamic().clone()
    }

    /// Reads files and environment again, as SIGHUP and POST `/reload` ask. On an error the old settings stay.
    pub async fn reload(&mut self) {
        let config = Arc::clone(&self.config);
        match on_disk(move || config.reload()).await {
            Ok(Ok(loaded)) => {
                if !loaded.changed {
                    tracing::info!("No local configuration items changed.");
                }
                self.take(loaded, Untold::Asked);
            }
            Ok(Err(error)) => tracing::error!("{}", kept(&self.config, &error)),
            Err(why) => tracing::error!("the configuration could not be read: {why}; the one before stays in force"),
        }
        self.reload_parts().await;
    }

    async fn reload_parts(&mut self) {
        let client = options::client_options(&self.config);
        match on_disk(move || HttpClient::new(client).map_err(|error| error.to_string())).await.flatten() {
            Ok(http) => self.http = http,
            Err(why) => tracing::error!("ctl: {why}; the settings before stay in force"),
        }
        let (log, options) = (Arc::clone(&self.log), options::log_options(&self.config.log));
        let reconfigured = on_disk(move || log.reconfigure(&options).map_err(|error| error.to_string())).await;
        if let Err(why) = reconfigured.flatten() {
            tracing::error!("log: {why}; the settings before stay in force");
        }
        if let Some(api) = &self.api
            && let Err(error) = api.reload(options::api_options(&self.config)).await
        {
            tracing::error!("{error}; the settings before stay in force");
        }
    }

    fn take(&mut self, loaded: Loaded, untold: Untold) {
        for warning in &loaded.warnings {
            // What is wrong with the store is reported once, however often something else there changes.
            if untold == Untold::Asked || !self.reported.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        if loaded.changed {
            self.reported = loaded.warnings;
        }
        self.config = loaded.config;
        self.settings = Arc::new(self.config.settings().clone());
        if !loaded.changed && untold != Untold::Asked {
            return;
        }
        let server = Arc::new(options::server_options(&self.config));
        self.addresses = options::addresses(&self.config, &server, &options::file_options(&self.config));
        // A password may be in force already, an address may not.
        let reached = self.reached.as_ref();
        self.server.send_modify(|in_force| *in_force = in_force.or_as([&*server].into_iter().chain(reached)));
        if self.untold.is_none_or(|before| before != Untold::Adopted) {
            self.untold = Some(untold);
        }
    }

    /// The server that ran when the agent was started has been taken over.
    pub fn knows_server(&self) -> bool {
        self.untold != Some(Untold::Adopted)
    }

    /// Where no server answers, the next one is to be started as configured now.
    pub fn prepare(&mut self, control: &mut Control, facts: &Facts) {
        let Some(untold) = self.untold.filter(|_| facts.server.running().is_none()) else { return };
        if untold == Untold::Adopted && !matches!(facts.server.postmaster, Postmaster::Stopped(_)) {
            return;
        }
        let server = Arc::new(options::server_options(&self.config));
        control.conf().set_options(Arc::clone(&server), self.file_options());
        self.after_restart = None;
        if self.settings.synchronous.mode != SynchronousMode::Off {
            control.conf().set_synchronous_standby_names(SynchronousStandbyNames::Managed(None));
        }
        self.bring_into_force(&server);
        self.untold = None;
    }

    fn bring_into_force(&self, server: &ServerOptions) {
        // What leads to the server does so until the other side of the change is done as well, whatever changes meanwhile.
        let reached = self.reached.as_ref();
        self.server.send_modify(|before| *before = server.or_as([&**before].into_iter().chain(reached)));
    }

    /// Tells PostgreSQL what it has not been told yet. Needs the handle, so it waits for a job to end. True: it was told.
    pub async fn apply(&mut self, control: &mut Control, maintenance: &mut Maintenance, facts: &Facts) -> bool {
        let Some(running) = facts.server.running() else { return false };
        if let Some((_, server)) = self.after_restart.take_if(|(of, _)| *of != running.start_time) {
            self.bring_into_force(&server);
        }
        let Some(untold) = self.untold else { return false };
        let server = Arc::new(options::server_options(&self.config));
        match timeout(COMPARE_LIMIT * 2, self.tell(control, running, facts, server, untold)).await {
            Ok(Ok(pending)) => {
                maintenance.set_pending_restart(running, pending);
                self.untold = None;
            }
            Ok(Err(error)) => tracing::warn!("PostgreSQL could not be told the new configuration: {error}"),
            Err(_) => tracing::warn!("PostgreSQL could not be told the new configuration in time; will try again"),
        }
        self.untold.is_none()
    }

    async fn tell(
        &mut self,
        control: &mut Control,
        running: &Running,
        facts: &Facts,
        server: Arc<ServerOptions>,
        untold: Untold,
    ) -> patroni_postgres::Result<JsonMap> {
        let (connection, reached) = control.options().reach(None, "Patroni configuration", DEFAULT_OPTIONS).await?;
        self.reached = Some(reached);
        if untold == Untold::Adopted {
            control.adopt(if running.wal.is_standby() { Role::Replica } else { Role::Primary }).await?;
            self.adopt_standby_names(control, facts, &connection).await?;
        }
        let force = untold != Untold::Changed;
        let files = self.file_options();
        let reload = control.conf().reload(Arc::clone(&server), files, &connection, force, COMPARE_LIMIT).await?;
        if reload.address_changed {
            self.after_restart = Some((running.start_time.clone(), server));
        } else {
            self.bring_into_force(&server);
        }
        if reload.written {
            let before = load_time(&connection).await?;
            // Scripts hear of every standby that was found running, and of a primary where something is new to it.
            let heard = untold != Untold::Adopted || reload.news || running.wal.is_standby();
            control.reload(heard).await?;
            // Only after it has reloaded the server knows which settings wait for a restart.
            let reloaded = async {
                while load_time(&connection).await? == before {
                    tokio::time::sleep(RELOAD_POLL).await;
                }
                patroni_postgres::Result::Ok(())
            };
            if let Ok(result) = timeout(RELOAD_LIMIT, reloaded).await {
                result?;
            }
        }
        let programs = control.options().programs();
        control.conf().pending_restart(&connection, &programs, &reload.pending_restart, COMPARE_LIMIT).await
    }

    /// While synchronous replication is managed, an agent that comes back must not take the standbys away that commits
    /// wait for.
    async fn adopt_standby_names(
        &self,
        control: &mut Control,
        facts: &Facts,
        connection: &Connection,
    ) -> patroni_postgres::Result<()> {
        let published = facts.cluster.as_ref().is_ok_and(|cluster| cluster.sync.leader.is_some());
        if self.settings.synchronous.mode != SynchronousMode::Off || published {
            let rows = connection.query_within("SHOW synchronous_standby_names", COMPARE_LIMIT).await?;
            let names = rows.first().and_then(|row| row.get(0)).filter(|names| !names.is_empty());
            let names = SynchronousStandbyNames::Managed(names.map(str::to_owned));
            control.conf().set_synchronous_standby_names(names);
        }
        Ok(())
    }

    /// Keeps a copy of the dynamic configuration in the data directory, from which a wiped store is restored.
    pub fn save_dynamic(&mut self, view: &View) {
        let known = view.cluster.as_ref().is_some_and(|cluster| cluster.config.is_some());
        if view.role == Role::Uninitialized || !known || self.saved == *self.config.dynamic() {
            return;
        }
        self.saved = self.config.dynamic().clone();
        let (data_dir, dynamic) = (self.config.postgresql.data_dir.clone(), self.saved.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = cache::save(&data_dir, &dynamic) {
                tracing::error!("failed to save {}: {error}", cache::path(&data_dir).display());
            }
        });
    }
}

/// When the server process of this connection last read its configuration.
async fn load_time(connection: &Connection) -> patroni_postgres::Result<Option<String>> {
    let rows = connection.query_within("SELECT pg_catalog.pg_conf_load_time()", COMPARE_LIMIT).await?;
    Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
}

/// Reads the configuration at start.
///
/// # Errors
/// It cannot be read, or cannot be used.
pub fn load(source: Source) -> Result<Loaded, ConfigError> {
    Config::load(source, Purpose::Agent)
}

/// Until the store says otherwise, a node that has no copy of the dynamic configuration goes by `bootstrap.dcs`.
fn with_bootstrap_defaults(config: Arc<Config>) -> Arc<Config> {
    match &config.bootstrap {
        Some(bootstrap) if config.dynamic().is_empty() && !bootstrap.dcs.is_empty() => {
            let loaded = config.with_dynamic(Version(0), bootstrap.dcs.clone());
            for warning in &loaded.warnings {
                tracing::warn!("bootstrap.dcs: {warning}");
            }
            loaded.config
        }
        Some(_) | None => config,
    }
}

fn kept(config: &Config, error: &ConfigError) -> String {
    let path = config.path().map_or_else(|| "the environment".to_owned(), |path| path.display().to_string());
    format!("Failed to reload {path}: {error}. The settings before stay in force")
}
