//! Parsing of a command line: options anywhere among the arguments, short ones together (`-et`), values attached or
//! separate, no abbreviations, `--` ends the options.

use std::collections::HashMap;

use patroni_core::python::quoted;

use super::definition::{Argument, Arity, Command, GLOBAL, Group, HELP, Kind, Opt};
use super::help;
use crate::difflib::close_matches;
use crate::error::CtlError;

/// The values of a command line, checked against their kinds.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    values: HashMap<&'static str, Vec<String>>,
}

impl Matches {
    /// The flag was given.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The (last) value.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.last().map(String::as_str)
    }

    /// All values.
    pub(crate) fn many(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// The value of an option of kind [`Kind::Integer`].
    pub(crate) fn integer(&self, key: &str) -> Option<i64> {
        self.text(key)?.trim().parse().ok()
    }

    /// The value of an option of kind [`Kind::Float`].
    pub(crate) fn float(&self, key: &str) -> Option<f64> {
        self.text(key)?.trim().parse().ok()
    }
}

/// What the words before the command say, and where the command begins.
pub(crate) struct Global {
    /// The options before the command.
    pub(crate) matches: Matches,
    /// The command and what follows it; empty if only help was asked for.
    pub(crate) rest: Vec<String>,
}

/// Parses what stands before the command.
pub(crate) fn parse_global(words: &[String], commands: &[Command]) -> Result<Global, CtlError> {
    if words.is_empty() {
        return Err(CtlError::NoArguments(help::overview(commands)));
    }
    let usage = || help::overview_hint();
    let parsed = split(words, GLOBAL, false, &usage)?;
    if parsed.rest.is_empty() && !parsed.matches.flag(HELP.key) {
        return Err(CtlError::Usage { hint: Some(usage()), message: "Missing command.".to_owned() });
    }
    Ok(Global { matches: parsed.matches, rest: parsed.rest })
}

/// What the words after the global options name.
pub(crate) enum Named<'a, 'w> {
    /// A command, and the words that follow it.
    Command(&'a Command, &'w [String]),
    /// The help of a group is asked for.
    Help(&'static Group),
}

/// Finds a command by its name, which may have two words.
pub(crate) fn find_command<'a, 'w>(words: &'w [String], commands: &'a [Command]) -> Result<Named<'a, 'w>, CtlError> {
    let (name, rest) = words.split_first().map_or(("", words), |(name, rest)| (name.as_str(), rest));
    if let Some(group) = Group::find(name) {
        return find_in_group(group, rest, commands);
    }
    let found = commands.iter().find(|command| command.name == name && !name.contains(' '));
    found.map(|command| Named::Command(command, rest)).ok_or_else(|| {
        let groups = super::definition::GROUPS.iter().map(|group| group.name);
        let known = commands.iter().map(|command| command.name).filter(|name| !name.contains(' ')).chain(groups);
        unknown(name, known, help::overview_hint())
    })
}

fn find_in_group<'a, 'w>(
    group: &'static Group,
    words: &'w [String],
    commands: &'a [Command],
) -> Result<Named<'a, 'w>, CtlError> {
    let Some((name, rest)) = words.split_first() else {
        return Err(CtlError::NoArguments(help::group(group, commands)));
    };
    if name == "--help" {
        return Ok(Named::Help(group));
    }
    let found = commands.iter().find(|command| group.member(command) == Some(name.as_str()));
    found
        .map(|command| Named::Command(command, rest))
        .ok_or_else(|| unknown(name, group.members(commands), help::group_hint(group)))
}

fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, hint: String) -> CtlError {
    let message = format!("No such command {}.{}", quoted(name), suggestion(name, known));
    CtlError::Usage { hint: Some(hint), message }
}

/// Parses what follows a command. Asked for help, it does not look at the rest.
pub(crate) fn parse_command(words: &[String], command: &Command) -> Result<Matches, CtlError> {
    let hint = || help::command_hint(command);
    let wrong = |message: String| CtlError::Usage { hint: Some(hint()), message };
    let Split { mut matches, rest, order } = split(words, command.options, true, &hint)?;
    if matches.flag(HELP.key) {
        return Ok(matches);
    }
    let surplus = distribute(&rest, command.arguments, &mut matches);
    let declared = command.options.iter().filter(|option| order.contains(&option.key));
    for option in declared {
        check_option(option, &matches).map_err(&wrong)?;
    }
    for argument in command.arguments {
        check_argument(argument, &matches).map_err(&wrong)?;
    }
    match surplus.as_slice() {
        [] => Ok(matches),
        [one] => Err(wrong(format!("Got unexpected extra argument ({one})"))),
        several => Err(wrong(format!("Got unexpected extra arguments ({})", several.join(" ")))),
    }
}

struct Split {
    matches: Matches,
    rest: Vec<String>,
    order: Vec<&'static str>,
}

/// Separates options from the rest. Not `interspersed`: the first word that is no option ends them.
fn split(words: &[String], options: &[Opt], interspersed: bool, hint: &dyn Fn() -> String) -> Result<Split, CtlError> {
    let mut parsed = Split { matches: Matches::default(), rest: Vec::new(), order: Vec::new() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.rest.extend(words.by_ref().cloned());
        } else if word.starts_with('-') && word.len() > 1 {
            let mut following = || words.next().cloned();
            take_options(word, options, &mut parsed, &mut following, hint)?;
        } else {
            parsed.rest.push(word.clone());
            if !interspersed {
                parsed.rest.extend(words.by_ref().cloned());
            }
        }
    }
    Ok(parsed)
}

/// Takes one word that begins with a dash: a long option, or one or several short ones.
fn take_options(
    word: &str,
    options: &[Opt],
    parsed: &mut Split,
    following: &mut dyn FnMut() -> Option<String>,
    hint: &dyn Fn() -> String,
) -> Result<(), CtlError> {
    let find = |name: &str| options.iter().chain([&HELP]).find(|option| option.names.contains(&name)).copied();
    let (long, attached) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    if let Some(option) = find(long) {
        return take_value(&option, long, attached, parsed, following);
    }
    if word.starts_with("--") {
        let known = options.iter().chain([&HELP]).flat_map(|option| option.names.iter().copied());
        let message = format!("No such option {}.{}", quoted(long), suggestion(long, known.filter(|n| n.len() > 2)));
        return Err(CtlError::Usage { hint: Some(hint()), message });
    }
    for (at, letter) in word.char_indices().skip(1) {
        let name = format!("-{letter}");
        let Some(option) = find(&name) else {
            return Err(CtlError::Usage { hint: Some(hint()), message: format!("No such option {}.", quoted(&name)) });
        };
        if option.kind == Kind::Flag {
            take_value(&option, &name, None, parsed, following)?;
            continue;
        }
        let remainder = &word[at + letter.len_utf8()..];
        let attached = (!remainder.is_empty()).then(|| remainder.to_owned());
        return take_value(&option, &name, attached, parsed, following);
    }
    Ok(())
}

fn take_value(
    option: &Opt,
    name: &str,
    attached: Option<String>,
    parsed: &mut Split,
    following: &mut dyn FnMut() -> Option<String>,
) -> Result<(), CtlError> {
    let usage = |message: String| CtlError::Usage { hint: None, message };
    let value = match (option.kind, attached) {
        (Kind::Flag, None) => String::new(),
        (Kind::Flag, Some(_)) => return Err(usage(format!("Option {} does not take a value.", quoted(name)))),
        (_, Some(value)) => value,
        (_, None) => following().ok_or_else(|| usage(format!("Option {} requires an argument.", quoted(name))))?,
    };
    parsed.order.push(option.key);
    parsed.matches.values.entry(option.key).or_default().push(value);
    Ok(())
}

/// Gives the words to the arguments; those after one that takes many get theirs from the end. Returns what is left.
fn distribute(words: &[String], arguments: &[Argument], matches: &mut Matches) -> Vec<String> {
    let mut words: std::collections::VecDeque<String> = words.iter().cloned().collect();
    let many = arguments.iter().position(|argument| argument.arity == Arity::Many);
    let (before, after) = arguments.split_at(many.unwrap_or(arguments.len()));
    for argument in before {
        if let Some(word) = words.pop_front() {
            matches.values.insert(argument.key, vec![word]);
        }
    }
    let Some((variadic, last)) = after.split_first() else { return words.into() };
    for argument in last.iter().rev() {
        if let Some(word) = words.pop_back() {
            matches.values.insert(argument.key, vec![word]);
        }
    }
    if !words.is_empty() {
        matches.values.insert(variadic.key, words.into());
    }
    Vec::new()
}

fn check_option(option: &Opt, matches: &Matches) -> Result<(), String> {
    let Some(value) = matches.text(option.key) else { return Ok(()) };
    let complaint = match option.kind {
        Kind::Flag | Kind::Text | Kind::Repeated => None,
        Kind::Integer => {
            value.trim().parse::<i64>().is_err().then(|| format!("{} is not a valid integer.", quoted(value)))
        }
        Kind::Float => value.trim().parse::<f64>().is_err().then(|| format!("{} is not a valid float.", quoted(value))),
        Kind::File => unreadable(value),
        Kind::Choice(choices) => not_one_of(value, choices),
    };
    complaint.map_or(Ok(()), |text| Err(format!("Invalid value for {}: {text}", option.hint())))
}

fn check_argument(argument: &Argument, matches: &Matches) -> Result<(), String> {
    let bare = Argument { arity: Arity::Required, ..*argument }.metavar();
    match matches.text(argument.key) {
        None if argument.arity == Arity::Required => {
            let choices = argument.choices.join(",\n\t");
            let hint = if choices.is_empty() { String::new() } else { format!(" Choose from:\n\t{choices}") };
            Err(format!("Missing argument '{bare}'.{hint}"))
        }
        Some(value) if !argument.choices.is_empty() => not_one_of(value, argument.choices)
            .map_or(Ok(()), |text| Err(format!("Invalid value for '{bare}': {text}"))),
        None | Some(_) => Ok(()),
    }
}

fn not_one_of(value: &str, choices: &[&str]) -> Option<String> {
    let listed: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
    (!choices.contains(&value)).then(|| format!("{} is not one of {}.", quoted(value), listed.join(", ")))
}

/// Says why a file cannot be read. `-` is standard input.
fn unreadable(path: &str) -> Option<String> {
    if path == "-" {
        return None;
    }
    // A directory can be opened, but not read.
    let is_directory = std::fs::metadata(path).is_ok_and(|data| data.is_dir());
    let text = match std::fs::File::open(path) {
        Ok(_) if is_directory => "Is a directory".to_owned(),
        Ok(_) => return None,
        Err(error) => error.to_string(),
    };
    let reason = text.split(" (os error").next().unwrap_or(&text);
    Some(format!("{}: {reason}", quoted(path)))
}

fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut close = close_matches(word, known);
    close.sort_unstable();
    let listed: Vec<String> = close.iter().map(|name| quoted(name)).collect();
    match listed.as_slice() {
        [] => String::new(),
        [one] => format!(" Did you mean {one}?"),
        several => format!(" (Did you mean one of: {}?)", several.join(", ")),
    }
}
