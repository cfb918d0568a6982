//! The files that configure PostgreSQL: `postgresql.conf`, `pg_hba.conf`, `pg_ident.conf`, `standby.signal`, the
//! password file. What they should say is computed here and in [`patroni_core::parameters`]; nothing else writes them.
//!
//! Every file is replaced as a whole: a server that starts or reloads never sees half of one.

mod addresses;
mod custom_bootstrap;
mod dsn;
pub(crate) mod files;
mod hba;
mod pgpass;
mod postgresql_conf;
mod recovery;
mod reload;
mod upstream;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use patroni_core::JsonMap;
use patroni_core::job::Upstream;
use patroni_core::parameters::{
    ControlSettings, Identity, Note, Parameters, Raised, SynchronousStandbyNames, raise_to_control_data,
    server_parameters,
};
use patroni_core::settings::StandbyCluster;

use crate::Result;
use crate::options::ServerOptions;

pub use custom_bootstrap::CustomBootstrap;
pub use dsn::parse_dsn;
pub use pgpass::{pgpass_content, write_pgpass};
pub use recovery::RecoveryParameters;
pub(crate) use recovery::{primary_as_rewind_user, remote_address};
pub use reload::Reload;
pub(crate) use reload::guc_value;
pub use upstream::{RunningRecovery, WalReceiver};

/// The part of the configuration that ends in PostgreSQL's files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileOptions {
    /// `postgresql.config_dir`, absolute; the data directory where `None`.
    pub config_dir: Option<PathBuf>,
    /// `postgresql.config_base_name`; `postgresql` where `None`.
    pub config_base_name: Option<String>,
    /// `postgresql.custom_conf`: included in place of `postgresql.base.conf`.
    pub custom_conf: Option<String>,
    /// `postgresql.parameters`, of the store and of the node, already merged.
    pub parameters: JsonMap,
    /// `postgresql.recovery_conf`
    pub recovery_conf: JsonMap,
    /// `postgresql.pg_hba`: the lines of `pg_hba.conf`; empty to leave the file alone.
    pub pg_hba: Vec<String>,
    /// `postgresql.pg_ident`, likewise.
    pub pg_ident: Vec<String>,
    /// `postgresql.krbsrvname`
    pub krbsrvname: Option<String>,
    /// `postgresql.connect_address`: where other members reach this server.
    pub connect_address: Option<String>,
    /// `postgresql.proxy_address`
    pub proxy_address: Option<String>,
    /// `postgresql.use_slots`
    pub use_slots: bool,
    /// `standby_cluster`
    pub standby_cluster: Option<StandbyCluster>,
}

/// What the files should say, and what was written last. It has one owner, who also owns the server.
#[derive(Debug)]
pub struct Conf {
    server: Arc<ServerOptions>,
    files: Arc<FileOptions>,
    /// `server_version_num`, or the major version alone (150000) where only that is known.
    version: u32,
    /// Names, in lower case, of the parameters that the server's binary knows.
    available: BTreeSet<String>,
    names: SynchronousStandbyNames,
    /// Without the synchronous standbys, which change on their own.
    parameters: Parameters,
    recovery: Option<RecoveryParameters>,
    enforce_hot_standby_feedback: bool,
    custom_bootstrap: Option<CustomBootstrap>,
}

impl Conf {
    /// For a server of `version` (`server_version_num`, of the data directory where it differs from the binaries).
    /// Nothing is written yet.
    pub fn new(server: Arc<ServerOptions>, files: Arc<FileOptions>, version: u32) -> Self {
        let names = SynchronousStandbyNames::Configured;
        let parameters = wanted_parameters(&server, &files, &names);
        Conf {
            server,
            files,
            version,
            available: BTreeSet::new(),
            names,
            parameters,
            recovery: None,
            enforce_hot_standby_feedback: false,
            custom_bootstrap: None,
        }
    }

    /// `standby_cluster`
    pub(crate) fn standby_cluster(&self) -> Option<&StandbyCluster> {
        self.files.standby_cluster.as_ref()
    }

    /// The configured `restore_command`, whether it is in force or not.
    pub(crate) fn restore_command(&self) -> Option<String> {
        recovery::restore_command(&self.files)
    }

    /// The parameters the running configuration is meant to have.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The options of the server the files are for.
    pub fn server_options(&self) -> &Arc<ServerOptions> {
        &self.server
    }

    /// The configuration the files are made from.
    pub fn file_options(&self) -> &Arc<FileOptions> {
        &self.files
    }

    /// The version the files are written for.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Another version, and the parameters its binary says it knows (any case; may be empty).
    pub fn set_version(&mut self, version: u32, available: impl IntoIterator<Item = String>) {
        self.version = version;
        self.available = available.into_iter().map(|name| name.to_lowercase()).collect();
    }

    /// Another configuration, without a comparison with the running server: for a server that does not run. A running
    /// one takes [`Conf::reload`].
    pub fn set_options(&mut self, server: Arc<ServerOptions>, files: Arc<FileOptions>) {
        self.parameters = wanted_parameters(&server, &files, &self.names);
        self.server = server;
        self.files = files;
    }

    /// Who decides about `synchronous_standby_names`, and what. True if that changes `postgresql.conf`: write it and reload.
    pub fn set_synchronous_standby_names(&mut self, names: SynchronousStandbyNames) -> bool {
        self.names = names;
        let before = self.parameters.remove("synchronous_standby_names");
        self.parameters = wanted_parameters(&self.server, &self.files, &self.names);
        self.parameters.get("synchronous_standby_names") != before.as_ref()
    }

    /// A node with logical slots, or one that feeds such a node, has to send feedback.
    pub fn enforce_hot_standby_feedback(&mut self, enforce: bool) -> bool {
        std::mem::replace(&mut self.enforce_hot_standby_feedback, enforce) != enforce
    }

    /// The parameters a standby has to be started with, given what `pg_control` says of its primary; a primary starts with
    /// [`Conf::parameters`].
    pub fn standby_parameters(&self, control: &ControlSettings) -> Raised {
        raise_to_control_data(&self.parameters, control)
    }

    /// `postgresql.conf`
    pub fn postgresql_conf(&self) -> PathBuf {
        self.config_dir().join(format!("{}.conf", self.base_name()))
    }

    /// Where the configuration files are.
    pub fn config_dir(&self) -> &Path {
        self.files.config_dir.as_deref().unwrap_or(&self.server.data_dir)
    }

    fn base_name(&self) -> &str {
        self.files.config_base_name.as_deref().unwrap_or("postgresql")
    }

    fn base_conf_name(&self) -> String {
        format!("{}.base.conf", self.base_name())
    }

    fn pg_hba_conf(&self) -> PathBuf {
        self.config_dir().join("pg_hba.conf")
    }

    fn pg_ident_conf(&self) -> PathBuf {
        self.config_dir().join("pg_ident.conf")
    }

    /// `hba_file` or `ident_file` is configured, and elsewhere: that file is not ours.
    fn has_own_file(&self, parameter: &str, ours: &Path) -> bool {
        self.parameters.text(parameter).is_some_and(|file| Path::new(&file) != ours)
    }

    /// Keeps copies of the configuration files in the data directory: base backups leave symbolic links out.
    ///
    /// # Errors
    /// A copy cannot be written.
    pub async fn save_configuration_files(&self) -> Result<()> {
        for name in self.saved_files() {
            let file = self.config_dir().join(&name);
            if let Some(content) = files::read(&file).await? {
                files::write(self.data_dir(), self.data_dir().join(format!("{name}.backup")), content).await?;
            }
        }
        Ok(())
    }

    /// Puts back configuration files that are missing, from the copies.
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn restore_configuration_files(&self) -> Result<()> {
        for name in self.saved_files() {
            let file = self.config_dir().join(&name);
            if files::is_file(&file).await {
                continue;
            }
            let backup = files::read(&self.data_dir().join(format!("{name}.backup"))).await?;
            // Copies of pg_ident.conf are younger than those of the others: an empty one does no harm.
            match backup.or_else(|| (name == "pg_ident.conf").then(Vec::new)) {
                Some(content) => files::write(self.data_dir(), file, content).await?,
                None => continue,
            }
        }
        Ok(())
    }

    fn saved_files(&self) -> Vec<String> {
        let mut names = vec![format!("{}.conf", self.base_name())];
        if self.files.custom_conf.is_none() {
            names.push(self.base_conf_name());
        }
        if !self.has_own_file("hba_file", &self.pg_hba_conf()) {
            names.push("pg_hba.conf".to_owned());
        }
        if !self.has_own_file("ident_file", &self.pg_ident_conf()) {
            names.push("pg_ident.conf".to_owned());
        }
        names
    }

    fn data_dir(&self) -> &Path {
        &self.server.data_dir
    }

    /// Checks what a start needs outside the data directory: the directories of sockets and of the password file.
    ///
    /// # Errors
    /// One is missing and cannot be made.
    pub async fn check_directories(&self) -> Result<()> {
        let sockets = self.parameters.text("unix_socket_directories").unwrap_or_default();
        let mut directories: Vec<PathBuf> =
            sockets.split(',').map(str::trim).filter(|d| !d.is_empty()).map(|d| self.data_dir().join(d)).collect();
        directories.extend(self.server.pgpass.parent().map(Path::to_owned));
        for directory in directories {
            // A socket in the abstract namespace has no directory.
            if !directory.to_string_lossy().contains("/@") {
                files::create_directory(&directory).await?;
            }
        }
        Ok(())
    }

    /// The recovery settings for following `upstream`.
    pub fn recovery_parameters(&self, upstream: &Upstream) -> RecoveryParameters {
        recovery::build(&self.server, &self.files, self.version, upstream)
    }
}

fn wanted_parameters(server: &ServerOptions, files: &FileOptions, names: &SynchronousStandbyNames) -> Parameters {
    let config_dir = files.config_dir.as_deref().unwrap_or(&server.data_dir).to_string_lossy();
    let identity = Identity {
        scope: &server.scope,
        listen_addresses: &server.listen_addresses,
        port: server.port,
        config_dir: &config_dir,
    };
    server_parameters(&files.parameters, &identity, names)
}

fn log(notes: &[Note]) {
    for note in notes {
        match note {
            Note::Info(text) => tracing::info!("{text}"),
            Note::Warning(text) => tracing::warn!("{text}"),
        }
    }
}
