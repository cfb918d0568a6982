//! Which members a command is about.

use std::str::FromStr;

use patroni_core::cluster::{Cluster, Member};
use patroni_core::name::MemberName;
use patroni_core::python::quoted;

use crate::difflib::close_matches;
use crate::error::{CtlError, failed};
use crate::members::{self, Show};
use crate::output::rows::Format;
use crate::{output, prompt};

/// The role of members to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoleFilter {
    /// Whoever holds the leader key.
    Leader,
    /// The leader, unless it is a standby leader.
    Primary,
    /// The leader, unless it is a primary.
    StandbyLeader,
    /// All but the leader.
    Replica,
    /// All but the leader.
    Standby,
    /// All.
    Any,
}

impl FromStr for RoleFilter {
    type Err = CtlError;

    fn from_str(text: &str) -> Result<Self, CtlError> {
        Ok(match text {
            "leader" => RoleFilter::Leader,
            "primary" => RoleFilter::Primary,
            "standby-leader" => RoleFilter::StandbyLeader,
            "replica" => RoleFilter::Replica,
            "standby" => RoleFilter::Standby,
            "any" => RoleFilter::Any,
            other => return failed(format!("there is no role {other:?}")),
        })
    }
}

/// The members with a role.
pub(crate) fn with_role(cluster: &Cluster, role: RoleFilter) -> Vec<&Member> {
    let leader = cluster.leader_member();
    let announced = leader.and_then(|member| member.data.role.as_deref());
    let leader_is = match role {
        RoleFilter::Leader => true,
        RoleFilter::Primary => announced != Some("standby_leader"),
        RoleFilter::StandbyLeader => !matches!(announced, Some("primary" | "master")),
        RoleFilter::Replica | RoleFilter::Standby => {
            return cluster.members.values().filter(|m| Some(&m.name) != cluster.leader_name()).collect();
        }
        RoleFilter::Any => return cluster.members.values().collect(),
    };
    leader.filter(|_| leader_is).into_iter().collect()
}

/// One member, by role or by name; the leader where neither is given.
///
/// # Errors
/// Both are given.
pub(crate) fn one<'a>(
    cluster: &'a Cluster,
    role: Option<RoleFilter>,
    name: Option<&str>,
) -> Result<Option<&'a Member>, CtlError> {
    match (role, name) {
        (Some(_), Some(_)) => failed("--role and --member are mutually exclusive options"),
        (None, Some(name)) => Ok(cluster.members.get(name)),
        (role, None) => Ok(with_role(cluster, role.unwrap_or(RoleFilter::Leader)).into_iter().next()),
    }
}

/// The members with a REST API, the leader first.
pub(crate) fn reachable_leader_first(cluster: &Cluster) -> Vec<&Member> {
    let mut members: Vec<&Member> = cluster.members.values().filter(|member| member.data.api_url.is_some()).collect();
    members.sort_by_key(|member| Some(&member.name) != cluster.leader_name());
    members
}

/// What is to be done to which members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// Name of the cluster.
    pub(crate) scope: &'a str,
    /// The names given; none for all with the role.
    pub(crate) names: &'a [String],
    /// Only members with this role.
    pub(crate) role: RoleFilter,
    /// How messages call the role.
    pub(crate) role_text: &'a str,
    /// Nothing is asked.
    pub(crate) force: bool,
    /// `reload`, `restart`, `reinitialize`, `flush`.
    pub(crate) action: &'a str,
    /// How the members are shown: as of a Citus cluster, or not.
    pub(crate) citus: Option<Option<i64>>,
}

/// Shows the cluster and picks the members a request is about; asks for one where none is named and all would be
/// too many.
pub(crate) async fn pick<'a>(cluster: &'a Cluster, request: Request<'_>) -> Result<Vec<&'a Member>, CtlError> {
    let candidates = with_role(cluster, request.role);
    if request.names.is_empty() && candidates.is_empty() {
        return failed(format!("{} cluster doesn't have any members", request.scope));
    }
    let show = Show { scope: request.scope, extended: false, format: Format::Pretty, citus: request.citus };
    output::write(&members::render(cluster, show));
    let known = |name: &str| candidates.iter().any(|member| member.name.as_str() == name);
    let mut names: Vec<String> = request.names.iter().filter(|name| known(name)).cloned().collect();
    if !request.names.is_empty() && names.is_empty() {
        // The role of a reinitialize is not from the command line, and is not quoted.
        let fixed = request.action == "reinitialize";
        let role = if fixed { request.role_text.to_owned() } else { format!("'{}'", request.role_text) };
        return failed(format!("No {role} among provided members{}", meant(request.names, cluster)));
    }
    if request.names.is_empty() && request.action != "reinitialize" {
        return Ok(candidates);
    }
    if names.is_empty() && !request.force {
        let listed: Vec<&str> = candidates.iter().map(|member| member.name.as_str()).collect();
        let question = format!("Which member do you want to {} [{}]?", request.action, listed.join(", "));
        names.push(prompt::ask(&question, Some("")).await?);
    }
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return failed(format!("{unknown} is not a member of cluster"));
    }
    Ok(candidates.into_iter().filter(|member| names.iter().any(|name| name == member.name.as_str())).collect())
}

/// Asks whether the members are the right ones.
pub(crate) async fn confirm(members: &[&Member], force: bool, action: &str) -> Result<(), CtlError> {
    let question = format!("Are you sure you want to {action} members {}?", listed(members));
    if force || prompt::confirm(&question).await? { Ok(()) } else { failed(format!("Aborted {action}")) }
}

/// The names of members, with commas.
pub(crate) fn listed(members: &[&Member]) -> String {
    members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Tells on stderr of names that are those of no members: what is printed does not always show it.
pub(crate) fn warn_of_strangers(names: &[impl AsRef<str>], cluster: &Cluster) {
    for name in names.iter().map(AsRef::as_ref).filter(|name| !cluster.members.contains_key(*name)) {
        output::warn(&format!("{name} is not a member of the cluster{}", meant(&[name], cluster)));
    }
}

/// Names that look like the given ones, on a line of their own; nothing for those that are members.
pub(crate) fn meant(names: &[impl AsRef<str>], cluster: &Cluster) -> String {
    let known = || cluster.members.keys().map(MemberName::as_str);
    let unknown = names.iter().map(AsRef::as_ref).filter(|name| !cluster.members.contains_key(*name));
    let close: Vec<String> =
        unknown.flat_map(|name| close_matches(name, known()).into_iter().take(1)).map(quoted).collect();
    if close.is_empty() { String::new() } else { format!("\nDid you mean {}?", close.join(", ")) }
}
