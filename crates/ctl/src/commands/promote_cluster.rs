//! `patronictl promote-cluster`: a standby cluster begins to live on its own.

use super::demote_cluster;
use crate::cli::definition::{CLUSTER_NAME, Command, FORCE};

pub(crate) const COMMAND: Command = Command {
    name: "promote-cluster",
    help: "Promote cluster, make it run standalone",
    arguments: &[CLUSTER_NAME],
    options: &[FORCE],
    examples: &["patronictl promote-cluster batman"],
    run: |context, matches| Box::pin(demote_cluster::change_role(context, matches, None)),
};
