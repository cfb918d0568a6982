//! What the members themselves say (`GET /patroni`), all asked at the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use jiff::Timestamp;
use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, Member};
use patroni_core::name::MemberName;
use serde_json::Value;

use crate::context::{Context, QUICK};

/// How far the date of an answer can be off without the clocks being different, in seconds: it has no fractions, and
/// servers keep it for a while.
const TOLERANCE_S: i64 = 2;

/// What members say, or why they say nothing.
pub(crate) type Statuses = BTreeMap<MemberName, Result<Status, Silence>>;

/// Why a member says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Silence {
    /// No answer, or none that can be read.
    #[error("{0}")]
    NoAnswer(String),
    /// It lives, and was not asked: its certificate is not trusted here, or the files that say whom to trust are missing.
    #[error("{0}")]
    NotTrusted(String),
}

impl From<String> for Silence {
    fn from(reason: String) -> Self {
        Silence::NoAnswer(reason)
    }
}

/// What a member says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Status {
    /// The document.
    pub(crate) document: JsonMap,
    /// Its clock is ahead of ours by so many seconds (negative: behind); `None` where it does not tell.
    pub(crate) clock_ahead_s: Option<i64>,
}

impl Status {
    /// The value of a key that holds a text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.document.get(key)?.as_str()
    }

    /// Why its primary refuses it, where that is known: see [`ask_upstream`].
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.text(REFUSAL)
    }

    /// The key is there and true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.document.get(key) == Some(&Value::Bool(true))
    }

    /// A position in `xlog`.
    pub(crate) fn position(&self, key: &str) -> Option<u64> {
        self.document.get("xlog")?.get(key)?.as_u64()
    }

    /// The long action that runs, with its progress. Only agents of patroni-rs tell it.
    pub(crate) fn job(&self) -> Option<String> {
        let job = self.document.get("job")?;
        let title = job.get("title")?.as_str()?;
        match job.get("progress").and_then(Value::as_str) {
            Some(progress) if progress != title => Some(format!("{title}: {progress}")),
            Some(_) | None => Some(title.to_owned()),
        }
    }
}

/// Asks all members of a cluster.
pub(crate) async fn ask_all(context: &Context, cluster: &Cluster) -> Statuses {
    let asked = cluster.members.values().map(|member| async { (member.name.clone(), ask(context, member).await) });
    join_all(asked).await.into_iter().collect()
}

/// Asks members that do not stream why. Those of Patroni do not know.
pub(crate) async fn ask_upstream(context: &Context, cluster: &Cluster, statuses: &mut Statuses) {
    let silent = statuses.iter_mut().filter_map(|(name, answer)| {
        let status = answer.as_mut().ok()?;
        let streams = status.text("replication_state") == Some("streaming");
        let follows = status.text("role") == Some("replica") && status.text("state") == Some("running") && !streams;
        Some((cluster.members.get(name).filter(|_| follows)?, status))
    });
    let asked = silent.map(|(member, status)| async move {
        let answer = context.request(member, Method::GET, Some("upstream"), None, UPSTREAM_PATIENCE).await.ok()?;
        let document: JsonMap = serde_json::from_str(&answer.body).ok()?;
        let error = document.get("error").filter(|error| error.is_string())?;
        status.document.insert(REFUSAL.to_owned(), error.clone());
        Some(())
    });
    join_all(asked).await;
}

/// Where the answer of [`ask_upstream`] is kept, a name that no document has.
const REFUSAL: &str = "error of the upstream";

/// A member may have to try a connection.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(5);

/// Asks one.
pub(crate) async fn ask(context: &Context, member: &Member) -> Result<Status, Silence> {
    let begin = Timestamp::now();
    let answer = context.request(member, Method::GET, Some("patroni"), None, QUICK).await;
    let answer = answer.map_err(|error| match error.is_about_trust() {
        true => Silence::NotTrusted(error.to_string()),
        false => Silence::NoAnswer(error.to_string()),
    })?;
    match serde_json::from_str(&answer.body) {
        Ok(Value::Object(document)) => {
            let date = answer.date.as_deref().and_then(date_of);
            let clock_ahead_s = date.map(|date| ahead(date, begin, Timestamp::now()));
            Ok(Status { document, clock_ahead_s })
        }
        Ok(_) => Err("its answer is not an object of JSON".to_owned().into()),
        Err(error) => Err(format!("its answer is not JSON: {error}").into()),
    }
}

fn date_of(header: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(header).ok()
}

/// How far a clock is ahead that showed `date` at some time between `begin` and `end`.
fn ahead(date: Timestamp, begin: Timestamp, end: Timestamp) -> i64 {
    let late = date.as_second() - end.as_second();
    let early = date.as_second() - begin.as_second();
    if late > TOLERANCE_S {
        late
    } else if early < -TOLERANCE_S {
        early
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn clocks() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).expect("a time");
        for (date, expected) in [(0, 0), (-2, 0), (12, 0), (-3, -3), (13, 3), (70, 60)] {
            assert_eq!(ahead(at(date), at(0), at(10)), expected, "{date}");
        }
        assert_eq!(
            date_of("Mon, 23 Nov 2026 02:35:31 GMT").map(|t| t.to_string()).as_deref(),
            Some("2026-11-23T02:35:31Z")
        );
    }

    #[test]
    fn jobs() {
        let job = |value: Value| {
            let document = json!({"job": value}).as_object().cloned().expect("an object");
            Status { document, clock_ahead_s: None }.job()
        };
        let title = "bootstrap from leader 'a'";
        assert_eq!(job(json!({"title": title})).as_deref(), Some(title));
        assert_eq!(
            job(json!({"title": title, "progress": "copied 1 MB"})).as_deref(),
            Some("bootstrap from leader 'a': copied 1 MB")
        );
        assert_eq!(job(json!(null)), None);
    }
}
