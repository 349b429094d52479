//! Sections `[guard.signatures]` and `[guard.peers]`: what is told of texts, and when an instance is far from its peers.

use core::fmt::Write as _;
use core::time::Duration;

use super::file::WEEK_NS;
use super::print::{list, quoted};
use super::reader::{NAME_RULE, Reader, format_duration, is_name};
use crate::guard::peers::{Measure, PeerOptions};
use crate::guard::signatures::SignatureOptions;
use crate::guard::watch::WatchOptions;
use crate::kill::alerts::Severity;

const SECOND_NS: u64 = 1_000_000_000;
/// The longest part of a text that can be named as critical.
const PART_MAX: usize = 256;

const SEVERITIES: [(&str, Severity); 3] = [
    (Severity::Info.name(), Severity::Info),
    (Severity::Warning.name(), Severity::Warning),
    (Severity::Critical.name(), Severity::Critical),
];

/// Reads both sections out of `[guard]`.
pub(super) fn read(guard: &mut Reader<'_>) -> WatchOptions {
    let mut options = WatchOptions::default();
    if let Some(mut table) = guard.table("signatures") {
        read_signatures(&mut table, &mut options);
        table.finish();
    }
    if let Some(mut table) = guard.table("peers") {
        read_peers(&mut table, &mut options.peers);
        table.finish();
    }
    options
}

fn read_signatures(table: &mut Reader<'_>, options: &mut WatchOptions) {
    let signatures = &mut options.signatures;
    if let Some(ns) = table.get("learn").and_then(|f| f.duration(0, 8 * WEEK_NS)) {
        signatures.learn = Duration::from_nanos(ns);
    }
    if let Some(severity) = table.get("new").and_then(|f| f.word(&SEVERITIES)) {
        signatures.new = severity;
    }
    for (part, field) in table.get("critical").and_then(|f| f.strings()).unwrap_or_default() {
        if part.trim().is_empty() || part.len() > PART_MAX {
            field.refuse(format!("must be a part of a text, of 1 to {PART_MAX} bytes"));
        }
        signatures.critical.push(part.to_owned());
    }
    let mut number = |key, place: &mut u32, max| {
        if let Some(n) = table.get(key).and_then(|f| f.integer(1, max)) {
            *place = n as u32;
        }
    };
    number("factor", &mut signatures.factor, 1_000);
    number("rate_min", &mut signatures.rate_min, 1_000_000);
    number("per_second", &mut signatures.per_second, 100_000);
    let mut kept = signatures.kept as u32;
    number("kept", &mut kept, 65_536);
    signatures.kept = kept as usize;
    options.signatures_owner = table.get("owner").and_then(|f| {
        let owner = f.string()?;
        if !is_name(owner) {
            f.refuse(NAME_RULE);
        }
        Some(owner.to_owned())
    });
}

fn read_peers(table: &mut Reader<'_>, peers: &mut PeerOptions) {
    let mut span = |key, place: &mut Duration, min, max| {
        if let Some(ns) = table.get(key).and_then(|f| f.duration(min, max)) {
            *place = Duration::from_nanos(ns);
        }
    };
    // A sample every quarter of a second; rates over less say nothing.
    span("window", &mut peers.window, SECOND_NS / 2, 60 * SECOND_NS);
    span("hold", &mut peers.hold, SECOND_NS / 2, 600 * SECOND_NS);
    span("quiet", &mut peers.quiet.window, SECOND_NS, 3_600 * SECOND_NS);
    span("share_window", &mut peers.share.window, 10 * SECOND_NS, 3_600 * SECOND_NS);
    if peers.hold <= peers.window {
        let rule = format!(
            "must be longer than window = \"{}\": a burst is in every rate for that long",
            format_duration(peers.window.as_nanos() as u64)
        );
        match table.get("hold") {
            Some(field) => field.refuse(rule),
            None => table.errors.missing(&table.spot, "hold", rule),
        }
    }
    // All of them would never be exceeded.
    if let Some(points) = table.get("share_min").and_then(|f| f.basis_points(9_900)) {
        peers.share.share_min = points as u32;
    }
    let mut number = |key, place: &mut u32, min, max| {
        if let Some(n) = table.get(key).and_then(|f| f.integer(min, max)) {
            *place = n as u32;
        }
    };
    for (key, measure) in RATES {
        number(key, &mut peers.rate_min[measure as usize], 0, 1_000_000_000);
    }
    number("warn_factor", &mut peers.warn_factor, 2, 1_000);
    number("halt_factor", &mut peers.halt_factor, 2, 1_000);
    number("deviations", &mut peers.deviations, 1, 1_000);
    number("own_factor", &mut peers.own_factor, 2, 1_000);
    number("days_min", &mut peers.days_min, 1, 365);
    number("drift_factor", &mut peers.drift_factor, 2, 100);
    number("quiet_min", &mut peers.quiet.count_min, 1, 1_000_000_000);
    number("share_rejects", &mut peers.share.rejects_min, 1, 1_000_000_000);
    let mut peers_min = peers.peers_min as u32;
    number("peers_min", &mut peers_min, 2, 1_000);
    peers.peers_min = peers_min as usize;
    if peers.halt_factor < peers.warn_factor {
        match table.get("halt_factor") {
            Some(field) => field.refuse(format!("must not be less than warn_factor = {}", peers.warn_factor)),
            None => table.errors.missing(&table.spot, "halt_factor", "must not be less than warn_factor"),
        }
    }
    if let Some(halts) = table.get("halts").and_then(|f| f.boolean()) {
        peers.halts = halts;
    }
}

const RATES: [(&str, Measure); 3] =
    [("orders_min", Measure::Orders), ("fills_min", Measure::Fills), ("rejects_min", Measure::Rejects)];

/// Both sections with every key written out.
pub(super) fn print(options: &WatchOptions, out: &mut String) -> core::fmt::Result {
    let span = |d: Duration| format_duration(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    let SignatureOptions { learn, new, critical, factor, rate_min, kept, per_second } = &options.signatures;
    writeln!(out, "\n[guard.signatures]\nlearn = \"{}\"\nnew = \"{}\"", span(*learn), new.name())?;
    writeln!(out, "critical = {}", list(critical.iter().map(String::as_str)))?;
    writeln!(out, "factor = {factor}\nrate_min = {rate_min}\nkept = {kept}\nper_second = {per_second}")?;
    if let Some(owner) = &options.signatures_owner {
        writeln!(out, "owner = {}", quoted(owner))?;
    }
    let peers = &options.peers;
    writeln!(out, "\n[guard.peers]\nwindow = \"{}\"\nhold = \"{}\"", span(peers.window), span(peers.hold))?;
    for (key, measure) in RATES {
        writeln!(out, "{key} = {}", peers.rate_min[measure as usize])?;
    }
    writeln!(out, "warn_factor = {}\nhalt_factor = {}", peers.warn_factor, peers.halt_factor)?;
    writeln!(out, "deviations = {}\npeers_min = {}\nhalts = {}", peers.deviations, peers.peers_min, peers.halts)?;
    writeln!(out, "own_factor = {}\ndays_min = {}", peers.own_factor, peers.days_min)?;
    writeln!(out, "drift_factor = {}", peers.drift_factor)?;
    writeln!(out, "quiet = \"{}\"\nquiet_min = {}", span(peers.quiet.window), peers.quiet.count_min)?;
    writeln!(out, "share_window = \"{}\"\nshare_rejects = {}", span(peers.share.window), peers.share.rejects_min)?;
    writeln!(out, "share_min = {}", peers.share.share_min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::{effective, load};

    fn options(text: &str) -> Result<WatchOptions, Vec<String>> {
        let text = format!("[service]\nstate_dir = \"s\"\n{text}");
        let said = |v: super::super::Violations| v.list.iter().map(|v| format!("{}: {}", v.field, v.rule)).collect();
        load("t", &text).map(|loaded| loaded.watch).map_err(said)
    }

    #[test]
    fn every_key_is_read_and_printed_so_that_it_reads_the_same() {
        let text = "[guard.signatures]\nlearn = \"0s\"\nnew = \"warning\"\ncritical = [\"Power Peg\"]\nfactor = 3\n\
                    rate_min = 7\nkept = 9\nper_second = 11\nowner = \"desk\"\n[guard.peers]\nwindow = \"2s\"\n\
                    hold = \"3s\"\norders_min = 1\nfills_min = 2\nrejects_min = 3\nwarn_factor = 5\nhalt_factor = 6\n\
                    deviations = 7\npeers_min = 4\nhalts = false\nown_factor = 8\ndays_min = 9\ndrift_factor = 10\n\
                    quiet = \"5s\"\nquiet_min = 11\nshare_window = \"30s\"\nshare_rejects = 12\nshare_min = \"40%\"\n";
        let read = options(text).unwrap();
        assert_eq!((read.signatures.learn, read.signatures.kept), (Duration::ZERO, 9));
        assert_eq!((read.peers.rate_min, read.peers.halts), ([1, 2, 3], false));
        assert_eq!((read.peers.quiet.window, read.peers.quiet.count_min), (Duration::from_secs(5), 11));
        let share = &read.peers.share;
        assert_eq!((share.window, share.rejects_min, share.share_min), (Duration::from_secs(30), 12, 4_000));
        let printed = effective("t", &format!("[service]\nstate_dir = \"s\"\n{text}")).unwrap();
        assert_eq!(load("p", &printed).unwrap().watch, read);
        assert_eq!(options("").unwrap(), WatchOptions::default());
        let default = effective("t", "[service]\nstate_dir = \"s\"\n").unwrap();
        assert_eq!(load("p", &default).unwrap().watch, WatchOptions::default());
    }

    #[test]
    fn what_is_wrong_is_said_all_at_once() {
        let said = options(
            "[guard.signatures]\ncritical = [\" \"]\nowner = \"a b\"\nloud = 1\n\
             [guard.peers]\nhold = \"1s\"\nwarn_factor = 9\npeers_min = 1\n",
        );
        let said = said.unwrap_err();
        for field in [
            "guard.signatures.critical[0]:",
            "guard.signatures.owner:",
            "guard.signatures.loud: unknown",
            "guard.peers.hold: must be longer",
            "guard.peers.halt_factor:",
            "guard.peers.peers_min:",
        ] {
            assert!(said.iter().any(|line| line.starts_with(field)), "{field} not in {said:#?}");
        }
        assert_eq!(said.len(), 6, "{said:#?}");
    }
}
