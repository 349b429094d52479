//! When each control fired by itself, what had got out by then, and which link of the chain it answers: for people and as JSON.

use serde_json::{Value, json};

use super::guard::GuardControl;
use super::{LINKS, link_of_rule};
use crate::demo::alone::{Alone, Control, Fired, Found, GuardAlone, Moment, Outcome};
use crate::demo::live::scope_text;
use crate::demo::show::{Screen, count, usd};
use crate::demo::{dollars, millis};
use crate::model::{Mode, Rule, Scope, Universe};

/// A control that fired by itself, as a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which link of the chain it answers.
    pub link: Option<u8>,
    /// Its name.
    pub control: String,
    /// Where its limit stands, or what it looks at.
    pub scope: String,
    /// When, and what was out.
    pub at: Moment,
    /// What it did then.
    pub then: String,
    /// Whether it fired in the live run, too.
    pub live: bool,
}

impl From<&Fired> for Moment {
    fn from(fired: &Fired) -> Moment {
        Moment {
            at: fired.at_ns.cast_signed(),
            order: fired.order,
            executions_out: fired.executions_out,
            gross_cents: fired.gross_cents,
            net_cents: fired.net_cents,
        }
    }
}

impl GuardControl {
    /// What it looks at.
    #[must_use]
    pub const fn looks_at(self) -> &'static str {
        match self {
            GuardControl::Manifest
            | GuardControl::Dormant
            | GuardControl::Meanings
            | GuardControl::Minority
            | GuardControl::Ramp
            | GuardControl::Interlock => "hello",
            GuardControl::Signatures => "texts",
            GuardControl::Peers => "rates",
            GuardControl::Press => "alerts",
        }
    }
}

/// The lines of all that fired by itself, the first first. `live` says what fired in the live run.
#[must_use]
pub fn rows(found: &Found, universe: &Universe, live: &dyn Fn(Control) -> bool) -> Vec<Row> {
    let limit = |alone: &Alone, control: String, link: Option<u8>| {
        let at = Moment::from(alone.fired.as_ref()?);
        let (scope, then) = (alone.control.scope.name().to_owned(), effect(alone, universe));
        Some(Row { link, control, scope, at, then, live: live(alone.control) })
    };
    let limits = found.limits.iter().filter_map(|alone| {
        let rule = alone.control.rule;
        limit(alone, rule.name().to_owned(), link_of_rule(rule))
    });
    let guard = found.guard.iter().filter_map(|alone| {
        let (control, at) = (alone.control?, alone.fired?);
        let (link, then) = (Some(control.link()), guard_effect(alone, universe));
        let (control, scope) = (control.name().to_owned(), control.looks_at().to_owned());
        Some(Row { link, control, scope, at, then, live: false })
    });
    // What goes round every check is no path that a check covers.
    let around = found.around.iter().filter_map(|alone| {
        let row = limit(alone, format!("{}, unasked", alone.control.rule.name()), Some(6))?;
        let then = match alone.outcome {
            Outcome::GoesOn { executions_per_s } => {
                format!("halts who does not ask: {} executions/s go on", count(executions_per_s))
            }
            Outcome::Never | Outcome::Stopped { .. } => row.then,
        };
        Some(Row { live: false, then, ..row })
    });
    let uncovered = found.uncovered.iter().filter_map(|alone| {
        let row = limit(alone, Rule::Coverage.name().to_owned(), link_of_rule(Rule::Coverage))?;
        let then = match alone.outcome {
            Outcome::Stopped { latched: None, .. } => "denies every order of that path".to_owned(),
            Outcome::Never | Outcome::Stopped { .. } | Outcome::GoesOn { .. } => row.then,
        };
        Some(Row { live: false, then, ..row })
    });
    let rule = found.late.control.rule;
    let late = limit(&found.late, format!("{}, slow line", rule.name()), link_of_rule(rule));
    let late = late.map(|row| Row { live: false, ..row });
    let mut rows: Vec<Row> = limits.chain(guard).chain(uncovered).chain(around).chain(late).collect();
    rows.sort_by_key(|row| row.at.at);
    rows
}

/// Shows both tables: each control alone, then each link and the first control that answers it.
pub fn show(found: &Found, universe: &Universe, live: &dyn Fn(Control) -> bool, screen: &Screen) {
    let rows = rows(found, universe, live);
    screen.line(
        "\nEach control alone, everything else off, the same morning (times of New York; # is the link below):\n",
    );
    let cells: Vec<[String; 9]> = rows.iter().map(cells).collect();
    screen.table(
        ["#", "control", "scope", "fires at", "order", "executions out", "gross out", "what it does then", "live"],
        [true, false, false, true, true, true, true, false, false],
        &cells,
    );
    screen.line("");
    for line in never(found, live) {
        screen.line(&format!("  {line}"));
    }
    screen.line("\nThe chain, link by link, and the first control that answers it alone:\n");
    let chain: Vec<[String; 5]> = LINKS
        .iter()
        .map(|link| {
            let number = link.number.to_string();
            match first_of(&rows, link.number) {
                Some(row) => {
                    let out = out(&row.at);
                    [number, link.what.to_owned(), row.at.clock(), out, row.control.clone()]
                }
                None => [number, link.what.to_owned(), "never".to_owned(), "-".to_owned(), String::new()],
            }
        })
        .collect();
    screen.table(["#", "link", "fires at", "out by then", "control"], [true, false, true, true, false], &chain);
    let together = &found.together;
    screen.line(&format!("\n  all together: {}", together_text(together, universe)));
}

fn first_of(rows: &[Row], link: u8) -> Option<&Row> {
    rows.iter().find(|row| row.link == Some(link))
}

/// Executions and dollars, or that there was nothing.
fn out(at: &Moment) -> String {
    match at.executions_out {
        0 => "nothing".to_owned(),
        n => format!("{} executions, {}", count(n), usd(at.gross_cents)),
    }
}

fn together_text(together: &GuardAlone, universe: &Universe) -> String {
    let Some(at) = together.fired else { return "nothing fires".to_owned() };
    let Outcome::Stopped { executions, .. } = together.outcome else {
        return format!("{} at {}, and the flow goes on", together.text, at.clock());
    };
    // What else fires later would have been for nothing: a person looks at the first.
    let halted = together.halted.iter().copied().filter(|(halted, _)| *halted <= at.at + 1_000_000_000).collect();
    let first = GuardAlone { halted, ..together.clone() };
    let (clock, then, text) = (at.clock(), guard_effect(&first, universe), shortened(&together.text));
    format!("{clock}, {then}; {} executions out when the open was over\n    {text}", count(executions))
}

/// At most a line of `text`.
#[must_use]
pub fn shortened(text: &str) -> String {
    const LONGEST: usize = 140;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let cut: String = text.chars().take(LONGEST).collect();
    format!("{} …", cut.trim_end())
}

/// A line as cells.
#[must_use]
pub fn cells(row: &Row) -> [String; 9] {
    let order = if row.at.order == 0 { "-".to_owned() } else { format!("#{}", count(row.at.order)) };
    [
        row.link.map_or_else(String::new, |link| link.to_string()),
        row.control.clone(),
        row.scope.clone(),
        row.at.clock(),
        order,
        count(row.at.executions_out),
        usd(row.at.gross_cents),
        row.then.clone(),
        if row.live { "fired" } else { "-" }.to_owned(),
    ]
}

/// What did not fire by itself all morning: one line per rule, and why.
#[must_use]
pub fn never(found: &Found, live: &dyn Fn(Control) -> bool) -> Vec<String> {
    let mut lines: Vec<(Rule, String)> = Vec::new();
    for alone in found.limits.iter().filter(|a| a.fired.is_none()) {
        let scope = alone.control.scope.name();
        let live = if live(alone.control) { " (fired live, after another)" } else { "" };
        match lines.last_mut().filter(|(rule, _)| *rule == alone.control.rule) {
            Some((_, line)) => *line += &format!(", {scope}{live}"),
            None => {
                let line = format!("never by itself: {} at {scope}{live}", alone.control.rule.name());
                lines.push((alone.control.rule, line));
            }
        }
    }
    let mut lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    for alone in found.guard.iter().filter(|alone| alone.fired.is_none()) {
        lines.push(format!("never by itself: {}", alone.control.map_or("the guard", GuardControl::name)));
    }
    if found.covered.orders > 0 {
        let (orders, without) = (count(found.covered.orders), count(found.covered.without_collar));
        lines.push(format!("no gap as configured: the collar was looked at for {orders} orders, not for {without}"));
    }
    lines
}

/// What became of the flow, in words.
#[must_use]
pub fn effect(alone: &Alone, universe: &Universe) -> String {
    let mut text = match alone.outcome {
        Outcome::Never => "never fires".to_owned(),
        Outcome::Stopped { latched, last_ns, executions } => {
            let how = match latched {
                Some((Mode::Halted, scope)) => format!("halts {}", scope_text(universe, scope)),
                Some((Mode::ReduceOnly, scope)) => format!("reduce-only for {}", scope_text(universe, scope)),
                Some((Mode::Normal, _)) | None => "denies every order".to_owned(),
            };
            let later = alone.fired.is_some_and(|f| last_ns > f.at_ns + 1_000_000_000);
            if later { format!("{how}: stopped with {} out", count(executions)) } else { how }
        }
        Outcome::GoesOn { executions_per_s } => {
            format!("denies, but {} executions/s go on", count(executions_per_s))
        }
    };
    if alone.healthy_denied {
        text += ", healthy ones too";
    }
    text
}

/// The same of the guard.
#[must_use]
pub fn guard_effect(alone: &GuardAlone, universe: &Universe) -> String {
    let Some(fired) = alone.fired else { return "never fires".to_owned() };
    let what = match alone.halted[..] {
        [] => "halts nothing".to_owned(),
        [(_, scope)] => format!("halts {}", scope_text(universe, scope)),
        [(_, first), .., (_, last)] if matches!((first, last), (Scope::Session(_), Scope::Session(_))) => {
            let name = |scope| universe.scope_name(scope);
            format!("halts {} sessions, {} to {}", alone.halted.len(), name(first), name(last))
        }
        _ => format!("halts {} scopes", alone.halted.len()),
    };
    let later = alone.halted.first().filter(|(at, _)| *at > fired.at + 1_000_000_000);
    let mut text = match later {
        Some((at, _)) => format!("an alert; if nobody answers, {what} at {}", super::story::clock_text(*at)),
        None => what,
    };
    if alone.admitted_after_halt > 0 {
        text += &format!("; {} orders after it", count(alone.admitted_after_halt));
    } else if alone.control == Some(GuardControl::Interlock) {
        text += ", before an order";
    }
    match alone.outcome {
        Outcome::Never | Outcome::Stopped { .. } => text,
        Outcome::GoesOn { executions_per_s } => format!("{text}; {} executions/s go on", count(executions_per_s)),
    }
}

fn moment_json(at: Option<Moment>) -> Value {
    json!({
        "fired": at.is_some(),
        "at": at.map(|at| at.clock()),
        "at_ms": at.map(|at| at.at as f64 / 1e6),
        "order": at.map(|at| at.order),
        "executions_out": at.map(|at| at.executions_out),
        "gross_usd_out": at.map(|at| dollars(at.gross_cents)),
        "net_usd_out": at.map(|at| dollars(at.net_cents)),
    })
}

/// `value`, and what `more` has besides.
pub(in crate::demo) fn with(mut value: Value, more: Value) -> Value {
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

/// The limits, one object each.
#[must_use]
pub fn limits_json(limits: &[Alone], live: &dyn Fn(Control) -> bool) -> Vec<Value> {
    let one = |a: &Alone| {
        let fired = a.fired.as_ref();
        let more = json!({
            "rule": a.control.rule.name(),
            "scope": a.control.scope.name(),
            "link": link_of_rule(a.control.rule),
            "at_ms": fired.map(|f| millis(f.at_ns)),
            "stops_the_flow": matches!(a.outcome, Outcome::Stopped { .. }),
            "fired_live": live(a.control),
        });
        with(moment_json(fired.map(Moment::from)), more)
    };
    limits.iter().map(one).collect()
}

/// A control of the guard, or everything together.
#[must_use]
pub fn guard_json(alone: &GuardAlone, universe: &Universe) -> Value {
    let halted = alone
        .halted
        .iter()
        .map(|(at, scope)| json!({ "at": super::story::clock_text(*at), "scope": scope_text(universe, *scope) }));
    let more = json!({
        "control": alone.control.map(GuardControl::name),
        "link": alone.control.map(GuardControl::link),
        "text": alone.text,
        "halted": halted.collect::<Vec<_>>(),
        "stops_the_flow": matches!(alone.outcome, Outcome::Stopped { .. }),
        "admitted_after_halt": alone.admitted_after_halt,
    });
    with(moment_json(alone.fired), more)
}

/// Everything that was found out.
#[must_use]
pub fn found_json(found: &Found, universe: &Universe, live: &dyn Fn(Control) -> bool) -> Value {
    let rows = rows(found, universe, live);
    let chain = LINKS.iter().map(|link| {
        let row = first_of(&rows, link.number);
        with(
            moment_json(row.map(|row| row.at)),
            json!({ "link": link.number, "what": link.what, "control": row.map(|row| &row.control) }),
        )
    });
    json!({
        "controls": limits_json(&found.limits, live),
        "coverage": limits_json(found.uncovered.as_slice(), &|_| false),
        "late": limits_json(&[found.late], &|_| false),
        "guard": found.guard.iter().map(|alone| guard_json(alone, universe)).collect::<Vec<_>>(),
        "together": guard_json(&found.together, universe),
        "chain": chain.collect::<Vec<_>>(),
        "collar": { "orders": found.covered.orders, "not_looked_at": found.covered.without_collar },
    })
}
