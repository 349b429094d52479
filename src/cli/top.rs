//! `top`: the live state in a terminal, from the stream.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table};
use serde_json::{Map, Value};

use super::client::{Door, Target, one_door};
use super::events::follow;
use super::{EXIT_USAGE, Exit, plain};

/// Arguments of `top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    target: Target,
}

/// Without an event for so long what is on the screen is old. The service sends one at least every second.
const OLD_AFTER: Duration = Duration::from_secs(2);
/// Before connecting again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often the screen is drawn, and keys are looked for.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// What the thread that listens tells the one that draws.
enum Told {
    Event(String, Value),
    Lost(String),
}

/// Shows the state until `q` is pressed.
pub fn top(args: &TopArgs) -> Result<ExitCode> {
    let door = one_door(&args.target)?;
    if !std::io::stdout().is_terminal() {
        let text = "top needs a terminal; `haltline state --json` is for programs".to_owned();
        return Err(Exit { code: EXIT_USAGE, text }.into());
    }
    // A token that cannot be read is told before the screen is taken.
    follow(&door, "/v1/stream", |_, _| false)?
        .map_err(|why| Exit { code: why.exit_code(), text: why.text().to_owned() })?;
    let (tell, told) = sync_channel(64);
    std::thread::spawn(move || listen(&door, &tell));
    let mut terminal = ratatui::try_init()?;
    let end = watch(&told, |view| terminal.draw(|frame| draw(frame, view)).map(|_| ()));
    ratatui::restore();
    end?;
    Ok(ExitCode::SUCCESS)
}

fn listen(door: &Door, tell: &std::sync::mpsc::SyncSender<Told>) {
    loop {
        let ended = follow(door, "/v1/stream", |name, data| tell.send(Told::Event(name.to_owned(), data)).is_ok());
        let why = match ended {
            Ok(Ok(())) => "the stream ended".to_owned(),
            Ok(Err(failure)) => failure.text().to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if tell.send(Told::Lost(why)).is_err() {
            return;
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

fn watch(told: &Receiver<Told>, mut show: impl FnMut(&View) -> std::io::Result<()>) -> Result<()> {
    let mut view = View::default();
    loop {
        let until = Instant::now() + DRAW_EVERY;
        loop {
            match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Told::Event(name, data)) => view.take(&name, &data, Instant::now()),
                Ok(Told::Lost(why)) => view.lost = Some(why),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("nobody listens any more"),
            }
        }
        show(&view)?;
        while event::poll(Duration::ZERO)? {
            let Event::Key(key) = event::read()? else { continue };
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                _ if key.kind == KeyEventKind::Release => {}
                _ if interrupt => return Ok(()),
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Down => view.from += 1,
                KeyCode::Up => view.from = view.from.saturating_sub(1),
                KeyCode::PageDown => view.from += 20,
                KeyCode::PageUp => view.from = view.from.saturating_sub(20),
                KeyCode::Home => view.from = 0,
                _ => {}
            }
        }
    }
}

/// What is known, and how old it is.
#[derive(Default)]
struct View {
    state: Map<String, Value>,
    engine: Value,
    scopes: BTreeMap<(String, String), Value>,
    sessions: BTreeMap<String, Value>,
    seq: u64,
    heard: Option<Instant>,
    /// Why nothing more is heard.
    lost: Option<String>,
    /// The first row that is shown.
    from: usize,
}

impl View {
    fn take(&mut self, name: &str, data: &Value, now: Instant) {
        let seq = data["seq"].as_u64();
        match name {
            "state" => {
                self.state = data["state"].as_object().cloned().unwrap_or_default();
                (self.scopes, self.sessions) = (BTreeMap::new(), BTreeMap::new());
            }
            "delta" if seq == Some(self.seq + 1) => {
                for (key, part) in data["set"].as_object().into_iter().flatten() {
                    self.state.insert(key.clone(), part.clone());
                }
            }
            // Something is missing, or it is the end: what is here is old until it begins again.
            _ => {
                self.lost = Some(data["reason"].as_str().unwrap_or("an event is missing").to_owned());
                return;
            }
        }
        (self.seq, self.heard, self.lost) = (seq.unwrap_or(0), Some(now), None);
        self.engine = data["engine"].clone();
        let rows = |key: &str| data[key].as_array().into_iter().flatten();
        for row in rows("scopes") {
            self.scopes.insert(scope_key(row), row.clone());
        }
        for row in rows("gone") {
            self.scopes.remove(&scope_key(row));
        }
        for row in rows("sessions") {
            self.sessions.insert(row["name"].as_str().unwrap_or_default().to_owned(), row.clone());
        }
    }

    /// Why what is shown cannot be vouched for.
    fn doubt(&self, now: Instant) -> Option<String> {
        let age = self.heard.map(|at| now.saturating_duration_since(at));
        match (age, &self.lost) {
            (None, why) => Some(format!("NOT CONNECTED: {}", why.as_deref().unwrap_or("connecting"))),
            (Some(age), Some(why)) => Some(format!("DISCONNECTED, {} s old: {why}", age.as_secs())),
            (Some(age), None) if age > OLD_AFTER => Some(format!("STALE: nothing was heard for {} s", age.as_secs())),
            (Some(_), None) if self.engine["stale"] != false => Some("THE ENGINE STANDS STILL".to_owned()),
            (Some(_), None) => None,
        }
    }

    /// The worst first: by what is in force, then by use.
    fn rows(&self) -> Vec<&Value> {
        let severity = |row: &Value| match row["in_force"].as_str() {
            Some("normal") => 0,
            Some("reduce_only") => 1,
            _ => 2,
        };
        let used = |row: &Value| row["worst"]["percent"].as_f64().unwrap_or(0.0);
        let mut rows: Vec<&Value> = self.scopes.values().collect();
        rows.sort_by(|a, b| severity(b).cmp(&severity(a)).then(used(b).total_cmp(&used(a))));
        rows
    }
}

fn scope_key(row: &Value) -> (String, String) {
    let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (word("kind"), word("name"))
}

/// What was written by others, without anything that moves the cursor.
fn word(value: &Value) -> String {
    plain(value.as_str().unwrap_or("?")).replace('\n', " ")
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    draw_at(frame, view, Instant::now());
}

fn draw_at(frame: &mut Frame<'_>, view: &View, now: Instant) {
    let doubt = view.doubt(now);
    let halts = view.state.get("halts").and_then(Value::as_array).map_or(0, Vec::len);
    let [head, list, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(3), Constraint::Length(halts.min(6) as u16 + 2)])
            .areas(frame.area());
    frame.render_widget(header(view, doubt.as_deref()), head);
    let rows = view.rows();
    let from = view.from.min(rows.len().saturating_sub(1));
    let shown = rows.iter().skip(from).take(usize::from(list.height)).map(|row| scope_row(row, doubt.is_some()));
    let title = format!(" {} scopes, from {}; arrows move, q ends ", rows.len(), from + 1);
    let widths = [
        Constraint::Length(10),
        Constraint::Min(12),
        Constraint::Length(16),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(20),
        Constraint::Length(16),
        Constraint::Length(16),
    ];
    let names = ["KIND", "NAME", "IN FORCE", "WORKING", "USED", "RULE", "OBSERVED", "LIMIT"];
    let table = Table::new(shown, widths)
        .header(Row::new(names).style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::bordered().title(title));
    frame.render_widget(table, list);
    frame.render_widget(causes(view), foot);
}

fn header(view: &View, doubt: Option<&str>) -> Paragraph<'static> {
    let part = |key: &str| view.state.get(key).cloned().unwrap_or_default();
    let (flow, latch, journal) = (part("flow"), part("latch"), part("journal"));
    let mode = word(&part("mode"));
    let first = match doubt {
        // Whatever was good when it was last heard of is not known to be good now.
        Some(why) => Line::from(Span::raw(plain(why)).bold().reversed()),
        None if mode == "normal" => Line::from(vec![Span::raw("firm "), Span::raw(mode).green().bold()]),
        None => Line::from(vec![Span::raw("firm "), Span::raw(mode.to_uppercase()).red().bold().reversed()]),
    };
    let number = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
    let micros = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |n| format!("{} us", n.div_ceil(1_000)));
    let connected = view.sessions.values().filter(|s| s["connected"] == true).count();
    Paragraph::new(vec![
        first,
        Line::from(format!(
            "{} events/s, {} admitted/s, {} denied/s, latency p50 <= {}, p99 <= {}",
            number(&flow["events_per_second"]),
            number(&flow["admitted_per_second"]),
            number(&flow["denied_per_second"]),
            micros(&flow["latency_ns"]["p50"]),
            micros(&flow["latency_ns"]["p99"]),
        )),
        Line::from(format!(
            "{connected} of {} sessions connected, latch {}, journal {}, queue {}",
            view.sessions.len(),
            if latch["durable"] == true { "durable" } else { "NOT DURABLE" },
            word(&journal["state"]),
            number(&view.engine["queue_depth"]),
        )),
    ])
}

fn scope_row(row: &Value, doubted: bool) -> Row<'static> {
    let mode = word(&row["in_force"]);
    let worst = &row["worst"];
    let used = worst["percent"].as_f64();
    let text = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), |_| word(value));
    let style = match (doubted, mode.as_str()) {
        (true, _) => Style::new().dim(),
        (false, "normal") if row["warned"].is_null() => Style::new(),
        (false, "normal") => Style::new().yellow(),
        (false, _) => Style::new().red().bold(),
    };
    let mode = if doubted { format!("? ({mode})") } else { mode };
    Row::new([
        word(&row["kind"]),
        word(&row["name"]),
        mode,
        row["working"].as_i64().map_or_else(|| "-".to_owned(), |n| n.to_string()),
        used.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}%")),
        text(&worst["rule"]),
        text(&worst["observed"]),
        text(&worst["limit"]),
    ])
    .style(style)
}

fn causes(view: &View) -> Paragraph<'static> {
    let halts = view.state.get("halts").and_then(Value::as_array).cloned().unwrap_or_default();
    let line = |halt: &Value| {
        let (kind, name) = (word(&halt["scope"]["kind"]), word(&halt["scope"]["name"]));
        let cause = halt["causes"].as_array().and_then(|causes| causes.last()).cloned().unwrap_or_default();
        let name = if name.is_empty() || name == "?" { kind } else { format!("{kind} {name}") };
        let (mode, actor, reason) = (word(&halt["mode"]), word(&cause["actor"]), word(&cause["reason"]));
        Line::from(format!("{name}: {mode} by {actor}: {reason}"))
    };
    let title = if halts.is_empty() { " nothing is halted " } else { " halted " };
    let title = if view.heard.is_none() { " " } else { title };
    Paragraph::new(halts.iter().take(6).map(line).collect::<Vec<_>>()).block(Block::bordered().title(title))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn screen(view: &View, now: Instant) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 20)).unwrap();
        terminal.draw(|frame| draw_at(frame, view, now)).unwrap();
        let buffer = terminal.backend().buffer();
        buffer.content.chunks(120).map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
    }

    fn first() -> Value {
        let scope = |name: &str, in_force: &str, percent: f64| {
            json!({ "kind": "strategy", "name": name, "in_force": in_force, "working": 3, "warned": null,
                "worst": { "rule": "gross_exposure", "percent": percent, "observed": "1", "limit": "2" } })
        };
        json!({
            "seq": 7, "engine": { "stale": false, "queue_depth": 0 },
            "state": { "mode": "normal", "halts": [], "latch": { "durable": true }, "journal": { "state": "ok" } },
            "sessions": [{ "name": "gw-1", "connected": true }],
            "scopes": [scope("calm", "normal", 1.0), scope("busy", "normal", 90.0), scope("bad\u{1b}[2J", "halted", 2.0)],
        })
    }

    #[test]
    fn the_worst_comes_first_and_what_others_wrote_moves_nothing() {
        let (mut view, now) = (View::default(), Instant::now());
        view.take("state", &first(), now);
        let names: Vec<&str> = view.rows().iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["bad\u{1b}[2J", "busy", "calm"]);
        let text = screen(&view, now);
        assert!(text.contains("firm normal") && text.contains("bad[2J") && text.contains("90.0%"), "{text}");
        assert!(text.contains("1 of 1 sessions connected, latch durable"), "{text}");
    }

    #[test]
    fn what_cannot_be_vouched_for_is_not_shown_as_normal() {
        let (mut view, now) = (View::default(), Instant::now());
        assert!(screen(&view, now).contains("NOT CONNECTED"));
        view.take("state", &first(), now);
        let old = screen(&view, now + Duration::from_secs(3));
        assert!(old.contains("STALE") && !old.contains("firm normal") && old.contains("? (normal)"), "{old}");
        view.take("delta", &json!({ "seq": 8, "engine": { "stale": true } }), now);
        assert!(screen(&view, now).contains("THE ENGINE STANDS STILL"));
        view.take("delta", &json!({ "seq": 9, "engine": { "stale": false }, "set": { "mode": "halted" } }), now);
        assert!(screen(&view, now).contains("firm HALTED"));
        view.take("delta", &json!({ "seq": 11, "engine": { "stale": false }, "set": { "mode": "normal" } }), now);
        let gap = screen(&view, now);
        assert!(gap.contains("DISCONNECTED") && !gap.contains("firm normal"), "{gap}");
        view.take("state", &first(), now);
        assert!(screen(&view, now).contains("firm normal"));
        view.take("bye", &json!({ "reason": "haltline stops" }), now);
        assert!(screen(&view, now).contains("haltline stops"));
    }
}
