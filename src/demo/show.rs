//! What the demo shows on a terminal: lines, a table, a progress bar. Colour only where a person looks.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A colour, used sparsely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// No colour.
    Plain,
    /// Something was stopped.
    Halt,
    /// All is well.
    Good,
    /// Something goes wrong.
    Bad,
    /// Less important.
    Faint,
}

/// Standard output for people, or for a program.
#[derive(Debug)]
pub struct Screen {
    /// Nothing is printed but the one JSON object at the end.
    json: bool,
    colour: bool,
    bar: ProgressBar,
}

impl Screen {
    /// A screen on standard output; its progress bar is on standard error and only there if that is a terminal.
    #[must_use]
    pub fn new(json: bool) -> Screen {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let colour = std::io::stdout().is_terminal() && !no_colour;
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        bar.finish_and_clear();
        Screen { json, colour, bar }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        if !self.json {
            // A reader that has gone away (`| head`) is no reason to stop a service.
            self.bar.suspend(|| drop(writeln!(std::io::stdout(), "{text}")));
        }
    }

    /// Prints the one object that `--json` asks for.
    pub fn object(&self, json: &str) {
        if self.json {
            self.bar.suspend(|| drop(writeln!(std::io::stdout(), "{json}")));
        }
    }

    /// `text` in a colour.
    #[must_use]
    pub fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Halt => "1;33",
            Ink::Good => "32",
            Ink::Bad => "31",
            Ink::Faint => "2",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints a line of the timeline: scenario time, a word, what happened.
    pub fn event(&self, at_ns: u64, ink: Ink, word: &str, text: &str) {
        let word = self.ink(ink, &format!("{word:<5}"));
        self.line(&format!("  {:>10}  {word}  {text}", at(at_ns)));
    }

    /// Starts the progress bar anew, for `len` units of work.
    pub fn start_bar(&self, len: u64, what: &str) {
        let style = ProgressStyle::with_template("  {msg:<28} [{bar:40}] {pos}/{len}");
        self.bar.reset();
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        self.bar.set_length(len);
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    /// The bar, for a thread that works.
    #[must_use]
    pub fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    /// So much of the work is done.
    pub fn bar_at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// The work is done.
    pub fn end_bar(&self) {
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }

    /// Prints a table: the header faint, columns as wide as they must be, those in `right` to the right.
    pub fn table<const N: usize>(&self, header: [&str; N], right: [bool; N], rows: &[[String; N]]) {
        let mut widths = header.map(|h| h.chars().count());
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let format = |cells: &[&str]| {
            let mut line = String::from(" ");
            for ((cell, width), right) in cells.iter().zip(widths).zip(right) {
                line.push(' ');
                line.push_str(&if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
                line.push(' ');
            }
            line.trim_end().to_owned()
        };
        self.line(&self.ink(Ink::Faint, &format(&header)));
        for row in rows {
            self.line(&format(&row.each_ref().map(String::as_str)));
        }
    }
}

/// A scenario time: `t+0.212s`, `t+12m05s` from ten minutes on.
#[must_use]
pub fn at(ns: u64) -> String {
    let ms = ns / 1_000_000;
    if ms < 600_000 {
        format!("t+{}.{:03}s", ms / 1_000, ms % 1_000)
    } else {
        format!("t+{}m{:02}s", ms / 60_000, ms / 1_000 % 60)
    }
}

/// Dollars to three digits or so: `$310`, `$12.3k`, `$1.2M`, `$6.7bn`. Cents are in the input only.
#[must_use]
pub fn usd(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let dollars = cents.unsigned_abs() / 100;
    let (unit, suffix) = match dollars {
        0..1_000 => return format!("{sign}${dollars}"),
        1_000..1_000_000 => (1_000, "k"),
        1_000_000..1_000_000_000 => (1_000_000, "M"),
        _ => (1_000_000_000, "bn"),
    };
    let tenths = dollars * 10 / unit;
    if tenths >= 1_000 {
        format!("{sign}${}{suffix}", tenths / 10)
    } else {
        format!("{sign}${}.{}{suffix}", tenths / 10, tenths % 10)
    }
}

/// A count with its digits in groups: `4,000,000`.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A length of time: `400us`, `5ms`, `1s`, `1.5s`, `2m`.
#[must_use]
pub fn span(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{}us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        _ if ns.is_multiple_of(60_000_000_000) => format!("{}m", ns / 60_000_000_000),
        _ if ns.is_multiple_of(1_000_000_000) => format!("{}s", ns / 1_000_000_000),
        _ => format!("{}.{}s", ns / 1_000_000_000, ns / 100_000_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_people_read_them() {
        assert_eq!([count(7), count(1_481), count(4_000_000)], ["7", "1,481", "4,000,000"]);
        let shown = [0, 99_999, 12_345_600, -125_000_000, 99_900_000_000, 665_000_000_000].map(usd);
        assert_eq!(shown, ["$0", "$999", "$123k", "-$1.2M", "$999M", "$6.6bn"]);
        assert_eq!([at(212_000_000), at(599_999_000_000), at(725_000_000_000)], ["t+0.212s", "t+599.999s", "t+12m05s"]);
        let spans = [400_000, 5_000_000, 1_000_000_000, 1_500_000_000, 120_000_000_000].map(span);
        assert_eq!(spans, ["400us", "5ms", "1s", "1.5s", "2m"]);
    }
}
