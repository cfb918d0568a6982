//! The guard of a node: a process of its own, which ends PostgreSQL at the deadline that the agent told it last.

use std::time::Duration;

use patroni_core::fence::{Fence, Target};

use crate::postgres::Process;
use crate::universe::{Event, Universe};

/// A guard that was armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    deadline: Duration,
    /// The postmaster that it ends; `None`: whichever runs by then.
    birth: Option<u64>,
    /// The agent that armed it.
    life: u64,
}

impl Universe {
    /// What the agent says.
    pub(crate) fn tell_guard(&mut self, node: usize, order: Fence) {
        let life = self.nodes[node].life;
        let server = &self.nodes[node].postgres;
        let guard = match order {
            Fence::Until(until, Target::Postmaster) => {
                let runs = server.process != Process::Down;
                runs.then_some(Guard { deadline: until.0, birth: Some(server.birth), life })
            }
            Fence::Until(until, Target::Whichever) => Some(Guard { deadline: until.0, birth: None, life }),
            Fence::Stands => return,
            // The guard of an earlier agent stays until this one arms its own.
            Fence::LetGo => self.nodes[node].guard.filter(|guard| guard.life != life),
            Fence::LetAllGo => None,
        };
        if !self.guarded || self.nodes[node].guard == guard {
            return;
        }
        self.nodes[node].guard = guard;
        if let Some(guard) = guard {
            self.at(guard.deadline, Event::Guard { node, guard });
        }
    }

    pub(crate) fn guard_looks(&mut self, node: usize, guard: Guard) {
        if self.nodes[node].guard != Some(guard) {
            return;
        }
        self.nodes[node].guard = None;
        if guard.birth.is_none_or(|birth| birth == self.nodes[node].postgres.birth) {
            self.crash_postgres(node, "is stopped by the guard");
        }
    }
}
