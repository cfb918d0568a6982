//! Scripts that are told of changes: `on_start`, `on_stop`, `on_restart`, `on_reload`, `on_role_change`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use patroni_core::server::Role;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::programs::{Group, command_of, describe, split};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallbackAction {
    /// `on_start`
    OnStart,
    /// `on_stop`
    OnStop,
    /// `on_restart`
    OnRestart,
    /// `on_reload`
    OnReload,
    /// `on_role_change`
    OnRoleChange,
}

impl fmt::Display for CallbackAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallbackAction::OnStart => "on_start",
            CallbackAction::OnStop => "on_stop",
            CallbackAction::OnRestart => "on_restart",
            CallbackAction::OnReload => "on_reload",
            CallbackAction::OnRoleChange => "on_role_change",
        })
    }
}

impl FromStr for CallbackAction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on_start" => Ok(CallbackAction::OnStart),
            "on_stop" => Ok(CallbackAction::OnStop),
            "on_restart" => Ok(CallbackAction::OnRestart),
            "on_reload" => Ok(CallbackAction::OnReload),
            "on_role_change" => Ok(CallbackAction::OnRoleChange),
            other => Err(format!("{other:?} is not a callback")),
        }
    }
}

/// Runs callbacks in the background, one at a time: the next one ends the one before, with everything it started.
/// `on_reload` has a place of its own: a reload does not end the others.
#[derive(Debug)]
pub struct Callbacks {
    main: Runner,
    reload: Runner,
}

#[derive(Debug)]
struct Runner {
    orders: watch::Sender<Option<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Callbacks {
    /// Starts the two runners; they end when this is dropped. Needs a tokio runtime.
    pub fn new() -> Self {
        let runner = || {
            let (orders, receiver) = watch::channel(None);
            Runner { orders, task: tokio::spawn(run_latest(receiver)) }
        };
        Callbacks { main: runner(), reload: runner() }
    }

    /// Calls the script for an action, if there is one, with action, role and scope as its last arguments. Does not wait.
    pub fn call(&self, scripts: &BTreeMap<CallbackAction, String>, action: CallbackAction, role: Role, scope: &str) {
        let Some(script) = scripts.get(&action) else { return };
        let role = if role == Role::Promoted { Role::Primary } else { role };
        match split(script) {
            Ok(mut words) => {
                words.extend([action.to_string(), role.to_string(), scope.to_owned()]);
                let slot = if action == CallbackAction::OnReload { &self.reload } else { &self.main };
                slot.orders.send_replace(Some(words));
            }
            Err(error) => tracing::error!("callback {script} {action} {role} {scope} failed: {error}"),
        }
    }

    /// Starts what was called last, and lets it go on by itself: the agent ends.
    pub async fn finish(self, limit: Duration) {
        for Runner { orders, task } in [self.main, self.reload] {
            drop(orders);
            if timeout(limit, task).await.is_err() {
                tracing::warn!("a callback could not be started in time");
            }
        }
    }
}

impl Default for Callbacks {
    fn default() -> Self {
        Self::new()
    }
}

/// How long a callback may take to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(1);

async fn run_latest(mut orders: watch::Receiver<Option<Vec<String>>>) {
    while orders.changed().await.is_ok() {
        // A new order may have come while the one before was being ended; the latest counts.
        let mut words = latest(&mut orders);
        while run_until_next(&words, &mut orders).await {
            words = latest(&mut orders);
        }
    }
}

fn latest(orders: &mut watch::Receiver<Option<Vec<String>>>) -> Vec<String> {
    orders.borrow_and_update().clone().unwrap_or_default()
}

/// True when the script was ended because of a newer order, which is still to be taken.
async fn run_until_next(words: &[String], orders: &mut watch::Receiver<Option<Vec<String>>>) -> bool {
    tracing::debug!("callback {words:?}");
    let mut command: Command = command_of(words);
    command.process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            tracing::error!("Failed to execute {words:?}: {error}");
            return false;
        }
    };
    let group = Group::of(&child);
    tokio::select! {
        status = child.wait() => {
            match status {
                Ok(status) if status.success() => {}
                Ok(status) => tracing::warn!("callback {words:?} exited with {}", describe(status)),
                Err(error) => tracing::error!("callback {words:?}: {error}"),
            }
            // Children it left in its group are ended with the next callback in the reference; here they may go on.
            group.forget();
            false
        }
        next = orders.changed() => {
            if next.is_err() {
                // The agent ends; a script that tells the world about it may finish.
                group.forget();
                return false;
            }
            tracing::warn!("Killed {words:?} because it was still running");
            group.end_within(TERM_GRACE, child.wait()).await;
            true
        }
    }
}
