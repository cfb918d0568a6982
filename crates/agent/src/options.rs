//! The configuration, in the words of the parts that need it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use patroni_config::{BasicAuth, Bootstrap, Config, LogConfig, LogType, ToolOption, UserSettings};
use patroni_core::JsonMap;
use patroni_core::disk::Place;
use patroni_core::view::Addresses;
use patroni_http::tls::ServerTls;
use patroni_http::{ClientOptions, TlsFiles};
use patroni_postgres::callbacks::CallbackAction;
use patroni_postgres::conf::FileOptions;
use patroni_postgres::options::{BootstrapOptions, Credentials, ServerOptions};
use serde_json::{Map, Value};

use crate::api::{ApiOptions, Compatibility, ServerTokens};
use crate::log::{Level, LogFormat, LogKind, LogOptions};

/// The default port of PostgreSQL.
const POSTGRESQL_PORT: u16 = 5432;

/// The default port of the REST API.
const API_PORT: u16 = 8008;

/// How the local server is started, reached and made.
pub fn server_options(config: &Config) -> ServerOptions {
    let postgresql = &config.postgresql;
    let (host, port) = host_port(&postgresql.listen, POSTGRESQL_PORT);
    let authentication = &postgresql.authentication;
    let superuser = credentials(&authentication.superuser);
    ServerOptions {
        scope: config.scope.clone(),
        name: config.name.clone(),
        data_dir: absolute(&postgresql.data_dir),
        bin_dir: postgresql.bin_dir.clone(),
        bin_name: postgresql.bin_name.clone(),
        pgpass: postgresql.pgpass.as_deref().map_or_else(default_pgpass, absolute),
        database: postgresql.database.clone(),
        listen_addresses: host,
        port,
        use_unix_socket: postgresql.use_unix_socket,
        use_unix_socket_repl: postgresql.use_unix_socket_repl,
        unix_socket_directories: text(&postgresql.parameters, "unix_socket_directories"),
        log_directories: log_directories(config),
        rewind: authentication.rewind.as_ref().map_or_else(|| superuser.clone(), credentials),
        superuser,
        replication: credentials(&authentication.replication),
        pg_ctl_timeout: postgresql.pg_ctl_timeout,
        callbacks: callbacks(&postgresql.callbacks),
        before_stop: postgresql.before_stop.clone(),
        pre_promote: postgresql.pre_promote.clone(),
        replica_methods: replica_methods(config),
        create_replica_methods: postgresql.create_replica_methods.clone(),
        bootstrap: config.bootstrap.as_ref().map(|bootstrap| bootstrap_options(config, bootstrap)).unwrap_or_default(),
        others: Vec::new(),
    }
}

/// Where logs are written, outside of the data directory.
fn log_directories(config: &Config) -> Vec<(Place, PathBuf)> {
    let of_server = text(&config.postgresql.parameters, "log_directory").map(PathBuf::from);
    let of_server = of_server.filter(|path| path.is_absolute()).map(|path| (Place::Log, path));
    let of_agent = config.log.dir.as_deref().map(|path| (Place::AgentLog, absolute(path)));
    of_server.into_iter().chain(of_agent).collect()
}

/// What PostgreSQL's own files should say.
pub fn file_options(config: &Config) -> FileOptions {
    let postgresql = &config.postgresql;
    FileOptions {
        config_dir: Some(absolute(&postgresql.config_dir)),
        config_base_name: Some(postgresql.config_base_name.clone()),
        custom_conf: postgresql.custom_conf.as_ref().map(|path| path.display().to_string()),
        parameters: parameters(config),
        recovery_conf: postgresql.recovery_conf.clone(),
        pg_hba: postgresql.pg_hba.clone().unwrap_or_default(),
        pg_ident: postgresql.pg_ident.clone().unwrap_or_default(),
        krbsrvname: postgresql.krbsrvname.clone(),
        connect_address: postgresql.connect_address.clone(),
        proxy_address: postgresql.proxy_address.clone(),
        use_slots: config.settings().slots.use_slots,
        standby_cluster: config.settings().standby_cluster.clone(),
    }
}

/// The parameters of PostgreSQL, as configured. A server whose clients are held back when it comes back must not come back
/// on its own.
fn parameters(config: &Config) -> JsonMap {
    let mut parameters = config.postgresql.parameters.clone();
    if config.settings().synchronous.hold {
        parameters.entry("restart_after_crash").or_insert_with(|| "off".into());
    }
    parameters
}

/// Where others reach this node.
pub fn addresses(config: &Config, server: &ServerOptions, files: &FileOptions) -> Addresses {
    let conf = patroni_postgres::conf::Conf::new(server.clone().into(), files.clone().into(), 0);
    Addresses { conn_url: conf.connection_url(), api_url: api_url(config), proxy_url: conf.proxy_url() }
}

fn api_url(config: &Config) -> String {
    let scheme = if config.restapi.certfile.is_some() { "https" } else { "http" };
    let (host, port) = host_port(&config.restapi.connect_address, API_PORT);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    format!("{scheme}://{host}:{port}/patroni")
}

/// The REST API.
pub fn api_options(config: &Config) -> ApiOptions {
    let restapi = &config.restapi;
    let path = |path: &PathBuf| path.display().to_string();
    let tls = restapi.certfile.as_ref().map(|certfile| ServerTls {
        identity: TlsFiles {
            certfile: path(certfile),
            keyfile: restapi.keyfile.as_ref().map(path),
            keyfile_password: restapi.keyfile_password.as_ref().map(|secret| secret.expose().to_owned()),
        },
        cafile: restapi.cafile.as_ref().map(path),
        ciphers: restapi.ciphers.clone(),
        verify_client: match restapi.verify_client {
            patroni_config::VerifyClient::None => patroni_http::tls::VerifyClient::None,
            patroni_config::VerifyClient::Optional => patroni_http::tls::VerifyClient::Optional,
            patroni_config::VerifyClient::Required => patroni_http::tls::VerifyClient::Required,
        },
    });
    let headers = |headers: &BTreeMap<String, String>| headers.clone().into_iter().collect();
    ApiOptions {
        listen: restapi.listen.clone(),
        auth: restapi.authentication.as_ref().map(basic_auth),
        tls,
        allowlist: restapi.allowlist.clone(),
        allowlist_include_members: restapi.allowlist_include_members,
        http_extra_headers: headers(&restapi.http_extra_headers),
        https_extra_headers: headers(&restapi.https_extra_headers),
        server_tokens: match restapi.server_tokens {
            patroni_config::ServerTokens::Original => ServerTokens::Original,
            patroni_config::ServerTokens::Minimal => ServerTokens::Minimal,
            patroni_config::ServerTokens::ProductOnly => ServerTokens::ProductOnly,
        },
        compatibility: match restapi.compatibility {
            patroni_config::Compatibility::Two => Compatibility::Two,
            patroni_config::Compatibility::Four => Compatibility::Four,
        },
    }
}

/// How peers are asked.
pub fn client_options(config: &Config) -> ClientOptions {
    let ctl = &config.ctl;
    let path = |path: &PathBuf| path.display().to_string();
    ClientOptions {
        auth: ctl.authentication.as_ref().map(basic_auth),
        insecure: ctl.insecure,
        unverified: false,
        cacert: ctl.cacert.as_ref().map(path),
        identity: ctl.certfile.as_ref().map(|certfile| TlsFiles {
            certfile: path(certfile),
            keyfile: ctl.keyfile.as_ref().map(path),
            keyfile_password: ctl.keyfile_password.as_ref().map(|secret| secret.expose().to_owned()),
        }),
        user_agent: format!("Patroni/{} patroni-rs/{}", patroni_core::COMPATIBLE_VERSION, env!("CARGO_PKG_VERSION")),
    }
}

/// The log.
pub fn log_options(log: &LogConfig) -> LogOptions {
    let level = |name: &str| Level::from_str(name).ok();
    LogOptions {
        kind: match log.log_type {
            LogType::Plain => LogKind::Plain,
            LogType::Json => LogKind::Json,
        },
        format: match &log.format {
            patroni_config::LogFormat::Text(text) => LogFormat::Text(text.clone()),
            patroni_config::LogFormat::Fields(fields) => LogFormat::Fields(fields.clone()),
        },
        dateformat: log.dateformat.clone(),
        static_fields: log.static_fields.clone(),
        level: level(log.level).unwrap_or(Level::Info),
        loggers: log.loggers.iter().filter_map(|(name, text)| Some((name.clone(), level(text)?))).collect(),
        max_queue_size: log.max_queue_size,
        dir: log.dir.clone(),
        file_size: log.file_size,
        file_num: u32::try_from(log.file_num).unwrap_or(u32::MAX),
        mode: log.mode,
        deduplicate_heartbeat_logs: log.deduplicate_heartbeat_logs,
    }
}

fn bootstrap_options(config: &Config, bootstrap: &Bootstrap) -> BootstrapOptions {
    let section = config.effective().get("bootstrap").and_then(Value::as_object);
    let method = bootstrap.method.as_ref();
    BootstrapOptions {
        method: method.map(|method| method.name.clone()),
        methods: method.map(|method| (method.name.clone(), method.section.clone())).into_iter().collect(),
        initdb: tool_options(&bootstrap.initdb),
        pg_hba: bootstrap.pg_hba.clone(),
        post_bootstrap: bootstrap
            .post_bootstrap
            .clone()
            .or_else(|| section.and_then(|section| text(section, "post_init"))),
    }
}

/// The sections of `postgresql` named after replica methods, `basebackup` among them.
fn replica_methods(config: &Config) -> BTreeMap<String, Value> {
    let section = config.effective().get("postgresql").and_then(Value::as_object);
    let of_standby_cluster =
        config.settings().standby_cluster.iter().flat_map(|section| &section.create_replica_methods);
    let named = config.postgresql.create_replica_methods.iter().chain(of_standby_cluster).map(String::as_str);
    let methods = named.chain(["basebackup"]);
    methods.filter_map(|name| Some((name.to_owned(), section?.get(name)?.clone()))).collect()
}

fn tool_options(options: &[ToolOption]) -> Value {
    let option = |option: &ToolOption| match option {
        ToolOption::Flag(name) => Value::String(name.clone()),
        ToolOption::Value(name, value) => Value::Object(Map::from_iter([(name.clone(), Value::String(value.clone()))])),
    };
    Value::Array(options.iter().map(option).collect())
}

fn credentials(user: &UserSettings) -> Credentials {
    let mut tls: BTreeMap<String, String> =
        user.options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    if let Some(password) = &user.sslpassword {
        tls.insert("sslpassword".to_owned(), password.expose().to_owned());
    }
    Credentials {
        username: user.username.clone(),
        password: user.password.as_ref().map(|secret| secret.expose().to_owned()),
        tls,
    }
}

fn callbacks(scripts: &BTreeMap<String, String>) -> BTreeMap<CallbackAction, String> {
    scripts.iter().filter_map(|(name, script)| Some((name.parse().ok()?, script.clone()))).collect()
}

fn basic_auth(auth: &BasicAuth) -> String {
    format!("{}:{}", auth.username, auth.password.expose())
}

fn text(section: &JsonMap, name: &str) -> Option<String> {
    section.get(name).and_then(Value::as_str).map(str::to_owned)
}

/// Where libpq-like password files go without `postgresql.pgpass`: `~/pgpass`, as in Patroni.
fn default_pgpass() -> PathBuf {
    std::env::home_dir().unwrap_or_else(|| PathBuf::from("/")).join("pgpass")
}

fn absolute(path: impl AsRef<Path>) -> PathBuf {
    std::path::absolute(path.as_ref()).unwrap_or_else(|_| path.as_ref().to_owned())
}

/// Splits `host:port`; the host may be an IPv6 address in brackets, or a list of addresses.
fn host_port(address: &str, default_port: u16) -> (String, u16) {
    match address.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            (host.to_owned(), port.parse().unwrap_or(default_port))
        }
        Some(_) | None => (address.to_owned(), default_port),
    }
}
