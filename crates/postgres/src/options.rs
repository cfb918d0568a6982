//! What this crate is told about the server: paths, addresses, credentials, scripts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::disk::Place;
use patroni_core::name::MemberName;
use serde_json::Value;

use crate::callbacks::CallbackAction;
use crate::programs::Programs;
use crate::sql::Conninfo;

/// The section `postgresql` of the configuration, and what belongs to it, as far as starting, stopping, bootstrapping
/// and cloning need it. Contents of PostgreSQL's own configuration files belong to the module `conf`.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `scope`
    pub scope: String,
    /// `name`
    pub name: MemberName,
    /// `postgresql.data_dir`, absolute.
    pub data_dir: PathBuf,
    /// `postgresql.bin_dir`; `None` to search PATH.
    pub bin_dir: Option<PathBuf>,
    /// `postgresql.bin_name`: other names of programs, by their usual name.
    pub bin_name: BTreeMap<String, String>,
    /// `postgresql.pgpass`, absolute.
    pub pgpass: PathBuf,
    /// `postgresql.database`
    pub database: String,
    /// The host part of `postgresql.listen`: addresses separated by commas, or `*`.
    pub listen_addresses: String,
    /// The port of `postgresql.listen`.
    pub port: u16,
    /// `postgresql.use_unix_socket`
    pub use_unix_socket: bool,
    /// `postgresql.use_unix_socket_repl`
    pub use_unix_socket_repl: bool,
    /// `postgresql.parameters.unix_socket_directories`
    pub unix_socket_directories: Option<String>,
    /// `postgresql.authentication.superuser`
    pub superuser: Credentials,
    /// `postgresql.authentication.replication`
    pub replication: Credentials,
    /// `postgresql.authentication.rewind`, or the superuser.
    pub rewind: Credentials,
    /// Directories of logs, to be watched for room: `postgresql.parameters.log_directory` where it is absolute, and `log.dir`.
    pub log_directories: Vec<(Place, PathBuf)>,
    /// `postgresql.pg_ctl_timeout`: how long a start may take before it is left to go on by itself.
    pub pg_ctl_timeout: Duration,
    /// `postgresql.callbacks`
    pub callbacks: BTreeMap<CallbackAction, String>,
    /// `postgresql.before_stop`
    pub before_stop: Option<String>,
    /// `postgresql.pre_promote`
    pub pre_promote: Option<String>,
    /// `postgresql.create_replica_methods`; empty stands for `basebackup`.
    pub create_replica_methods: Vec<String>,
    /// The sections of `postgresql` that are named after a replica method, `basebackup` among them.
    pub replica_methods: BTreeMap<String, Value>,
    /// The section `bootstrap`.
    pub bootstrap: BootstrapOptions,
    /// How the server was reached before, and will be once it has been told of a change. See [`ServerOptions::or_as`].
    pub others: Vec<Arc<ServerOptions>>,
}

/// The section `bootstrap`, without `dcs`.
#[derive(Clone, Debug, Default)]
pub struct BootstrapOptions {
    /// `method`; `initdb` where absent.
    pub method: Option<String>,
    /// The sections named after methods other than `initdb`.
    pub methods: BTreeMap<String, JsonMap>,
    /// `initdb`: a list or a map of options.
    pub initdb: Value,
    /// `pg_hba`: lines for the new `pg_hba.conf`, where `postgresql.pg_hba` gives none.
    pub pg_hba: Vec<String>,
    /// `post_bootstrap`, or `post_init`: a command.
    pub post_bootstrap: Option<String>,
}

/// A user of `authentication`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `username`
    pub username: Option<String>,
    /// `password`
    pub password: Option<String>,
    /// Everything else, by its libpq keyword: `sslmode`, `sslcert`, `sslkey`, `sslrootcert`, ...
    pub tls: BTreeMap<String, String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "***");
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &password)
            .finish_non_exhaustive()
    }
}

impl ServerOptions {
    /// The programs of PostgreSQL.
    pub fn programs(&self) -> Programs {
        Programs::new(self.bin_dir.clone(), self.bin_name.clone())
    }

    /// How the agent connects to the local server as superuser.
    pub fn local_superuser(&self) -> Conninfo {
        let mut conninfo = self.local_address(self.use_unix_socket);
        conninfo.set("dbname", &self.database);
        conninfo.add_credentials(&self.superuser);
        conninfo
    }

    /// How the agent makes a replication connection to the local server.
    pub fn local_replication(&self) -> Conninfo {
        let mut conninfo = self.local_address(self.use_unix_socket_repl);
        conninfo.add_credentials(&self.replication);
        conninfo
    }

    /// The address for connections from this machine: a socket directory, `localhost`, or the first address listened on.
    /// No `host` at all where sockets are used and their directory is not configured: the default directory of libpq.
    fn local_address(&self, unix_socket: bool) -> Conninfo {
        let mut conninfo = Conninfo::default();
        conninfo.set("port", self.port.to_string());
        if !unix_socket {
            conninfo.set("host", self.local_tcp_host());
        } else if let Some(directories) = &self.unix_socket_directories {
            let directory = directories.split(',').map(str::trim).find(|d| d.starts_with('/'));
            conninfo.set("host", directory.unwrap_or(self.local_tcp_host()));
        }
        conninfo
    }

    /// The local address for people: `localhost:5432`.
    pub fn local_address_text(&self) -> String {
        let address = self.local_superuser();
        format!("{}:{}", address.get("host").unwrap_or_default(), self.port)
    }

    fn local_tcp_host(&self) -> &str {
        let is_local = |a: &str| ["*", "localhost", "0.0.0.0", "127.0.0.1"].contains(&a.to_lowercase().as_str());
        let mut addresses = self.listen_addresses.split(',').map(str::trim);
        if addresses.clone().any(is_local) { "localhost" } else { addresses.next().unwrap_or("localhost") }
    }
}

#[cfg(test)]
pub(crate) fn sample() -> ServerOptions {
    let credentials = |name: &str| Credentials {
        username: Some(name.into()),
        password: Some("pass".into()),
        tls: BTreeMap::from([("sslcert".into(), "/c rt".into())]),
    };
    ServerOptions {
        log_directories: Vec::new(),
        scope: "batman".into(),
        name: "n2".into(),
        data_dir: PathBuf::from("/data"),
        bin_dir: None,
        bin_name: BTreeMap::new(),
        pgpass: PathBuf::from("/home/pgpass"),
        database: "postgres".into(),
        listen_addresses: "*".into(),
        port: 5432,
        use_unix_socket: false,
        use_unix_socket_repl: false,
        unix_socket_directories: None,
        superuser: credentials("postgres"),
        replication: credentials("rep"),
        rewind: credentials("rewinder"),
        pg_ctl_timeout: Duration::from_secs(60),
        callbacks: BTreeMap::new(),
        before_stop: None,
        pre_promote: None,
        create_replica_methods: Vec::new(),
        replica_methods: BTreeMap::new(),
        bootstrap: BootstrapOptions::default(),
        others: Vec::new(),
    }
}
