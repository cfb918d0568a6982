//! From the events of the parser to a tree.

use std::collections::HashMap;

use patroni_core::python::{float_text, quoted};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::scalar::{self, Kind};
use super::{Data, Entry, Mark, Node};

/// Deeper nesting than this is refused.
const MAX_DEPTH: usize = 100;
/// More nodes than this, counting those that aliases repeat, are refused.
const MAX_NODES: usize = 200_000;

/// Why a text is not the YAML we read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {text}", mark.line, mark.column)]
pub struct YamlError {
    /// Where.
    pub mark: Mark,
    /// What.
    pub text: String,
}

/// Reads a text that holds one document, or none (which is null).
pub fn parse(text: &str) -> Result<Node, YamlError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (event, span) = event.map_err(|e| fail(place(e.marker()), e.info()))?;
        builder.event(event, span)?;
    }
    Ok(builder.root.unwrap_or(Node { data: Data::Null, mark: Mark { line: 1, column: 1 } }))
}

fn fail(mark: Mark, text: impl Into<String>) -> YamlError {
    YamlError { mark, text: text.into() }
}

fn place(marker: &saphyr_parser::Marker) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1 }
}

/// A collection that is not complete yet.
struct Open {
    mark: Mark,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, key: Option<Key> },
}

#[derive(Clone)]
struct Key {
    text: String,
    mark: Mark,
    merge: bool,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    documents: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let mark = place(&span.start);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(fail(mark, "expected a single document in the stream, but found another document"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), mark)?,
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| fail(mark, "found unconstructable recursive node"))?;
                self.nodes += count(&node);
                self.push(node, false)?;
            }
            Event::SequenceStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "seq", mark)?;
                self.start(mark, anchor, OpenKind::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "map", mark)?;
                self.start(mark, anchor, OpenKind::Map { entries: Vec::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        mark: Mark,
    ) -> Result<(), YamlError> {
        let kind = scalar_kind(text, style, tag, mark)?;
        let is_key = self.expects_key();
        let data = match kind {
            Kind::Merge | Kind::Value if is_key => Data::Text(text.to_owned()),
            kind => scalar::value(text, kind).ok_or_else(|| fail(mark, format!("cannot read {}", quoted(text))))?,
        };
        let node = Node { data, mark };
        self.nodes += 1;
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.push(node, is_key && kind == Kind::Merge)
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { kind: OpenKind::Map { key: None, .. }, .. }))
    }

    fn start(&mut self, mark: Mark, anchor: usize, kind: OpenKind) -> Result<(), YamlError> {
        if self.expects_key() {
            return Err(fail(mark, "found unhashable key"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(fail(mark, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.nodes += 1;
        self.open.push(Open { mark, anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let data = match open.kind {
            OpenKind::List(items) => Data::List(items),
            OpenKind::Map { entries, .. } => Data::Map(merged(entries)?),
        };
        let node = Node { data, mark: open.mark };
        if open.anchor > 0 {
            self.anchors.insert(open.anchor, node.clone());
        }
        self.push(node, false)
    }

    fn push(&mut self, node: Node, merge: bool) -> Result<(), YamlError> {
        if self.nodes > MAX_NODES {
            return Err(fail(node.mark, format!("more than {MAX_NODES} values")));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { kind: OpenKind::List(items), .. }) => items.push(node),
            Some(Open { kind: OpenKind::Map { entries, key }, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(Key { text: key_text(&node)?, mark: node.mark, merge }),
            },
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.data {
        Data::List(items) => items.iter().map(count).sum::<usize>(),
        Data::Map(entries) => entries.iter().map(|e| count(&e.value)).sum(),
        Data::Null | Data::Bool(_) | Data::Int(_) | Data::Float(_) | Data::Text(_) => 0,
    }
}

/// The tag of YAML's own types, such as `int`.
fn core_tag(tag: &Tag, mark: Mark) -> Result<&str, YamlError> {
    let whole = format!("{}{}", tag.handle, tag.suffix);
    match tag.is_yaml_core_schema() {
        true => Ok(&tag.suffix),
        false => Err(fail(mark, format!("could not determine a constructor for the tag {}", quoted(&whole)))),
    }
}

fn collection_tag(tag: Option<&Tag>, expected: &str, mark: Mark) -> Result<(), YamlError> {
    match tag.map(|t| core_tag(t, mark)).transpose()? {
        None => Ok(()),
        Some(tag) if tag == expected => Ok(()),
        Some(tag) => Err(fail(mark, format!("the tag !!{tag} is not supported here"))),
    }
}

fn scalar_kind(text: &str, style: ScalarStyle, tag: Option<&Tag>, mark: Mark) -> Result<Kind, YamlError> {
    // The tag `!` alone means nothing to PyYAML.
    let Some(tag) = tag.filter(|tag| !(tag.handle.is_empty() && tag.suffix == "!")) else {
        return Ok(if style == ScalarStyle::Plain { scalar::kind(text) } else { Kind::Text });
    };
    match core_tag(tag, mark)? {
        "str" => Ok(Kind::Text),
        "int" => Ok(Kind::Int),
        "float" => Ok(Kind::Float),
        "bool" => Ok(Kind::Bool),
        "null" => Ok(Kind::Null),
        "timestamp" => Ok(Kind::Timestamp),
        other => Err(fail(mark, format!("the tag !!{other} is not supported here"))),
    }
}

/// What Python's `json.dumps` makes of a key.
fn key_text(node: &Node) -> Result<String, YamlError> {
    match &node.data {
        Data::Null => Ok("null".to_owned()),
        Data::Bool(b) => Ok(b.to_string()),
        Data::Int(n) => Ok(n.to_string()),
        Data::Float(f) => Ok(float_text(*f)),
        Data::Text(text) => Ok(text.clone()),
        Data::List(_) | Data::Map(_) => Err(fail(node.mark, "found unhashable key")),
    }
}

/// The entries of a mapping as a dictionary: first what `<<` brings in, then its own keys; the last of equal keys wins
/// and keeps the place of the first.
fn merged(entries: Vec<(Key, Node)>) -> Result<Vec<Entry>, YamlError> {
    let mut own = Vec::with_capacity(entries.len());
    let mut all = Vec::new();
    for (key, value) in entries {
        if key.merge {
            all.extend(merge_sources(value)?);
        } else {
            own.push(Entry { key: key.text, mark: key.mark, value });
        }
    }
    all.append(&mut own);
    let mut places: HashMap<String, usize> = HashMap::with_capacity(all.len());
    let mut out: Vec<Entry> = Vec::with_capacity(all.len());
    for entry in all {
        match places.get(&entry.key) {
            Some(place) => out[*place] = entry,
            None => {
                places.insert(entry.key.clone(), out.len());
                out.push(entry);
            }
        }
    }
    Ok(out)
}

/// What a `<<` brings in: the entries of one mapping, or of several, the earlier ones winning.
fn merge_sources(value: Node) -> Result<Vec<Entry>, YamlError> {
    match value.data {
        Data::Map(entries) => Ok(entries),
        Data::List(items) => {
            let mut all = Vec::new();
            for item in items.into_iter().rev() {
                match item.data {
                    Data::Map(entries) => all.extend(entries),
                    _ => return Err(fail(item.mark, "expected a mapping for merging")),
                }
            }
            Ok(all)
        }
        _ => Err(fail(value.mark, "expected a mapping or list of mappings for merging")),
    }
}
