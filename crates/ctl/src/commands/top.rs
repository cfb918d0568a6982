//! `patronictl top`: a live view of a cluster on a terminal.

use std::future::Future;
use std::io::IsTerminal;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;
use patroni_core::cluster::Cluster;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::cli::definition::{CLUSTER_NAME, Command, GROUP, Kind, Opt};
use crate::cli::parse::Matches;
use crate::context::{Context, LONG, MEDIUM, Store};
use crate::error::{CtlError, failed};
use crate::output;
use crate::statuses;
use crate::top::app::{Action, App, Wish};
use crate::top::picture::Picture;
use crate::top::screen::{self, Colours};
use crate::watching;

const DEFAULT_PERIOD: Duration = Duration::from_secs(2);
/// Nobody types faster than this is emptied.
const KEYS_QUEUED: usize = 64;

pub(crate) const COMMAND: Command = Command {
    name: "top",
    help: "Show a live view of the cluster; keys start a switchover, a restart or a reinitialization",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt {
            names: &["-w", "--watch"],
            key: "watch",
            kind: Kind::Float,
            help: "Update the screen every X seconds (2 by default)",
        },
    ],
    examples: &["patronictl top batman"],
    run: |context, matches| Box::pin(run(context, matches)),
};

/// What was waited for.
enum Done {
    Looked(Box<Result<(Cluster, Picture), String>>),
    Acted(String),
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Done> + 'a>>;

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return failed("top needs a terminal; patronictl list -W or list -f json serve where there is none");
    }
    let store = context.open_default(matches)?;
    let (cluster, picture) = look(context, &store).await.or_else(failed)?;
    let period = Some(watching::period(matches)).filter(|period| !period.is_zero()).unwrap_or(DEFAULT_PERIOD);
    let mut screen = Screen::enter()?;
    let result = watch(context, &store, (cluster, App::new(picture)), period, &mut screen).await;
    drop(screen);
    result
}

async fn watch(
    context: &Context,
    store: &Store,
    (mut cluster, mut app): (Cluster, App),
    period: Duration,
    screen: &mut Screen,
) -> Result<(), CtlError> {
    let colours = Colours(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    let mut keys = keyboard();
    let mut end = signal(SignalKind::terminate()).or_else(|error| failed(error.to_string()))?;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looking = false;
    let mut waiting: FuturesUnordered<Waiting<'_>> = FuturesUnordered::new();
    loop {
        screen.draw(&app, colours)?;
        tokio::select! {
            event = keys.recv() => match event {
                Some(Event::Key(key)) => match app.press(key) {
                    Wish::None => {}
                    Wish::Quit => return Ok(()),
                    Wish::Act(action) => {
                        app.tell(&output::timestamp_seconds(), format!("asked: {}", action.question()));
                        waiting.push(Box::pin(act(context, cluster.clone(), action)));
                    }
                },
                Some(_) => {}
                None => return Ok(()),
            },
            _ = ticks.tick(), if !looking => {
                looking = true;
                waiting.push(Box::pin(async { Done::Looked(Box::new(look(context, store).await)) }));
            }
            Some(done) = waiting.next() => match done {
                Done::Looked(result) => {
                    looking = false;
                    let news = result.map(|(newer, picture)| {
                        cluster = newer;
                        picture
                    });
                    app.update(news, &output::timestamp_seconds());
                }
                Done::Acted(text) => app.tell(&output::timestamp_seconds(), text),
            },
            _ = end.recv() => return Ok(()),
        }
    }
}

async fn look(context: &Context, store: &Store) -> Result<(Cluster, Picture), String> {
    let cluster = store.load().await.map_err(|error| error.to_string())?;
    let (statuses, embedded) = tokio::join!(statuses::ask_all(context, &cluster), context.look_at_embedded());
    let mut picture = Picture::of(&store.scope, &cluster, &statuses, jiff::Timestamp::now().as_second());
    match embedded {
        Ok(embedded) => picture.notes.extend(embedded.iter().flat_map(crate::embedded::picture::Picture::remarks)),
        Err(error) => picture.notes.push(format!("store: {error}")),
    }
    Ok((cluster, picture))
}

/// Does it, and tells how it went.
async fn act(context: &Context, cluster: Cluster, action: Action) -> Done {
    let (name, endpoint, body, limit): (&str, _, Value, _) = match &action {
        Action::Switchover { leader, candidate } => {
            (leader, "switchover", json!({"leader": leader, "candidate": candidate}), LONG)
        }
        Action::Restart { member } => (member, "restart", json!({}), LONG),
        Action::Reinitialize { member } => (member, "reinitialize", json!({"force": false}), MEDIUM),
    };
    let Some(member) = cluster.members.get(name) else {
        return Done::Acted(format!("{endpoint}: {name} is not a member any more"));
    };
    Done::Acted(match context.request(member, Method::POST, Some(endpoint), Some(&body), limit).await {
        Ok(answer) if answer.status < 300 => format!("{endpoint}: {}", answer.body),
        Ok(answer) => format!("{endpoint} failed: {}, {}", answer.status, answer.body),
        Err(error) => format!("{endpoint}: {name} cannot be asked: {error}"),
    })
}

/// Keys and changes of size, from a thread of their own: reading the terminal blocks. It ends with the process, or with
/// the terminal.
fn keyboard() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(KEYS_QUEUED);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The terminal, which is put back into its former state when this is dropped, and also when the program panics.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> Result<Self, CtlError> {
        ratatui::try_init().map(Screen).or_else(|error| failed(format!("the terminal cannot be used: {error}")))
    }

    fn draw(&mut self, app: &App, colours: Colours) -> Result<(), CtlError> {
        let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        let drawn = self.0.draw(|frame| screen::draw(frame, app, &time, colours));
        drawn.map(|_| ()).or_else(|error| failed(format!("the terminal cannot be drawn on: {error}")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
