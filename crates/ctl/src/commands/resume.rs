//! `patronictl resume`: the end of a pause.

use super::pause;
use crate::cli::definition::{CLUSTER_NAME, Command, GROUP, Kind, Opt};

pub(crate) const COMMAND: Command = Command {
    name: "resume",
    help: "Resume auto failover",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt { names: &["--wait"], key: "wait", kind: Kind::Flag, help: "Wait until pause is cleared on all nodes" },
    ],
    examples: &["patronictl resume batman --wait"],
    run: |context, matches| Box::pin(pause::toggle(context, matches, false)),
};
