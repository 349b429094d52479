//! A replay as a page: tables and plots in one file that needs nothing else.

use std::fmt::Write as _;

use haltline::app::replay::Replay;
use haltline::journal::tally::{Sample, Tally};
use haltline::kill::words::rfc3339;
use haltline::limits::UNLIMITED;
use haltline::model::Rule;
use haltline::units::format_decimal;

use super::replay::{end_text, number, scope_text};

const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:2em;max-width:75em;color:#222;background:#fff}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.over{color:#b00;font-weight:600}\
svg{background:#fafafa;border:1px solid #ddd;margin:.3em .6em .3em 0}h2{margin-top:1.6em}";

/// The page.
pub fn page(replay: &Replay, rows: usize) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>haltline replay</title><style>{STYLE}</style>\
         <h1>haltline replay</h1><p>{} events, {} effects; the journal {}; {} checks of the run fit.</p>",
        replay.progress.events,
        replay.progress.effects,
        escape(&end_text(&replay.end)),
        replay.checks
    );
    let _ = write!(out, "<h2>As it was</h2>");
    tally(&mut out, &replay.was, rows);
    if let Some(would) = &replay.would {
        let _ = write!(out, "<h2>Under the other limits</h2>");
        tally(&mut out, would, rows);
    }
    out.push_str("</html>\n");
    out
}

/// `text` as it may stand in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn tally(out: &mut String, t: &Tally, rows: usize) {
    let universe = t.universe();
    let base = |value: i64| format_decimal(value, universe.base_scale);
    plot(out, "admitted", &t.samples, |s| s.admitted as i64, |n| n.to_string());
    plot(out, "denied", &t.samples, |s| s.denied as i64, |n| n.to_string());
    plot(out, "gross exposure of the firm", &t.samples, |s| s.gross, base);
    plot(out, "loss of the firm", &t.samples, |s| s.loss, base);
    let denied: u64 = t.denied.iter().sum();
    let _ = write!(out, "<p>Admitted {}, denied {denied}, trips {}.</p>", t.admitted, t.trips_total);
    if denied > 0 {
        out.push_str("<table><tr><th>denied by<th>times</tr>");
        for rule in Rule::ALL.into_iter().filter(|rule| t.denied[*rule as usize] > 0) {
            let _ = write!(out, "<tr><td>{}<td class=n>{}</tr>", rule.name(), t.denied[rule as usize]);
        }
        out.push_str("</table>");
    }
    if !t.trips.is_empty() {
        out.push_str("<table><tr><th>trip at<th>scope<th>mode<th>rule<th>observed<th>limit<th>record</tr>");
        for seen in t.trips.iter().take(rows) {
            let cause = &seen.trip.cause;
            let _ = write!(
                out,
                "<tr><td>{}<td>{}<td>{}<td>{}<td class=n>{}<td class=n>{}<td class=n>{}</tr>",
                rfc3339(seen.at.0),
                escape(&scope_text(universe, seen.trip.scope)),
                seen.trip.mode.name(),
                cause.rule.name(),
                number(universe, cause.rule, cause.scope, cause.observed),
                number(universe, cause.rule, cause.scope, cause.limit),
                seen.cell
            );
        }
        out.push_str("</table>");
    }
    out.push_str("<table><tr><th>tightest limits<th>rule<th>peak<th>limit<th>used<th>at</tr>");
    for h in t.headroom().iter().filter(|h| h.limit < UNLIMITED).take(rows) {
        let percent = h.percent().unwrap_or(0.0);
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td class=n>{}<td class=n>{}<td class=\"n{}\">{percent:.1} %<td>{}</tr>",
            escape(&scope_text(universe, h.scope)),
            h.rule.name(),
            number(universe, h.rule, h.scope, h.peak.observed),
            number(universe, h.rule, h.scope, h.limit),
            if percent > 100.0 { " over" } else { "" },
            rfc3339(h.peak.at.0)
        );
    }
    out.push_str("</table>");
}

/// One line over time.
fn plot(out: &mut String, what: &str, samples: &[Sample], of: impl Fn(&Sample) -> i64, show: impl Fn(i64) -> String) {
    const WIDTH: f64 = 420.0;
    const HEIGHT: f64 = 110.0;
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return };
    let span = (last.at.0.saturating_sub(first.at.0)).max(1) as f64;
    let least = samples.iter().map(&of).min().unwrap_or(0).min(0);
    let most = samples.iter().map(&of).max().unwrap_or(0).max(least + 1);
    let mut points = String::new();
    for sample in samples {
        let x = sample.at.0.saturating_sub(first.at.0) as f64 / span * WIDTH;
        let y = HEIGHT - (of(sample) as f64 - least as f64) / (most as f64 - least as f64) * (HEIGHT - 20.0);
        let _ = write!(points, "{x:.1},{y:.1} ");
    }
    let _ = write!(
        out,
        "<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{what}\"><text x=\"4\" y=\"14\" \
         font-size=\"12\">{what}, at most {}</text><polyline fill=\"none\" stroke=\"#06c\" stroke-width=\"1.5\" \
         points=\"{points}\"/></svg>",
        show(most)
    );
}
