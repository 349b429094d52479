//! Section `[cancel]`, and what sessions say of their orders when they are gone. Both may change while running.

use core::fmt::{self, Write as _};

use super::file::{FileText, Reference, SHORTEST_NS, SessionText, WEEK_NS, reference};
use super::reader::{Reader, format_duration};
use super::violation::Errors;
use crate::limits::{CancelPolicy, SessionCancel};
use crate::model::SessionKind;
use crate::units::SessionId;

/// How long a session may be gone where it is to be canceled and nothing is said.
const GRACE_NS: u64 = 5_000_000_000;

/// What a session says.
#[derive(Clone)]
pub(super) struct SessionCancelText {
    /// `None`: its orders stay as they are.
    grace_ns: Option<u64>,
    via: Option<Reference>,
}

/// Reads `[cancel]`.
pub(super) fn read(table: Option<Reader<'_>>) -> CancelPolicy {
    let mut policy = CancelPolicy::default();
    let Some(mut table) = table else { return policy };
    let mut truth = |key, default| table.get(key).and_then(|f| f.boolean()).unwrap_or(default);
    policy.after_halt = truth("after_halt", policy.after_halt);
    policy.in_reduce_only = truth("in_reduce_only", policy.in_reduce_only);
    let mut span = |key, default| table.get(key).and_then(|f| f.duration(1_000_000, WEEK_NS)).unwrap_or(default);
    policy.repeat_after_ns = span("repeat_after", policy.repeat_after_ns);
    policy.retry_after_ns = span("retry_after", policy.retry_after_ns);
    if let Some(attempts) = table.get("attempts").and_then(|f| f.integer(1, 100)) {
        policy.attempts = attempts as u8;
    }
    table.finish();
    policy
}

/// Reads a session's keys.
pub(super) fn read_session(table: &mut Reader<'_>, kind: Option<SessionKind>) -> SessionCancelText {
    let on = table.get("cancel_on_disconnect");
    let (grace, via) = (table.get("disconnect_grace"), table.get("cancel_via"));
    let wanted = on.as_ref().and_then(|f| f.boolean()).unwrap_or(false);
    for field in [&grace, &via].into_iter().flatten() {
        if !wanted {
            field.refuse("means something only with cancel_on_disconnect = true");
        }
    }
    if let (Some(field), Some(kind)) = (&on, kind)
        && !kind.trades()
    {
        field.refuse("only a session of kind ask or observe has orders at a venue");
    }
    let grace_ns = grace.and_then(|f| f.duration(SHORTEST_NS, WEEK_NS)).unwrap_or(GRACE_NS);
    SessionCancelText { grace_ns: wanted.then_some(grace_ns), via: via.filter(|_| wanted).and_then(|f| reference(&f)) }
}

/// What only shows when all sessions are read.
pub(super) fn check(sessions: &[SessionText], errors: &Errors<'_>) {
    for session in sessions {
        let Some((name, spot)) = &session.cancel.via else { continue };
        match sessions.iter().find(|other| other.name == *name) {
            None => errors.at(spot, format!("no such session; [sessions.{name}] would declare it")),
            Some(other) if other.name == session.name => {
                errors.at(spot, "must be another session: this one is gone when it matters");
            }
            Some(other) if !other.kind.trades() => {
                errors.at(spot, "must be a session that sends orders");
            }
            Some(_) => {}
        }
    }
}

/// The whole policy, with its sessions by their numbers.
pub(super) fn policy(file: &FileText) -> CancelPolicy {
    let number = |name: &str| file.sessions.binary_search_by(|s| (*s.name).cmp(name)).ok();
    let sessions = file.sessions.iter().map(|session| SessionCancel {
        grace_ns: session.cancel.grace_ns.unwrap_or(u64::MAX),
        via: session.cancel.via.as_ref().and_then(|(name, _)| number(name)).map(|at| SessionId(at as u16)),
    });
    CancelPolicy { sessions: sessions.collect(), ..file.cancel.clone() }
}

/// Writes `[cancel]`.
pub(super) fn print(out: &mut String, policy: &CancelPolicy) -> fmt::Result {
    let CancelPolicy { after_halt, in_reduce_only, repeat_after_ns, attempts, retry_after_ns, sessions: _ } = policy;
    writeln!(out, "\n[cancel]\nafter_halt = {after_halt}\nin_reduce_only = {in_reduce_only}")?;
    writeln!(out, "repeat_after = \"{}\"\nattempts = {attempts}", format_duration(*repeat_after_ns))?;
    writeln!(out, "retry_after = \"{}\"", format_duration(*retry_after_ns))
}

/// Writes a session's keys.
pub(super) fn print_session(out: &mut String, session: &SessionText) -> fmt::Result {
    let Some(grace_ns) = session.cancel.grace_ns else { return Ok(()) };
    writeln!(out, "cancel_on_disconnect = true\ndisconnect_grace = \"{}\"", format_duration(grace_ns))?;
    match &session.cancel.via {
        Some((name, _)) => writeln!(out, "cancel_via = {}", super::print::quoted(name)),
        None => Ok(()),
    }
}
