//! Writes JSON values as PyYAML's `safe_dump(default_flow_style=False, allow_unicode=True)` writes them, to the byte:
//! people compare such outputs and edit them.

use patroni_core::python::float_text;
use serde_json::Value;

use super::scalar::{self, Kind};

/// The options of PyYAML's `safe_dump` that Patroni uses.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Lines are folded at blanks behind this column.
    pub width: usize,
    /// Keys in alphabetical order instead of their own.
    pub sort_keys: bool,
}

impl Default for Style {
    fn default() -> Self {
        Style { width: 80, sort_keys: true }
    }
}

/// The value as YAML, in PyYAML's default style: keys sorted, lines folded after 80 columns.
pub fn dump(value: &Value) -> String {
    dump_with(value, Style::default())
}

/// The value as YAML in a given style.
pub fn dump_with(value: &Value, style: Style) -> String {
    let mut emitter = Emitter { style, out: String::new(), column: 0, whitespace: true, indention: true };
    let plain = emitter.node(value, None, Context::Root);
    emitter.write_indent(0);
    if plain {
        emitter.out.push_str("...\n");
    }
    emitter.out
}

const STEP: usize = 2;

/// What a node is a part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Root,
    Item,
    Key,
    Value,
}

struct Emitter {
    style: Style,
    out: String,
    column: usize,
    /// The last thing written was a blank or a line break.
    whitespace: bool,
    /// Only indentation and indicators stand on this line so far.
    indention: bool,
}

impl Emitter {
    /// Writes a value; `true` if it was a plain scalar.
    fn node(&mut self, value: &Value, indent: Option<usize>, context: Context) -> bool {
        match value {
            Value::Array(items) if !items.is_empty() => self.sequence(items, indent, context),
            Value::Object(map) if !map.is_empty() => self.mapping(map, indent),
            Value::Array(_) => self.empty("[", "]"),
            Value::Object(_) => self.empty("{", "}"),
            Value::Null => return self.plain_or_quoted("null", true, indent, context),
            Value::Bool(b) => return self.plain_or_quoted(&b.to_string(), true, indent, context),
            Value::Number(n) => return self.plain_or_quoted(&number_text(n), true, indent, context),
            Value::String(text) => {
                return self.plain_or_quoted(text, scalar::kind(text) == Kind::Text, indent, context);
            }
        }
        false
    }

    fn sequence(&mut self, items: &[Value], indent: Option<usize>, context: Context) {
        let indentless = matches!(context, Context::Key | Context::Value) && !self.indention;
        let indent = match indent {
            None => 0,
            Some(indent) if indentless => indent,
            Some(indent) => indent + STEP,
        };
        for item in items {
            self.write_indent(indent);
            self.indicator("-", true, false, true);
            self.node(item, Some(indent), Context::Item);
        }
    }

    fn mapping(&mut self, map: &serde_json::Map<String, Value>, indent: Option<usize>) {
        let indent = indent.map_or(0, |indent| indent + STEP);
        let mut entries: Vec<_> = map.iter().collect();
        if self.style.sort_keys {
            entries.sort_by_key(|(key, _)| *key);
        }
        for (key, value) in entries {
            self.write_indent(indent);
            let key_is_text = scalar::kind(key) == Kind::Text;
            if is_simple_key(key) {
                self.plain_or_quoted(key, key_is_text, Some(indent), Context::Key);
                self.indicator(":", false, false, false);
            } else {
                self.indicator("?", true, false, true);
                self.plain_or_quoted(key, key_is_text, Some(indent), Context::Item);
                self.write_indent(indent);
                self.indicator(":", true, false, true);
            }
            self.node(value, Some(indent), Context::Value);
        }
    }

    fn empty(&mut self, open: &str, close: &str) {
        self.indicator(open, true, true, false);
        self.indicator(close, false, false, false);
    }

    /// Writes a scalar without quotes where that reads back as the same value (`plain_reads_back`).
    fn plain_or_quoted(&mut self, text: &str, plain_reads_back: bool, indent: Option<usize>, context: Context) -> bool {
        let looks = Looks::of(text);
        let fold = Fold { indent: indent.map_or(STEP, |indent| indent + STEP), allowed: context != Context::Key };
        if plain_reads_back && looks.plain {
            self.plain(text, fold);
            return context == Context::Root;
        }
        if looks.single_quoted && !(context == Context::Key && looks.multiline) {
            self.single_quoted(text, fold);
        } else {
            self.double_quoted(text, fold);
        }
        false
    }

    fn plain(&mut self, text: &str, fold: Fold) {
        if text.is_empty() {
            return;
        }
        if !self.whitespace {
            self.write(" ");
        }
        self.whitespace = false;
        self.indention = false;
        for run in runs(text) {
            if run == " " && fold.allowed && self.column > self.style.width {
                self.write_indent(fold.indent);
                self.whitespace = false;
                self.indention = false;
            } else {
                self.write(run);
            }
        }
    }

    fn single_quoted(&mut self, text: &str, fold: Fold) {
        self.indicator("'", true, false, false);
        let mut position = 0;
        for run in runs(text) {
            let inner = position != 0 && position + run.len() != text.len();
            position += run.len();
            if run == " " && inner && fold.allowed && self.column > self.style.width {
                self.write_indent(fold.indent);
            } else if run.starts_with(is_break) {
                self.breaks(run, fold);
            } else {
                self.write(&run.replace('\'', "''"));
            }
        }
        self.indicator("'", false, false, false);
    }

    /// Line breaks inside of a quoted scalar: one more than there are, as a single one is read as a blank.
    fn breaks(&mut self, run: &str, fold: Fold) {
        if run.starts_with('\n') {
            self.line_break('\n');
        }
        for c in run.chars() {
            self.line_break(c);
        }
        self.write_indent(fold.indent);
    }

    fn double_quoted(&mut self, text: &str, fold: Fold) {
        self.indicator("\"", true, false, false);
        let chars: Vec<char> = text.chars().collect();
        let mut start = 0;
        for end in 0..=chars.len() {
            let next = chars.get(end).copied();
            if next.is_none_or(needs_escape) {
                self.write(&chars[start.min(end)..end].iter().collect::<String>());
                start = start.max(end);
                if let Some(c) = next {
                    self.write(&escaped(c));
                    start = end + 1;
                }
            }
            let inner = end > 0 && end + 1 < chars.len();
            let pending = end.saturating_sub(start);
            let beyond = if start > end { self.column.saturating_sub(start - end) } else { self.column + pending };
            if inner && fold.allowed && (next == Some(' ') || start >= end) && beyond > self.style.width {
                let part: String = chars[start.min(end)..end].iter().collect();
                self.write(&(part + "\\"));
                start = start.max(end);
                self.write_indent(fold.indent);
                self.whitespace = false;
                self.indention = false;
                if chars.get(start) == Some(&' ') {
                    self.write("\\");
                }
            }
        }
        self.indicator("\"", false, false, false);
    }

    fn indicator(&mut self, text: &str, needs_whitespace: bool, whitespace: bool, indention: bool) {
        if !self.whitespace && needs_whitespace {
            self.write(" ");
        }
        self.write(text);
        self.whitespace = whitespace;
        self.indention = self.indention && indention;
    }

    fn write_indent(&mut self, indent: usize) {
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.line_break('\n');
        }
        if self.column < indent {
            self.whitespace = true;
            self.write(&" ".repeat(indent - self.column));
        }
    }

    fn line_break(&mut self, c: char) {
        self.out.push(c);
        self.column = 0;
        self.whitespace = true;
        self.indention = true;
    }

    fn write(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }
}

/// Where a scalar continues when it is folded, and whether it may be.
#[derive(Clone, Copy)]
struct Fold {
    indent: usize,
    allowed: bool,
}

/// A key that fits before a colon on one line. Its tag (`!!str`) counts.
fn is_simple_key(key: &str) -> bool {
    !key.is_empty() && !key.contains(is_break) && key.chars().count() + 5 < 128
}

fn number_text(number: &serde_json::Number) -> String {
    if !number.is_f64() {
        return number.to_string();
    }
    let text = float_text(number.as_f64().unwrap_or_default());
    // YAML's floats need a point.
    if text.contains('.') { text } else { text.replacen('e', ".0e", 1) }
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_blank_or_end(c: Option<char>) -> bool {
    c.is_none_or(|c| is_break(c) || matches!(c, '\0' | ' ' | '\t' | '\r'))
}

/// Words, runs of blanks, and runs of line breaks, in turn.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let class = |c: char| if c == ' ' { 1 } else { i32::from(is_break(c)) * 2 };
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = class(rest.chars().next()?);
        let end = rest.find(|c| class(c) != first).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        rest = tail;
        Some(run)
    })
}

fn needs_escape(c: char) -> bool {
    let printable = matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}');
    !printable || matches!(c, '"' | '\\' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn escaped(c: char) -> String {
    let short = match c {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{a0}' => '_',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        c => {
            let code = u32::from(c);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    format!("\\{short}")
}

/// In which styles a text can be written.
struct Looks {
    multiline: bool,
    plain: bool,
    single_quoted: bool,
}

impl Looks {
    fn of(text: &str) -> Looks {
        let chars: Vec<char> = text.chars().collect();
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(*c));
        let multiline = chars.iter().any(|c| is_break(*c));
        let special = chars.iter().any(|c| is_special(*c));
        let pair = |a: fn(char) -> bool, b: fn(char) -> bool| chars.windows(2).any(|w| a(w[0]) && b(w[1]));
        let blank = |c: char| c == ' ';
        let break_space = pair(is_break, blank);
        let space_break = pair(blank, is_break);
        let bad = break_space || space_break || special;
        Looks {
            multiline,
            plain: !bad && !multiline && !edge(chars.first()) && !edge(chars.last()) && !has_indicators(&chars),
            single_quoted: !bad,
        }
    }
}

/// Characters that only double quotes can show.
fn is_special(c: char) -> bool {
    let shown = matches!(c, '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10fffe}');
    !shown || c == '\u{feff}'
}

/// Does the text hold something that means structure, outside of quotes and of `[]` and `{}`?
fn has_indicators(chars: &[char]) -> bool {
    let starts = |text: &str| chars.len() >= 3 && chars.iter().zip(text.chars()).all(|(a, b)| *a == b);
    if starts("---") || starts("...") {
        return true;
    }
    chars.iter().enumerate().any(|(i, c)| {
        let blank_follows = is_blank_or_end(chars.get(i + 1).copied());
        match (i, c) {
            (0, '?' | ':' | '-') => blank_follows,
            (0, c) => "#,[]{}&*!|>'\"%@`".contains(*c),
            (_, ':') => blank_follows,
            (_, '#') => is_blank_or_end(chars.get(i - 1).copied()),
            _ => false,
        }
    })
}
