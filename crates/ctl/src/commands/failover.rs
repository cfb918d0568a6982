//! `patronictl failover`: another member becomes leader, whether there is one or not.

use patroni_core::request::Handover;

use super::switchover;
use crate::cli::definition::{CLUSTER_NAME, Command, FORCE, GROUP, Kind, Opt};

pub(crate) const COMMAND: Command = Command {
    name: "failover",
    help: "Failover to a replica",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt { names: &["--candidate"], key: "candidate", kind: Kind::Text, help: "The name of the candidate" },
        FORCE,
    ],
    examples: &["patronictl failover batman --candidate postgres-1"],
    run: |context, matches| Box::pin(switchover::run(context, matches, Handover::Failover)),
};
