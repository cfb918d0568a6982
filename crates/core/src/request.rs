//! What operators ask of this node over REST. The loop decides; the answer goes back when it is known.

use crate::JsonMap;
use crate::name::MemberName;
use crate::time::WallTime;

/// Identifies a request until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A request to this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// POST `/restart` without schedule.
    Restart(RestartConditions),
    /// POST `/restart` with a schedule.
    ScheduleRestart(ScheduledRestart),
    /// DELETE `/restart`.
    CancelRestart,
    /// POST `/reinitialize`.
    Reinitialize {
        /// Cancel what is going on.
        force: bool,
        /// Copy from the leader, not from a `clonefrom` replica.
        from_leader: bool,
    },
}

/// What is asked of a cluster whose leader shall be another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// From a leader that works.
    Switchover,
    /// To a given member, whether there is a leader or not.
    Failover,
}

impl Handover {
    /// `switchover`
    pub fn name(self) -> &'static str {
        match self {
            Handover::Switchover => "switchover",
            Handover::Failover => "failover",
        }
    }

    /// `Switchover`
    pub fn title(self) -> &'static str {
        match self {
            Handover::Switchover => "Switchover",
            Handover::Failover => "Failover",
        }
    }

    /// `Successfully switched over to "n1"`
    pub fn succeeded(self, leader: &MemberName) -> String {
        let done = match self {
            Handover::Switchover => "switched over",
            Handover::Failover => "failed over",
        };
        format!("Successfully {done} to \"{leader}\"")
    }

    /// `Switched over to "n2" instead of "n1"`
    pub fn went_elsewhere(self, leader: &MemberName, wanted: &MemberName) -> String {
        let done = match self {
            Handover::Switchover => "Switched over",
            Handover::Failover => "Failed over",
        };
        format!("{done} to \"{leader}\" instead of \"{wanted}\"")
    }
}

/// The number of a version of PostgreSQL as conditions name it: `15.4` is 150004 and `9.6.24` is 90624.
///
/// # Errors
/// It is none; the text is Patroni's.
pub fn version_number(text: &str) -> Result<u32, String> {
    let invalid = || format!("Invalid PostgreSQL version: {text}");
    let parts: Vec<i64> =
        text.split('.').map(|part| part.trim().parse()).collect::<Result<_, _>>().map_err(|_| invalid())?;
    let number = match parts.as_slice() {
        [major, minor] if *major >= 10 => format!("{major:02}{:02}{minor:02}", 0),
        [first, second, minor] => format!("{first:02}{second:02}{minor:02}"),
        _ => return Err(format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}")),
    };
    number.parse().map_err(|_| invalid())
}

/// When a restart is to be carried out at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RestartConditions {
    /// Only in this role (`primary`, `replica`, `standby_leader`).
    pub role: Option<String>,
    /// Only if the running server is older than this version, such as 150018.
    pub older_than: Option<u32>,
    /// Only if a restart is pending.
    pub only_pending: bool,
    /// How long to wait for the start, in seconds, instead of `primary_start_timeout`.
    pub timeout: Option<u64>,
}

/// A restart at a later time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScheduledRestart {
    /// When.
    pub at: WallTime,
    /// Its text in ISO 8601, as shown.
    pub at_text: String,
    /// On which conditions.
    pub conditions: RestartConditions,
    /// The request as it was made.
    pub raw: JsonMap,
    /// Start of the postmaster when it was asked for: a restart in between cancels it.
    pub postmaster_start_time: Option<String>,
}

impl ScheduledRestart {
    /// As the member's key shows it.
    pub fn shown(&self) -> JsonMap {
        let mut shown = self.raw.clone();
        shown.insert("postmaster_start_time".to_owned(), self.postmaster_start_time.clone().into());
        shown
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Done: `restarted successfully`, `reinitialize started`, ...
    Done(String),
    /// Accepted for later (`Restart scheduled`).
    Scheduled(String),
    /// Refused, with the reason: conditions, another action in progress, leadership.
    Refused(String),
    /// Nothing to cancel, nothing to do.
    NotFound(String),
    /// It was tried and failed.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version_number("15.4"), Ok(150_004));
        assert_eq!(version_number("9.6.24"), Ok(90_624));
        for bad in ["a.b", "", "10.-5"] {
            assert_eq!(version_number(bad), Err(format!("Invalid PostgreSQL version: {bad}")));
        }
        for bad in ["15", "9.6", "-1.2", "1.2.3.4"] {
            let words = format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {bad}");
            assert_eq!(version_number(bad), Err(words));
        }
    }
}
