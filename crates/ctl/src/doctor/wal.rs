//! Standbys whose next WAL file the leader has no more.

use patroni_core::cluster::Cluster;
use patroni_core::lsn::Lsn;

use super::server::Facts;
use super::{Finding, finding};
use crate::candidates::position;
use crate::statuses::Statuses;

/// What the leader says of its WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptWal {
    /// The first segment, the name without its timeline.
    pub(crate) first: String,
    /// The size of a segment, in bytes.
    pub(crate) segment_size: u64,
}

/// The columns of [`KeptWal`].
pub(crate) const KEPT_WAL: &str = "SELECT min(substr(name, 9)), (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size') FROM \
                                   pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";

/// What is found of members that do not stream.
pub(crate) fn findings(cluster: &Cluster, statuses: &Statuses, facts: &Facts, scope: &str) -> Vec<Finding> {
    let Some(leader) = cluster.leader_name() else { return Vec::new() };
    let KeptWal { first, segment_size } = &facts.kept_wal;
    let mut found = Vec::new();
    for member in cluster.members.values().filter(|member| member.name != *leader) {
        let streams = member.data.replication_state.as_deref() == Some("streaming");
        let status = statuses.get(&member.name).and_then(|answer| answer.as_ref().ok());
        let Some(needed) = position(member, status).and_then(|position| segment(position, *segment_size)) else {
            continue;
        };
        if !streams && !first.is_empty() && needed < *first {
            let name = &member.name;
            found.push(finding(
                format!("{leader} has no more the WAL that {name} needs next (segment {needed}; the first one left is {first})"),
                format!("put it into the archive that restore_command of {name} reads, or: patronictl reinit {scope} {name}"),
            ));
        }
    }
    found
}

/// The name of the segment with this position, without its timeline.
fn segment(position: Lsn, size: u64) -> Option<String> {
    let per_file = (1_u64 << 32).checked_div(size)?;
    let number = position.0.checked_div(size)?;
    Some(format!("{:08X}{:08X}", number.checked_div(per_file)?, number.checked_rem(per_file)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use patroni_core::name::MemberName;
    use patroni_dcs::wire::{self, RawKey};
    use serde_json::json;

    use super::*;
    use crate::statuses::Status;

    #[test]
    fn segments_have_names() {
        for (position, size, expected) in [
            (0x0300_0000, 16 << 20, Some("0000000000000003")),
            (0x02FF_FFFF, 16 << 20, Some("0000000000000002")),
            (0x12_FF00_0000, 16 << 20, Some("00000012000000FF")),
            (0x12_C000_0000, 1 << 30, Some("0000001200000003")),
            (1, 0, None),
        ] {
            assert_eq!(segment(Lsn(position), size).as_deref(), expected, "{position:X}");
        }
    }

    #[test]
    fn who_does_not_stream_and_lacks_wal_is_named() {
        let key = |value: serde_json::Value| RawKey { value: value.to_string().into_bytes(), ..RawKey::default() };
        let member =
            |state: Option<&str>| key(json!({"state": "running", "role": "replica", "replication_state": state}));
        let leader = RawKey { value: b"a".to_vec(), ..RawKey::default() };
        let keys = [
            ("leader", leader),
            ("members/a", member(None)),
            ("members/b", member(None)),
            ("members/c", member(Some("streaming"))),
            ("members/d", member(None)),
        ];
        let cluster = wire::cluster(&keys.map(|(name, key)| (name.to_owned(), key)).into());
        let status = |lsn: u64| {
            let document = json!({"xlog": {"received_location": lsn}}).as_object().cloned().expect("an object");
            Ok(Status { document, clock_ahead_s: None })
        };
        let lsns = [("a", 0x1_0000), ("b", 0x0200_0000), ("c", 0x0200_0000), ("d", 0x0300_0000)];
        let statuses: BTreeMap<_, _> = lsns.map(|(name, lsn)| (MemberName::from(name), status(lsn))).into();
        let kept = |first: &str| {
            let kept_wal = KeptWal { first: first.to_owned(), segment_size: 16 << 20 };
            let found = findings(&cluster, &statuses, &Facts { kept_wal, ..Facts::default() }, "batman");
            found.into_iter().map(|one| one.what).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(
            kept("0000000000000003"),
            "a has no more the WAL that b needs next (segment 0000000000000002; the first one left is 0000000000000003)"
        );
        assert_eq!((kept("0000000000000002").as_str(), kept("").as_str()), ("", ""));
    }
}
