//! How the view is drawn. Meant for 80 columns and 24 lines, and for more.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState, Wrap};

use super::app::App;
use super::picture::{Node, Picture};

const KEYS: &str = "Up/Down select   s switchover   r restart   i reinit   q quit";
/// Lines of the part about the selected member, with its title.
const DETAILS: u16 = 4;
const FEWEST_EVENTS: u16 = 4;

/// Colours, unless they are not wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colours(pub(crate) bool);

impl Colours {
    fn of(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }
}

/// Draws everything. `time` is shown in the corner.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &App, time: &str, colours: Colours) {
    let rows = u16::try_from(app.picture.nodes.len()).unwrap_or(u16::MAX);
    let area = frame.area();
    let header = header(app, time, usize::from(area.width), colours);
    let above = u16::try_from(header.len()).unwrap_or(u16::MAX);
    let others = above.saturating_add(DETAILS + FEWEST_EVENTS + 2);
    let table = (rows.saturating_add(1)).clamp(2, area.height.saturating_sub(others).max(2));
    let [head, members, details, events, foot] = Layout::vertical([
        Constraint::Length(above),
        Constraint::Length(table.saturating_add(1)),
        Constraint::Length(DETAILS),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header), head);
    draw_members(frame, members, app, colours);
    draw_details(frame, details, app);
    draw_events(frame, events, app);
    frame.render_widget(Paragraph::new(footer(app, colours)), foot);
}

fn header<'a>(app: &App, time: &'a str, width: usize, colours: Colours) -> Vec<Line<'a>> {
    let picture = &app.picture;
    let name = format!("{} ({})", picture.scope, picture.identifier);
    let gap = width.saturating_sub(name.chars().count() + time.chars().count());
    let first = Line::from(vec![
        Span::styled(name, Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(" ".repeat(gap.max(1))),
        Span::raw(time),
    ]);
    let others = match &app.problem {
        Some(problem) => vec![Line::styled(format!("OLD PICTURE: {problem}"), colours.of(Color::Red))],
        None => in_lines(of_cluster(picture, colours), width),
    };
    std::iter::once(first).chain(others).collect()
}

/// With commas between them, as many on a line as fit.
fn in_lines(pieces: Vec<Span<'static>>, width: usize) -> Vec<Line<'static>> {
    const COMMA: &str = ", ";
    let mut lines: Vec<Line<'static>> = Vec::new();
    for piece in pieces {
        match lines.last_mut().filter(|line| line.width() + COMMA.len() + piece.width() <= width) {
            Some(line) => line.spans.extend([Span::raw(COMMA), piece]),
            None => lines.push(Line::from(piece)),
        }
    }
    lines
}

fn of_cluster(picture: &Picture, colours: Colours) -> Vec<Span<'static>> {
    let mut spans = vec![match &picture.leader {
        Some(leader) => Span::raw(format!("leader {leader}")),
        None => Span::styled("NO LEADER", colours.of(Color::Red).add_modifier(Modifier::BOLD)),
    }];
    if picture.leader.is_some() {
        spans.push(match picture.lease_age_s {
            // Beyond the half, the leader misses renewals.
            Some(age) if 2 * age > i64::try_from(picture.ttl_s).unwrap_or(i64::MAX) => {
                Span::styled(format!("lease {age} s old of {} s", picture.ttl_s), colours.of(Color::Yellow))
            }
            Some(age) => Span::raw(format!("lease {age} s old of {} s", picture.ttl_s)),
            None => Span::raw(format!("age of lease unknown (ttl {} s)", picture.ttl_s)),
        });
    }
    if picture.paused {
        let style = colours.of(Color::Yellow).add_modifier(Modifier::BOLD);
        spans.push(Span::styled("PAUSED", style));
    }
    spans.extend(picture.notes.iter().cloned().map(Span::raw));
    spans
}

fn draw_members(frame: &mut Frame<'_>, area: Rect, app: &App, colours: Colours) {
    let names = app.picture.nodes.iter().map(|node| shown_name(node).chars().count()).max().unwrap_or(0);
    let widths = [
        Constraint::Length(u16::try_from(names.clamp(6, 24)).unwrap_or(24)),
        Constraint::Length(14),
        Constraint::Length(3),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Min(10),
    ];
    let title = Row::new(["Member", "Role", " TL", "     Lag", "  Replay", "Doing"])
        .style(Style::new().add_modifier(Modifier::DIM));
    let rows = app.picture.nodes.iter().map(|node| row(node, colours));
    let table = Table::new(rows, widths)
        .header(title)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new().borders(Borders::TOP));
    let mut state = TableState::new().with_selected(app.selected_row());
    frame.render_stateful_widget(table, area, &mut state);
}

fn shown_name(node: &Node) -> String {
    match node.depth {
        0 => node.name.clone(),
        depth => format!("{}+ {}", "  ".repeat(depth - 1), node.name),
    }
}

fn row(node: &Node, colours: Colours) -> Row<'static> {
    let lag = |bytes: Option<u64>| Cell::from(format!("{:>8}", bytes.map(size).unwrap_or_default()));
    let healthy = node.answers && matches!(node.state.as_str(), "running" | "streaming" | "in archive recovery");
    let doing = match (healthy, node.answers) {
        (true, _) => colours.of(Color::Green),
        (false, true) => colours.of(Color::Yellow),
        (false, false) => colours.of(Color::Red),
    };
    let role = if node.is_leader { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
    Row::new([
        Cell::from(shown_name(node)),
        Cell::from(node.role.clone()).style(role),
        Cell::from(format!("{:>3}", node.timeline.map(|timeline| timeline.to_string()).unwrap_or_default())),
        lag(node.receive_lag),
        lag(node.replay_lag),
        Cell::from(node.doing()).style(doing),
    ])
}

/// Bytes, in the largest unit that leaves a whole number before the point.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

fn draw_details(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(node) = app.selected_node() else { return };
    let block = Block::new().borders(Borders::TOP).title(format!(" {} ", node.name));
    let text = format!("{} at {}: {}", node.role, node.address, node.doing());
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }).block(block), area);
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let room = usize::from(area.height.saturating_sub(1));
    let skipped = app.events.len().saturating_sub(room);
    let line = |(time, text): &(String, String)| Line::from(format!("{}  {text}", short_time(time)));
    let lines: Vec<Line<'_>> = app.events.iter().skip(skipped).map(line).collect();
    let block = Block::new().borders(Borders::TOP).title(" Recent events ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Without fractions and offset, to save room.
fn short_time(time: &str) -> String {
    time.chars().take(19).collect::<String>().replace('T', " ")
}

fn footer(app: &App, colours: Colours) -> Line<'static> {
    match (&app.asking, &app.hint) {
        (Some(action), _) => {
            let style = colours.of(Color::Yellow).add_modifier(Modifier::BOLD);
            Line::styled(format!("{} [y/N]", action.question()), style)
        }
        (None, Some(hint)) => Line::from(hint.clone()),
        (None, None) => Line::styled(KEYS, Style::new().add_modifier(Modifier::DIM)),
    }
}
