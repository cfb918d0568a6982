use std::collections::BTreeMap;

use patroni_core::cluster::Cluster;
use patroni_core::name::MemberName;
use patroni_dcs::wire::{self, RawKey};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::app::{Action, App, Wish};
use super::events;
use super::picture::Picture;
use super::screen::{self, Colours};
use crate::statuses::{Status, Statuses};

const NOW_S: i64 = 1_800_000_000;

fn cluster(leader: Option<&str>) -> Cluster {
    let member = |number: u16, tags: Value| {
        let text = json!({
            "conn_url": format!("postgres://10.0.0.{number}:5432/postgres"), "api_url": format!("http://10.0.0.{number}:8008/patroni"),
            "state": "running", "role": "replica", "xlog_location": 67_108_864, "timeline": 7, "tags": tags,
        });
        (format!("members/n{number}"), RawKey { value: text.to_string().into_bytes(), ..RawKey::default() })
    };
    let key =
        |name: &str, value: &str| (name.to_owned(), RawKey { value: value.as_bytes().to_vec(), ..RawKey::default() });
    let mut keys = BTreeMap::from([
        member(1, json!({})),
        member(2, json!({})),
        member(3, json!({"replicatefrom": "n2", "nofailover": true})),
        key("initialize", "7711187236621629781"),
        key("status", r#"{"optime": 67108864}"#),
        key("config", r#"{"ttl": 30, "loop_wait": 10}"#),
        key("history", r#"[[6, 67417816, "no recovery target specified", "2026-11-23T02:28:37.700782+00:00", "n1"]]"#),
    ]);
    keys.extend(leader.map(|name| key("leader", name)));
    wire::cluster(&keys)
}

fn statuses() -> Statuses {
    let status =
        |value: Value| Ok(Status { document: value.as_object().cloned().expect("an object"), clock_ahead_s: Some(0) });
    let name = |text: &str| MemberName::from(text);
    BTreeMap::from([
        (
            name("n1"),
            status(
                json!({"state": "running", "timeline": 7, "xlog": {"location": 70_000_000}, "dcs_last_seen": NOW_S - 4}),
            ),
        ),
        (
            name("n2"),
            status(json!({"state": "running", "replication_state": "streaming", "timeline": 7,
                "xlog": {"received_location": 70_000_000, "replayed_location": 69_000_000}})),
        ),
        (
            name("n3"),
            status(json!({"state": "creating replica",
                "job": {"title": "bootstrap from replica 'n2'", "progress": "copied 12 MB of 80 MB (15 %), 40 MB/s"}})),
        ),
    ])
}

fn app() -> App {
    App::new(Picture::of("batman", &cluster(Some("n1")), &statuses(), NOW_S))
}

fn lines(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| screen::draw(frame, app, "12:00:00", Colours(true))).expect("drawn");
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect()
}

fn press(app: &mut App, code: KeyCode) -> Wish {
    app.press(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn the_screen_in_eighty_columns() {
    let mut app = app();
    press(&mut app, KeyCode::Down);
    let shown = lines(&app, 80, 24);
    let expected = [
        "batman (7711187236621629781)                                            12:00:00",
        "leader n1, lease 4 s old of 30 s",
        &"─".repeat(80),
        "Member Role            TL      Lag   Replay Doing",
        "n1     Leader           7                   running",
        "+ n2   Replica          7      0 B   977 kB streaming",
        "  + n3 Replica          7   2.8 MB          bootstrap from replica 'n2': copied",
        &format!(" n2 {}", "─".repeat(76)),
        "Replica at 10.0.0.2:5432: streaming",
    ];
    for (index, line) in expected.iter().enumerate() {
        assert_eq!(shown[index], *line, "line {index} of {shown:#?}");
    }
    assert_eq!(shown[12], "2026-11-23 02:28:37  n1 was promoted, timeline 7 began (no recovery target speci");
    assert_eq!(shown[23], "Up/Down select   s switchover   r restart   i reinit   q quit");
    // The part about the selected member shows what the table has no room for.
    press(&mut app, KeyCode::Down);
    assert!(lines(&app, 80, 24)[8..11].join(" ").contains("copied 12 MB of 80 MB (15 %), 40 MB/s"), "details");
}

#[test]
fn what_is_known_of_the_cluster_takes_the_lines_that_it_needs() {
    let mut app = app();
    app.picture.paused = true;
    app.picture.notes =
        ["store led by 127.0.0.1:9008", "3 of 3 voters answer", "switchover requested"].map(str::to_owned).into();
    let shown = lines(&app, 80, 24);
    assert_eq!(shown[1], "leader n1, lease 4 s old of 30 s, PAUSED, store led by 127.0.0.1:9008");
    assert_eq!(shown[2], "3 of 3 voters answer, switchover requested");
    assert!(shown[4].starts_with("Member Role") && shown[23].starts_with("Up/Down select"), "{shown:#?}");
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    let mut app = app();
    app.asking = Some(Action::Restart { member: "n1".to_owned() });
    for (width, height) in [(1, 1), (2, 30), (200, 3), (20, 8), (300, 100)] {
        lines(&app, width, height);
    }
}

#[test]
fn many_members_leave_room_for_events_and_the_selected_one_is_in_sight() {
    let mut app = app();
    let node = app.picture.nodes[1].clone();
    for number in 10..50 {
        app.picture.nodes.push(super::picture::Node { name: format!("m{number}"), ..node.clone() });
    }
    for _ in 0..100 {
        press(&mut app, KeyCode::Char('j'));
    }
    let shown = lines(&app, 80, 24);
    assert!(shown.iter().any(|line| line.starts_with("+ m49")), "{shown:#?}");
    assert!(shown.iter().any(|line| line.contains("timeline 7 began")), "{shown:#?}");
}

#[test]
fn nothing_is_done_without_a_yes() {
    let mut app = app();
    for (key, question) in
        [('s', "Switch over from n1 to the best replica? [y/N]"), ('r', "Restart PostgreSQL of n1? [y/N]")]
    {
        assert_eq!(press(&mut app, KeyCode::Char(key)), Wish::None);
        assert_eq!(lines(&app, 80, 24)[23], question);
        assert_eq!(press(&mut app, KeyCode::Enter), Wish::None);
        assert_eq!(app.asking, None);
    }
    press(&mut app, KeyCode::Char('i'));
    assert_eq!(lines(&app, 80, 24)[23], "The leader cannot be reinitialized: switch over first.");
    assert_eq!(press(&mut app, KeyCode::Char('y')), Wish::None);

    press(&mut app, KeyCode::Down);
    let candidate = Some("n2".to_owned());
    for (key, action) in [
        ('s', Action::Switchover { leader: "n1".to_owned(), candidate }),
        ('r', Action::Restart { member: "n2".to_owned() }),
        ('i', Action::Reinitialize { member: "n2".to_owned() }),
    ] {
        press(&mut app, KeyCode::Char(key));
        assert_eq!(press(&mut app, KeyCode::Char('y')), Wish::Act(action));
        assert_eq!(app.asking, None);
    }
}

#[test]
fn it_can_be_left_at_any_time() {
    let mut app = app();
    assert_eq!(press(&mut app, KeyCode::Char('q')), Wish::Quit);
    press(&mut app, KeyCode::Char('r'));
    assert_eq!(app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Quit);
}

#[test]
fn what_changes_is_told() {
    let before = Picture::of("batman", &cluster(Some("n1")), &statuses(), NOW_S);
    assert_eq!(events::between(&before, &before), Vec::<String>::new());
    let mut later = statuses();
    later.insert(MemberName::from("n1"), Err("no connection".to_owned().into()));
    let running = json!({"state": "running", "timeline": 8, "xlog": {"location": 70_000_000}});
    let document = running.as_object().cloned().expect("an object");
    later.insert(MemberName::from("n2"), Ok(Status { document, clock_ahead_s: None }));
    let after = Picture::of("batman", &cluster(Some("n2")), &later, NOW_S);
    assert_eq!(
        events::between(&before, &after),
        [
            "the leader is n2 now, it was n1",
            "n2: streaming -> running",
            "n2: timeline 7 -> 8",
            "n1 does not answer any more",
        ]
    );
    let none = Picture::of("batman", &cluster(None), &later, NOW_S);
    assert_eq!(events::between(&after, &none)[0], "n2 gave up the leader key or lost it; there is no leader");
}

#[test]
fn a_store_that_is_away_leaves_the_picture_and_says_so() {
    let mut app = app();
    app.update(Err("the store cannot be read: no answer".to_owned()), "2026-11-23 03:00:00");
    app.update(Err("the store cannot be read: no answer".to_owned()), "2026-11-23 03:00:02");
    let shown = lines(&app, 80, 24);
    assert_eq!(shown[1], "OLD PICTURE: the store cannot be read: no answer");
    assert_eq!(shown[4], "n1     Leader           7                   running");
    assert_eq!(app.events.len(), 2, "told once: {:?}", app.events);
    app.update(Ok(app.picture.clone()), "2026-11-23 03:00:04");
    assert_eq!(lines(&app, 80, 24)[1], "leader n1, lease 4 s old of 30 s");
}

#[test]
fn sizes() {
    for (bytes, text) in
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 kB"), (200 << 20, "200 MB"), (u64::MAX, "16777216 TB")]
    {
        assert_eq!(screen::size(bytes), text);
    }
}
