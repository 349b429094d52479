//! What `kill --wait-flat` and `--follow` do: look at the receipt until no order works, or what is left will not end by itself.

use std::io::Write as _;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use super::client::{Door, ask};
use super::plain;

/// How often the receipt is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long what is left may be the same before it counts as the end: a session may just be coming back.
const SETTLED: Duration = Duration::from_secs(1);

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Followed {
    /// The receipt's part about cancels, as last seen.
    pub flat: Value,
    /// Whether no order works any more.
    pub is_flat: bool,
    /// Why it was given up, if not because it is flat.
    pub why: Option<String>,
}

/// Looks at receipt `id` through `door` for at most `most`. Tells the progress on standard error, line by line.
pub fn until_flat(door: &Door, id: &str, most: Duration) -> Followed {
    let (begin, mut told, mut flat, mut settled) = (Instant::now(), String::new(), Value::Null, None);
    let path = format!("/v1/kills/{id}");
    loop {
        let failed = match ask(door, Method::GET, &path, None, PATIENCE) {
            Ok(Ok(receipt)) => {
                flat = receipt["flat"].clone();
                None
            }
            Ok(Err(failure)) => Some(failure.text().to_owned()),
            Err(error) => Some(format!("{error:#}")),
        };
        let line = failed.unwrap_or_else(|| progress(&flat));
        if line != told {
            // Nobody may be listening; the exit code says it too.
            let _ = writeln!(std::io::stderr(), "{}", plain(&line).trim_end());
            told = line;
        }
        let status = flat["status"].as_str().unwrap_or("unknown");
        let end = |is_flat, why: Option<String>| Followed { flat: flat.clone(), is_flat, why };
        match status {
            "flat" => return end(true, None),
            "re_armed" => return end(false, Some("the scope was re-armed: the rest is left alone".to_owned())),
            "not_canceled" => return end(false, Some("this halt cancels nothing".to_owned())),
            "remainder" => {
                let since = *settled.get_or_insert_with(Instant::now);
                if since.elapsed() >= SETTLED.min(most) {
                    return end(false, Some(format!("what is left does not end by itself: {}", names(&flat))));
                }
            }
            _ => settled = None,
        }
        if begin.elapsed() >= most {
            return end(false, Some(format!("not flat after {} s", most.as_secs())));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One line: how many are left, and why.
pub fn progress(flat: &Value) -> String {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    match flat["status"].as_str() {
        Some("flat") => {
            let after = flat["flat_ns"].as_u64().map(|ns| format!(" after {} ms", ns / 1_000_000)).unwrap_or_default();
            let (canceled, filled) = (count(&flat["ended"]["canceled"]), count(&flat["ended"]["filled"]));
            format!("FLAT{after}: no order works ({canceled} canceled, {filled} filled meanwhile)")
        }
        Some(status @ ("canceling" | "remainder" | "re_armed")) => {
            let states = ["untold", "instructed", "requested", "refused", "unanswered", "unknown"];
            let by_state: Vec<String> = states
                .into_iter()
                .map(|state| (state, count(&flat["by_state"][state])))
                .filter(|(_, count)| *count > 0)
                .map(|(state, count)| format!("{count} {state}"))
                .collect();
            let (left, of) = (count(&flat["residual"]), count(&flat["orders_at_halt"]));
            format!("{}: {left} of {of} orders work: {}", status.replace('_', "-"), by_state.join(", "))
        }
        Some("not_begun") => "not begun: the engine has not heard of the halt yet".to_owned(),
        Some("not_canceled") => "orders that work stay as they are".to_owned(),
        Some(_) | None => "how far the cancels are is not known".to_owned(),
    }
}

/// The orders that are left, as far as they are named.
fn names(flat: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let Some(orders) = flat["remainder"].as_array() else { return "the orders are not known by name".to_owned() };
    let named: Vec<String> = orders
        .iter()
        .map(|order| format!("{} {} ({})", text(&order["session"]), text(&order["id"]), text(&order["state"])))
        .collect();
    let more = flat["residual"].as_u64().unwrap_or(0).saturating_sub(orders.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_is_told_by_state_and_by_name_and_nothing_unknown_is_flat() {
        let mut flat = json!({
            "status": "remainder", "residual": 3, "orders_at_halt": 9,
            "by_state": { "refused": 2, "unknown": 1, "untold": 0 },
            "remainder": [{ "session": "gw-1", "id": "A-1", "state": "refused" }],
        });
        assert_eq!(progress(&flat), "remainder: 3 of 9 orders work: 2 refused, 1 unknown");
        assert_eq!(names(&flat), "gw-1 A-1 (refused) and 2 more");
        flat["status"] = json!("flat");
        flat["flat_ns"] = json!(12_000_000);
        flat["ended"] = json!({ "canceled": 5, "filled": 4 });
        assert_eq!(progress(&flat), "FLAT after 12 ms: no order works (5 canceled, 4 filled meanwhile)");
        assert_eq!(progress(&Value::Null), "how far the cancels are is not known");
    }
}
