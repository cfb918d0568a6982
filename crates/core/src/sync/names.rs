//! `synchronous_standby_names`: read in every form PostgreSQL allows, written in Patroni's.

use std::fmt;
use std::iter::Peekable;
use std::str::{CharIndices, FromStr};

use super::Names;
use crate::name::MemberName;

/// What PostgreSQL waits for before it acknowledges a commit: `number` standbys of those named.
///
/// A priority list with fewer standbys than names (`FIRST 1 (a, b)`) waits for the first that are connected: over time
/// that can be any of them, so for guarantees it is the same as `ANY 1 (a, b)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StandbyNames {
    /// In which words it is written.
    pub method: Method,
    /// How many have to confirm; 0 for none (the empty setting).
    pub number: usize,
    /// Of which.
    pub names: Names,
    /// `*`: any standby whatsoever.
    pub anybody: bool,
}

/// How the standbys that are waited for are chosen among the named ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// `FIRST`, or a plain list.
    #[default]
    Priority,
    /// `ANY`.
    Quorum,
}

impl StandbyNames {
    /// All of these, in the words of `synchronous_mode: on`.
    pub fn all(names: Names) -> Self {
        StandbyNames { method: Method::Priority, number: names.len(), names, anybody: false }
    }

    /// `number` of these, in the words of `synchronous_mode: quorum`.
    pub fn any(number: usize, names: Names) -> Self {
        StandbyNames { method: Method::Quorum, number, names, anybody: false }
    }

    /// One standby, whichever.
    pub fn anybody(method: Method) -> Self {
        StandbyNames { method, number: 1, names: Names::new(), anybody: true }
    }

    /// PostgreSQL waits for nobody.
    pub fn is_empty(&self) -> bool {
        self.number == 0 || (self.names.is_empty() && !self.anybody)
    }

    /// PostgreSQL waits for standbys of this name.
    pub fn lists(&self, name: &str) -> bool {
        !self.is_empty() && (self.anybody || self.names.iter().any(|n| same_name(n.as_str(), name)))
    }

    /// What is certain while a reload reaches the WAL senders one by one, whatever the words: fewer confirmations, of more.
    pub(super) fn mixed_with(&self, next: &StandbyNames) -> StandbyNames {
        StandbyNames {
            method: Method::Quorum,
            number: self.needed().min(next.needed()),
            names: &self.names | &next.names,
            anybody: self.anybody || next.anybody,
        }
    }

    /// Commits wait for this standby while a reload reaches the WAL senders one by one. Each of them goes by the old list or the
    /// new one, for the place of its own standby and for the number: others that can come before it, or share its place,
    /// must be fewer than are waited for. (With `ANY` places count for nothing, and [`StandbyNames::mixed_with`] is all.)
    pub(super) fn keep_waiting_for(&self, next: &StandbyNames, standby: &MemberName) -> bool {
        if self.method != Method::Priority || next.method != Method::Priority {
            return false;
        }
        let places = |name: &MemberName| [self.place(name), next.place(name)];
        let [Some(old), Some(new)] = places(standby) else { return false };
        let ahead = |name: &&MemberName| places(name).into_iter().flatten().any(|place| place <= old.max(new));
        let others = (&self.names | &next.names).iter().filter(|name| *name != standby).filter(ahead).count();
        others < self.needed().min(next.needed())
    }

    /// `sync_priority`, from 0.
    fn place(&self, name: &MemberName) -> Option<usize> {
        self.names.iter().position(|listed| listed == name)
    }

    /// How many confirmations a commit waits for: `number`, but for a list that is shorter.
    pub(super) fn needed(&self) -> usize {
        self.number.min(self.names.len())
    }

    /// The same, with names in the spelling of `members` where they differ only in case.
    pub fn spelled_like<'m>(self, members: impl IntoIterator<Item = &'m MemberName> + Clone) -> Self {
        let spelled = |name: MemberName| {
            members.clone().into_iter().find(|m| same_name(m.as_str(), name.as_str())).cloned().unwrap_or(name)
        };
        StandbyNames { names: self.names.into_iter().map(spelled).collect(), ..self }
    }
}

/// As `pg_strcasecmp` compares: ASCII letters fold.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Patroni's way to write it: names in their order, quoted where they have to be, no blanks between.
impl fmt::Display for StandbyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        let list = if self.anybody {
            "*".to_owned()
        } else {
            self.names.iter().map(|name| quoted(name.as_str())).collect::<Vec<_>>().join(",")
        };
        match self.method {
            Method::Quorum => write!(f, "ANY {} ({list})", self.number),
            Method::Priority if self.number == 1 && (self.anybody || self.names.len() == 1) => f.write_str(&list),
            Method::Priority => write!(f, "{} ({list})", self.number),
        }
    }
}

fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
        && !same_name(name, "first")
        && !same_name(name, "any");
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The text is not a list of synchronous standbys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unparsable synchronous_standby_names value {text:?}: {problem}")]
pub struct ParseError {
    text: String,
    problem: String,
}

impl FromStr for StandbyNames {
    type Err = ParseError;

    /// Reads the grammar of `syncrep_gram.y`, the same in PostgreSQL 13 to 18.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = |problem: String| ParseError { text: text.to_owned(), problem };
        let tokens = tokens(text).map_err(error)?;
        let (method, number, list) = match tokens.as_slice() {
            [] => return Ok(StandbyNames::default()),
            [Token::Word(word), Token::Number(n), Token::Open, list @ .., Token::Close] if same_name(word, "any") => {
                (Method::Quorum, n.as_str(), list)
            }
            [Token::Word(word), Token::Number(n), Token::Open, list @ .., Token::Close] if same_name(word, "first") => {
                (Method::Priority, n.as_str(), list)
            }
            [Token::Number(n), Token::Open, list @ .., Token::Close] => (Method::Priority, n.as_str(), list),
            list => (Method::Priority, "1", list),
        };
        let number = number.parse().map_err(|_| error(format!("{number} is too large")))?;
        let mut result = StandbyNames { method, number, names: Names::new(), anybody: false };
        for (index, token) in list.iter().enumerate() {
            match (index % 2, token) {
                (1, Token::Comma) if index + 1 < list.len() => {}
                (1, _) => return Err(error(format!("expected a comma and a name, found {token:?}"))),
                (_, Token::Word(name) | Token::Quoted(name) | Token::Number(name)) if name != "*" => {
                    result.names.insert(MemberName::new(name.as_str()));
                }
                (_, Token::Star | Token::Quoted(_)) => result.anybody = true,
                _ => return Err(error(format!("expected a name, found {token:?}"))),
            }
        }
        if list.is_empty() {
            return Err(error("expected a name".to_owned()));
        }
        Ok(result)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Number(String),
    Star,
    Comma,
    Open,
    Close,
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((position, c)) = rest.next() {
        tokens.push(match c {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => continue,
            '*' => Token::Star,
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            '"' => Token::Quoted(quoted_name(&mut rest)?),
            '0'..='9' => Token::Number(word(c, &mut rest, |c| c.is_ascii_digit())),
            c if is_letter(c) => Token::Word(word(c, &mut rest, |c| is_letter(c) || c.is_ascii_digit() || c == '$')),
            c => return Err(format!("unexpected {c:?} at {position}")),
        });
    }
    Ok(tokens)
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn word(first: char, rest: &mut Peekable<CharIndices<'_>>, belongs: impl Fn(char) -> bool) -> String {
    let mut word = String::from(first);
    while let Some((_, c)) = rest.next_if(|(_, c)| belongs(*c)) {
        word.push(c);
    }
    word
}

fn quoted_name(rest: &mut Peekable<CharIndices<'_>>) -> Result<String, String> {
    let mut name = String::new();
    while let Some((_, c)) = rest.next() {
        if c != '"' {
            name.push(c);
        } else if rest.next_if(|(_, c)| *c == '"').is_some() {
            name.push('"');
        } else {
            return Ok(name);
        }
    }
    Err("a quoted name has no end".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> StandbyNames {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_form_of_postgresql_is_read() {
        let rows: [(&str, Method, usize, &[&str], bool); 14] = [
            ("", Method::Priority, 0, &[], false),
            (" \t\n ", Method::Priority, 0, &[], false),
            ("a", Method::Priority, 1, &["a"], false),
            (" a , b ", Method::Priority, 1, &["a", "b"], false),
            ("*", Method::Priority, 1, &[], true),
            ("\"*\"", Method::Priority, 1, &[], true),
            ("2 (a, \"b-c\")", Method::Priority, 2, &["a", "b-c"], false),
            ("FiRsT 2 (a,b,c)", Method::Priority, 2, &["a", "b", "c"], false),
            ("ANY 4(\"a\",*,b)", Method::Quorum, 4, &["a", "b"], true),
            ("any 1 (*)", Method::Quorum, 1, &[], true),
            ("\"say \"\"hi\"\"\"", Method::Priority, 1, &["say \"hi\""], false),
            ("FiRsT", Method::Priority, 1, &["FiRsT"], false),
            ("a$1,_b", Method::Priority, 1, &["a$1", "_b"], false),
            ("1", Method::Priority, 1, &["1"], false), // PostgreSQL takes a number for a name.
        ];
        for (text, method, number, names, anybody) in rows {
            let names = names.iter().map(|n| MemberName::from(*n)).collect();
            assert_eq!(read(text), StandbyNames { method, number, names, anybody }, "{text:?}");
        }
    }

    #[test]
    fn what_postgresql_refuses_is_refused() {
        for text in [
            "a,",
            ",a",
            "a b",
            "ANY 4(\"a\" b,\"c c\")",
            "FIRST 4(\"a\",)",
            "2 (,)",
            "ANY 1 ()",
            "a-b",
            "\"a",
            "ANY 1 (a",
        ] {
            assert!(text.parse::<StandbyNames>().is_err(), "{text:?} was accepted");
        }
        let error = "a,".parse::<StandbyNames>().unwrap_err().to_string();
        assert!(error.starts_with("Unparsable synchronous_standby_names value \"a,\": "), "{error}");
    }

    #[test]
    fn it_is_written_as_patroni_writes_it() {
        let names = |names: &[&str]| names.iter().map(|n| MemberName::from(*n)).collect::<Names>();
        let rows = [
            (StandbyNames::all(names(&[])), ""),
            (StandbyNames::all(names(&["postgres-1"])), "\"postgres-1\""),
            (StandbyNames::all(names(&["n2"])), "n2"),
            (StandbyNames::all(names(&["b", "a"])), "2 (a,b)"),
            (StandbyNames::any(1, names(&["postgres-2", "postgres-0"])), "ANY 1 (\"postgres-0\",\"postgres-2\")"),
            (StandbyNames::any(1, names(&["first"])), "ANY 1 (\"first\")"),
            (StandbyNames::any(2, names(&["Any", "1a", "a\"b"])), "ANY 2 (\"1a\",\"Any\",\"a\"\"b\")"),
            (StandbyNames::any(0, names(&["a"])), ""),
            (StandbyNames::anybody(Method::Quorum), "ANY 1 (*)"),
            (StandbyNames::anybody(Method::Priority), "*"),
        ];
        for (value, text) in rows {
            assert_eq!(value.to_string(), text);
        }
    }

    #[test]
    fn names_match_without_regard_to_case_and_take_the_spelling_of_members() {
        let members = [MemberName::from("Node-A"), MemberName::from("b")];
        let value = read("ANY 1 (\"node-a\", B, c)").spelled_like(&members);
        assert_eq!(value.to_string(), "ANY 1 (\"Node-A\",b,c)");
        assert!(value.lists("NODE-A") && value.lists("C") && !value.lists("d"));
        assert!(read("*").lists("anything") && !read("").lists("anything"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(names in proptest::collection::btree_set(".{1,8}", 1..4), any in any::<bool>(), n in 1usize..4) {
            let names: Names = names.iter().filter(|n| *n != "*").map(|n| MemberName::new(n.as_str())).collect();
            prop_assume!(!names.is_empty());
            let number = n.min(names.len());
            let value = if any { StandbyNames::any(number, names) } else { StandbyNames::all(names) };
            prop_assert_eq!(read(&value.to_string()), value);
        }
    }
}
