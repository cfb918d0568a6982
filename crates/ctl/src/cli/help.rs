//! Help and usage texts, laid out as click does: at most 80 columns, options in two columns.

use super::definition::{Command, GLOBAL, GROUPS, Group, HELP, Opt};

const ABOUT: &str = "Command-line interface for interacting with Patroni.";
const TERM_WIDTH_LIMIT: usize = 30;

/// `patronictl --help`.
pub(crate) fn overview(commands: &[Command]) -> String {
    let width = page_width();
    let mut out = format!("{}\n\n  {ABOUT}\n\nOptions:\n", usage_line("patronictl", "[OPTIONS] COMMAND [ARGS]..."));
    let options: Vec<_> = GLOBAL.iter().chain([&HELP]).map(|option| (names(option), option.help.to_owned())).collect();
    out.push_str(&definition_list(&options, width));
    let grouped = |command: &&Command| GROUPS.iter().any(|group| group.member(command).is_some());
    let single = commands.iter().filter(|command| !grouped(command)).map(|command| (command.name, command.help));
    let groups = GROUPS.iter().filter(|group| !group.members(commands).is_empty());
    out.push_str(&command_list(single.chain(groups.map(|group| (group.name, group.help))).collect(), width));
    out
}

/// `patronictl GROUP --help`.
pub(crate) fn group(group: &Group, commands: &[Command]) -> String {
    let width = page_width();
    let program = format!("patronictl {}", group.name);
    let mut out = format!("{}\n\n", usage_line(&program, "[OPTIONS] COMMAND [ARGS]..."));
    out.push_str(&wrap(group.help, width, "  ", "  "));
    out.push_str("\n\nOptions:\n");
    out.push_str(&definition_list(&[(names(&HELP), HELP.help.to_owned())], width));
    let members = commands.iter().filter_map(|command| Some((group.member(command)?, command.help)));
    out.push_str(&command_list(members.collect(), width));
    out
}

fn command_list(mut commands: Vec<(&str, &str)>, width: usize) -> String {
    commands.sort_unstable();
    let longest = commands.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let limit = width.saturating_sub(6 + longest);
    let rows: Vec<_> = commands.iter().map(|(name, help)| ((*name).to_owned(), shortened(help, limit))).collect();
    format!("\nCommands:\n{}", definition_list(&rows, width))
}

/// `patronictl COMMAND --help`.
pub(crate) fn command(command: &Command) -> String {
    let width = page_width();
    let mut out = format!("{}\n\n", usage(command));
    out.push_str(&wrap(command.help, width, "  ", "  "));
    out.push_str("\n\nOptions:\n");
    let rows: Vec<_> =
        command.options.iter().chain([&HELP]).map(|option| (names(option), option.help.to_owned())).collect();
    out.push_str(&definition_list(&rows, width));
    if !command.examples.is_empty() {
        out.push_str("\nExamples:\n");
        for example in command.examples {
            out.push_str(&format!("  {example}\n"));
        }
    }
    out
}

/// The usage of a command, possibly in several lines.
pub(crate) fn usage(command: &Command) -> String {
    let mut pieces = vec!["[OPTIONS]".to_owned()];
    pieces.extend(command.arguments.iter().map(super::definition::Argument::metavar));
    usage_line(&format!("patronictl {}", command.name), &pieces.join(" "))
}

/// What an error about a command begins with.
pub(crate) fn command_hint(command: &Command) -> String {
    format!("{}\nTry 'patronictl {} --help' for help.", usage(command), command.name)
}

/// What an error about a group begins with.
pub(crate) fn group_hint(group: &Group) -> String {
    let program = format!("patronictl {}", group.name);
    format!("{}\nTry '{program} --help' for help.", usage_line(&program, "[OPTIONS] COMMAND [ARGS]..."))
}

/// What an error before the command begins with.
pub(crate) fn overview_hint() -> String {
    format!("{}\nTry 'patronictl --help' for help.", usage_line("patronictl", "[OPTIONS] COMMAND [ARGS]..."))
}

fn usage_line(program: &str, arguments: &str) -> String {
    let prefix = format!("Usage: {program} ");
    wrap(arguments, page_width(), &prefix, &" ".repeat(prefix.len()))
}

/// The width of the terminal, or of 80 columns, less a margin.
fn page_width() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|text| text.parse::<usize>().ok()).filter(|n| *n > 0);
    let of_terminal = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let columns = asked.or_else(of_terminal).filter(|n| *n > 0).unwrap_or(80);
    (columns.min(80) - 2.min(columns)).max(50)
}

fn names(option: &Opt) -> String {
    let mut names: Vec<&str> = option.names.to_vec();
    names.sort_by_key(|name| name.chars().take_while(|c| *c == '-').count());
    let listed = names.join(", ");
    option.metavar().map_or(listed.clone(), |metavar| format!("{listed} {metavar}"))
}

fn definition_list(rows: &[(String, String)], width: usize) -> String {
    let longest = rows.iter().map(|(term, _)| term.len()).max().unwrap_or(0);
    let column = longest.min(TERM_WIDTH_LIMIT) + 2;
    let text_width = width.saturating_sub(column + 2).max(10);
    let mut out = String::new();
    for (term, text) in rows {
        out.push_str(&format!("  {term}"));
        if term.len() + 2 <= column {
            out.push_str(&" ".repeat(column - term.len()));
        } else {
            out.push_str(&format!("\n{}", " ".repeat(column + 2)));
        }
        out.push_str(&wrap(text, text_width, "", &" ".repeat(column + 2)));
        out.push('\n');
    }
    out
}

/// Breaks a text between words. Only the indent of the first line counts towards the width where the others are
/// indented outside of it, as in a definition list.
fn wrap(text: &str, width: usize, first: &str, others: &str) -> String {
    let hanging = first.is_empty();
    let mut lines = vec![first.to_owned()];
    for word in text.split_whitespace() {
        let index = lines.len() - 1;
        let indent = if index == 0 { first.len() } else { others.len() };
        let counted = if hanging && index > 0 { others.len() } else { 0 };
        let line = &mut lines[index];
        let used = line.len() - counted;
        let separator = usize::from(line.len() > indent);
        if separator == 1 && used + 1 + word.len() > width {
            lines.push(format!("{others}{word}"));
        } else {
            line.push_str(&" ".repeat(separator));
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// The first words of a text, with dots where it goes on.
fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut out = String::new();
    for word in text.split_whitespace() {
        if out.len() + word.len() + usize::from(!out.is_empty()) + 3 > limit {
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out + "..."
}
