//! All endpoints: one row says where a request goes and how the description of the API (`/openapi.json`) tells of it.
//!
//! As in Patroni the method and the first part of the path choose the row.

use hyper::Method;

use patroni_core::request::Handover;

/// Which method on which path does what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) purpose: Purpose,
    /// What it does, or when it answers 200.
    pub(crate) summary: &'static str,
    pub(crate) parameters: &'static [Parameter],
    /// What it may answer, besides what all changes may answer (see `openapi`).
    pub(crate) answers: &'static [(u16, &'static str, Shape)],
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A health check: a status, and the document of the node.
    Check,
    Liveness,
    Readiness,
    Status,
    Topology,
    History,
    Config,
    Metrics,
    FailsafeMembers,
    KnownMembers,
    Upstream,
    Description,
    /// It changes something.
    Change(Operation),
}

/// Requests that change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    PatchConfig,
    PutConfig,
    Reload,
    Restart,
    DeleteRestart,
    Reinitialize,
    Move(Handover),
    DeleteSwitchover,
    Failsafe,
    Sigterm,
    Mpp,
}

/// The body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// It is not looked at.
    None,
    /// A JSON object, if there is one.
    Optional,
    /// A JSON object that is not empty.
    Required,
}

/// A parameter of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// `lag`
    Lag,
    /// `mode`
    Mode,
    /// `tag_KEY=VALUE`, any number of them.
    Tags,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// No body.
    Empty,
    /// A sentence, as `text/html`.
    Text,
    /// An error page.
    Page,
    /// The status document of the node.
    Status,
    /// Members of the cluster.
    Topology,
    /// Changes of the timeline.
    History,
    /// The dynamic configuration.
    Config,
    /// Prometheus' text format.
    Metrics,
    /// The metrics as OpenMetrics.
    OpenMetrics,
    /// Names and addresses.
    Members,
    /// Names, each with the addresses of its REST API and its PostgreSQL.
    KnownMembers,
    /// Why the primary refuses this standby.
    Upstream,
    /// An OpenAPI description.
    Description,
}

impl Operation {
    /// What is read of the request.
    pub(crate) fn body(self) -> Body {
        match self {
            Operation::PatchConfig
            | Operation::PutConfig
            | Operation::Move(_)
            | Operation::Failsafe
            | Operation::Mpp => Body::Required,
            Operation::Restart | Operation::Reinitialize => Body::Optional,
            Operation::Reload | Operation::DeleteRestart | Operation::DeleteSwitchover | Operation::Sigterm => {
                Body::None
            }
        }
    }
}

/// What a request with this method and first part of the path is for; `None`: nothing knows this method there. Any
/// other path that is read is a health check.
pub(crate) fn purpose(method: &Method, name: &str) -> Option<Purpose> {
    let row = |method: &str| {
        ENDPOINTS
            .iter()
            .find(|row| row.method == method && row.path.strip_prefix('/') == Some(name))
            .map(|row| row.purpose)
    };
    if *method == Method::GET {
        return Some(row("GET").unwrap_or(Purpose::Check));
    }
    if *method == Method::HEAD || *method == Method::OPTIONS {
        let probe = row("GET").filter(|purpose| matches!(purpose, Purpose::Liveness | Purpose::Readiness));
        return Some(probe.unwrap_or(Purpose::Check));
    }
    row(method.as_str())
}

const LAG_AND_TAGS: &[Parameter] = &[Parameter::Lag, Parameter::Tags];

const fn check(path: &'static str, summary: &'static str, parameters: &'static [Parameter]) -> Endpoint {
    Endpoint {
        method: "GET",
        path,
        purpose: Purpose::Check,
        summary,
        parameters,
        answers: &[(200, "The check passes.", Shape::Status), (503, "The check does not pass.", Shape::Status)],
    }
}

const fn read(
    path: &'static str,
    purpose: Purpose,
    summary: &'static str,
    answers: &'static [(u16, &'static str, Shape)],
) -> Endpoint {
    Endpoint { method: "GET", path, purpose, summary, parameters: &[], answers }
}

const fn change(
    (method, path): (&'static str, &'static str),
    operation: Operation,
    summary: &'static str,
    answers: &'static [(u16, &'static str, Shape)],
) -> Endpoint {
    Endpoint { method, path, purpose: Purpose::Change(operation), summary, parameters: &[], answers }
}

const NO_STORE: (u16, &str, Shape) = (503, "The store cannot be reached.", Shape::Page);

const PROBE: &[(u16, &str, Shape)] = &[(200, "Yes.", Shape::Empty), (503, "No.", Shape::Empty)];

/// All of them.
pub(crate) const ENDPOINTS: &[Endpoint] = &[
    check("/", "The primary that holds the leader lock.", &[]),
    check("/primary", "The primary that holds the leader lock.", &[]),
    check("/master", "The older name of /primary.", &[]),
    check("/read-write", "Another name of /primary.", &[]),
    check("/leader", "The node with the leader lock: primary, or leader of a standby cluster.", &[]),
    check("/standby-leader", "The leader of a standby cluster.", &[]),
    check("/standby_leader", "Another name of /standby-leader.", &[]),
    check("/replica", "A running replica without the tag noloadbalance, not further behind than lag.", LAG_AND_TAGS),
    check("/read-only", "As /replica, and the primary.", LAG_AND_TAGS),
    check("/synchronous", "A replica that is a synchronous standby.", LAG_AND_TAGS),
    check("/sync", "Another name of /synchronous.", LAG_AND_TAGS),
    check("/read-only-sync", "As /synchronous, and the primary.", LAG_AND_TAGS),
    check("/quorum", "A replica that is a synchronous standby of quorum commit.", LAG_AND_TAGS),
    check("/read-only-quorum", "As /quorum, and the primary.", LAG_AND_TAGS),
    check("/asynchronous", "A replica that is not a synchronous standby.", LAG_AND_TAGS),
    check("/async", "Another name of /asynchronous.", LAG_AND_TAGS),
    check("/health", "A node whose PostgreSQL runs.", &[Parameter::Tags]),
    read("/liveness", Purpose::Liveness, "Does the loop of the agent turn?", PROBE),
    Endpoint {
        parameters: &[Parameter::Lag, Parameter::Mode],
        ..read("/readiness", Purpose::Readiness, "A leader, or a replica that streams and is near enough.", PROBE)
    },
    read(
        "/patroni",
        Purpose::Status,
        "The status document of the node.",
        &[(200, "State, role, positions, settings.", Shape::Status)],
    ),
    read(
        "/cluster",
        Purpose::Topology,
        "Members, their roles, states and lag; the switchover that is scheduled.",
        &[(200, "As the store says.", Shape::Topology), NO_STORE],
    ),
    read(
        "/history",
        Purpose::History,
        "Changes of the timeline.",
        &[(200, "As the store says.", Shape::History), NO_STORE],
    ),
    read(
        "/config",
        Purpose::Config,
        "The dynamic configuration.",
        &[(200, "As the store says.", Shape::Config), (502, "There is none yet.", Shape::Page), NO_STORE],
    ),
    read(
        "/metrics",
        Purpose::Metrics,
        "Metrics for Prometheus, as OpenMetrics where `Accept` asks for that.",
        &[(200, "All of them.", Shape::Metrics), (200, "The same as OpenMetrics.", Shape::OpenMetrics)],
    ),
    read(
        "/failsafe",
        Purpose::FailsafeMembers,
        "The members that failsafe mode counts on.",
        &[(200, "Names and addresses.", Shape::Members), (502, "Failsafe mode is off.", Shape::Page)],
    ),
    read(
        "/members",
        Purpose::KnownMembers,
        "The members that this node knows of, also while the store does not answer, and where they are.",
        &[(200, "As of when this node last read the store.", Shape::KnownMembers)],
    ),
    read(
        "/upstream",
        Purpose::Upstream,
        "Why a standby does not stream: what its primary answers to a replication connection, tried at most every 5 seconds.",
        &[(200, "The error, if there is one.", Shape::Upstream)],
    ),
    read("/openapi.json", Purpose::Description, "This description.", &[(200, "OpenAPI 3.", Shape::Description)]),
    change(
        ("PATCH", "/config"),
        Operation::PatchConfig,
        "Changes settings: null removes, objects are merged.",
        &[
            (200, "The new configuration.", Shape::Config),
            (409, "The store did not take it, or others were faster again and again.", Shape::Page),
            (503, "There is no configuration to change, or the store cannot be reached.", Shape::Page),
        ],
    ),
    change(
        ("PUT", "/config"),
        Operation::PutConfig,
        "Replaces the configuration as a whole.",
        &[(200, "The new configuration.", Shape::Config), (502, "The store did not take it.", Shape::Page), NO_STORE],
    ),
    change(
        ("POST", "/reload"),
        Operation::Reload,
        "Reads the configuration file again, as SIGHUP does.",
        &[(202, "Will be done at once.", Shape::Text), (503, "Too much to do.", Shape::Text)],
    ),
    change(
        ("POST", "/restart"),
        Operation::Restart,
        "Restarts PostgreSQL, now or later.",
        &[
            (200, "Restarted.", Shape::Text),
            (202, "Scheduled.", Shape::Text),
            (400, "A condition that makes no sense.", Shape::Text),
            (409, "Another restart is scheduled already.", Shape::Text),
            (422, "A time that is none, or past.", Shape::Text),
            (500, "Nothing is scheduled while the cluster is paused.", Shape::Text),
            (503, "Conditions are not met, or it failed; the text says why.", Shape::Text),
        ],
    ),
    change(
        ("DELETE", "/restart"),
        Operation::DeleteRestart,
        "Forgets the restart that is scheduled.",
        &[
            (200, "Forgotten.", Shape::Text),
            (404, "There was none.", Shape::Text),
            (503, "The agent is too busy, or ends.", Shape::Text),
        ],
    ),
    change(
        ("POST", "/reinitialize"),
        Operation::Reinitialize,
        "Removes the data directory of a replica and copies it anew.",
        &[(200, "Begun.", Shape::Text), (503, "Not possible; the text says why.", Shape::Text)],
    ),
    change(
        ("POST", "/switchover"),
        Operation::Move(Handover::Switchover),
        "Makes another node leader, now or later, while the leader is well.",
        &[
            (200, "Done.", Shape::Text),
            (202, "Scheduled.", Shape::Text),
            (400, "A request that makes no sense; the text says why.", Shape::Text),
            (412, "Not possible now; the text says why.", Shape::Text),
            (422, "A time that is none, or past.", Shape::Text),
            (503, "It failed, the result is not known, or the store cannot be reached.", Shape::Text),
        ],
    ),
    change(
        ("POST", "/failover"),
        Operation::Move(Handover::Failover),
        "Makes a certain node leader, also without a leader.",
        &[
            (200, "Done.", Shape::Text),
            (400, "A request that makes no sense; the text says why.", Shape::Text),
            (412, "Not possible now; the text says why.", Shape::Text),
            (503, "It failed, the result is not known, or the store cannot be reached.", Shape::Text),
        ],
    ),
    change(
        ("DELETE", "/switchover"),
        Operation::DeleteSwitchover,
        "Forgets the switchover that is scheduled.",
        &[
            (200, "Forgotten.", Shape::Text),
            (404, "There was none.", Shape::Text),
            (409, "It has just changed, or the store did not take it.", Shape::Page),
            NO_STORE,
        ],
    ),
    change(
        ("POST", "/failsafe"),
        Operation::Failsafe,
        "For members: the leader, which cannot reach the store, asks whether it may go on.",
        &[
            (200, "It may.", Shape::Text),
            (500, "It may not: this node is the leader, or cannot tell.", Shape::Text),
            (502, "Failsafe mode is off.", Shape::Page),
        ],
    ),
    change(
        ("POST", "/sigterm"),
        Operation::Sigterm,
        "Nothing: for tests of Patroni on Windows.",
        &[(202, "Said, not done.", Shape::Text)],
    ),
    change(
        ("POST", "/citus"),
        Operation::Mpp,
        "Reserved for distributed databases.",
        &[(200, "Taken note of.", Shape::Text)],
    ),
    change(
        ("POST", "/mpp"),
        Operation::Mpp,
        "Reserved for distributed databases.",
        &[(200, "Taken note of.", Shape::Text)],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_where_the_table_says() {
        for row in ENDPOINTS {
            let method = Method::from_bytes(row.method.as_bytes()).unwrap();
            assert_eq!(purpose(&method, &row.path[1..]), Some(row.purpose), "{} {}", row.method, row.path);
            assert_eq!(
                ENDPOINTS.iter().filter(|other| (other.method, other.path) == (row.method, row.path)).count(),
                1
            );
        }
        let rows = [
            (Method::GET, "anything", Some(Purpose::Check)),
            (Method::GET, "restart", Some(Purpose::Check)),
            (Method::HEAD, "patroni", Some(Purpose::Check)),
            (Method::OPTIONS, "metrics", Some(Purpose::Check)),
            (Method::HEAD, "liveness", Some(Purpose::Liveness)),
            (Method::OPTIONS, "readiness", Some(Purpose::Readiness)),
            (Method::POST, "patroni", None),
            (Method::POST, "", None),
            (Method::DELETE, "config", None),
            (Method::PUT, "restart", None),
            (Method::TRACE, "", None),
        ];
        for (method, name, expected) in rows {
            assert_eq!(purpose(&method, name), expected, "{method} {name}");
        }
    }
}
