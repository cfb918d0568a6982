//! Rows in the format that was asked for.

use patroni_core::JsonMap;
use patroni_core::json;
use patroni_core::python::PythonText;
use serde_json::Value;

use super::table::{Align, Table};
use super::yaml;
use crate::error::{CtlError, failed};

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table for people.
    Pretty,
    /// The same, members as a tree.
    Topology,
    /// Values with tabulators between them.
    Tsv,
    /// An array of objects.
    Json,
    /// A list of maps.
    Yaml,
}

impl Format {
    /// Reads the value of `--format`.
    ///
    /// # Errors
    /// There is no such format.
    pub(crate) fn parse(text: &str) -> Result<Self, CtlError> {
        match text {
            "pretty" => Ok(Format::Pretty),
            "topology" => Ok(Format::Topology),
            "tsv" => Ok(Format::Tsv),
            "json" => Ok(Format::Json),
            "yaml" | "yml" => Ok(Format::Yaml),
            other => failed(format!("there is no format {other:?}; use pretty, tsv, json or yaml")),
        }
    }

    /// Made for people, not for programs.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Format::Pretty | Format::Topology)
    }
}

/// Rows with the names of their columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    /// Names of the columns, where known.
    pub(crate) columns: Option<Vec<String>>,
    /// Values.
    pub(crate) rows: Vec<Vec<Value>>,
    /// Columns that are shown right-aligned.
    pub(crate) right: &'static [&'static str],
    /// Title of the table.
    pub(crate) title: String,
}

impl Rows {
    /// The text of the rows, with a newline at its end (nothing if there is nothing to say).
    pub(crate) fn render(self, format: Format, delimiter: &str) -> String {
        match format {
            Format::Json => json::spaced(&self.elements()) + "\n",
            // The dump ends with a newline of its own, and so does every line that is printed.
            Format::Yaml => yaml::block(&self.elements()) + "\n",
            Format::Tsv => self.separated(delimiter),
            Format::Pretty | Format::Topology => self.table().render() + "\n",
        }
    }

    /// Objects, in the order of the columns. With a title, what is empty is left out.
    fn elements(&self) -> Value {
        let columns = self.columns.as_deref().unwrap_or_default();
        let keep_empty = self.title.is_empty();
        let element = |row: &Vec<Value>| {
            let pairs = columns.iter().cloned().zip(row.iter().cloned());
            let kept = pairs.filter(|(_, value)| keep_empty || !value.python_text().is_empty());
            Value::Object(kept.collect::<JsonMap>())
        };
        Value::Array(self.rows.iter().map(element).collect())
    }

    fn separated(&self, delimiter: &str) -> String {
        let mut out = String::new();
        if let Some(columns) = self.columns.as_ref().filter(|columns| !columns.is_empty()) {
            out.push_str(&format!("{}\n", columns.join(delimiter)));
        }
        for row in &self.rows {
            let texts: Vec<_> = row.iter().map(|value| value.python_text().into_owned()).collect();
            out.push_str(&format!("{}\n", texts.join(delimiter)));
        }
        out
    }

    fn table(self) -> Table {
        let width = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let names = match self.columns {
            Some(columns) if !columns.is_empty() => columns,
            _ => (1..=width).map(|number| format!("Field {number}")).collect(),
        };
        let align = |name: &String| if self.right.contains(&name.as_str()) { Align::Right } else { Align::Left };
        Table {
            title: self.title,
            columns: names
                .into_iter()
                .map(|name| {
                    let align = align(&name);
                    (name, align)
                })
                .collect(),
            rows: self.rows.iter().map(|row| row.iter().map(|v| v.python_text().into_owned()).collect()).collect(),
        }
    }
}
