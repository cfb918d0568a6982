//! `patronictl topology`: the members as a tree of who streams from whom.

use super::list;
use crate::cli::definition::{CLUSTER_NAMES, Command, GROUP, WATCH, WATCH_TWO};
use crate::output::rows::Format;

pub(crate) const COMMAND: Command = Command {
    name: "topology",
    help: "Prints ASCII topology for given cluster",
    arguments: &[CLUSTER_NAMES],
    options: &[GROUP, WATCH_TWO, WATCH],
    examples: &["patronictl topology batman -w 1"],
    run: |context, matches| Box::pin(list::show(context, matches, Format::Topology)),
};
