//! Tags of a member: what it may become and how it may be used.

use serde_json::Value;

use crate::JsonMap;
use crate::name::MemberName;

/// The tags of a member. Kept as they were written (they are shown and compared by users), read by the rules of
/// Patroni: a flag is what Python counts as true, the priorities override the flags only where these are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(pub JsonMap);

impl Tags {
    /// May never become leader.
    pub fn nofailover(&self) -> bool {
        self.flag_or_priority("nofailover", "failover_priority")
    }

    /// Preference among equally advanced candidates; higher wins, 0 stands for `nofailover`.
    pub fn failover_priority(&self) -> i64 {
        self.priority("nofailover", "failover_priority")
    }

    /// May never become a synchronous standby.
    pub fn nosync(&self) -> bool {
        self.flag_or_priority("nosync", "sync_priority")
    }

    /// Preference when synchronous standbys are picked; higher wins, 0 stands for `nosync`.
    pub fn sync_priority(&self) -> i64 {
        self.priority("nosync", "sync_priority")
    }

    /// Other members may be cloned from this one.
    pub fn clonefrom(&self) -> bool {
        self.flag("clonefrom")
    }

    /// `/replica` answers 503.
    pub fn noloadbalance(&self) -> bool {
        self.flag("noloadbalance")
    }

    /// Takes its WAL from the archive only.
    pub fn nostream(&self) -> bool {
        match self.0.get("nostream") {
            Some(Value::String(text)) => parse_bool(text).unwrap_or(false),
            other => other.is_some_and(truthy),
        }
    }

    /// The member to stream from instead of the leader.
    pub fn replicatefrom(&self) -> Option<MemberName> {
        match self.0.get("replicatefrom") {
            Some(Value::String(name)) if !name.is_empty() => Some(MemberName::new(name.as_str())),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(truthy)
    }

    fn flag_or_priority(&self, flag: &str, priority: &str) -> bool {
        match self.0.get(flag) {
            None | Some(Value::Null) => self.0.get(priority).and_then(integer).is_some_and(|p| p <= 0),
            Some(value) => truthy(value),
        }
    }

    fn priority(&self, flag: &str, priority: &str) -> i64 {
        if self.flag(flag) {
            return 0;
        }
        self.0.get(priority).and_then(integer).unwrap_or(1)
    }
}

/// What Python's `bool()` says of a JSON value.
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// The words that Patroni reads as a boolean; anything else is neither.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f.round_ties_even() as i64)),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(json: serde_json::Value) -> Tags {
        match json {
            Value::Object(map) => Tags(map),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn flags_given_as_strings_count() {
        let t = tags(serde_json::json!({"clonefrom": "true", "nofailover": "true", "nostream": "true"}));
        assert!(t.clonefrom() && t.nofailover() && t.nostream());
        assert!(!tags(serde_json::json!({"nostream": "off"})).nostream());
    }

    #[test]
    fn a_flag_that_is_present_beats_the_priority() {
        let t = tags(serde_json::json!({"nofailover": false, "failover_priority": 0}));
        assert!(!t.nofailover());
        assert_eq!(t.failover_priority(), 0);
        let t = tags(serde_json::json!({"nofailover": true, "failover_priority": "2"}));
        assert!(t.nofailover());
        assert_eq!(t.failover_priority(), 0);
        assert!(tags(serde_json::json!({"failover_priority": "0"})).nofailover());
        assert_eq!(tags(serde_json::json!({"failover_priority": "2"})).failover_priority(), 2);
        assert_eq!(tags(serde_json::json!({})).failover_priority(), 1);
    }
}
