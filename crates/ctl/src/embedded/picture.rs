//! The state of the store in rows: what its leader knows of the members, and what they say themselves.

use patroni_dcs::raft::admin::{MemberStatus, Phase, StoreStatus};
use serde_json::Value;

use crate::output::rows::{Format, Rows};

/// What is known of a store at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    /// As its leader sees it, where one is known.
    pub(crate) status: StoreStatus,
    /// What each node says.
    pub(crate) seen: Vec<Seen>,
}

/// What a node says.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Where it was asked.
    pub(crate) address: String,
    /// Its state, or why there is no answer.
    pub(crate) answer: Result<StoreStatus, String>,
}

/// Columns that only programs get; a table has them in its title, or not at all.
const FOR_PROGRAMS: [&str; 5] = ["Store", "Purged", "Revision", "Keys", "Answered ms ago"];
const COLUMNS: [&str; 15] = [
    "Store",
    "Member",
    "Address",
    "Role",
    "State",
    "Term",
    "Log",
    "Behind",
    "Applied",
    "Snapshot",
    "Purged",
    "Log bytes",
    "Revision",
    "Keys",
    "Answered ms ago",
];
const RIGHT: &[&str] = &["Term", "Log", "Behind", "Applied", "Snapshot", "Log bytes"];

impl Picture {
    /// The rows, and below a table what is to be said of the whole.
    pub(crate) fn render(&self, format: Format) -> String {
        let mut rows: Vec<Vec<Value>> = self.seen.iter().map(|seen| self.row(seen)).collect();
        if !matches!(format, Format::Json | Format::Yaml) {
            let unknown = rows.iter_mut().flatten().filter(|value| value.is_null());
            unknown.for_each(|value| *value = "".into());
        }
        let mut columns = COLUMNS.map(str::to_owned).to_vec();
        if !format.is_table() {
            return Rows { columns: Some(columns), rows, ..Rows::default() }.render(format, "\t");
        }
        let shown: Vec<bool> = COLUMNS.iter().map(|name| !FOR_PROGRAMS.contains(name)).collect();
        rows.iter_mut().for_each(|row| keep(row, &shown));
        keep(&mut columns, &shown);
        let table = Rows { columns: Some(columns), rows, right: RIGHT, title: self.title() }.render(format, "\t");
        table + &self.notes()
    }

    /// In a sentence: who leads the store, and how many of its members may fail.
    pub(crate) fn sentence(&self) -> String {
        let (voters, living, who) = (self.voters().count(), self.living_voters(), self.leader());
        let needed = voters / 2 + 1;
        let may_fail = match living.saturating_sub(needed) {
            0 => "none of them may fail".to_owned(),
            1 => "one of them may fail".to_owned(),
            several => format!("{several} of them may fail"),
        };
        format!("The store is the agents' own: {who} leads it, {living} of {voters} voters answer, {may_fail}.")
    }

    /// In a few words: the same, and the nodes that are not as they should be.
    #[cfg(feature = "top")]
    pub(crate) fn remarks(&self) -> Vec<String> {
        let (voters, living) = (self.voters().count(), self.living_voters());
        let whole = [format!("store led by {}", self.leader()), format!("{living} of {voters} voters answer")];
        let troubled =
            self.seen.iter().map(|seen| (&seen.address, state(seen))).filter(|(_, state)| *state != "running");
        whole.into_iter().chain(troubled.map(|(address, state)| format!("store at {address}: {state}"))).collect()
    }

    fn leader(&self) -> &str {
        let leader = self.status.members.iter().find(|member| Some(member.id) == self.status.leader);
        leader.map_or("nobody", |member| &member.address)
    }

    /// How many of the voters answer as such.
    pub(crate) fn living_voters(&self) -> usize {
        self.voters().filter(|member| self.answer_of(&member.address).is_some()).count()
    }

    /// Those who vote.
    pub(crate) fn voters(&self) -> impl Iterator<Item = &MemberStatus> {
        self.status.members.iter().filter(|member| member.voter)
    }

    /// What the node at an address says, if it is a usable one.
    pub(crate) fn answer_of(&self, address: &str) -> Option<&StoreStatus> {
        let seen = self.seen.iter().find(|seen| seen.address == address)?;
        seen.answer.as_ref().ok().filter(|status| !matches!(status.phase, Phase::Broken(_) | Phase::Removed))
    }

    fn title(&self) -> String {
        let status = &self.status;
        let cluster = status.cluster.map_or_else(|| "not founded yet".to_owned(), |cluster| cluster.to_string());
        format!(" Store: {cluster} (term {}, revision {}, {} keys) ", status.term, status.revision.0, status.keys)
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        let voters = self.voters().count();
        if self.status.leader.is_none() && voters > 0 {
            let (living, needed) = (self.living_voters(), voters / 2 + 1);
            notes.push(format!("nobody leads: {living} of {voters} voters answer, {needed} are needed"));
        }
        for seen in &self.seen {
            match &seen.answer {
                Err(reason) => notes.push(format!("{}: {reason}", seen.address)),
                Ok(status) => match &status.phase {
                    Phase::Broken(reason) => notes.push(format!("{}: {reason}", seen.address)),
                    Phase::Waiting(addresses) if status.cluster.is_none() => {
                        notes.push(format!("{} waits for all of {}", seen.address, addresses.join(", ")));
                    }
                    Phase::Waiting(_) | Phase::Member | Phase::Removed => {}
                },
            }
        }
        notes.into_iter().map(|note| format!(" {note}\n")).collect()
    }

    fn row(&self, seen: &Seen) -> Vec<Value> {
        let member = self.status.members.iter().find(|member| member.address == seen.address);
        let said = seen.answer.as_ref().ok();
        let id = member.map(|member| member.id).or(said.filter(|said| said.cluster.is_some()).map(|said| said.member));
        let text = |text: Option<String>| text.map_or(Value::Null, Value::from);
        let number = |number: Option<u64>| number.map_or(Value::Null, Value::from);
        let last = self.status.last_log.filter(|_| self.status.leader == Some(self.status.member));
        let behind = member.and_then(|member| Some(last?.saturating_sub(member.matched?)));
        vec![
            text(self.status.cluster.map(|cluster| cluster.to_string())),
            text(id.map(|id| id.to_string())),
            seen.address.as_str().into(),
            self.role(member).into(),
            state(seen).into(),
            number(said.map(|said| said.term)),
            number(said.and_then(|said| said.last_log)),
            number(behind),
            number(said.and_then(|said| said.applied)),
            number(said.and_then(|said| said.snapshot)),
            number(said.and_then(|said| said.purged)),
            number(said.map(|said| said.log_bytes)),
            number(said.map(|said| said.revision.0)),
            number(said.map(|said| said.keys)),
            number(member.and_then(|member| member.silent_ms)),
        ]
    }

    fn role(&self, member: Option<&MemberStatus>) -> &'static str {
        match member {
            None => "",
            Some(member) if self.status.leader == Some(member.id) => "Leader",
            Some(member) if member.voter => "Voter",
            Some(_) => "Learner",
        }
    }
}

fn state(seen: &Seen) -> &'static str {
    match seen.answer.as_ref().map(|status| &status.phase) {
        Err(_) => "no answer",
        Ok(Phase::Member) => "running",
        Ok(Phase::Waiting(_)) => "waiting",
        Ok(Phase::Removed) => "removed",
        Ok(Phase::Broken(_)) => "broken",
    }
}

fn keep<T>(values: &mut Vec<T>, shown: &[bool]) {
    let mut shown = shown.iter();
    values.retain(|_| shown.next() == Some(&true));
}

#[cfg(test)]
pub(crate) mod tests {
    use patroni_dcs::raft::protocol::{ClusterId, MemberId};
    use patroni_dcs::raft::state::Revision;

    use super::*;

    /// Member 1 leads a store of so many voters; all answer.
    pub(crate) fn healthy(voters: u64) -> Picture {
        let member = |id: u64| MemberStatus {
            id: MemberId(id),
            address: format!("db{id}:9008"),
            voter: true,
            matched: Some(1200 - id),
            silent_ms: Some(id * 100),
        };
        let says = |id: u64| StoreStatus {
            cluster: Some(ClusterId(0xabc)),
            member: MemberId(id),
            address: format!("db{id}:9008"),
            program: "0.1.0".to_owned(),
            phase: Phase::Member,
            leader: Some(MemberId(1)),
            term: 7,
            last_log: Some(1200),
            applied: Some(1200 - id),
            snapshot: Some(1000),
            purged: Some(800),
            log_bytes: 65_536,
            revision: Revision(345),
            keys: 11,
            members: (1..=voters).map(member).collect(),
        };
        let seen = |id| Seen { address: format!("db{id}:9008"), answer: Ok(says(id)) };
        Picture { status: says(1), seen: (1..=voters).map(seen).collect() }
    }

    fn troubled() -> Picture {
        let mut picture = healthy(3);
        picture.status.leader = None;
        picture.status.members[2].voter = false;
        picture.seen[1].answer = Err("Connection refused (os error 111)".to_owned());
        if let Ok(status) = &mut picture.seen[2].answer {
            status.phase = Phase::Broken("raft.log: record 7 is damaged".to_owned());
        }
        picture
    }

    const HEALTHY: &str = "\
+ Store: 0000000000000abc (term 7, revision 345, 11 keys) -----+--------+---------+----------+-----------+
| Member           | Address  | Role   | State   | Term |  Log | Behind | Applied | Snapshot | Log bytes |
+------------------+----------+--------+---------+------+------+--------+---------+----------+-----------+
| 0000000000000001 | db1:9008 | Leader | running |    7 | 1200 |      1 |    1199 |     1000 |     65536 |
| 0000000000000002 | db2:9008 | Voter  | running |    7 | 1200 |      2 |    1198 |     1000 |     65536 |
| 0000000000000003 | db3:9008 | Voter  | running |    7 | 1200 |      3 |    1197 |     1000 |     65536 |
+------------------+----------+--------+---------+------+------+--------+---------+----------+-----------+
";

    const TROUBLED: &str = "\
+------------------+----------+---------+-----------+------+------+--------+---------+----------+-----------+
| 0000000000000001 | db1:9008 | Voter   | running   |    7 | 1200 |        |    1199 |     1000 |     65536 |
| 0000000000000002 | db2:9008 | Voter   | no answer |      |      |        |         |          |           |
| 0000000000000003 | db3:9008 | Learner | broken    |    7 | 1200 |        |    1197 |     1000 |     65536 |
+------------------+----------+---------+-----------+------+------+--------+---------+----------+-----------+
 nobody leads: 1 of 2 voters answer, 2 are needed
 db2:9008: Connection refused (os error 111)
 db3:9008: raft.log: record 7 is damaged
";

    #[test]
    fn as_a_table() {
        assert_eq!(healthy(3).render(Format::Pretty), HEALTHY);
        let text = troubled().render(Format::Pretty);
        assert!(text.ends_with(TROUBLED), "{text}");
    }

    #[test]
    fn in_a_sentence() {
        for (picture, expected) in [
            (healthy(3), "db1:9008 leads it, 3 of 3 voters answer, one of them may fail."),
            (healthy(5), "db1:9008 leads it, 5 of 5 voters answer, 2 of them may fail."),
            (healthy(2), "db1:9008 leads it, 2 of 2 voters answer, none of them may fail."),
            (troubled(), "nobody leads it, 1 of 2 voters answer, none of them may fail."),
        ] {
            assert_eq!(picture.sentence(), format!("The store is the agents' own: {expected}"));
        }
    }

    #[cfg(feature = "top")]
    #[test]
    fn in_a_few_words() {
        assert_eq!(healthy(3).remarks(), ["store led by db1:9008", "3 of 3 voters answer"]);
        assert_eq!(
            troubled().remarks(),
            [
                "store led by nobody",
                "1 of 2 voters answer",
                "store at db2:9008: no answer",
                "store at db3:9008: broken"
            ]
        );
    }

    #[test]
    fn for_programs() {
        let tsv = troubled().render(Format::Tsv);
        assert_eq!(tsv.lines().next(), Some(COLUMNS.join("\t").as_str()));
        let silent = "0000000000000abc\t0000000000000002\tdb2:9008\tVoter\tno answer\t\t\t\t\t\t\t\t\t\t200";
        assert_eq!(tsv.lines().nth(2), Some(silent));
        let json: Value = serde_json::from_str(&healthy(1).render(Format::Json)).expect("JSON");
        assert_eq!(json[0]["Purged"], 800);
        assert_eq!((&json[0]["Revision"], &json[0]["Keys"], &json[0]["Behind"]), (&345.into(), &11.into(), &1.into()));
        assert!(healthy(1).render(Format::Yaml).contains("  Role: Leader\n"));
    }

    #[test]
    fn a_store_that_is_not_founded_yet() {
        let mut picture = healthy(1);
        picture.status.cluster = None;
        picture.status.members.clear();
        let mut waiting = picture.status.clone();
        waiting.phase = Phase::Waiting(vec!["db1:9008".to_owned(), "db2:9008".to_owned()]);
        picture.seen[0].answer = Ok(waiting);
        let text = picture.render(Format::Pretty);
        assert!(text.starts_with("+ Store: not founded yet (term 7"), "{text}");
        assert!(text.contains("| db1:9008 |      | waiting |"), "{text}");
        assert!(text.ends_with(" db1:9008 waits for all of db1:9008, db2:9008\n"), "{text}");
    }
}
