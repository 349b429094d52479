//! haltline beside nautilus-risk: the same orders through both, in the same run. First who admits what, and why where they
//! differ; then what it costs.
//!
//! `cargo run --release --manifest-path benches/nautilus/Cargo.toml -- [--quick] [--json] [--only=N]` from the top; with
//! `--only` the N-th working set alone. `tests/run --compare` is the quick one, with the tests.
//!
//! What is compared: haltline's engine step with nautilus-risk's submit path, each called as its own service calls it,
//! without transport, decoding, logging or a venue, on one thread. Both have the same limits as far as both know them: largest
//! quantity and value of an order, orders per time, what the account may have outstanding, the state of trading; haltline
//! has a collar too, and in the rows "every limit" every rule at every scope.
//!
//! What one does in its call and the other does not, and what the cost therefore includes:
//!
//! - haltline books the order: leaves and exposure of its pair, account, strategy, instrument and firm, rates, ids. The next order
//!   is judged with this one counted. It looks at the stream's sequence and at stale references.
//! - nautilus-risk calculates margin, for which it sums the working orders of the instrument, and moves the command on to
//!   the execution engine's endpoint, here a box. Its booking is done elsewhere. The rows "with booking" include the cache,
//!   those "new to canceled" also what the cache does with the venue's answers; the portfolio's work, which locks margin with
//!   every answer, is in none.
//!
//! What favours nautilus-risk: the account has no history and no margin locked (it is copied with every order); money and
//! quantities have 64 bits (the feature `high-precision` would make them 128); one strategy, one venue, no position.
//!
//! Not compared: replaces, order lists, and orders flagged reduce-only (nautilus-risk looks at the quantity for those, if
//! they name a position; haltline has no such flag, it has modes).
//!
//! Ends with 1 if an outcome has no explanation.

#[path = "../../common/mod.rs"]
mod common;
mod cost;
mod orders;
mod ours;
mod outcome;
mod theirs;

use common::{Args, Report, machine};
use outcome::Table;

/// Seed of the stream of orders.
const SEED: u64 = 20120801;

/// The outcomes of the stream that `seed` makes, `each` orders of a class or more.
fn compare(seed: u64, each: usize) -> Table {
    let stream = orders::stream(seed, each);
    let setup = orders::setup();
    let ours = outcome::run(&mut ours::Haltline::new(&setup, ours::Armed::Same, 1_000), &stream);
    let theirs = outcome::run(&mut theirs::Nautilus::new(&setup, theirs::Account::Margin), &stream);
    Table::new(&stream, &ours, &theirs)
}

fn main() {
    let args = Args::parse();
    let table = compare(SEED, if args.quick { 20 } else { 200 });
    if !args.json {
        table.print();
    }
    let includes = format!("one new order, admitted; nautilus-risk 0.57.0; {}", machine());
    let mut report = Report::new("nautilus", args, &includes);
    if args.json {
        table.report(&mut report);
    }
    cost::run(&mut report, args);
    report.finish();
    if table.unexplained() > 0 {
        eprintln!("{} outcomes are not explained", table.unexplained());
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_difference_has_an_explanation_whatever_the_seed() {
        for seed in 1..=20 {
            let table = super::compare(seed, 10);
            assert_eq!(table.unexplained(), 0, "seed {seed}: {table:?}");
        }
    }
}
