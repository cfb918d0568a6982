//! The manual page, made from the definitions.

use super::definition::{Command, GLOBAL, HELP, Opt};

/// The page in troff.
pub(crate) fn page(commands: &[Command]) -> String {
    let mut out = String::from(
        ".TH PATRONICTL 1\n.SH NAME\npatronictl \\- command\\-line interface for clusters of Patroni\n.SH SYNOPSIS\n\
         .B patronictl\n[OPTIONS] COMMAND [ARGS]...\n.SH OPTIONS\n",
    );
    for option in GLOBAL.iter().chain([&HELP]) {
        out.push_str(&entry(option));
    }
    out.push_str(".SH COMMANDS\n");
    for command in commands {
        let arguments: Vec<String> = command.arguments.iter().map(super::definition::Argument::metavar).collect();
        let usage = escaped(&format!("{} [OPTIONS] {}", command.name, arguments.join(" ")));
        out.push_str(&format!(".SS {}\n{}\n", usage.trim_end(), escaped(command.help)));
        for option in command.options {
            out.push_str(&entry(option));
        }
        for example in command.examples {
            out.push_str(&format!(".PP\n.EX\n{}\n.EE\n", escaped(example)));
        }
    }
    out.push_str(
        ".SH ENVIRONMENT\n.TP\n.B PATRONICTL_CONFIG_FILE\nThe configuration file.\n.TP\n.B DCS_URL\nThe address of \
         the store.\n.TP\n.B EDITOR\nThe editor of edit\\-config.\n.TP\n.B NO_COLOR\nNo colours.\n.PP\nAll settings of \
         the configuration file can be given by variables that begin with PATRONI_.\n.SH EXIT STATUS\n0 for success, 1 \
         for a failure, 2 for a wrong command line.\n",
    );
    out
}

fn entry(option: &Opt) -> String {
    let metavar = option.metavar().map(|metavar| format!(" {metavar}")).unwrap_or_default();
    format!(".TP\n.B {}{}\n{}\n", escaped(&option.names.join(", ")), escaped(&metavar), escaped(option.help))
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
