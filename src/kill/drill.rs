//! Drills: what a rehearsal of the switch has shown, and what it has not. The rehearsal itself is run by the layer that has
//! threads and sockets; this judges and words it.
//!
//! ```text
//!  order ─▶ as it is judged now │ raise ─▶ every gate and session confirms ─▶ latch on disk │ order ─▶ denied by the mode
//!                                                                                           ▼
//!          latch without it on disk ◀─ order ─▶ judged as before ◀─ lowered, if nothing was raised in between
//! ```
//!
//! Under a wider halt, as when the firm has been halted for days and its re-arm asks for a drill, the same is done to a scope that is
//! normal itself. A drill raises and lowers the word of that one scope, by the epoch of its own press, and touches no other: the wider
//! halt is in force before, during and after it, so no order can get through because of it. What the wider halt hides, that
//! this one denies an order, is looked for in the engine; without that it does not pass. (Waiving the drill instead would let the
//! switch go unrehearsed just after it was needed.)

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::kill::words::{ScopeName, rfc3339};
use crate::model::Rule;

/// How the order of a rehearsal was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// It was admitted.
    Admitted,
    /// It was denied by the rule with this name, at this scope.
    Denied {
        /// Which rule.
        rule: String,
        /// Where the limit, or the mode, stands.
        at: ScopeName,
    },
    /// There was no answer, or no way to send one; why.
    Unknown(String),
}

impl core::fmt::Display for Judged {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Judged::Admitted => f.write_str("admitted"),
            Judged::Denied { rule, at } => write!(f, "denied by {rule} at {at}"),
            Judged::Unknown(why) => write!(f, "not known: {why}"),
        }
    }
}

impl Judged {
    /// Where the mode stands that denied it.
    fn mode_at(&self) -> Option<&ScopeName> {
        match self {
            Judged::Denied { rule, at } if rule == Rule::Mode.name() => Some(at),
            Judged::Admitted | Judged::Denied { .. } | Judged::Unknown(_) => None,
        }
    }

    fn is_by_mode(&self) -> bool {
        self.mode_at().is_some()
    }

    fn is_known(&self) -> bool {
        !matches!(self, Judged::Unknown(_))
    }
}

/// What became of the halt that the drill made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    /// It was lowered again, and the latch without it is on disk.
    Lowered,
    /// It was lowered again, but the latch without it is not on disk: a restart would find it halted.
    LoweredNotDurable,
    /// Somebody or something halted the scope in the meantime: that stays.
    Halted(String),
}

/// What was observed, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Never used twice: when it began, Unix ns.
    pub id: u64,
    /// What was halted.
    pub scope: ScopeName,
    /// Who rehearsed.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Whether it was run although the scope was trading.
    pub forced: bool,
    /// An order before the halt.
    pub before: Judged,
    /// The receipt of the press.
    pub receipt: u64,
    /// From the press to the page showing it, in ns.
    pub raised_ns: u64,
    /// From the press to the latch being on disk, in ns.
    pub durable_ns: Option<u64>,
    /// Gates that were attached, and how many of them confirmed.
    pub gates: (usize, usize),
    /// Sessions that were connected, besides the one that rehearses, and how many of them confirmed.
    pub sessions: (usize, usize),
    /// Whether the session that rehearses was told of the halt of this very scope and confirmed it.
    pub told: bool,
    /// Whether the engine had taken the halt, and whether it had given it up again.
    #[serde(default)]
    pub engine: (bool, bool),
    /// An order while it was halted.
    pub during: Judged,
    /// What became of the halt.
    pub left: Left,
    /// An order after it.
    pub after: Judged,
    /// How long it took, in ns.
    pub took_ns: u64,
}

/// A drill and what it is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What was observed.
    pub observed: Observed,
    /// Whether it counts as a rehearsal: nothing failed, and an order was denied because of it.
    pub passed: bool,
    /// What it has shown.
    pub proved: Vec<String>,
    /// What it has not, and why.
    pub not_proved: Vec<String>,
    /// What went wrong.
    pub failed: Vec<String>,
}

impl Report {
    /// Judges what was observed.
    #[must_use]
    pub fn of(observed: Observed) -> Report {
        let (mut proved, mut not_proved, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let o = &observed;
        proved.push(format!("the halt page showed the halt after {}", time(o.raised_ns)));
        match o.durable_ns {
            Some(ns) => proved.push(format!("the latch was on disk after {}", time(ns))),
            None => failed.push("the latch was not on disk in time".to_owned()),
        }
        for ((all, confirmed), what) in [(o.gates, "gate"), (o.sessions, "session of a gateway")] {
            match (all, confirmed) {
                (0, _) => not_proved.push(format!("that a {what} obeys: none was connected")),
                (all, confirmed) if confirmed < all => {
                    failed.push(format!("{} of {all} confirmed: {confirmed}", plural(what)));
                }
                (all, _) => proved.push(format!("all of {all} {} confirmed", plural(what))),
            }
        }
        match (&o.during, &o.before) {
            (Judged::Unknown(why), _) => {
                let text = format!("that an order is denied while it is halted: {why}");
                // It was possible before, so it should have been now.
                if o.before.is_known() { failed.push(text) } else { not_proved.push(text) }
            }
            (during, before) if during.is_by_mode() && before.is_by_mode() => {
                proved.push(format!("an order was {during}"));
                not_proved.push(format!("that it was this halt that denied it: before, an order was {before} as well"));
            }
            (during, _) if during.is_by_mode() => proved.push(format!("an order was {during}, while it was halted")),
            (during, _) => failed.push(format!("while it was halted an order was {during}")),
        }
        if o.during.mode_at().is_some_and(|at| *at != o.scope) {
            // A wider halt denies every order in any case: what this one does has to be seen in who judges them.
            match (o.engine, &o.left) {
                ((true, true), _) => proved.push(format!(
                    "the engine, which judges orders, had the halt of {} and gave it up with the re-arm",
                    o.scope
                )),
                ((false, _), _) => failed.push(format!("the engine did not take the halt of {}", o.scope)),
                ((true, false), Left::Lowered | Left::LoweredNotDurable) => {
                    failed.push(format!("the engine has the halt of {} after it was lowered", o.scope));
                }
                ((true, false), Left::Halted(_)) => {}
            }
        }
        if o.during.is_known() && !o.told {
            failed.push("the session that rehearses was not told of the halt".to_owned());
        }
        match &o.left {
            Left::Lowered => {
                proved.push("it was lowered again, and the latch without it is on disk".to_owned());
                match (&o.before, &o.after) {
                    (before, after) if before.is_known() && before == after => {
                        proved.push(format!("an order is judged as before: {after}"));
                    }
                    (before, after) if before.is_known() => {
                        failed.push(format!("an order was {before} before, and {after} after it"));
                    }
                    (_, _) => not_proved.push("that an order is judged as before".to_owned()),
                }
            }
            Left::LoweredNotDurable => {
                failed.push(
                    "it was lowered again, but the latch without it is not on disk: a restart finds it halted"
                        .to_owned(),
                );
            }
            Left::Halted(why) => not_proved.push(format!("the way back: {why}, and that stays")),
        }
        if !matches!(o.before, Judged::Admitted) && o.before.is_known() {
            not_proved.push(format!("that an order is admitted outside a halt: it was {}", o.before));
        }
        let passed = failed.is_empty() && o.during.is_by_mode() && o.left == Left::Lowered;
        Report { observed, passed, proved, not_proved, failed }
    }

    /// The report as a page for people.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let o = &self.observed;
        let mut out = String::new();
        let verdict = if self.passed { "passed" } else { "NOT passed" };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# Drill {}: {verdict}\n", o.id);
        let _ = writeln!(out, "- scope: {}", o.scope);
        let _ = writeln!(out, "- by: {}, {}", o.by, o.reason.replace(['\n', '\r'], " "));
        let _ = writeln!(out, "- began: {}, took {}", rfc3339(o.id), time(o.took_ns));
        let forced = if o.forced { "yes, although it was trading" } else { "no" };
        let _ = writeln!(out, "- forced: {forced}\n- receipt: {}", o.receipt);
        for (title, list) in [("Failed", &self.failed), ("Proved", &self.proved), ("Not proved", &self.not_proved)] {
            if !list.is_empty() {
                let _ = writeln!(out, "\n## {title}\n");
            }
            for line in list {
                let _ = writeln!(out, "- {line}");
            }
        }
        out
    }
}

fn plural(what: &str) -> String {
    match what.split_once(' ') {
        Some((first, rest)) => format!("{first}s {rest}"),
        None => format!("{what}s"),
    }
}

fn time(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{} µs", ns / 1_000),
        _ => format!("{} ms", ns / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firm() -> ScopeName {
        ScopeName { kind: "firm".into(), name: String::new() }
    }

    fn by(rule: &str) -> Judged {
        Judged::Denied { rule: rule.into(), at: firm() }
    }

    fn good() -> Observed {
        Observed {
            id: 1_343_827_800_000_000_000,
            scope: firm(),
            by: "rita".into(),
            reason: "monthly".into(),
            forced: false,
            before: Judged::Admitted,
            receipt: 7,
            raised_ns: 900,
            durable_ns: Some(3_000_000),
            gates: (2, 2),
            sessions: (1, 1),
            told: true,
            engine: (true, true),
            during: by("mode"),
            left: Left::Lowered,
            after: Judged::Admitted,
            took_ns: 20_000_000,
        }
    }

    #[test]
    fn a_drill_that_shows_everything_passes_and_says_what_it_showed() {
        let report = Report::of(good());
        assert!(report.passed && report.failed.is_empty() && report.not_proved.is_empty(), "{report:?}");
        let page = report.to_markdown();
        assert!(page.starts_with("# Drill 1343827800000000000: passed\n"), "{page}");
        assert!(page.contains("2012-08-01T13:30") && page.contains("all of 2 gates confirmed"), "{page}");
    }

    #[test]
    fn whatever_fails_makes_it_fail() {
        type Spoil = fn(&mut Observed);
        let spoil: [Spoil; 9] = [
            |o| o.durable_ns = None,
            |o| o.gates = (2, 1),
            |o| o.sessions = (1, 0),
            |o| o.told = false,
            |o| o.during = Judged::Admitted,
            |o| o.during = by("order_qty"),
            |o| o.during = Judged::Unknown("no answer".into()),
            |o| o.after = by("order_qty"),
            |o| o.left = Left::LoweredNotDurable,
        ];
        for (n, spoil) in spoil.into_iter().enumerate() {
            let mut observed = good();
            spoil(&mut observed);
            let report = Report::of(observed);
            assert!(!report.passed && report.failed.len() == 1, "{n}: {report:?}");
            assert!(report.to_markdown().contains("NOT passed"));
        }
    }

    #[test]
    fn what_could_not_be_tried_is_not_proved_and_is_no_rehearsal() {
        let mut alone = good();
        (alone.gates, alone.sessions) = ((0, 0), (0, 0));
        let report = Report::of(alone);
        assert!(report.passed, "the order was denied all the same");
        assert_eq!(report.not_proved.len(), 2, "{report:?}");
        let mut silent = good();
        silent.before = Judged::Unknown("no session to rehearse with".into());
        (silent.during, silent.after) = (silent.before.clone(), silent.before.clone());
        let report = Report::of(silent);
        assert!(!report.passed && report.failed.is_empty(), "{report:?}");
        // Denied before, during and after: by the halt only during.
        let mut denied = good();
        (denied.before, denied.after) = (by("order_qty"), by("order_qty"));
        assert!(Report::of(denied.clone()).passed);
        (denied.before, denied.after) = (by("mode"), by("mode"));
        let report = Report::of(denied);
        assert!(report.passed && report.not_proved.iter().any(|line| line.contains("this halt")), "{report:?}");
    }

    #[test]
    fn under_a_wider_halt_it_counts_if_the_engine_had_this_one_too_and_gave_it_up() {
        let mut under = good();
        under.scope = ScopeName { kind: "strategy".into(), name: "drill".into() };
        (under.before, under.after) = (by("mode"), by("mode"));
        let report = Report::of(under.clone());
        assert!(report.passed && report.proved.iter().any(|line| line.contains("gave it up")), "{report:?}");
        assert!(report.not_proved.iter().any(|line| line.contains("this halt")), "{report:?}");
        for engine in [(false, false), (true, false), (false, true)] {
            let report = Report::of(Observed { engine, ..under.clone() });
            assert!(!report.passed && report.failed.len() == 1, "the wider halt alone shows nothing: {report:?}");
        }
        let report = Report::of(Observed { told: false, ..under });
        assert!(!report.passed && report.failed.len() == 1, "{report:?}");
    }

    #[test]
    fn a_real_halt_in_between_stays_and_is_no_pass() {
        let mut halted = good();
        halted.left = Left::Halted("olaf: stop".into());
        halted.after = by("mode");
        let report = Report::of(halted);
        assert!(!report.passed && report.failed.is_empty(), "{report:?}");
        assert!(report.to_markdown().contains("olaf: stop, and that stays"));
    }
}
