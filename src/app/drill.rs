//! The rehearsal: haltline connects to itself as the session that is made for it, over the same listener as everybody else,
//! and the orders that it sends go the whole way: transport, engine, journal, verdict. What came of it lies in
//! `drills/<id>.json` and `.md` in the state directory.
//!
//! The order names a strategy of its own and never leaves haltline: there is no venue behind the session, and what was
//! admitted is reported as rejected.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use crate::api::drills::{DrillAsk, DrillRefused, Drills};
use crate::app::config;
use crate::app::desk_file;
use crate::duty::Clock;
use crate::engine::published::Published;
use crate::ingest::client::{self, Endpoint, Memory, Receiver, Reply, Sender};
use crate::kill::alerts::{Alerts, Raise, Severity};
use crate::kill::drill::{Judged, Left, Observed, Report};
use crate::kill::receipt::Receipt;
use crate::kill::switch::Switch;
use crate::kill::words::{self, ScopeName};
use crate::limits::Gauge;
use crate::metrics::{Sample, SampleKind, Source};
use crate::model::{Claim, Event, EventKind, Mode, OrdType, Scope, Side, Universe};
use crate::units::{InstrumentId, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos};
use crate::wire::Protocol;
use crate::wire::json::ScopeMode;

/// How long one step may take before it is called failed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a scope is watched for orders before it is called idle.
const WATCHED: Duration = Duration::from_millis(250);
/// Reports that are kept in memory and shown.
const SHOWN: usize = 64;

/// The session that rehearses.
#[derive(Clone)]
pub(super) struct Rehearser {
    pub session: SessionId,
    pub strategy: StrategyId,
    pub instrument: InstrumentId,
    /// The token of this run.
    pub token: String,
    /// Where it connects.
    pub ws: SocketAddr,
}

impl Rehearser {
    /// Of a configuration that was checked.
    pub fn of(drill: &config::Drill, universe: &Universe, token: String, ws: SocketAddr) -> Option<Rehearser> {
        Some(Rehearser {
            session: universe.session(&drill.session)?,
            strategy: universe.strategy(&drill.strategy)?,
            instrument: universe.instrument(&drill.instrument)?,
            token,
            ws,
        })
    }
}

/// See the module.
pub(super) struct DrillRoom {
    rehearser: Option<Rehearser>,
    universe: Arc<Universe>,
    switch: Arc<Switch>,
    published: Arc<Published>,
    clock: Arc<dyn Clock>,
    alerts: Arc<Alerts>,
    dir: PathBuf,
    one_at_a_time: Mutex<()>,
    reports: RwLock<Vec<Report>>,
}

impl DrillRoom {
    /// Finds what was rehearsed before under `state_dir`, and tells the switch of the last that passed.
    pub fn new(
        rehearser: Option<Rehearser>,
        switch: Arc<Switch>,
        published: Arc<Published>,
        clock: Arc<dyn Clock>,
        alerts: Arc<Alerts>,
        state_dir: &Path,
    ) -> DrillRoom {
        let dir = state_dir.join("drills");
        let reports = read_reports(&dir);
        let now = clock.now();
        for id in reports.iter().filter(|r| r.passed).map(|r| r.observed.id) {
            if !is_undated(&dir, id) && !switch.rehearsed_before(id, now) {
                undate(&dir, id);
            }
        }
        let universe = Arc::new(switch.universe().clone());
        DrillRoom {
            rehearser,
            universe,
            switch,
            published,
            clock,
            alerts,
            dir,
            one_at_a_time: Mutex::new(()),
            reports: RwLock::new(reports),
        }
    }

    /// Why `scope` is not idle; `None`: it is, as far as is known.
    fn trading(&self, scope: Scope) -> Option<String> {
        let slot = self.universe.slot(scope)?;
        let look = || self.published.scope(slot);
        let first = look()?;
        let working = first.gauges[Gauge::Working as usize];
        if working > 0 {
            return Some(format!("{working} working orders"));
        }
        // What was denied counts as well: somebody sends.
        let sent = || -> u64 { self.published.events.iter().take(3).map(|counter| counter.get()).sum() };
        let (orders, events) = (first.gauges[Gauge::Orders as usize], sent());
        std::thread::sleep(WATCHED);
        // It falls with a re-arm, which is no order.
        if look()?.gauges[Gauge::Orders as usize] > orders {
            return Some("it has sent orders just now".to_owned());
        }
        // Of one session or strategy it is not known who sent what was denied; of the firm it is.
        (scope == Scope::Firm && sent() != events).then(|| "orders are being sent".to_owned())
    }

    /// Whether an order of the session that rehearses is in `scope`.
    fn reaches(&self, rehearser: &Rehearser, scope: Scope) -> bool {
        let account = self.universe.strategies.get(usize::from(rehearser.strategy.0)).map(|s| s.account);
        match scope {
            Scope::Firm => true,
            Scope::Account(a) => Some(a) == account,
            Scope::Strategy(s) => s == rehearser.strategy,
            Scope::Instrument(i) => i == rehearser.instrument,
            Scope::Session(s) => s == rehearser.session,
            Scope::Pair(s, i) => (s, i) == (rehearser.strategy, rehearser.instrument),
        }
    }

    /// Scopes that an order of the session that rehearses is in and that are normal themselves, the narrowest first. What is wider may
    /// be halted meanwhile.
    fn others(&self) -> Vec<ScopeName> {
        let Some(who) = &self.rehearser else { return Vec::new() };
        let account = self.universe.strategies.get(usize::from(who.strategy.0)).map(|s| Scope::Account(s.account));
        let own = [Scope::Strategy(who.strategy), Scope::Session(who.session), Scope::Instrument(who.instrument)];
        let all = own.into_iter().chain(account);
        all.filter(|scope| self.mode(*scope) == Some(Mode::Normal))
            .map(|scope| ScopeName::of(&self.universe, scope))
            .collect()
    }

    async fn rehearse(&self, scope: Scope, ask: &DrillAsk, began: Now) -> Option<Observed> {
        let mut caller = match &self.rehearser {
            None => Err("the configuration has no [drill] to send an order with".to_owned()),
            Some(who) if !self.reaches(who, scope) => {
                Err("the session that rehearses sends nothing that is in this scope".to_owned())
            }
            Some(who) => Line::connect(who, &self.universe, scope, began.unix.0).await,
        };
        let before = order(&mut caller).await;
        let actor = format!("{} (drill)", ask.actor);
        let reason = format!("drill: {}", ask.reason);
        // Between the check and this somebody may have halted it: then the press only began a new epoch, and is not taken
        // back. What it was raised from is known by the raise itself.
        let pressed = self.switch.press_for_drill(scope, &actor, &reason, self.clock.now());
        let (receipt, before_press) = pressed.ok()?;
        let normal = before_press == Mode::Normal;
        let id = receipt.id;
        // Of the engine it is known a moment later, when it has shown it.
        let engine = || self.universe.slot(scope).and_then(|slot| self.published.scope(slot)).map(|view| view.mode);
        let taken = || engine() == Some(Mode::Halted);
        self.pump_until(&mut caller, || self.switch.is_confirmed(id) == Some(true) && taken()).await;
        let taken = taken();
        let told = caller.as_ref().is_ok_and(|line| line.told);
        let during = order(&mut caller).await;
        let receipt = self.switch.receipt(id).unwrap_or(receipt);
        let left = match (normal, self.switch.end_drill(scope, id, &actor, self.clock.now())) {
            (true, Ok(())) => {
                let given_up = || self.mode(scope) != Some(Mode::Normal) || engine() == Some(Mode::Normal);
                self.pump_until(&mut caller, || self.switch.is_durable() && given_up()).await;
                // Not ours any more if somebody has halted it again: that is durable as well, and counts as what it is.
                match (self.mode(scope), self.switch.is_durable()) {
                    (Some(Mode::Normal), true) => Left::Lowered,
                    (Some(Mode::Normal), false) => Left::LoweredNotDurable,
                    (_, _) => Left::Halted(self.who_halts(scope)),
                }
            }
            (false, Ok(())) | (_, Err(_)) => Left::Halted(self.who_halts(scope)),
        };
        let engine = (taken, engine() == Some(Mode::Normal));
        let after = order(&mut caller).await;
        let session = self.rehearser.as_ref().map(|who| who.session);
        Some(Observed {
            id: began.unix.0,
            scope: ScopeName::of(&self.universe, scope),
            by: ask.actor.clone(),
            reason: words::clean(&ask.reason),
            forced: ask.forced,
            before,
            receipt: id,
            raised_ns: receipt.raised.mono.since(receipt.pressed.mono),
            durable_ns: receipt.durable.map(|at| at.mono.since(receipt.pressed.mono)),
            gates: counts(receipt.gates.iter().map(|row| row.confirmed_ns.is_some())),
            sessions: counts(sessions_besides(&receipt, session)),
            told,
            engine,
            during,
            left,
            after,
            took_ns: self.clock.now().mono.since(began.mono),
        })
    }

    fn mode(&self, scope: Scope) -> Option<Mode> {
        self.universe.slot(scope).map(|slot| self.switch.page().get(slot).mode)
    }

    fn who_halts(&self, scope: Scope) -> String {
        let halts = self.switch.halts();
        let causes = halts.iter().find(|halt| halt.scope == scope).map_or(&[][..], |halt| &halt.causes);
        match causes.iter().max_by_key(|cause| cause.epoch) {
            Some(cause) => format!("{}: {}", cause.actor, cause.reason),
            None => "it was halted by somebody else".to_owned(),
        }
    }

    /// Keeps the line served until `done`, or until patience is over.
    async fn pump_until(&self, line: &mut Result<Line, String>, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() && begin.elapsed() < PATIENCE {
            match line {
                Ok(line) => line.pump(Duration::from_millis(2)).await,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
        // What is on its way still: a halt that was confirmed may be read late here.
        if let Ok(line) = line {
            line.pump(Duration::from_millis(2)).await;
        }
    }

    fn keep(&self, report: &Report) {
        let written = fs::create_dir_all(&self.dir).and_then(|()| {
            let text = serde_json::to_string_pretty(report)?;
            let id = report.observed.id;
            desk_file::replace(&self.dir.join(format!("{id}.json")), text.as_bytes(), 0o600)?;
            desk_file::replace(&self.dir.join(format!("{id}.md")), report.to_markdown().as_bytes(), 0o600)
        });
        if let Err(error) = written {
            tracing::error!(event = "drill", %error, "the evidence cannot be written to {}", self.dir.display());
        }
        let mut reports = self.reports.write().unwrap_or_else(PoisonError::into_inner);
        // What came before and says that it will come later was stamped by a clock that has been put back since.
        for before in reports.iter().filter(|before| before.passed && before.observed.id > report.observed.id) {
            undate(&self.dir, before.observed.id);
        }
        reports.insert(0, report.clone());
        reports.truncate(SHOWN);
    }
}

impl Drills for DrillRoom {
    fn run(&self, ask: &DrillAsk) -> Result<Report, DrillRefused> {
        if words::clean(&ask.reason).is_empty() {
            return Err(DrillRefused::NoReason);
        }
        let scope = ask.scope.or_else(|| self.scope_made_for_it()).ok_or(DrillRefused::NoScope)?;
        let _one = match self.one_at_a_time.try_lock() {
            Ok(one) => one,
            // What a panic left behind is a halt, which the next look at the mode shows.
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(DrillRefused::Busy),
        };
        if self.mode(scope) != Some(Mode::Normal) {
            return Err(DrillRefused::NotNormal(self.others()));
        }
        if !ask.forced
            && let Some(how) = self.trading(scope)
        {
            return Err(DrillRefused::Trading(how));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let began = self.clock.now();
        let observed = match runtime {
            Ok(runtime) => runtime.block_on(self.rehearse(scope, ask, began)),
            Err(error) => {
                tracing::error!(event = "drill", %error, "no runtime for the session that rehearses");
                None
            }
        };
        let report = Report::of(observed.ok_or(DrillRefused::NoScope)?);
        if report.passed {
            self.switch.rehearsed(began);
        }
        self.keep(&report);
        let how = if report.passed { "passed" } else { "did NOT pass" };
        let text = format!("the drill of {} at {} {how}", report.observed.by, report.observed.scope);
        // One that passed is filed: nobody has to answer for what is as it should be.
        let (name, severity) = if report.passed {
            tracing::info!(event = "drill", id = report.observed.id, "{text}");
            ("drill_passed", Severity::Info)
        } else {
            tracing::warn!(event = "drill", id = report.observed.id, "{text}");
            ("drill_not_passed", Severity::Warning)
        };
        let raise = Raise::new(self.clock.now().unix.0, "drill", name, text).severity(severity);
        self.alerts.raise(raise.on(report.observed.scope.clone()).afresh());
        Ok(report)
    }

    fn scope_made_for_it(&self) -> Option<Scope> {
        self.rehearser.as_ref().map(|who| Scope::Strategy(who.strategy))
    }

    fn session(&self) -> Option<SessionId> {
        self.rehearser.as_ref().map(|who| who.session)
    }

    fn list(&self) -> Vec<Report> {
        self.reports.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for DrillRoom {
    fn samples(&self) -> Vec<Sample> {
        let gauge = |name, help, value| Sample { name, help, kind: SampleKind::Gauge, labels: Vec::new(), value };
        let configured = f64::from(u8::from(self.rehearser.is_some()));
        let last = self.switch.last_drill(self.clock.now()).map_or(0.0, |(at, _)| at as f64 / 1e9);
        vec![
            gauge("haltline_drill_configured", "1 if a session is made for drills.", configured),
            gauge(
                "haltline_drill_last_passed_timestamp_seconds",
                "When the switch was last rehearsed with success, Unix time; 0: not as far as is known.",
                last,
            ),
        ]
    }
}

fn counts(confirmed: impl Iterator<Item = bool>) -> (usize, usize) {
    confirmed.fold((0, 0), |(all, good), one| (all + 1, good + usize::from(one)))
}

fn sessions_besides(receipt: &Receipt, one: Option<SessionId>) -> impl Iterator<Item = bool> + '_ {
    let others = receipt.sessions.iter().filter(move |row| row.connected && Some(row.session) != one);
    others.map(|row| row.confirmed_ns.is_some())
}

/// Sends an order; a line that fails is given up.
async fn order(line: &mut Result<Line, String>) -> Judged {
    let judged = match line {
        Err(why) => return Judged::Unknown(why.clone()),
        Ok(line) => line.order().await,
    };
    if let Judged::Unknown(why) = &judged {
        *line = Err(why.clone());
    }
    judged
}

/// The session that rehearses, connected.
struct Line {
    sender: Sender,
    receiver: Receiver,
    order: Event,
    /// What is rehearsed at.
    scope: ScopeName,
    /// A halt of that was pushed to it.
    told: bool,
}

impl Line {
    /// `first`: the number of its first order; later ones count up. Times make them new in every drill.
    async fn connect(who: &Rehearser, universe: &Arc<Universe>, scope: Scope, first: u64) -> Result<Line, String> {
        let endpoint = Endpoint {
            url: format!("ws://{}/", who.ws),
            token: who.token.clone(),
            protocol: Protocol::Bin,
            universe: universe.clone(),
            claim: Claim::default(),
            mass_cancel: false,
        };
        let connecting = tokio::time::timeout(PATIENCE, client::connect(&endpoint, &Memory::new(16))).await;
        let connected = connecting.map_err(|_| "the session that rehearses could not connect in time".to_owned())?;
        let (sender, receiver, _) = connected.map_err(|e| format!("the session that rehearses cannot connect: {e}"))?;
        let instrument = universe.instruments.get(who.instrument.0 as usize);
        let account = universe.strategies.get(usize::from(who.strategy.0)).map(|s| s.account);
        let mut order = Event::new(EventKind::New, who.session, 0);
        order.account = account.unwrap_or_default();
        order.strategy = who.strategy;
        order.instrument = who.instrument;
        order.side = Side::Buy;
        order.ord_type = OrdType::Limit;
        order.id = OrdId(first);
        order.sent_at = UnixNanos(0);
        order.qty = Qty(1);
        let one = 10i64.saturating_pow(u32::from(instrument.map_or(0, |i| i.px_scale)));
        order.px = instrument.and_then(|i| i.initial_reference).unwrap_or(Px(one));
        Ok(Line { sender, receiver, order, scope: ScopeName::of(universe, scope), told: false })
    }

    /// Sends one order and waits for its verdict. One that is admitted is reported as rejected: no venue has it.
    async fn order(&mut self) -> Judged {
        self.order.id.0 += 1;
        let judged = match tokio::time::timeout(PATIENCE, self.exchange()).await {
            Ok(Ok(judged)) => judged,
            Ok(Err(error)) => Judged::Unknown(error.to_string()),
            Err(_) => Judged::Unknown("no verdict in time".to_owned()),
        };
        if judged == Judged::Admitted {
            let rejected = Event { kind: EventKind::Rejected, ..self.order };
            let sent = self.sender.queue(rejected).is_ok() && self.sender.flush().await.is_ok();
            if !sent {
                return Judged::Unknown("it was admitted, and could not be reported as rejected".to_owned());
            }
            self.pump(Duration::from_millis(2)).await;
        }
        judged
    }

    async fn exchange(&mut self) -> Result<Judged, client::ClientError> {
        let seq = self.sender.queue(self.order)?;
        self.sender.flush().await?;
        loop {
            match self.receiver.next().await? {
                Reply::Verdict(answer) if answer.seq == seq => {
                    return Ok(match answer.denied {
                        None => Judged::Admitted,
                        Some(denied) => Judged::Denied {
                            rule: denied.rule.name().to_owned(),
                            at: ScopeName { kind: denied.scope.kind.clone(), name: denied.scope.name.clone() },
                        },
                    });
                }
                Reply::Modes { scopes, .. } => self.hear(&scopes),
                // What is admitted is reported as rejected at once: there is nothing to cancel.
                Reply::Cancel { .. } | Reply::MassCancel { .. } | Reply::Disconnect { .. } => {}
                Reply::Verdict(_) | Reply::Applied(_) | Reply::Error { .. } => {}
            }
        }
    }

    /// A halt of something else, which it is told as it connects, is not what is rehearsed.
    fn hear(&mut self, scopes: &[ScopeMode]) {
        let is_this = |one: &ScopeMode| (&one.kind, &one.name) == (&self.scope.kind, &self.scope.name);
        self.told |= scopes.iter().any(|one| is_this(one) && one.mode == Mode::Halted.name());
    }

    /// Takes what comes for so long; modes are confirmed by it.
    async fn pump(&mut self, span: Duration) {
        let until = tokio::time::Instant::now() + span;
        loop {
            match tokio::time::timeout_at(until, self.receiver.next()).await {
                Err(_) => return,
                Ok(Ok(Reply::Modes { scopes, .. })) => self.hear(&scopes),
                Ok(Ok(_)) => {}
                // The next order tells.
                Ok(Err(_)) => return tokio::time::sleep_until(until).await,
            }
        }
    }
}

/// Beside the evidence of a drill that was stamped by a clock ahead: when it was is not known. The mark stays, since one day its stamp
/// would look recent.
fn undated(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id}.undated"))
}

fn is_undated(dir: &Path, id: u64) -> bool {
    // What cannot be looked at does not count either.
    undated(dir, id).try_exists().unwrap_or(true)
}

fn undate(dir: &Path, id: u64) {
    let why = "The clock was ahead when this drill was run: it does not count as a recent one.\n";
    tracing::warn!(event = "drill", id, "stamped by a clock that was ahead: it does not count as a recent one");
    if let Err(error) = desk_file::replace(&undated(dir, id), why.as_bytes(), 0o600) {
        tracing::error!(event = "drill", id, %error, "that it does not count cannot be written down");
    }
}

/// The reports in `dir`, newest first. What is none is passed over: evidence is for people first.
fn read_reports(dir: &Path) -> Vec<Report> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let json = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
    let mut names: Vec<PathBuf> = json.collect();
    // Names are times of one length.
    names.sort_unstable_by(|a, b| b.cmp(a));
    let read = |path: &PathBuf| serde_json::from_str(&fs::read_to_string(path).ok()?).ok();
    names.iter().filter_map(read).take(SHOWN).collect()
}
