//! Nodes that hold other WAL than the primary on the same timeline: what must not become of them.

use patroni_core::plan::JobOrder;
use patroni_core::view::View;

use crate::postgres::Process;
use crate::universe::Universe;

impl Universe {
    /// `shown` takes the place of the view of this node.
    pub(crate) fn count_kept_out(&mut self, node: usize, shown: &View) {
        if shown.kept_out && !self.nodes[node].view.kept_out {
            *self.faults.entry("found other WAL on the same timeline").or_default() += 1;
        }
    }

    pub(crate) fn mark_other_wal(&mut self, node: usize, present: bool) {
        if let Some(data) = self.nodes[node].postgres.data_mut() {
            data.other_wal = present;
        }
    }

    /// What was recognised is kept out: it does not stream. A copy of such a node may have been made before anybody knew. It has that node's WAL,
    /// so that nothing is mixed while it streams from there, until its first tick.
    pub(crate) fn check_kept_out(&mut self, node: usize) {
        let this = &self.nodes[node];
        let marked = this.postgres.data().is_some_and(|data| data.other_wal);
        let at_work = this.job.is_some() || !matches!(this.order, None | Some(JobOrder::Keep));
        if !marked || !this.view.kept_out || !this.alive || this.frozen_until.is_some() || at_work {
            return;
        }
        let holds_the_same = |source: usize| self.nodes[source].postgres.data().is_some_and(|data| data.other_wal);
        if let Process::Up { stream: Some((source, _)), .. } = this.postgres.process
            && !holds_the_same(source)
        {
            let source = self.nodes[source].name.clone();
            self.violation(node, format!("streams from {source} although it holds other WAL on the same timeline"));
        }
    }
}
