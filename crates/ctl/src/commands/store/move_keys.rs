//! `patronictl store move`: the keys of a paused cluster are copied to another store.

use patroni_core::cluster::Cluster;
use patroni_dcs::wire;

use crate::cli::definition::{CLUSTER_NAME, Command, FORCE, GROUP, Kind, Opt};
use crate::cli::parse::Matches;
use crate::context::{Context, Store};
use crate::doctor::Finding;
use crate::error::{CtlError, failed};
use crate::moving::{self, Action, Step};
use crate::{output, prompt};

pub(crate) const COMMAND: Command = Command {
    name: "store move",
    help: "Copy the keys of a paused cluster to another store, so that its agents can be started with that one",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt {
            names: &["--to"],
            key: "to",
            kind: Kind::Text,
            help: "The new store: its address, or a configuration file with it",
        },
        Opt {
            names: &["--from"],
            key: "from",
            kind: Kind::Text,
            help: "The old store, where the new one is the configured one",
        },
        Opt {
            names: &["--verify"],
            key: "verify",
            kind: Kind::Flag,
            help: "Copy nothing, look whether all agents have moved; exit code 1 if not",
        },
        FORCE,
    ],
    examples: &[
        "patronictl -c /etc/patroni.yml store move --to raft://db1:9008,db2:9008,db3:9008",
        "patronictl -c /etc/patroni.yml store move --from /etc/patroni.old.yml --verify",
    ],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let move_ = Move::of(context, matches)?;
    if matches.flag("verify") {
        return move_.verify().await;
    }
    let steps = move_.plan().await?;
    output::echo(&format!("Keys of {}, from {} to {}:", move_.from.scope, move_.from.label, move_.to.label));
    for step in &steps {
        output::echo(&format!("  {:<10} {}", wire::key_name(step.key), what_is_done(step)));
    }
    let open: Vec<Step> = steps.into_iter().filter(|step| step.action != Action::Keep).collect();
    if !open.is_empty() {
        if !matches.flag("force") && !prompt::confirm("Are you sure you want to copy them?").await? {
            return Err(CtlError::Abort);
        }
        move_.copy(open).await?;
    }
    move_.tell_what_is_next().await
}

fn what_is_done(step: &Step) -> &'static str {
    match &step.action {
        Action::Keep => "is the same",
        Action::Write(_, patroni_dcs::Expected::Absent) => "is created",
        Action::Write(..) => "is replaced",
        Action::Delete(_) => "is deleted",
    }
}

struct Move {
    from: Store,
    to: Store,
}

impl Move {
    fn of(context: &Context, matches: &Matches) -> Result<Self, CtlError> {
        let configured = context.open_default(matches)?;
        let other = |name: &str| context.open_other(matches, name);
        match (matches.text("from"), matches.text("to")) {
            (None, Some(to)) => Ok(Move { to: other(to)?, from: configured }),
            (Some(from), None) => Ok(Move { from: other(from)?, to: configured }),
            (Some(_), Some(_)) => {
                failed("give --from or --to: the other store is the one of the configuration or of -d")
            }
            (None, None) => failed("which other store? Give --to, or --from where the new store is the configured one"),
        }
    }

    async fn load(&self) -> Result<(Cluster, Cluster), CtlError> {
        let (from, to) = futures_util::join!(self.from.load(), self.to.load());
        Ok((from?, to?))
    }

    async fn plan(&self) -> Result<Vec<Step>, CtlError> {
        let (from, to) = self.load().await?;
        moving::plan(&from, &to, &self.from.label, &self.to.label).map_err(|against| {
            tell(&against);
            CtlError::Failed("nothing was copied".to_owned())
        })
    }

    /// Writes, then reads both stores again: what was copied must still be what there is.
    async fn copy(&self, steps: Vec<Step>) -> Result<(), CtlError> {
        for step in steps {
            let (key, refused) = (step.key, "somebody else writes to the new store: look who, then repeat the command");
            match step.action {
                Action::Keep => {}
                Action::Write(value, expected) => self.to.write_or(key, &value, expected, refused).await?,
                Action::Delete(expected) => self.to.delete_or(key, expected, refused).await?,
            }
        }
        match self.plan().await?.iter().find(|step| step.action != Action::Keep) {
            None => Ok(()),
            Some(step) => failed(format!(
                "the key {} has changed in one of the stores while it was copied: repeat the command",
                wire::key_name(step.key)
            )),
        }
    }

    async fn tell_what_is_next(&self) -> Result<(), CtlError> {
        let (from, _) = self.load().await?;
        let first = from.leader_name().map_or_else(|| "the primary".to_owned(), |name| name.to_string());
        output::echo(&format!(
            "Success: the keys are in {}. Now start the agents with it, one at a time, that of {first} first and in \
             pause, then look: patronictl store move --verify",
            self.to.label
        ));
        Ok(())
    }

    async fn verify(&self) -> Result<(), CtlError> {
        let (from, to) = self.load().await?;
        self.to.show(&to);
        let found = moving::unfinished(&from, &to, &self.from.label, &self.to.label);
        if !found.is_empty() {
            tell(&found);
            return Err(CtlError::Reported);
        }
        output::echo(&format!(
            "Success: no agent uses {}. When all members are in the list: patronictl resume, then remove the old keys",
            self.from.label
        ));
        Ok(())
    }
}

fn tell(findings: &[Finding]) {
    for finding in findings {
        output::echo(&finding.to_string());
    }
}
