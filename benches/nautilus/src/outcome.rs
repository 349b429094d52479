//! Who admits what: the stream through both engines, order by order, and a reason for every difference.

use std::collections::{BTreeMap, HashMap};

use crate::common::{Figure, Report};
use crate::orders::{CLASSES, Class, Expected, Fate, Mode, Order, Step, Timed};

/// What an engine says to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It may go out.
    Admitted,
    /// It may not, for this reason.
    Denied(String),
}

/// What a venue says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The order is working.
    Accepted,
    /// It is canceled.
    Canceled,
    /// It is filled, all of it at its price.
    Filled,
}

/// An engine that orders are put through. Times are nanoseconds since the beginning.
pub trait Subject {
    /// A new order.
    fn submit(&mut self, at: u64, order: &Order) -> Outcome;
    /// The venue's answer to an order that was admitted.
    fn answer(&mut self, at: u64, order: &Order, answer: Answer);
    /// A person's decision.
    fn set_mode(&mut self, at: u64, mode: Mode);
}

/// The outcome of every order of `stream`, in its order.
pub fn run(subject: &mut impl Subject, stream: &[Timed]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut live: Vec<&Order> = Vec::new();
    for Timed { at, step } in stream {
        match step {
            Step::Order(_, order, fate) => {
                let outcome = subject.submit(*at, order);
                if outcome == Outcome::Admitted {
                    match fate {
                        Fate::Canceled => {
                            subject.answer(*at, order, Answer::Accepted);
                            subject.answer(*at, order, Answer::Canceled);
                        }
                        Fate::Working => {
                            subject.answer(*at, order, Answer::Accepted);
                            live.push(order);
                        }
                        Fate::Unanswered => live.push(order),
                        Fate::Filled => {
                            subject.answer(*at, order, Answer::Accepted);
                            subject.answer(*at, order, Answer::Filled);
                        }
                    }
                }
                outcomes.push(outcome);
            }
            Step::CancelAll => {
                for order in live.drain(..) {
                    subject.answer(*at, order, Answer::Canceled);
                }
            }
            Step::Mode(mode) => subject.set_mode(*at, *mode),
        }
    }
    outcomes
}

/// What one engine did with the orders of a class.
#[derive(Debug, Default)]
struct Tally {
    admitted: usize,
    /// By reason.
    denied: BTreeMap<String, usize>,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Admitted => self.admitted += 1,
            Outcome::Denied(reason) => *self.denied.entry(reason.clone()).or_default() += 1,
        }
    }

    fn denied(&self) -> usize {
        self.denied.values().sum()
    }

    fn reasons(&self) -> String {
        self.denied.iter().map(|(reason, n)| format!("{n} × {reason}")).collect::<Vec<_>>().join(", ")
    }
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    class: &'static Class,
    ours: Tally,
    theirs: Tally,
    /// One admitted what the other denied.
    differ: usize,
    /// Orders whose outcome, or the pair of outcomes, is not what the class says.
    unexplained: Vec<String>,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Row>,
}

fn is_expected(expected: Expected, outcome: &Outcome) -> bool {
    match (expected, outcome) {
        (Expected::Admit | Expected::Limit(_), Outcome::Admitted) => true,
        (Expected::Deny(reason) | Expected::Limit(reason), Outcome::Denied(given)) => reason == given,
        (Expected::Admit, Outcome::Denied(_)) | (Expected::Deny(_), Outcome::Admitted) => false,
    }
}

impl Table {
    /// Puts the outcomes of `stream` beside each other.
    pub fn new(stream: &[Timed], ours: &[Outcome], theirs: &[Outcome]) -> Table {
        let mut rows: Vec<Row> = CLASSES
            .iter()
            .map(|class| Row {
                class,
                ours: Tally::default(),
                theirs: Tally::default(),
                differ: 0,
                unexplained: Vec::new(),
            })
            .collect();
        let place: HashMap<&str, usize> = CLASSES.iter().enumerate().map(|(i, class)| (class.name, i)).collect();
        let orders = stream.iter().filter_map(|timed| match &timed.step {
            Step::Order(class, order, _) => Some((*class, order)),
            Step::CancelAll | Step::Mode(_) => None,
        });
        for ((class, order), (ours, theirs)) in orders.zip(ours.iter().zip(theirs)) {
            let row = &mut rows[place[class.name]];
            row.ours.add(ours);
            row.theirs.add(theirs);
            let differs = (*ours == Outcome::Admitted) != (*theirs == Outcome::Admitted);
            row.differ += usize::from(differs);
            let expected = is_expected(class.ours, ours) && is_expected(class.theirs, theirs);
            if !expected || (differs && class.why.is_empty()) {
                row.unexplained.push(format!("{order:?}: haltline {ours:?}, nautilus-risk {theirs:?}"));
            }
        }
        Table { rows }
    }

    /// How many outcomes have no explanation.
    pub fn unexplained(&self) -> usize {
        self.rows.iter().map(|row| row.unexplained.len()).sum()
    }

    /// For people.
    pub fn print(&self) {
        let orders: usize = self.rows.iter().map(|row| row.ours.admitted + row.ours.denied()).sum();
        println!("The same {orders} orders through both; admitted / denied");
        println!("{:<38} {:>12} {:>14} {:>7}", "orders that are", "haltline", "nautilus-risk", "differ");
        for row in &self.rows {
            let count = |tally: &Tally| format!("{} / {}", tally.admitted, tally.denied());
            let (ours, theirs) = (count(&row.ours), count(&row.theirs));
            println!("{:<38} {ours:>12} {theirs:>14} {:>7}", row.class.name, row.differ);
        }
        println!("\nReasons");
        for row in self.rows.iter().filter(|row| row.ours.denied() + row.theirs.denied() > 0) {
            println!("{}", row.class.name);
            for (name, tally) in [("haltline", &row.ours), ("nautilus-risk", &row.theirs)] {
                let reasons = if tally.denied.is_empty() { "–".into() } else { tally.reasons() };
                println!("    {name:<14} {reasons}");
            }
        }
        println!("\nWhere they differ, and why");
        for row in self.rows.iter().filter(|row| row.differ > 0) {
            println!("{}: {}", row.class.name, if row.class.why.is_empty() { "NOT EXPLAINED" } else { row.class.why });
        }
        for text in self.rows.iter().flat_map(|row| &row.unexplained).take(20) {
            println!("NOT EXPLAINED: {text}");
        }
        println!();
    }

    /// For programs: every count as a figure.
    pub fn report(&self, report: &mut Report) {
        let mut count = |name: String, n: usize| {
            report.add(Figure { name, unit: "orders", value: n as f64, percentiles: Vec::new(), floor: None });
        };
        for row in &self.rows {
            let class = row.class.name;
            for (name, tally) in [("haltline", &row.ours), ("nautilus-risk", &row.theirs)] {
                count(format!("outcome, {class}: {name} admits"), tally.admitted);
                for (reason, n) in &tally.denied {
                    count(format!("outcome, {class}: {name} denies, {reason}"), *n);
                }
            }
            count(format!("outcome, {class}: differ"), row.differ);
        }
        count("outcomes that are not explained".into(), self.unexplained());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::stream;

    /// The table of the first order of `class`, with these outcomes.
    fn table(class: &str, ours: Outcome, theirs: Outcome) -> Table {
        let all = stream(1, 1);
        let of = |timed: &&Timed| matches!(&timed.step, Step::Order(c, _, _) if c.name == class);
        let one = all.iter().find(of).expect("an order of every class").clone();
        Table::new(&[one], &[ours], &[theirs])
    }

    fn denied(reason: &str) -> Outcome {
        Outcome::Denied(reason.into())
    }

    #[test]
    fn difference_is_explained_only_where_the_class_says_why() {
        let far = "price far from the market";
        assert_eq!(table(far, denied("collar"), Outcome::Admitted).unexplained(), 0);
        assert_eq!(table(far, Outcome::Admitted, denied("collar")).unexplained(), 1);
        assert_eq!(table(far, denied("order_qty"), Outcome::Admitted).unexplained(), 1);
        assert_eq!(table("fine", denied("collar"), Outcome::Admitted).unexplained(), 1);
    }

    #[test]
    fn limit_that_is_reached_at_another_order_is_not_explained() {
        let class = "rate exceeded";
        let (ours, theirs) = (denied("order_rate"), denied("REJECTED BY THROTTLER"));
        assert_eq!(table(class, ours.clone(), theirs).unexplained(), 0);
        assert_eq!(table(class, Outcome::Admitted, Outcome::Admitted).unexplained(), 0);
        assert_eq!(table(class, ours, Outcome::Admitted).unexplained(), 1);
    }

    #[test]
    fn stream_has_orders_of_every_class_and_is_the_same_every_time() {
        let steps = stream(5, 2);
        for class in CLASSES {
            assert!(steps.iter().any(|t| matches!(&t.step, Step::Order(c, _, _) if c.name == class.name)), "{class:?}");
        }
        assert_eq!(format!("{steps:?}"), format!("{:?}", stream(5, 2)));
        assert_ne!(format!("{steps:?}"), format!("{:?}", stream(6, 2)));
    }
}
