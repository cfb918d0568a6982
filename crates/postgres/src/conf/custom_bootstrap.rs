//! What is different while a custom bootstrap method brings a cluster up: recovery from a backup to a target, and a
//! superuser whose password is not known yet.

use std::net::SocketAddr;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::parameters::Parameters;
use patroni_core::units::parse_bool;
use serde_json::Value;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::recovery::RecoveryParameters;
use super::{Conf, files, hba};
use crate::Result;

/// How long the name of the local address may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// A custom bootstrap that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomBootstrap {
    /// `keep_existing_recovery_conf`: the method has made recovery settings that must stay.
    pub keep_existing_recovery_conf: bool,
    /// `recovery_conf`: recovery settings to write.
    pub recovery_conf: Option<JsonMap>,
}

impl Conf {
    /// Begins (or, with `None`, ends) a custom bootstrap: until it ends, `hba_file` is overridden, see
    /// [`Conf::write_custom_bootstrap_pg_hba`]. Its recovery settings are written: recovery to a target, as no standby.
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn set_custom_bootstrap(&mut self, custom: Option<CustomBootstrap>) -> Result<()> {
        self.custom_bootstrap = custom;
        let Some(custom) = self.custom_bootstrap.as_ref().filter(|custom| !custom.keep_existing_recovery_conf) else {
            return Ok(());
        };
        let Some(mut others) = custom.recovery_conf.as_ref().map(Parameters::from) else { return Ok(()) };
        others.remove("standby_mode");
        let pause = others.remove("pause_at_recovery_target").and_then(|value| parse_bool(&value));
        if let Some(pause) = pause.filter(|_| !others.contains("recovery_target_action")) {
            others.insert("recovery_target_action", if pause { "pause" } else { "promote" });
        }
        self.recovery = Some(RecoveryParameters { primary_conninfo: None, others });
        files::remove(self.data_dir().join("standby.signal")).await?;
        files::write(self.data_dir(), self.data_dir().join("recovery.signal"), Vec::new()).await
    }

    /// The method made recovery settings of its own, which have to stay.
    pub(super) fn keeps_existing_recovery(&self) -> bool {
        self.custom_bootstrap.as_ref().is_some_and(|custom| custom.keep_existing_recovery_conf)
    }

    /// Parameters for a start. A recovery that ends in a promotion may not stop because a setting was raised on the old
    /// primary: no hot standby then. Without a custom bootstrap they stay as they are.
    pub fn for_custom_bootstrap(&self, mut parameters: Parameters) -> Parameters {
        let Some(custom) = &self.custom_bootstrap else { return parameters };
        let promotes =
            self.recovery.as_ref().is_some_and(|recovery| recovery.text("recovery_target_action") == "promote");
        if custom.keep_existing_recovery_conf || promotes {
            parameters.insert("hot_standby", Value::from("off"));
        }
        parameters
    }

    /// Lets the agent in without a password, from this machine only.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn write_custom_bootstrap_pg_hba(&self) -> Result<()> {
        let replication = self.server.replication.username.as_deref().unwrap_or("all");
        let superuser = self.server.superuser.username.as_deref().unwrap_or("all");
        let sockets = std::iter::once(("local", String::new()));
        let addresses = self.local_addresses().await.into_iter().map(|address| ("host", address));
        let lines: Vec<String> = sockets
            .chain(addresses)
            .flat_map(|(kind, address)| {
                [("replication", replication), ("all", superuser)]
                    .map(|(database, user)| format!("{kind}\t{database}\t{user}\t{address}\ttrust"))
            })
            .collect();
        files::write(self.data_dir(), self.pg_hba_conf(), hba::content(&lines)).await
    }

    /// The TCP addresses this machine connects to itself by, as CIDR of one address.
    async fn local_addresses(&self) -> Vec<String> {
        let local = self.server.local_replication();
        let Some(host) = local.get("host").filter(|host| !host.starts_with('/')) else { return Vec::new() };
        let resolved = timeout(RESOLVE_LIMIT, lookup_host((host, self.server.port))).await;
        let cidr = |address: SocketAddr| format!("{}/{}", address.ip(), if address.is_ipv4() { 32 } else { 128 });
        resolved.ok().and_then(std::io::Result::ok).map(|found| found.map(cidr).collect()).unwrap_or_default()
    }
}
