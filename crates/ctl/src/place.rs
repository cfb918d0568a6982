//! A store and the way to it: the one of a configuration, or the one that an address names.

use std::path::Path;
use std::sync::Arc;

use patroni_config::{Config, Environment, Purpose, Source, Store, StoreKind};
use patroni_core::JsonMap;
use patroni_dcs::raft::{RaftClient, RaftOptions};
use patroni_dcs::wire::ClusterPath;
use patroni_dcs::{Dcs, Timing};

use crate::dcs_url;
use crate::embedded::Admin;
use crate::error::{CtlError, failed};

/// A store.
pub(crate) struct Place {
    /// How messages call it.
    pub(crate) label: String,
    configuration: JsonMap,
    namespace: String,
}

impl Place {
    /// The store that the configuration names.
    pub(crate) fn of_configuration(config: &Config) -> Self {
        let label = config.store().map_or("raft", |(kind, _)| kind);
        Place {
            label: format!("{label} of the configuration"),
            configuration: config.effective().clone(),
            namespace: config.namespace.clone(),
        }
    }

    /// The store at an address; what that does not say comes from the configuration.
    pub(crate) fn at(url: &str, config: &Config) -> Result<Self, CtlError> {
        let parsed = dcs_url::parse(url)?;
        Ok(Place {
            label: url.to_owned(),
            configuration: parsed.section(config.effective()),
            namespace: parsed.namespace.unwrap_or_else(|| config.namespace.clone()),
        })
    }

    /// The store that is named by an address, or by a configuration file. The environment belongs to the first store.
    pub(crate) fn named(text: &str, config: &Config) -> Result<Self, CtlError> {
        if text.contains("//") {
            return Self::at(text, config);
        }
        let source = Source::new(Some(Path::new(text)), Environment::default());
        let loaded = Config::load(source, Purpose::Ctl).or_else(|error| failed(error.to_string()))?;
        Ok(Place { label: text.to_owned(), ..Self::of_configuration(&loaded.config) })
    }

    /// How the keys of a cluster begin.
    pub(crate) fn prefix(&self, scope: &str) -> String {
        ClusterPath { namespace: self.namespace.clone(), scope: scope.to_owned() }.prefix()
    }

    /// A handle on the keys of a cluster. Only an agent holds leases and a member key, so the name is used for nothing.
    pub(crate) fn open(&self, scope: String, timing: Timing) -> Result<Arc<dyn Dcs>, CtlError> {
        let path = ClusterPath { namespace: self.namespace.clone(), scope };
        patroni_dcs::open(&self.configuration, &path, "patronictl".into(), timing)
            .or_else(|error| failed(error.to_string()))
    }

    /// The members of the embedded store, to look after it; `None` where it is another store. With their addresses, as
    /// far as they are known here.
    pub(crate) fn embedded(&self) -> Result<Option<(Admin, Vec<String>)>, CtlError> {
        if Store::configured(&self.configuration).is_some_and(|(store, _)| store.kind != StoreKind::Raft) {
            return Ok(None);
        }
        let options = RaftOptions::from_json(&self.configuration).or_else(|error| failed(error.to_string()))?;
        let client: Admin = RaftClient::new(&options, None).or_else(|error| failed(error.to_string()))?;
        Ok(Some((client, options.addresses())))
    }
}
