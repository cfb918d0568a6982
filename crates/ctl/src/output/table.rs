//! Tables with a frame, the title in its upper border.

use unicode_width::UnicodeWidthStr;

/// To which side the values of a column are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// A table. All rows are as long as `columns`; cells may have several lines.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Shown in the upper border; may be empty.
    pub(crate) title: String,
    /// Names of the columns.
    pub(crate) columns: Vec<(String, Align)>,
    /// The rows.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// The table as text, without a newline at its end.
    pub(crate) fn render(&self) -> String {
        let widths = self.widths();
        let rule = rule(&widths);
        // A value of several lines needs rules between the rows to be told from its neighbours.
        let ruled = self.rows.iter().flatten().any(|cell| cell.contains('\n'));
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let mut lines = vec![self.title_rule(&rule), self.line(&names, &widths), rule.clone()];
        for (index, row) in self.rows.iter().enumerate() {
            if ruled && index > 0 {
                lines.push(rule.clone());
            }
            let cells: Vec<Vec<String>> = row.iter().map(|cell| cell.split('\n').map(expand_tabs).collect()).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(1);
            for at in 0..height {
                let parts: Vec<String> = cells.iter().map(|c| c.get(at).cloned().unwrap_or_default()).collect();
                lines.push(self.line(&parts, &widths));
            }
        }
        lines.push(rule);
        lines.join("\n")
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| name.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                let longest = cell.split('\n').map(|line| expand_tabs(line).width()).max().unwrap_or(0);
                *width = longest.max(*width);
            }
        }
        widths
    }

    fn title_rule(&self, rule: &str) -> String {
        let mut characters = rule.chars();
        let corner = characters.next().unwrap_or('+');
        let title: String = self.title.chars().take(rule.len().saturating_sub(2)).collect();
        let rest: String = characters.skip(title.chars().count()).collect();
        format!("{corner}{title}{rest}")
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut out = String::from("|");
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            let blanks = " ".repeat(width.saturating_sub(cell.width()));
            match align {
                Align::Left => out.push_str(&format!(" {cell}{blanks} |")),
                Align::Right => out.push_str(&format!(" {blanks}{cell} |")),
            }
        }
        if self.columns.is_empty() {
            out.push('|');
        }
        out
    }
}

fn rule(widths: &[usize]) -> String {
    let mut out = String::from("+");
    for width in widths {
        out.push_str(&"-".repeat(width + 2));
        out.push('+');
    }
    if widths.is_empty() {
        out.push('+');
    }
    out
}

/// Tabulators go to the next multiple of eight.
fn expand_tabs(line: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in line.chars() {
        if c == '\t' {
            let blanks = 8 - column % 8;
            out.push_str(&" ".repeat(blanks));
            column += blanks;
        } else {
            out.push(c);
            column += 1;
        }
    }
    out
}
