//! `patroni`: the agent beside a PostgreSQL server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use patroni_agent::log::Log;
use patroni_agent::{agent, configuration, guard, init, options, raft_controller, refusals};
use patroni_config::{Config, Environment, Purpose, Source, validate};
use patroni_core::COMPATIBLE_VERSION;
use patroni_core::plan::Exit;
use patroni_dcs::raft::RaftOptions;

/// PostgreSQL high availability: one agent beside each server.
#[derive(Parser)]
#[command(name = "patroni", disable_version_flag = true, color = clap::ColorChoice::Never)]
struct Arguments {
    /// Show the version and exit
    #[arg(long)]
    version: bool,
    /// Run config validator and exit
    #[arg(long)]
    validate_config: bool,
    /// Ignore `listen` ports already in use. Can only be used with --validate-config
    #[arg(long, short, requires = "validate_config")]
    ignore_listen_port: bool,
    /// Print out local configuration (incl. environment configuration overrides). Can only be used with --validate-config
    #[arg(long, short, requires = "validate_config")]
    print: bool,
    /// Hold the end of the lease for this data directory (started by the agent itself)
    #[arg(long, hide = true, value_name = "DATA_DIR")]
    guard: Option<PathBuf>,
    /// Only take part in the embedded store, without PostgreSQL: one vote for each configuration file. The same as the
    /// name patroni_raft_controller
    #[arg(long)]
    raft_controller: bool,
    /// Patroni may also read the configuration from the PATRONI_CONFIGURATION environment variable
    configfile: Option<PathBuf>,
    /// Further configuration files, with --raft-controller
    #[arg(requires = "raft_controller")]
    configfiles: Vec<PathBuf>,
}

/// The name under which this program is `--raft-controller`.
const RAFT_CONTROLLER: &str = "patroni_raft_controller";

fn arguments() -> Arguments {
    let mut given: Vec<OsString> = std::env::args_os().collect();
    let name = given.first().map(PathBuf::from);
    if name.as_deref().and_then(Path::file_name).is_some_and(|name| name == RAFT_CONTROLLER) {
        given.insert(1, "--raft-controller".into());
    }
    Arguments::parse_from(given)
}

fn main() -> ExitCode {
    let arguments = arguments();
    if let Some(data_dir) = &arguments.guard {
        return exit_of(guard::process::run(data_dir).map_err(Into::into).map(|()| Exit::Clean));
    }
    if arguments.version {
        println!("patroni {COMPATIBLE_VERSION} (patroni-rs {})", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if arguments.validate_config {
        return validate(&arguments);
    }
    if init::is_first() {
        return init::run_as_child().unwrap_or_else(|error| exit_of(Err(error.into())));
    }
    if arguments.raft_controller {
        let files: Vec<PathBuf> = arguments.configfile.into_iter().chain(arguments.configfiles).collect();
        return exit_of(raft_controller::run(&files).map(|()| Exit::Clean));
    }
    exit_of(run(&arguments))
}

fn validate(arguments: &Arguments) -> ExitCode {
    let source = Source::new(arguments.configfile.as_deref(), Environment::of_process());
    let how = validate::Options {
        ignore_listen_port: arguments.ignore_listen_port,
        embedded: Some(|configuration| RaftOptions::from_json(configuration).err().map(|error| error.to_string())),
    };
    for warning in validate::warnings(&source).unwrap_or_default() {
        eprintln!("warning: {warning}");
    }
    let loaded = Config::load(source.clone(), Purpose::Agent);
    let refused = loaded.map(|loaded| refusals::of_start(&loaded.config)).unwrap_or_default();
    let report = validate::report(&source, how, arguments.print);
    for line in report.as_ref().err().into_iter().chain(&refused) {
        eprintln!("{line}");
    }
    match report {
        Ok(text) if refused.is_empty() => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(_) | Err(_) => ExitCode::FAILURE,
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let source = Source::new(arguments.configfile.as_deref(), Environment::of_process());
    let loaded = configuration::load(source)?;
    if rustix::process::geteuid().is_root() {
        anyhow::bail!(
            "PostgreSQL refuses to run as root, so patroni does too: start it as the user that owns the data \
             directory, such as postgres"
        );
    }
    let log = Arc::new(Log::start(&options::log_options(&loaded.config.log))?);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let exit = runtime.block_on(agent::run(loaded, Arc::clone(&log)));
    if let Err(error) = &exit {
        tracing::error!(critical = true, "{}", told(error));
    }
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    if let Ok(log) = Arc::try_unwrap(log) {
        log.shutdown();
    }
    exit
}

fn exit_of(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(Exit::Clean) => ExitCode::SUCCESS,
        Ok(Exit::Fatal) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("patroni: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes. Many errors name their cause already.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !told.contains(&cause) {
            told = if told.is_empty() { cause } else { format!("{told}: {cause}") };
        }
    }
    told
}
