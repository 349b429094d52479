//! Preflight: on one page, whether this fleet may open.

use serde::Serialize;

/// What came of one check. Ascending: the page is as bad as its worst line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// Worth a look; it does not stand in the way.
    Note,
    /// The fleet may not open.
    Fail,
}

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: `builds`, `flags`, `limits` …
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// What was seen, in one sentence.
    pub text: String,
}

/// The page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// Whether every check allows it.
    pub may_open: bool,
    /// When it was made, RFC 3339.
    pub at: String,
    /// All checks.
    pub checks: Vec<Check>,
}

impl Check {
    /// A line: `Fail` with each of `faults` if there are any, else `Pass` with `good`.
    #[must_use]
    pub fn of(name: &'static str, faults: &[String], good: impl Into<String>) -> Check {
        if faults.is_empty() {
            Check { name, outcome: Outcome::Pass, text: good.into() }
        } else {
            Check { name, outcome: Outcome::Fail, text: faults.join("; ") }
        }
    }

    /// A line that is worth a look.
    #[must_use]
    pub fn note(name: &'static str, text: impl Into<String>) -> Check {
        Check { name, outcome: Outcome::Note, text: text.into() }
    }
}

impl Preflight {
    /// The page of `checks`, made at `at`. Without a check nothing may open: a page that nobody filled in says nothing.
    #[must_use]
    pub fn of(at: String, checks: Vec<Check>) -> Preflight {
        let may_open = !checks.is_empty() && checks.iter().all(|check| check.outcome < Outcome::Fail);
        Preflight { may_open, at, checks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_check_or_none_at_all_keeps_the_fleet_shut() {
        let pass = Check::of("builds", &[], "all approved");
        let note = Check::note("drill", "none recorded");
        let fail = Check::of("halts", &["firm is halted".into(), "session gw-1 is halted".into()], "none");
        assert_eq!(fail.text, "firm is halted; session gw-1 is halted");
        let opens =
            |checks: &[&Check]| Preflight::of(String::new(), checks.iter().copied().cloned().collect()).may_open;
        assert!(opens(&[&pass]) && opens(&[&pass, &note]));
        assert!(!opens(&[&pass, &note, &fail]) && !opens(&[]));
    }
}
