//! Names of members and the identifier of a database system.

use std::borrow::Borrow;
use std::fmt;

/// The name of a member of the cluster (`name` in its configuration), unique within the scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(String);

impl MemberName {
    /// Wraps a name as configured.
    pub fn new(name: impl Into<String>) -> Self {
        MemberName(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `/sync` can name it: its lists have commas between the names, and whoever reads them cuts spaces off (Patroni too).
    pub fn fits_in_a_list(&self) -> bool {
        !self.0.is_empty() && !self.0.contains(',') && self.0.trim() == self.0
    }

    /// The replication slot kept for this member on its upstream: lower case, `-` and `.` become `_`, everything else
    /// outside `[a-z0-9_]` becomes `u` and its code point in decimal, cut at 63 characters (Patroni's rule).
    pub fn slot_name(&self) -> String {
        let mut slot = String::new();
        for c in self.0.to_lowercase().chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' => slot.push(c),
                '-' | '.' => slot.push('_'),
                other => slot.push_str(&format!("u{:04}", u32::from(other))),
            }
        }
        slot.truncate(63);
        slot
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for MemberName {
    fn from(name: &str) -> Self {
        MemberName::new(name)
    }
}

impl Borrow<str> for MemberName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The identifier that `initdb` gave the database system. All members of a cluster share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_list_cannot_hold() {
        for (name, fits) in [("a", true), ("a b", true), ("a,b", false), (" a", false), ("a\t", false), ("", false)] {
            assert_eq!(MemberName::from(name).fits_in_a_list(), fits, "{name:?}");
        }
    }

    #[test]
    fn slot_names_follow_patronis_rule() {
        assert_eq!(MemberName::from("postgres-0").slot_name(), "postgres_0");
        assert_eq!(MemberName::from("Node.A b").slot_name(), "node_au0032b");
        assert_eq!(MemberName::from("x".repeat(80).as_str()).slot_name().len(), 63);
    }
}
