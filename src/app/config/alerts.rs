//! Section `[alerts]`: who owns what, what happens when nobody answers.

use core::fmt::Write as _;
use core::time::Duration;
use std::path::PathBuf;

use super::file::WEEK_NS;
use super::print::{list, quoted};
use super::reader::{Field, NAME_RULE, Reader, format_duration, is_name};
use super::violation::{Errors, Spot};
use crate::alert::delivery::{DeliveryOptions, ReceiverKind, ReceiverOptions};
use crate::kill::alerts::{LastResort, OwnerOf, Policy, Severity};
use crate::kill::words::ScopeName;
use crate::model::Universe;

const SECOND_NS: u64 = 1_000_000_000;

/// What the section says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertsSection {
    /// How alerts are treated.
    pub policy: Policy,
    /// Who is told.
    pub delivery: DeliveryOptions,
}

/// The section, and where its scopes are written: they are looked up when all names are known.
#[derive(Default)]
pub(super) struct AlertsText {
    pub section: AlertsSection,
    scopes: Vec<(ScopeName, Spot)>,
}

const LAST_RESORTS: [(&str, LastResort); 3] = [
    (LastResort::None.name(), LastResort::None),
    (LastResort::Halt.name(), LastResort::Halt),
    (LastResort::HaltFirm.name(), LastResort::HaltFirm),
];

const SEVERITIES: [(&str, Severity); 3] = [
    (Severity::Info.name(), Severity::Info),
    (Severity::Warning.name(), Severity::Warning),
    (Severity::Critical.name(), Severity::Critical),
];

/// The word for an escalation that never comes.
const NEVER: &str = "never";

pub(super) fn read(table: Option<Reader<'_>>) -> AlertsText {
    let mut text = AlertsText::default();
    let Some(mut table) = table else { return text };
    let policy = &mut text.section.policy;
    if let Some(owner) = table.get("owner").and_then(|f| name(&f)) {
        policy.owner = owner;
    }
    if let Some(field) = table.get("escalate_after") {
        policy.escalate_after = if field.as_str() == Some(NEVER) {
            None
        } else {
            field.duration(SECOND_NS, WEEK_NS).map(Duration::from_nanos)
        };
    }
    if let Some(field) = table.get("escalation") {
        policy.escalation = field.array().unwrap_or_default().iter().filter_map(name).collect();
        if policy.escalation.len() > ESCALATION_MAX {
            field.refuse(format!("has at most {ESCALATION_MAX} owners"));
        }
    }
    if let Some(field) = table.get("escalate_to") {
        policy.escalate_to = field.word(&LAST_RESORTS).unwrap_or_default();
        if policy.escalate_to != LastResort::None && policy.escalate_after.is_none() {
            field.refuse("needs escalate_after: without it nothing is escalated");
        }
    }
    let truth = |field: Option<Field<'_>>, default| field.and_then(|f| f.boolean()).unwrap_or(default);
    policy.blocks_open = truth(table.get("blocks_open"), policy.blocks_open);
    policy.holds_rearm = truth(table.get("holds_rearm"), policy.holds_rearm);
    if let Some(ns) = table.get("resolve_after").and_then(|f| f.duration(SECOND_NS, WEEK_NS)) {
        policy.resolve_after = Duration::from_nanos(ns);
    }
    if let Some(field) = table.get("runbook") {
        let runbook = field.string().unwrap_or_default();
        if runbook.is_empty() || runbook.contains(|c: char| c.is_control() || c == '#' || c == ' ') {
            field.refuse("must be the address or the path of a page, without an anchor");
        }
        runbook.clone_into(&mut policy.runbook);
    }
    if let Some(count) = table.get("flood_burst").and_then(|f| f.integer(1, 1_000)) {
        policy.flood_burst = count as u32;
    }
    if let Some(ns) = table.get("flood_per").and_then(|f| f.duration(SECOND_NS, WEEK_NS)) {
        policy.flood_per = Duration::from_nanos(ns);
    }
    if let Some(owners) = table.table("owners") {
        for (key, field) in owners.entries() {
            let owner = name(&field);
            let Some((of, scope)) = owned(key) else {
                owners.errors.at(&owners.key_spot(key), OWNED_RULE);
                continue;
            };
            if let Some(scope) = &scope {
                text.scopes.push((scope.clone(), owners.key_spot(key)));
            }
            if let Some(owner) = owner {
                policy.owners.push(OwnerOf { name: of, scope, owner });
            }
        }
    }
    if let Some(severities) = table.table("severities") {
        for (key, field) in severities.entries() {
            if !is_name(key) {
                severities.errors.at(&severities.key_spot(key), NAME_RULE);
            }
            if let Some(severity) = field.word(&SEVERITIES) {
                policy.severities.push((key.to_owned(), severity));
            }
        }
    }
    read_delivery(&mut table, &mut text.section.delivery);
    table.finish();
    text
}

fn read_delivery(table: &mut Reader<'_>, delivery: &mut DeliveryOptions) {
    if let Some(instance) = table.get("instance").and_then(|f| name(&f)) {
        delivery.instance = instance;
    }
    if let Some(url) = table.get("external_url").and_then(|f| address(&f)) {
        delivery.external_url = url;
    }
    if let Some(ns) = table.get("resend_every").and_then(|f| f.duration(SECOND_NS, 3_600 * SECOND_NS)) {
        delivery.resend_every = Duration::from_nanos(ns);
    }
    if let Some(ns) = table.get("timeout").and_then(|f| f.duration(SECOND_NS / 10, 60 * SECOND_NS)) {
        delivery.timeout = Duration::from_nanos(ns);
    }
    for (key, webhook) in [("alertmanagers", false), ("webhooks", true)] {
        for field in table.get(key).and_then(|f| f.array()).unwrap_or_default() {
            let Some(mut entry) = field.table() else { continue };
            let called = entry.need("name", "what metrics and alerts call it").and_then(|f| {
                let called = name(&f)?;
                if delivery.receivers.iter().any(|r| r.name == called) {
                    f.refuse("is used by another receiver");
                }
                Some(called)
            });
            let url = entry.need("url", "where it is").and_then(|f| address(&f));
            let kind = if webhook {
                let secret = entry.need("secret_file", "the file of the secret that messages are signed with");
                secret.and_then(|f| file(&f)).map(|secret_file| ReceiverKind::Webhook { secret_file })
            } else {
                Some(ReceiverKind::Alertmanager { token_file: entry.get("token_file").and_then(|f| file(&f)) })
            };
            let ca_file = entry.get("ca_file").and_then(|f| file(&f)).unwrap_or_else(|| PathBuf::from(SYSTEM_CAS));
            if let (Some(name), Some(url), Some(kind)) = (called, url, kind) {
                delivery.receivers.push(ReceiverOptions { name, url, kind, ca_file });
            }
            entry.finish();
        }
    }
    if delivery.receivers.len() > RECEIVERS_MAX {
        table.errors.missing(&table.spot, "alertmanagers", format!("at most {RECEIVERS_MAX} receivers in all"));
    }
}

/// Each has a thread.
const RECEIVERS_MAX: usize = 16;
/// The certificates that Debian and others keep for everybody.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

fn address(field: &Field<'_>) -> Option<String> {
    let url = field.string()?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    // A password in an address would be in every log.
    let bad = |c: char| c.is_control() || c.is_whitespace() || ['@', '#', '"', '\\'].contains(&c);
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) || url.contains(bad) || url.len() > 512 {
        field.refuse("must be an address such as https://alerts.example.com:9093, without a user or an anchor");
        return None;
    }
    Some(url.to_owned())
}

fn file(field: &Field<'_>) -> Option<PathBuf> {
    let text = field.string()?;
    if text.is_empty() || text.contains('\0') {
        field.refuse("must be the path of a file");
        return None;
    }
    Some(PathBuf::from(text))
}

/// An escalation that takes longer than this to get anywhere is none.
const ESCALATION_MAX: usize = 8;

const OWNED_RULE: &str = "must be the name of a rule or an alert, a scope such as strategy:alpha, or name@scope";

/// `order_rate`, `strategy:alpha`, `firm` or `order_rate@strategy:alpha`.
fn owned(key: &str) -> Option<(Option<String>, Option<ScopeName>)> {
    let (of, scope) = match key.split_once('@') {
        Some((of, scope)) => (Some(of), Some(scope)),
        None if key == "firm" || key.contains(':') => (None, Some(key)),
        None => (Some(key), None),
    };
    let scope = match scope {
        None => None,
        Some("firm") => Some(ScopeName { kind: "firm".into(), name: String::new() }),
        Some(scope) => {
            let (kind, name) = scope.split_once(':')?;
            Some(ScopeName { kind: kind.to_owned(), name: name.to_owned() })
        }
    };
    of.is_none_or(is_name).then(|| (of.map(str::to_owned), scope))
}

fn name(field: &Field<'_>) -> Option<String> {
    let text = field.string()?;
    if !is_name(text) {
        field.refuse(NAME_RULE);
        return None;
    }
    Some(text.to_owned())
}

impl AlertsText {
    /// Reports scopes that do not exist.
    pub(super) fn check(&self, errors: &Errors<'_>, universe: &Universe) {
        for (scope, spot) in &self.scopes {
            if scope.find(universe).is_none() {
                errors.at(spot, "no such scope: nothing could be alerted about it");
            }
        }
    }

    /// The section with every key written out.
    pub(super) fn print(&self, out: &mut String) -> core::fmt::Result {
        let policy = &self.section.policy;
        let span = |d: Duration| format_duration(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        writeln!(out, "\n[alerts]\nowner = {}", quoted(&policy.owner))?;
        writeln!(out, "escalate_after = \"{}\"", policy.escalate_after.map_or_else(|| NEVER.to_owned(), span))?;
        writeln!(out, "escalation = {}", list(policy.escalation.iter().map(String::as_str)))?;
        writeln!(out, "escalate_to = \"{}\"", policy.escalate_to.name())?;
        writeln!(out, "blocks_open = {}\nholds_rearm = {}", policy.blocks_open, policy.holds_rearm)?;
        writeln!(out, "resolve_after = \"{}\"", span(policy.resolve_after))?;
        writeln!(out, "runbook = {}", quoted(&policy.runbook))?;
        writeln!(out, "flood_burst = {}\nflood_per = \"{}\"", policy.flood_burst, span(policy.flood_per))?;
        let delivery = &self.section.delivery;
        writeln!(out, "instance = {}", quoted(&delivery.instance))?;
        writeln!(out, "external_url = {}", quoted(&delivery.external_url))?;
        writeln!(out, "resend_every = \"{}\"", span(delivery.resend_every))?;
        writeln!(out, "timeout = \"{}\"", span(delivery.timeout))?;
        if !policy.owners.is_empty() {
            writeln!(out, "[alerts.owners]")?;
        }
        for of in &policy.owners {
            let scope = of.scope.as_ref().map(|s| format!("{s}").replacen(' ', ":", 1));
            let key = match (&of.name, scope) {
                (Some(name), Some(scope)) => format!("{name}@{scope}"),
                (Some(name), None) => name.clone(),
                (None, scope) => scope.unwrap_or_default(),
            };
            writeln!(out, "{} = {}", quoted(&key), quoted(&of.owner))?;
        }
        if !policy.severities.is_empty() {
            writeln!(out, "[alerts.severities]")?;
        }
        for (of, severity) in &policy.severities {
            writeln!(out, "{} = \"{}\"", quoted(of), severity.name())?;
        }
        for receiver in &delivery.receivers {
            let path = |path: &std::path::Path| quoted(&path.to_string_lossy());
            let secret = match &receiver.kind {
                ReceiverKind::Alertmanager { token_file } => {
                    writeln!(out, "[[alerts.alertmanagers]]")?;
                    token_file.as_ref().map(|file| format!("token_file = {}\n", path(file)))
                }
                ReceiverKind::Webhook { secret_file } => {
                    writeln!(out, "[[alerts.webhooks]]")?;
                    Some(format!("secret_file = {}\n", path(secret_file)))
                }
            };
            writeln!(out, "name = {}\nurl = {}", quoted(&receiver.name), quoted(&receiver.url))?;
            writeln!(out, "{}ca_file = {}", secret.unwrap_or_default(), path(&receiver.ca_file))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::{effective, load};

    const BASE: &str = "[service]\nstate_dir = \"s\"\n[accounts.A]\n[strategies.alpha]\naccount = \"A\"\n";

    fn section(text: &str) -> Result<AlertsSection, Vec<String>> {
        let text = format!("{BASE}{text}");
        let said = |v: super::super::Violations| v.list.iter().map(|v| format!("{}: {}", v.field, v.rule)).collect();
        load("t", &text).map(|loaded| loaded.alerts).map_err(said)
    }

    #[test]
    fn every_key_is_read_and_printed_so_that_it_reads_the_same() {
        let text = "[alerts]\nowner = \"desk\"\nescalate_after = \"5m\"\nescalation = [\"head\", \"cro\"]\n\
                    escalate_to = \"halt\"\nblocks_open = false\nholds_rearm = true\nresolve_after = \"1h\"\n\
                    runbook = \"https://wiki.example.com/runbook\"\nflood_burst = 3\nflood_per = \"20m\"\n\
                    instance = \"eu-1\"\nexternal_url = \"https://h.example.com\"\nresend_every = \"10s\"\n\
                    timeout = \"1s\"\n\
                    alertmanagers = [{ name = \"am-1\", url = \"http://127.0.0.1:9093\", token_file = \"t\" }]\n\
                    webhooks = [{ name = \"pager\", url = \"https://p.example.com/in\", secret_file = \"s\" }]\n\
                    [alerts.owners]\norder_rate = \"rates\"\n\"strategy:alpha\" = \"anna\"\n\"firm\" = \"cro\"\n\
                    \"order_rate@strategy:alpha\" = \"both\"\n[alerts.severities]\norder_rate = \"info\"\n";
        let read = section(text).unwrap();
        let policy = &read.policy;
        assert_eq!(policy.escalate_after, Some(Duration::from_secs(300)));
        let receivers: Vec<_> = read.delivery.receivers.iter().map(|r| r.name.as_str()).collect();
        assert_eq!((receivers, read.delivery.instance.as_str()), (vec!["am-1", "pager"], "eu-1"));
        assert_eq!((policy.escalation.len(), policy.escalate_to), (2, LastResort::Halt));
        let alpha = ScopeName { kind: "strategy".into(), name: "alpha".into() };
        assert_eq!(policy.owner_of("order_rate", Some(&alpha)), "both");
        assert_eq!(policy.owner_of("collar", Some(&alpha)), "anna");
        assert_eq!(policy.owner_of("collar", None), "desk");
        assert_eq!(policy.severity("order_rate", Severity::Critical), Severity::Info);
        let printed = effective("t", &format!("{BASE}{text}")).unwrap();
        assert_eq!(load("p", &printed).unwrap().alerts, read);
        assert_eq!(section("").unwrap(), AlertsSection::default());
        assert_eq!(section("[alerts]\nescalate_after = \"never\"\n").unwrap().policy.escalate_after, None);
    }

    #[test]
    fn what_is_wrong_is_said_all_at_once() {
        let wrong = "[alerts]\nowner = \"a b\"\nescalate_after = \"never\"\nescalate_to = \"halt\"\nflood_burst = 0\n\
                     runbook = \"x#y\"\nloud = true\n\
                     alertmanagers = [{ name = \"a\", url = \"http://u:p@x\" }, { url = \"http://x\" }]\n\
                     webhooks = [{ name = \"a\", url = \"ftp://x\" }]\n[alerts.owners]\n\"strategy:gone\" = \"anna\"\n\"a b\" = \"anna\"\n\
                     [alerts.severities]\norder_rate = \"bad\"\n";
        let said = section(wrong).unwrap_err();
        for field in [
            "alerts.owner:",
            "alerts.escalate_to: needs",
            "alerts.flood_burst:",
            "alerts.runbook:",
            "alerts.loud: unknown",
            "alerts.alertmanagers[0].url:",
            "alerts.alertmanagers[1].name:",
            "alerts.webhooks[0].url:",
            "alerts.webhooks[0].secret_file:",
            "alerts.owners.\"strategy:gone\": no such scope",
            "alerts.owners.\"a b\":",
            "alerts.severities.order_rate:",
        ] {
            assert!(said.iter().any(|line| line.starts_with(field)), "{field} not in {said:#?}");
        }
        assert_eq!(said.len(), 12, "{said:#?}");
    }
}
