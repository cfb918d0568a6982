//! The recovery settings of a standby.

use patroni_core::job::{Upstream, UpstreamMember};
use patroni_core::name::MemberName;
use patroni_core::parameters::{Parameters, is_recovery_parameter};
use patroni_core::python::PythonText;
use patroni_core::settings::StandbyCluster;
use serde_json::Value;

use super::FileOptions;
use crate::options::ServerOptions;
use crate::sql::Conninfo;
use crate::{Error, Result};

/// What libpq takes where a connection string says nothing, for the parameters that Patroni always writes.
pub(super) const TLS_DEFAULTS: [(&str, &str); 4] =
    [("sslmode", "prefer"), ("gssencmode", "prefer"), ("channel_binding", "prefer"), ("sslnegotiation", "postgres")];

/// What a standby follows, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryParameters {
    /// `primary_conninfo`; `None` for no streaming.
    pub primary_conninfo: Option<Conninfo>,
    /// The others.
    pub others: Parameters,
}

impl RecoveryParameters {
    /// A parameter other than `primary_conninfo`, as text; empty where it is not set.
    pub(super) fn text(&self, name: &str) -> String {
        self.others.text(name).unwrap_or_default()
    }
}

pub(super) fn build(
    server: &ServerOptions,
    files: &FileOptions,
    version: u32,
    upstream: &Upstream,
) -> RecoveryParameters {
    let mut others = configured(files);
    others.insert("recovery_target_timeline", "latest");
    if *upstream == Upstream::Isolated {
        // Also where a file of the user's sets it.
        others.insert("restore_command", "");
    }
    // Set in an included file, one of these would pause, promote or stop the standby.
    for name in ["", "_name", "_time", "_xid", "_lsn"] {
        others.insert(&format!("recovery_target{name}"), "");
    }
    let primary_conninfo = primary_conninfo(server, files, version, upstream);
    if primary_conninfo.is_some()
        && files.use_slots
        && let Some(slot) = slot(files, upstream)
    {
        others.insert("primary_slot_name", slot);
    }
    if let Some(standby_cluster) = &files.standby_cluster {
        override_from(standby_cluster, upstream, &mut others);
    }
    RecoveryParameters { primary_conninfo, others }
}

/// The `restore_command` that a standby of this configuration gets.
pub(super) fn restore_command(files: &FileOptions) -> Option<String> {
    let own = files.standby_cluster.as_ref().and_then(|standby_cluster| standby_cluster.restore_command.clone());
    own.or_else(|| configured(files).text("restore_command")).filter(|command| !command.is_empty())
}

/// `recovery_conf`, and what of `parameters` belongs there, without what this program decides itself.
fn configured(files: &FileOptions) -> Parameters {
    let mut from_parameters = files.parameters.iter().filter(|(name, _)| is_recovery_parameter(name)).peekable();
    // Set among the parameters, they take the place of the section.
    let configured: Parameters = if from_parameters.peek().is_some() {
        from_parameters.map(|(name, value)| (name.clone(), value.clone())).collect()
    } else {
        Parameters::from(&files.recovery_conf)
    };
    let decided = ["primary_conninfo", "primary_slot_name", "standby_mode", "pause_at_recovery_target"];
    let mut kept = Parameters::default();
    for (name, value) in configured.iter() {
        let lower = name.to_lowercase();
        if lower == "trigger_file" {
            if !configured.contains("promote_trigger_file") {
                kept.insert("promote_trigger_file", value.clone());
            }
        } else if !lower.starts_with("recovery_target") && !decided.contains(&lower.as_str()) {
            kept.insert(name, value.clone());
        }
    }
    kept
}

fn primary_conninfo(
    server: &ServerOptions,
    files: &FileOptions,
    version: u32,
    upstream: &Upstream,
) -> Option<Conninfo> {
    let mut conninfo = match upstream {
        Upstream::None | Upstream::Isolated => return None,
        Upstream::Member(member) if member.name == server.name => return None,
        Upstream::Member(member) => member_address(&member.conn_url)?,
        Upstream::Remote => remote_address(files.standby_cluster.as_ref()?, files.use_slots)?,
    };
    if conninfo.get("dbname").is_none_or(str::is_empty) {
        conninfo.set("dbname", &server.database);
    }
    conninfo.add_credentials(&server.replication);
    conninfo.set("application_name", server.name.as_str());
    for (keyword, value) in TLS_DEFAULTS {
        let since = if keyword == "sslnegotiation" { 170_000 } else { 130_000 };
        if version >= since && conninfo.get(keyword).is_none() {
            conninfo.set(keyword, value);
        }
    }
    if let Some(name) = &files.krbsrvname {
        conninfo.set("krbsrvname", name);
    }
    Some(conninfo)
}

/// How this node connects to the primary as the user that may read its files.
///
/// # Errors
/// The member's `conn_url` is of no use.
pub(crate) fn primary_as_rewind_user(options: &ServerOptions, primary: &UpstreamMember) -> Result<Conninfo> {
    let invalid =
        || Error::Configuration(format!("member {} has no usable conn_url: {:?}", primary.name, primary.conn_url));
    let mut conninfo = member_address(&primary.conn_url).ok_or_else(invalid)?;
    if conninfo.get("dbname").is_none() {
        conninfo.set("dbname", &options.database);
    }
    conninfo.add_credentials(&options.rewind);
    conninfo.set("target_session_attrs", "read-write");
    Ok(conninfo)
}

/// Host, port and database of a member's `conn_url`, and nothing else it may say: everybody who can write to the store can
/// write it.
fn member_address(conn_url: &str) -> Option<Conninfo> {
    let url = super::parse_dsn(conn_url).filter(|_| conn_url.contains("://"))?;
    let mut address = Conninfo::default();
    address.set("host", url.get("host")?);
    address.set("port", url.get("port").unwrap_or("5432"));
    if let Some(database) = url.get("dbname") {
        address.set("dbname", database);
    }
    Some(address)
}

/// The address of the remote primary, as configured.
pub(crate) fn remote_address(standby_cluster: &StandbyCluster, use_slots: bool) -> Option<Conninfo> {
    let host = standby_cluster.host.as_deref();
    let port = standby_cluster.port.as_deref();
    if host.is_none() && port.is_none() {
        return None;
    }
    let mut address = Conninfo::default();
    for (keyword, value) in [("host", host), ("port", port)] {
        if let Some(value) = value {
            address.set(keyword, value);
        }
    }
    // Of several hosts, the slot is on the primary.
    let several = host.is_some_and(|host| host.contains(','));
    if several && use_slots && standby_cluster.primary_slot_name.is_some() {
        address.set("target_session_attrs", "read-write");
    }
    Some(address)
}

fn slot(files: &FileOptions, upstream: &Upstream) -> Option<String> {
    match upstream {
        Upstream::None | Upstream::Isolated => None,
        Upstream::Member(member) => member.slot.clone(),
        Upstream::Remote => {
            let name = files.standby_cluster.as_ref()?.primary_slot_name.as_deref()?;
            Some(MemberName::new(name).slot_name())
        }
    }
}

/// `standby_cluster` has its own archive; the delay is for the standby leader alone.
fn override_from(standby_cluster: &StandbyCluster, upstream: &Upstream, others: &mut Parameters) {
    let delay = match upstream {
        Upstream::Remote => standby_cluster.recovery_min_apply_delay.as_deref(),
        Upstream::Member(_) | Upstream::None | Upstream::Isolated => None,
    };
    let archive = match upstream {
        Upstream::None | Upstream::Isolated => [None, None],
        Upstream::Member(_) | Upstream::Remote => {
            [standby_cluster.restore_command.as_deref(), standby_cluster.archive_cleanup_command.as_deref()]
        }
    };
    let [restore, cleanup] = archive;
    let values =
        [("restore_command", restore), ("archive_cleanup_command", cleanup), ("recovery_min_apply_delay", delay)];
    for (name, value) in values {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            others.insert(name, value);
        }
    }
}

/// The value as PostgreSQL shows it for a parameter that is not set.
pub(super) fn text_of(value: Option<&Value>) -> String {
    value.map(|value| value.python_text().into_owned()).unwrap_or_default()
}
