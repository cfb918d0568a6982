//! What is wrong with the embedded store or will bite.

use patroni_dcs::raft::admin::Phase;

use super::picture::Picture;
use crate::doctor::{Finding, finding};

/// What there is to say about a store.
pub(crate) fn of_store(picture: &Picture) -> Vec<Finding> {
    let mut found = Vec::new();
    let voters = picture.voters().count();
    if picture.status.leader.is_none() {
        let (living, needed) = (picture.living_voters(), voters / 2 + 1);
        found.push(finding(
            format!("nobody leads the embedded store: {living} of {voters} voters answer, {needed} are needed"),
            "start its members (the agents, and the witness if there is one); patronictl store status",
        ));
    }
    for seen in &picture.seen {
        let address = &seen.address;
        match seen.answer.as_ref().map(|status| &status.phase) {
            Err(reason) => found.push(finding(
                format!("the member {address} of the embedded store does not answer: {reason}"),
                format!("start it; where its host is gone for good: patronictl store remove {address}"),
            )),
            Ok(Phase::Broken(reason)) => {
                found.push(finding(
                    format!("the embedded store at {address} is broken: {reason}"),
                    "see the log of its agent",
                ));
            }
            Ok(Phase::Removed) => found.push(finding(
                format!("{address} was removed from the embedded store and still runs"),
                "end it; to take it in again move its data_dir away and start it",
            )),
            Ok(Phase::Waiting(_)) => found.push(finding(
                format!("{address} is not a voter of the embedded store yet"),
                "wait until it has caught up; its log says what it waits for",
            )),
            Ok(Phase::Member) => {}
        }
    }
    if voters == 2 || voters == 1 {
        found.push(finding(
            format!("the embedded store has {voters} voter{}: none may fail", if voters == 1 { "" } else { "s" }),
            "add a third one; a witness without PostgreSQL is enough: patronictl store add HOST:PORT",
        ));
    }
    found.extend(of_versions(picture));
    found
}

fn of_versions(picture: &Picture) -> Option<Finding> {
    let mut versions: Vec<&str> =
        picture.seen.iter().filter_map(|seen| Some(seen.answer.as_ref().ok()?.program.as_str())).collect();
    versions.sort_unstable();
    versions.dedup();
    (versions.len() > 1).then(|| {
        finding(
            format!("the members of the embedded store run different versions: {}", versions.join(", ")),
            "bring all of them to the same version",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::picture::tests::healthy;

    #[test]
    fn a_healthy_store_has_none() {
        assert_eq!(of_store(&healthy(3)), []);
    }

    #[test]
    fn each_trouble_is_told() {
        type Spoil = fn(&mut Picture);
        let rows: [(u64, Spoil, &str); 7] = [
            (3, |p| p.status.leader = None, "nobody leads the embedded store: 3 of 3 voters answer, 2 are needed"),
            (
                3,
                |p| p.seen[1].answer = Err("no".into()),
                "the member db2:9008 of the embedded store does not answer: no",
            ),
            (3, |p| set(p, Phase::Broken("torn".into())), "the embedded store at db2:9008 is broken: torn"),
            (3, |p| set(p, Phase::Removed), "db2:9008 was removed from the embedded store and still runs"),
            (3, |p| set(p, Phase::Waiting(vec![])), "db2:9008 is not a voter of the embedded store yet"),
            (2, |_| {}, "the embedded store has 2 voters: none may fail"),
            (3, older, "the members of the embedded store run different versions: 0.0.9, 0.1.0"),
        ];
        for (voters, spoil, expected) in rows {
            let mut picture = healthy(voters);
            spoil(&mut picture);
            let texts: Vec<String> = of_store(&picture).into_iter().map(|finding| finding.what).collect();
            assert_eq!(texts, [expected]);
        }
    }

    fn set(picture: &mut Picture, phase: Phase) {
        picture.seen[1].answer.as_mut().expect("an answer").phase = phase;
    }

    fn older(picture: &mut Picture) {
        picture.seen[1].answer.as_mut().expect("an answer").program = "0.0.9".to_owned();
    }
}
