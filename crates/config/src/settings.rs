//! From the configuration to [`Settings`], what decisions depend on.

use patroni_core::cluster::Version;
use patroni_core::name::MemberName;
use patroni_core::settings::{Dynamic, RewindSettings, Settings};
use patroni_core::tags::Tags;

use crate::config::Config;

/// The settings of this node under this dynamic configuration. `unusable`: what of that cannot be used.
pub(crate) fn settings(config: &Config, dynamic: Dynamic, version: Option<Version>, unusable: Vec<String>) -> Settings {
    // A standby cluster has methods of its own.
    let methods = match &dynamic.standby_cluster {
        Some(section) => &section.create_replica_methods,
        None => &config.postgresql.create_replica_methods,
    };
    Settings {
        scope: config.scope.clone(),
        name: config.name.clone(),
        config_version: version,
        unusable,
        tags: Tags(config.tags.clone()),
        can_bootstrap: config.bootstrap.is_some(),
        can_clone_without_leader: methods.iter().any(|method| config.postgresql.works_without_leader(method)),
        rewind: RewindSettings {
            use_pg_rewind: config.postgresql.use_pg_rewind,
            remove_data_directory_on_missing_wal: config.postgresql.remove_data_directory_on_missing_wal,
            remove_data_directory_on_rewind_failure: config.postgresql.remove_data_directory_on_rewind_failure,
            remove_data_directory_on_diverged_timelines: config.postgresql.remove_data_directory_on_diverged_timelines,
        },
        dynamic,
    }
}

/// Settings before anything was read; replaced before anyone sees them.
pub(crate) fn initial() -> Settings {
    Settings {
        scope: String::new(),
        name: MemberName::new(""),
        config_version: None,
        dynamic: Dynamic::default(),
        unusable: Vec::new(),
        tags: Tags::default(),
        can_bootstrap: false,
        can_clone_without_leader: false,
        rewind: RewindSettings::default(),
    }
}
