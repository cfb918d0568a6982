//! The commands, one file each.

mod demote_cluster;
mod dsn;
mod edit_config;
mod failover;
mod flush;
mod history;
mod list;
mod pause;
mod promote_cluster;
mod query;
mod reinit;
mod reload;
mod remove;
mod restart;
mod resume;
mod show_config;
mod store;
mod switchover;
#[cfg(feature = "top")]
mod top;
mod topology;
mod version;

mod completions;
mod doctor;
mod explain;
mod man;

use crate::cli::definition::Command;

#[cfg(test)]
pub(crate) use history::rows as history_rows;

/// All commands, in the order of the help.
pub(crate) const ALL: &[Command] = &[
    completions::COMMAND,
    demote_cluster::COMMAND,
    doctor::COMMAND,
    dsn::COMMAND,
    edit_config::COMMAND,
    explain::COMMAND,
    failover::COMMAND,
    flush::COMMAND,
    history::COMMAND,
    list::COMMAND,
    man::COMMAND,
    pause::COMMAND,
    promote_cluster::COMMAND,
    query::COMMAND,
    reinit::COMMAND,
    reload::COMMAND,
    remove::COMMAND,
    restart::COMMAND,
    resume::COMMAND,
    show_config::COMMAND,
    store::add::COMMAND,
    store::backup::COMMAND,
    store::get::COMMAND,
    store::list::COMMAND,
    store::move_keys::COMMAND,
    store::remove::COMMAND,
    store::restore::COMMAND,
    store::status::COMMAND,
    switchover::COMMAND,
    #[cfg(feature = "top")]
    top::COMMAND,
    topology::COMMAND,
    version::COMMAND,
];
