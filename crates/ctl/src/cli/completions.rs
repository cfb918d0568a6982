//! Completions for shells, made from the definitions.

use super::definition::{Command, GLOBAL, GROUPS, HELP, Kind, Opt};

/// The script for a shell: `bash`, `zsh` or `fish`.
pub(crate) fn script(shell: &str, commands: &[Command]) -> String {
    match shell {
        "fish" => fish(commands),
        "zsh" => format!("#compdef patronictl\nautoload -U bashcompinit && bashcompinit\n{}", bash(commands)),
        _ => bash(commands),
    }
}

fn bash(commands: &[Command]) -> String {
    let groups: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
    let mut out = format!(
        "_patronictl() {{\n  local word=\"${{COMP_WORDS[COMP_CWORD]}}\" before=\"${{COMP_WORDS[COMP_CWORD-1]}}\" command= i\n  \
         for ((i = 1; i < COMP_CWORD; i++)); do\n    case \"${{COMP_WORDS[i]}}\" in\n      -c|--config-file|-d|--dcs|--dcs-url) \
         ((i++)) ;;\n      -*) ;;\n      *) command=\"${{COMP_WORDS[i]}}\"; break ;;\n    esac\n  done\n  case \"$command\" in\n    \
         {}) ((++i < COMP_CWORD)) && command+=\" ${{COMP_WORDS[i]}}\" ;;\n  esac\n  local words=\n  case \
         \"$command\" in\n    '') words='{} {}' ;;\n",
        groups.join("|"),
        first_words(commands).join(" "),
        option_names(GLOBAL)
    );
    for group in GROUPS {
        out.push_str(&format!("    {}) words='{} --help' ;;\n", group.name, group.members(commands).join(" ")));
    }
    for command in commands {
        let choices: Vec<&str> =
            command.arguments.iter().flat_map(|argument| argument.choices.iter().copied()).collect();
        let words = format!("{} {}", choices.join(" "), option_names(command.options));
        out.push_str(&format!("    '{}') words='{}' ;;\n", command.name, words.trim_start()));
    }
    out.push_str("  esac\n  case \"$command $before\" in\n");
    for command in commands {
        for option in command.options {
            let Kind::Choice(choices) = option.kind else { continue };
            let patterns: Vec<String> = option.names.iter().map(|name| format!("'{} {name}'", command.name)).collect();
            out.push_str(&format!("    {}) words='{}' ;;\n", patterns.join("|"), choices.join(" ")));
        }
    }
    out.push_str("  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\ncomplete -o default -F _patronictl patronictl\n");
    out
}

/// What may come first: the commands without a group, and the groups.
fn first_words(commands: &[Command]) -> Vec<&'static str> {
    let single = commands.iter().map(|command| command.name).filter(|name| !name.contains(' '));
    single.chain(GROUPS.iter().map(|group| group.name)).collect()
}

fn fish(commands: &[Command]) -> String {
    let mut out = String::new();
    for option in GLOBAL.iter().chain([&HELP]) {
        out.push_str(&fish_option("__fish_use_subcommand", option));
    }
    for group in GROUPS {
        out.push_str(&fish_word("__fish_use_subcommand", group.name, group.help));
        let undecided = format!(
            "__fish_seen_subcommand_from {}; and not __fish_seen_subcommand_from {}",
            group.name,
            group.members(commands).join(" ")
        );
        for command in commands {
            if let Some(word) = group.member(command) {
                out.push_str(&fish_word(&undecided, word, command.help));
            }
        }
    }
    for command in commands {
        if !command.name.contains(' ') {
            out.push_str(&fish_word("__fish_use_subcommand", command.name, command.help));
        }
        let condition = fish_condition(command);
        for argument in command.arguments.iter().filter(|argument| !argument.choices.is_empty()) {
            out.push_str(&format!("complete -c patronictl -f -n '{condition}' -a '{}'\n", argument.choices.join(" ")));
        }
        for option in command.options.iter().chain([&HELP]) {
            out.push_str(&fish_option(&condition, option));
        }
    }
    out
}

fn fish_word(condition: &str, word: &str, help: &str) -> String {
    format!("complete -c patronictl -f -n '{condition}' -a {word} -d '{}'\n", quoted(help))
}

/// True where the command was typed; the same word may be the second one of a group.
fn fish_condition(command: &Command) -> String {
    let seen = |word: &str| format!("__fish_seen_subcommand_from {word}");
    match command.name.split_once(' ') {
        Some((group, word)) => format!("{}; and {}", seen(group), seen(word)),
        None => {
            let groups: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
            format!("{}; and not {}", seen(command.name), seen(&groups.join(" ")))
        }
    }
}

fn fish_option(condition: &str, option: &Opt) -> String {
    let mut out = format!("complete -c patronictl -n '{condition}'");
    for name in option.names {
        match name.strip_prefix("--") {
            Some(long) => out.push_str(&format!(" -l {long}")),
            None => out.push_str(&format!(" -s {}", name.trim_start_matches('-'))),
        }
    }
    match option.kind {
        Kind::Flag => {}
        Kind::Choice(choices) => out.push_str(&format!(" -x -a '{}'", choices.join(" "))),
        Kind::Text | Kind::Repeated | Kind::Integer | Kind::Float | Kind::File => out.push_str(" -r"),
    }
    format!("{out} -d '{}'\n", quoted(option.help))
}

fn option_names(options: &[Opt]) -> String {
    options.iter().chain([&HELP]).flat_map(|option| option.names.iter().copied()).collect::<Vec<_>>().join(" ")
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}
