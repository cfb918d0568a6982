//! What operators do once faults are over: what the messages of the agents tell them, and nothing else.

use patroni_core::cluster::{FailoverRequest, Version};
use patroni_core::request::Request;

use crate::faults::ask;
use crate::postgres::Disk;
use crate::simulation::Simulation;
use crate::store::StoreRequest;
use crate::universe::{STORE, Universe};

/// Who left while nobody else leads may have taken the only copy along: nobody would leave it at that.
pub(crate) fn bring_back(universe: &mut Universe) {
    let led = crate::invariants::leader(universe).is_some_and(|leader| !universe.nodes[leader].absent);
    for node in &mut universe.nodes {
        node.absent &= led || node.postgres.data().is_none();
    }
}

/// What the messages of the agents tell an operator to do, and nothing else.
pub(crate) fn operator_looks(simulation: &mut Simulation) {
    let count = simulation.shared.borrow().nodes.len();
    for node in 0..count {
        let (absent, alive, fatal) = {
            let universe = simulation.shared.borrow();
            let node = &universe.nodes[node];
            (node.absent, node.alive, node.fatal)
        };
        if absent {
            continue;
        }
        if fatal {
            simulation.shared.borrow_mut().wipe(node);
        }
        if !alive {
            simulation.agent_starts(node);
        }
        help(&mut simulation.shared.borrow_mut(), node);
    }
}

/// `/sync` was deleted by hand, and who wrote it is gone, or those who remember that and those who do not cannot agree: the
/// operator chooses.
pub(crate) fn operator_chooses(universe: &mut Universe) {
    let cluster = universe.store.cluster();
    if !universe.sync_lost || cluster.leader.is_some() {
        return;
    }
    let expected = cluster.failover.as_ref().map(|request| request.version);
    let with_data = universe.nodes.iter().filter(|node| !node.absent && !node.settings.tags.nofailover());
    let best = with_data.filter_map(|node| Some((node.postgres.data()?.wal.end, node.name.clone()))).max();
    let Some((_, candidate)) = best else { return };
    universe.log(STORE, || format!("an operator orders a manual failover to {candidate}"));
    let request = FailoverRequest { version: Version(0), leader: None, candidate: Some(candidate), scheduled_at: None };
    universe.operator_writes(StoreRequest::WriteFailover { expected, request: Some(request) });
}

fn help(universe: &mut Universe, node: usize) {
    let idle = universe.nodes[node].job.is_none() && universe.nodes[node].order.is_none();
    if matches!(universe.nodes[node].postgres.disk, Disk::Torn) && idle {
        universe.log(node, || "an operator removes what an interrupted copy left".into());
        universe.wipe(node);
        universe.wake(node);
        return;
    }
    let settings = universe.nodes[node].settings.rewind;
    let by_hand = !settings.use_pg_rewind && !settings.remove_data_directory_on_diverged_timelines;
    let gave_up = universe.nodes[node].verdict == "not starting postgres, because pg_rewind did not succeed";
    let leader = universe.store.cluster().leader_name().and_then(|name| universe.node_named(name));
    let diverged = leader.filter(|leader| *leader != node).is_some_and(|leader| {
        let (mine, theirs) = (universe.nodes[node].postgres.data(), universe.nodes[leader].postgres.data());
        matches!((mine, theirs), (Some(mine), Some(theirs)) if !mine.wal.is_prefix_of(&theirs.wal) && mine.wal.end < theirs.wal.end)
    });
    if idle && (gave_up || diverged && by_hand) {
        ask(universe, node, Request::Reinitialize { force: false, from_leader: false });
    }
}
