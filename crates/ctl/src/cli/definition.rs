//! What a command is. Help, parsing, completions and man pages are all made from these definitions.

use std::future::Future;
use std::pin::Pin;

use super::parse::Matches;
use crate::context::Context;
use crate::error::CtlError;

/// What a running command is.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<(), CtlError>> + 'a>>;

/// A command of `patronictl`.
#[derive(Clone, Copy)]
pub(crate) struct Command {
    /// Its name; that of a command of a group has two words.
    pub(crate) name: &'static str,
    /// What it does, in a sentence.
    pub(crate) help: &'static str,
    /// Its arguments, in order.
    pub(crate) arguments: &'static [Argument],
    /// Its options, in the order of the help.
    pub(crate) options: &'static [Opt],
    /// Command lines to learn from.
    pub(crate) examples: &'static [&'static str],
    /// Runs it.
    pub(crate) run: for<'a> fn(&'a Context, &'a Matches) -> Running<'a>,
}

/// Commands whose names begin with the same word.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// That word.
    pub(crate) name: &'static str,
    /// What they are about, in a sentence.
    pub(crate) help: &'static str,
}

/// All groups.
pub(crate) const GROUPS: &[Group] =
    &[Group { name: "store", help: "Look after the store that keeps the cluster's keys" }];

impl Group {
    /// The group with this name.
    pub(crate) fn find(name: &str) -> Option<&'static Group> {
        GROUPS.iter().find(|group| group.name == name)
    }

    /// The second word of the name of a command, if it belongs to this group.
    pub(crate) fn member(&self, command: &Command) -> Option<&'static str> {
        command.name.strip_prefix(self.name)?.strip_prefix(' ')
    }

    /// The second words of its commands.
    pub(crate) fn members(&self, commands: &[Command]) -> Vec<&'static str> {
        commands.iter().filter_map(|command| self.member(command)).collect()
    }
}

/// A positional argument.
#[derive(Clone, Copy)]
pub(crate) struct Argument {
    /// Its name, in lower case.
    pub(crate) key: &'static str,
    /// How often it may be given.
    pub(crate) arity: Arity,
    /// What it may be; anything if empty.
    pub(crate) choices: &'static [&'static str],
}

/// How often an argument may be given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    /// Once.
    Required,
    /// Once or not at all.
    Optional,
    /// Any number of times.
    Many,
}

/// An option.
#[derive(Clone, Copy)]
pub(crate) struct Opt {
    /// Its names, in the order in which errors show them.
    pub(crate) names: &'static [&'static str],
    /// The name of its value.
    pub(crate) key: &'static str,
    /// What follows it.
    pub(crate) kind: Kind,
    /// What it is for.
    pub(crate) help: &'static str,
}

/// What follows an option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Flag,
    /// A text.
    Text,
    /// A text; the option may be repeated.
    Repeated,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// The name of a file that can be read.
    File,
    /// One of these.
    Choice(&'static [&'static str]),
}

impl Argument {
    /// How usage and errors call it: `CLUSTER_NAME`, `[MEMBER_NAMES]...`, `{restart|switchover}`.
    pub(crate) fn metavar(&self) -> String {
        let name =
            if self.choices.is_empty() { self.key.to_uppercase() } else { format!("{{{}}}", self.choices.join("|")) };
        match self.arity {
            Arity::Required => name,
            Arity::Optional => format!("[{name}]"),
            Arity::Many => format!("[{name}]..."),
        }
    }
}

impl Opt {
    /// What help shows behind the names.
    pub(crate) fn metavar(&self) -> Option<String> {
        match self.kind {
            Kind::Flag => None,
            Kind::Text | Kind::Repeated => Some("TEXT".to_owned()),
            Kind::Integer => Some("INTEGER".to_owned()),
            Kind::Float => Some("FLOAT".to_owned()),
            Kind::File => Some("FILENAME".to_owned()),
            Kind::Choice(choices) => Some(format!("[{}]", choices.join("|"))),
        }
    }

    /// How errors call it: `'--format' / '-f'`.
    pub(crate) fn hint(&self) -> String {
        let quoted: Vec<String> = self.names.iter().map(|name| format!("'{name}'")).collect();
        quoted.join(" / ")
    }
}

/// The option that shows the help, which every command has.
pub(crate) const HELP: Opt =
    Opt { names: &["--help"], key: "help", kind: Kind::Flag, help: "Show this message and exit." };

/// The options before the command.
pub(crate) const GLOBAL: &[Opt] = &[
    Opt { names: &["--config-file", "-c"], key: "config_file", kind: Kind::Text, help: "Configuration file" },
    Opt { names: &["--dcs-url", "--dcs", "-d"], key: "dcs_url", kind: Kind::Text, help: "The DCS connect url" },
    Opt {
        names: &["-k", "--insecure"],
        key: "insecure",
        kind: Kind::Flag,
        help: "Allow connections to SSL sites without certs",
    },
];

/// `CLUSTER_NAME`, which the configuration can name instead.
pub(crate) const CLUSTER_NAME: Argument = Argument { key: "cluster_name", arity: Arity::Optional, choices: &[] };
/// `CLUSTER_NAME`, which has to be given.
pub(crate) const CLUSTER_NAME_REQUIRED: Argument =
    Argument { key: "cluster_name", arity: Arity::Required, choices: &[] };
/// `[CLUSTER_NAMES]...`
pub(crate) const CLUSTER_NAMES: Argument = Argument { key: "cluster_names", arity: Arity::Many, choices: &[] };
/// `[MEMBER_NAMES]...`
pub(crate) const MEMBER_NAMES: Argument = Argument { key: "member_names", arity: Arity::Many, choices: &[] };

/// `--group`
pub(crate) const GROUP: Opt = Opt { names: &["--group"], key: "group", kind: Kind::Integer, help: "Citus group" };
/// `--force`
pub(crate) const FORCE: Opt =
    Opt { names: &["--force"], key: "force", kind: Kind::Flag, help: "Do not ask for confirmation at any point" };
/// `-f`, `--format`
pub(crate) const FORMAT: Opt = Opt {
    names: &["--format", "-f"],
    key: "format",
    kind: Kind::Choice(&["pretty", "tsv", "json", "yaml", "yml"]),
    help: "Output format",
};
/// `-W`
pub(crate) const WATCH_TWO: Opt =
    Opt { names: &["-W"], key: "w", kind: Kind::Flag, help: "Auto update the screen every 2 seconds" };
/// `-w`, `--watch`
pub(crate) const WATCH: Opt =
    Opt { names: &["-w", "--watch"], key: "watch", kind: Kind::Float, help: "Auto update the screen every X seconds" };
/// The values of `--role`.
pub(crate) const ROLES: Kind = Kind::Choice(&["leader", "primary", "standby-leader", "replica", "standby", "any"]);
