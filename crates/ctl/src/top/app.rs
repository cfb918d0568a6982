//! The state of the view, and what keys do to it.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::events;
use super::picture::{Node, Picture};

/// Events that are remembered.
const EVENTS: usize = 200;

/// What the operator asked for and confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Another leader.
    Switchover {
        /// The present leader.
        leader: String,
        /// The next one; `None`: the best.
        candidate: Option<String>,
    },
    /// PostgreSQL of a member is restarted.
    Restart {
        /// Which.
        member: String,
    },
    /// The data of a member is thrown away and copied anew.
    Reinitialize {
        /// Which.
        member: String,
    },
}

impl Action {
    /// The question that is asked first.
    pub(crate) fn question(&self) -> String {
        match self {
            Action::Switchover { leader, candidate: Some(candidate) } => {
                format!("Switch over from {leader} to {candidate}?")
            }
            Action::Switchover { leader, candidate: None } => format!("Switch over from {leader} to the best replica?"),
            Action::Restart { member } => format!("Restart PostgreSQL of {member}?"),
            Action::Reinitialize { member } => format!("Throw away the data of {member} and copy it anew?"),
        }
    }
}

/// What a key asks of the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nothing.
    None,
    /// The end.
    Quit,
    /// Something to be done.
    Act(Action),
}

/// The state of the view.
#[derive(Clone, Debug, Default)]
pub(crate) struct App {
    /// What is known.
    pub(crate) picture: Picture,
    /// Why nothing newer is known.
    pub(crate) problem: Option<String>,
    /// What happened, the newest last: time and text.
    pub(crate) events: VecDeque<(String, String)>,
    /// The name of the selected member: it stays selected where it moves.
    pub(crate) selected: Option<String>,
    /// What waits for a yes.
    pub(crate) asking: Option<Action>,
    /// A line for the operator, until the next key.
    pub(crate) hint: Option<String>,
}

impl App {
    /// The view when it begins.
    pub(crate) fn new(picture: Picture) -> Self {
        let selected = picture.nodes.first().map(|node| node.name.clone());
        let mut app = App { selected, ..App::default() };
        for (time, text) in picture.history.iter().rev().take(EVENTS).rev() {
            app.events.push_back((time.clone(), text.clone()));
        }
        app.picture = picture;
        app
    }

    /// A newer picture, or why there is none.
    pub(crate) fn update(&mut self, news: Result<Picture, String>, time: &str) {
        match news {
            Ok(picture) => {
                for text in events::between(&self.picture, &picture) {
                    self.tell(time, text);
                }
                if self.problem.take().is_some() {
                    self.tell(time, "the store answers again".to_owned());
                }
                self.picture = picture;
                if self.selected_node().is_none() {
                    self.selected = self.picture.nodes.first().map(|node| node.name.clone());
                }
            }
            Err(problem) => {
                if self.problem.is_none() {
                    self.tell(time, problem.clone());
                }
                self.problem = Some(problem);
            }
        }
    }

    /// Remembers an event.
    pub(crate) fn tell(&mut self, time: &str, text: String) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((time.to_owned(), text));
    }

    /// The selected member.
    pub(crate) fn selected_node(&self) -> Option<&Node> {
        self.picture.nodes.iter().find(|node| Some(&node.name) == self.selected.as_ref())
    }

    /// The row of the selected member.
    pub(crate) fn selected_row(&self) -> Option<usize> {
        self.picture.nodes.iter().position(|node| Some(&node.name) == self.selected.as_ref())
    }

    /// A key was pressed.
    pub(crate) fn press(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::None;
        }
        self.hint = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Wish::Quit } else { Wish::None };
        }
        if let Some(action) = self.asking.take() {
            return match key.code {
                KeyCode::Char('y' | 'Y') => Wish::Act(action),
                _ => {
                    self.hint = Some("Nothing was done.".to_owned());
                    Wish::None
                }
            };
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::Char('s') => self.ask(Self::switchover),
            KeyCode::Char('r') => self.ask(|_, node| Ok(Action::Restart { member: node.name.clone() })),
            KeyCode::Char('i') => self.ask(|_, node| match node.is_leader {
                true => Err("The leader cannot be reinitialized: switch over first.".to_owned()),
                false => Ok(Action::Reinitialize { member: node.name.clone() }),
            }),
            _ => {}
        }
        Wish::None
    }

    fn select(&mut self, step: isize) {
        let count = self.picture.nodes.len();
        let row = self.selected_row().unwrap_or(0).saturating_add_signed(step).min(count.saturating_sub(1));
        self.selected = self.picture.nodes.get(row).map(|node| node.name.clone());
    }

    fn ask(&mut self, choose: impl Fn(&Self, &Node) -> Result<Action, String>) {
        match self.selected_node().map(|node| choose(self, node)) {
            Some(Ok(action)) => self.asking = Some(action),
            Some(Err(hint)) => self.hint = Some(hint),
            None => self.hint = Some("There is no member.".to_owned()),
        }
    }

    fn switchover(&self, node: &Node) -> Result<Action, String> {
        let Some(leader) = self.picture.leader.clone() else {
            return Err("There is no leader: patronictl failover --candidate takes one by force.".to_owned());
        };
        let candidate = (node.name != leader).then(|| node.name.clone());
        Ok(Action::Switchover { leader, candidate })
    }
}
