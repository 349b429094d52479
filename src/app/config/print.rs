//! The effective configuration as a file: every default written out, every table merged with what it
//! starts from.

use core::fmt::Write as _;

use super::attestation::write_guard;
use super::cancel;
use super::file::{ANY_AGE, FileText};
use super::guard;
use super::limits::{Bound, LimitText, Table, action_word};
use super::reader::format_duration;
use super::violation::join;
use super::{CertificateBy, Group, Scopes};
use crate::duty::Idle;
use crate::ingest::gates::GateOptions;
use crate::limits::demand::rules_of;
use crate::limits::{RateKind, RateLimit, ScopeLimits, SideRule, WarnLevels};
use crate::model::rule::{Unit, applies, default_action};
use crate::model::{Event, Rule, ScopeKind};
use crate::units::format_decimal;

/// See [`super::effective`]. `file` and `limits` are without violations.
pub(super) fn effective(file: &FileText, limits: &LimitText, ceilings: Option<&LimitText>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_sections(&mut out, file)
        .and_then(|()| write_limits(&mut out, file, limits, "limits"))
        .and_then(|()| ceilings.map_or(Ok(()), |text| write_limits(&mut out, file, text, "ceilings")));
    out
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub(super) fn list<'t>(names: impl Iterator<Item = &'t str>) -> String {
    format!("[{}]", names.map(quoted).collect::<Vec<_>>().join(", "))
}

/// Scopes that a role is limited to, as they are written; `None`: it is not.
fn scope_list(scopes: &Scopes) -> Option<String> {
    let texts: Vec<String> = scopes.list()?.iter().map(|s| s.to_string().replacen(' ', ":", 1)).collect();
    Some(list(texts.iter().map(|text| &**text)))
}

fn age(ns: u64) -> String {
    if ns == ANY_AGE { "unlimited".into() } else { format_duration(ns) }
}

fn write_sections(out: &mut String, file: &FileText) -> core::fmt::Result {
    let base_scale = file.base_scale.unwrap_or(0);
    writeln!(out, "[service]\nstate_dir = {}", quoted(&file.service.state_dir.to_string_lossy()))?;
    writeln!(out, "base_currency = {}\nbase_scale = {base_scale}", quoted(&file.base_currency))?;

    let sizing = file.engine.sizing;
    writeln!(out, "\n[engine]")?;
    match file.engine.idle {
        Idle::Spin => writeln!(out, "idle = \"spin\"")?,
        Idle::Yield => writeln!(out, "idle = \"yield\"")?,
        Idle::Nap { spin, nap } => {
            let [spin, nap] = [spin, nap].map(|d| format_duration(d.as_nanos() as u64));
            writeln!(out, "idle = \"nap\"\nspin = \"{spin}\"\nnap = \"{nap}\"")?;
        }
    }
    writeln!(out, "working_orders = {}\nremembered_orders = {}", sizing.working_orders, sizing.remembered_orders)?;
    writeln!(out, "execs = {}\npairs = {}\nrecent_orders = {}", sizing.execs, sizing.pairs, sizing.recent_orders)?;
    writeln!(out, "parents = {}\nprefault = {}", sizing.parents, file.engine.prefault)?;

    let remote = |listen: core::net::SocketAddr| !listen.ip().is_loopback();
    writeln!(out, "\n[ingest]\nlisten = \"{}\"", file.ingest.listen)?;
    writeln!(out, "allow_remote = {}", remote(file.ingest.listen))?;
    writeln!(out, "max_connections = {}", file.ingest.max_connections)?;
    writeln!(out, "allowed_origins = {}", list(file.ingest.allowed_origins.iter().map(|o| &**o)))?;
    if let Some(gate) = &file.gate {
        writeln!(out, "\n[gate]")?;
        if let Some(dir) = &gate.dir {
            writeln!(out, "dir = {}", quoted(&dir.to_string_lossy()))?;
        }
        let who = match gate.socket_mode {
            0o600 => "owner",
            0o660 => "group",
            _ => "everybody",
        };
        let [lease, lag] = [gate.lease, gate.lag].map(|d| format_duration(d.as_nanos() as u64));
        writeln!(out, "socket_mode = \"{who}\"\nlease = \"{lease}\"\nlag = \"{lag}\"")?;
        let GateOptions { slots, events, verdicts } = gate.options;
        writeln!(out, "slots = {slots}\nevents = {events}\nverdicts = {verdicts}")?;
    }
    writeln!(out, "\n[http]\nlisten = \"{}\"\nallow_remote = {}", file.http.listen, remote(file.http.listen))?;
    let every = format_duration(file.http.stream_every.as_nanos() as u64);
    writeln!(out, "insecure = {}", remote(file.http.listen) && file.http.tls.is_none())?;
    writeln!(out, "streams = {}\nstream_every = \"{every}\"", file.http.streams)?;
    if let Some(tls) = &file.http.tls {
        let path = |path: &std::path::Path| quoted(&path.to_string_lossy());
        writeln!(out, "[http.tls]\ncertificate = {}\nkey = {}", path(&tls.certificate), path(&tls.key))?;
        if let Some(client_ca) = &tls.client_ca {
            writeln!(out, "client_ca = {}", path(client_ca))?;
        }
    }

    writeln!(out, "\n[local]")?;
    writeln!(out, "socket = {}", quoted(&file.local.socket_for(&file.service.state_dir).to_string_lossy()))?;
    match &file.local.group {
        None => {}
        Some(Group::Gid(gid)) => writeln!(out, "group = \"{gid}\"")?,
        Some(Group::Name(name)) => writeln!(out, "group = {}", quoted(name))?,
    }
    if let Some(kill_file) = &file.local.kill_file {
        writeln!(out, "kill_file = {}", quoted(&kill_file.to_string_lossy()))?;
    }
    for o in &file.local.operators {
        writeln!(out, "[[local.operators]]\nuid = {}", o.uid)?;
        writeln!(out, "name = {}\nrole = \"{}\"", quoted(&o.name), o.role.name())?;
        if let Some(scopes) = scope_list(&o.scopes) {
            writeln!(out, "scopes = {scopes}")?;
        }
    }

    writeln!(out, "\n[auth]\ntokens_at_runtime = {}", file.auth.tokens_at_runtime)?;
    writeln!(out, "two_person_rearm = {}", list(file.auth.two_person_rearm.iter().map(|kind| kind.name())))?;
    let nanos = |d: core::time::Duration| format_duration(d.as_nanos() as u64);
    writeln!(out, "rearm_expiry = \"{}\"", nanos(file.auth.rearm_expiry))?;
    writeln!(out, "login_lifetime = \"{}\"\ntokens = [", nanos(file.auth.login_lifetime))?;
    for o in &file.auth.operators {
        let hash = blake3::Hash::from_bytes(o.hash).to_hex();
        let scopes = scope_list(&o.scopes).map_or_else(String::new, |list| format!(", scopes = {list}"));
        let (name, role) = (quoted(&o.name), o.role.name());
        writeln!(out, "  {{ name = {name}, role = \"{role}\", hash = \"{hash}\"{scopes} }},")?;
    }
    writeln!(out, "]")?;

    for c in &file.auth.certificates {
        let by = match &c.by {
            CertificateBy::Subject(subject) => format!("subject = {}", quoted(subject)),
            CertificateBy::Alternative(name) => format!("san = {}", quoted(name)),
        };
        writeln!(out, "[[auth.certificates]]\n{by}\nname = {}", quoted(&c.caller.name))?;
        writeln!(out, "role = \"{}\"", c.caller.role.name())?;
        if let Some(scopes) = scope_list(&c.caller.scopes) {
            writeln!(out, "scopes = {scopes}")?;
        }
    }

    let journal = &file.journal;
    let span = |d: core::time::Duration| format_duration(d.as_nanos() as u64);
    writeln!(out, "\n[journal]\nenabled = {}\nsync_window = \"{}\"", journal.enabled, span(journal.sync_window))?;
    writeln!(out, "durable_before_verdict = {}", journal.durable_before_verdict)?;
    writeln!(out, "grace = \"{}\"\nsegment_bytes = {}", span(journal.grace), journal.segment_bytes)?;
    writeln!(out, "ring_cells = {}", journal.ring_cells)?;
    writeln!(out, "ring_dir = {}", quoted(&journal.ring_dir.to_string_lossy()))?;
    writeln!(out, "snapshot_segments = {}", journal.snapshot_segments.unwrap_or(0))?;
    writeln!(out, "keep = \"{}\"", journal.keep.map_or_else(|| "unlimited".to_owned(), span))?;
    if let Some(heads) = &journal.heads {
        writeln!(out, "heads = {}", quoted(&heads.to_string_lossy()))?;
    }
    write_guard(out, &file.guard)?;
    file.temporary.write(out)?;
    file.alerts.print(out)?;
    guard::print(&file.watch, out)?;

    cancel::print(out, &file.cancel)?;

    for c in &file.currencies {
        writeln!(out, "\n[{}]", join("currencies", &c.name))?;
        if let Some(rate) = c.rate {
            writeln!(out, "rate = \"{}\"", format_decimal(rate, Event::FX_SCALE))?;
        }
        writeln!(out, "max_age = \"{}\"", age(c.max_age_ns))?;
    }
    for a in &file.accounts {
        writeln!(out, "\n[{}]\nsuspense = {}", join("accounts", &a.name), a.suspense)?;
    }
    for s in &file.strategies {
        writeln!(out, "\n[{}]", join("strategies", &s.name))?;
        if let Some((account, _)) = &s.account {
            writeln!(out, "account = {}", quoted(account))?;
        }
        writeln!(out, "parents = \"{}\"", file.parents_of(s).name())?;
        if let Some(instruments) = &s.instruments {
            writeln!(out, "instruments = {}", list(instruments.iter().map(|(name, _)| &**name)))?;
        }
    }
    for i in &file.instruments {
        let (px_scale, qty_scale) = (i.px_scale.unwrap_or(0), i.qty_scale.unwrap_or(0));
        let (mantissa, places) = i.multiplier.unwrap_or((1, 0));
        writeln!(out, "\n[{}]", join("instruments", &i.name))?;
        if let Some((currency, _)) = &i.currency {
            writeln!(out, "currency = {}", quoted(currency))?;
        }
        writeln!(out, "px_scale = {px_scale}\nqty_scale = {qty_scale}")?;
        writeln!(out, "multiplier = \"{}\"\nnegative_px = {}", format_decimal(mantissa, places), i.negative_px)?;
        if let Some(volume) = i.average_daily_volume {
            writeln!(out, "average_daily_volume = \"{}\"", format_decimal(volume.0, qty_scale))?;
        }
        if let Some(px) = i.reference {
            writeln!(out, "reference = \"{}\"", format_decimal(px.0, px_scale))?;
        }
        writeln!(out, "reference_max_age = \"{}\"\nrestricted = {}", age(i.reference_max_age_ns), i.restricted)?;
    }
    for s in &file.sessions {
        let kind = s.kind.name();
        writeln!(out, "\n[{}]\nkind = \"{kind}\"", join("sessions", &s.name))?;
        if !s.strategies.is_empty() {
            writeln!(out, "strategies = {}", list(s.strategies.iter().map(|(name, _)| &**name)))?;
        }
        if let Some(hash) = s.token {
            writeln!(out, "token_hash = \"{}\"", blake3::Hash::from_bytes(hash).to_hex())?;
        }
        cancel::print_session(out, s)?;
    }
    Ok(())
}

fn write_limits(out: &mut String, file: &FileText, limits: &LimitText, section: &str) -> core::fmt::Result {
    for kind in ScopeKind::ALL {
        let tables = &limits.kinds[kind as usize];
        let path = join(section, kind.name());
        if kind == ScopeKind::Firm {
            write_table(out, file, kind, &path, &tables.all)?;
            continue;
        }
        write_table(out, file, kind, &join(&path, "*"), &tables.all)?;
        for (name, table) in &tables.named {
            // What it has from the table for all accounts says nothing of one that is no suspense account.
            let plain = kind == ScopeKind::Account && !file.accounts.iter().any(|a| a.name == *name && a.suspense);
            let mut table = table.clone();
            if plain {
                table.rules.remove(&Rule::Suspense);
            }
            write_table(out, file, kind, &join(&path, name), &table)?;
        }
    }
    Ok(())
}

fn write_table(out: &mut String, file: &FileText, kind: ScopeKind, path: &str, table: &Table) -> core::fmt::Result {
    writeln!(out, "\n[{path}]")?;
    if table.others_unlimited {
        writeln!(out, "others = \"unlimited\"")?;
    }
    let zero = table.left_at_zero(kind);
    if !zero.is_empty() {
        writeln!(out, "# not set, so zero: {}", zero.join(", "))?;
    }
    match table.sides {
        None => {}
        Some(SideRule::Both) => writeln!(out, "sides = \"both\"")?,
        Some(SideRule::LongOnly) => writeln!(out, "sides = \"long_only\"")?,
        Some(SideRule::BuyOnly) => writeln!(out, "sides = \"buy_only\"")?,
        Some(SideRule::SellOnly) => writeln!(out, "sides = \"sell_only\"")?,
    }
    if let Some((bits, _)) = &table.mandatory {
        writeln!(out, "mandatory = {}", list(rules_of(*bits).map(Rule::name)))?;
    }
    for (&rule, stated) in &table.rules {
        debug_assert!(applies(rule, kind));
        let action = action_word(stated.action.unwrap_or(default_action(rule)));
        let warn = format!("warn = {}", warn_list(stated.warn.unwrap_or(ScopeLimits::DEFAULT_WARN)));
        let name = rule.name();
        match &stated.bound {
            None => writeln!(out, "{name} = {{ action = \"{action}\", {warn} }}")?,
            Some(Bound::Unlimited) => writeln!(out, "{name} = \"unlimited\"")?,
            Some(Bound::Duplicate(d)) => {
                let window = format_duration(d.window_ns);
                let count = d.count;
                writeln!(out, "{name} = {{ count = {count}, window = \"{window}\", action = \"{action}\", {warn} }}")?;
            }
            Some(Bound::FanOut(fan)) => {
                let (count, per) = (fan.count, format_duration(fan.window_ns));
                writeln!(out, "{name} = {{ count = {count}, per = \"{per}\", action = \"{action}\", {warn} }}")?;
            }
            Some(Bound::Rates(rates)) => {
                writeln!(out, "{name} = [")?;
                for rate in rates {
                    writeln!(out, "  {{ {}, {warn} }},", rate_text(rate))?;
                }
                writeln!(out, "]")?;
            }
            Some(Bound::Qty(decimal)) => {
                writeln!(out, "{name} = {{ max = \"{}\", action = \"{action}\", {warn} }}", decimal.text())?;
            }
            Some(Bound::Exact(n)) => {
                let max = match rule.unit() {
                    Unit::Notional => format_decimal(*n, file.base_scale.unwrap_or(0)),
                    Unit::Nanos => format_duration(*n as u64),
                    _ => n.to_string(),
                };
                let window = match (rule, stated.window_ns) {
                    (Rule::LossVelocity, Some(ns)) => format!("window = \"{}\", ", format_duration(ns)),
                    _ => String::new(),
                };
                writeln!(out, "{name} = {{ max = \"{max}\", {window}action = \"{action}\", {warn} }}")?;
            }
        }
    }
    Ok(())
}

fn warn_list(levels: WarnLevels) -> String {
    let levels: Vec<String> = levels.iter().filter(|level| **level > 0).map(u8::to_string).collect();
    format!("[{}]", levels.join(", "))
}

fn rate_text(rate: &RateLimit) -> String {
    let kind = match rate.kind {
        RateKind::Sliding => "kind = \"sliding\"".to_owned(),
        RateKind::Gcra { burst } => format!("kind = \"gcra\", burst = {burst}"),
    };
    let (count, per, action) = (rate.count, format_duration(rate.window_ns), action_word(rate.action));
    format!("count = {count}, per = \"{per}\", {kind}, action = \"{action}\"")
}
