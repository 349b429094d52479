//! The running service: what is made in which order, which thread does what, and the orderly end.
//!
//! ```text
//! ingest   WebSocket sessions          ──ring──▶ engine ──ring──▶ ingest
//! api      HTTP, its own runtime       ──switch─▶ halt page ──▶ everybody
//! local    the same on a Unix socket   ──switch─▶
//! killfile looks for the kill file     ──switch─▶
//! control  trips, warnings, anomalies  ◀─channel── engine
//! latch    the durable halt            ◀─page──── switch
//! main     signals
//! ```

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::alert::keeper::{self, KeeperParts};
use crate::alert::report::AlertSource;
use crate::alert::store;
use crate::api::auth::{hash_token, new_token};
use crate::api::flat::ResidualAsker;
use crate::api::tls::Tls;
use crate::api::{self, ApiOptions, ApiParts, Authenticator, Principal};
use crate::app::alerting::{self, Alerting};
use crate::app::attest::{AttestParts, Attestor};
use crate::app::config::{self, Loaded};
use crate::app::day::{DayOpen, DayParts};
use crate::app::desk::{self, Desk, DeskParts};
use crate::app::desk_opening::Opening;
use crate::app::drill::{DrillRoom, Rehearser};
use crate::app::guard::{self, GuardParts, GuardSource};
use crate::app::journal;
use crate::app::killfile::{self, KillFile};
use crate::app::logs;
use crate::app::notify::{Manager, Notifier, Told};
use crate::app::preflight::PreflightParts;
use crate::app::signals::{Asked, Signals};
use crate::app::socket::{self, SocketFile};
use crate::duty::{Clock, SystemClock};
use crate::engine::agent::{AgentParts, EngineAgent, Wake, port};
use crate::engine::published::Published;
use crate::guard::door::{NewBuild, NewBuilds};
use crate::guard::watch::Watch;
use crate::ingest::gates::{self, GateOptions, GateParts};
use crate::ingest::tokens::SessionTokens;
use crate::ingest::ws::{self, IngestOptions, IngestParts, IngestStats, IngestWake};
use crate::journal::audit::newest;
use crate::journal::control::{ControlParts, run_control};
use crate::journal::incident::{IncidentParts, run_incidents};
use crate::journal::latch::{LatchStore, run_latch};
use crate::journal::step::{HALT_RAISED, reached};
use crate::kill::alerts::Alerts;
use crate::kill::audit::{Audit, Entry};
use crate::kill::board::SessionBoard;
use crate::kill::gates::Gates;
use crate::kill::names::OrderNames;
use crate::kill::page::HaltPage;
use crate::kill::page_file::Shape;
use crate::kill::rearm::{RearmPolicy, RearmRules};
use crate::kill::switch::{Cause, Stop, Switch, SwitchParts, Waker};
use crate::kill::words::ScopeName;
use crate::limits::{Gauge, LimitTable};
use crate::metrics::{Metrics, MetricsParts, ReloadState, Source};
use crate::model::{Mode, Scope, Universe};
use crate::ring::bell::{BELL_WORDS, Bell};
use crate::ring::shm::Words;

/// What a start needs besides the configuration.
#[derive(Default)]
pub struct StartOptions {
    /// The file to read again on reload.
    pub path: Option<PathBuf>,
    /// The time; by default the host's.
    pub clock: Option<Arc<dyn Clock>>,
    /// Hashes of session tokens that were made for this run, by session name.
    pub session_hashes: HashMap<String, [u8; 32]>,
    /// Persons with tokens that were made for this run.
    pub principals: Vec<Principal>,
    /// If the configured addresses are taken, listen anywhere on loopback.
    pub any_port: bool,
}

/// A service that runs. Dropping it leaves it running; [`Running::stop`] ends it.
pub struct Running {
    /// Where sessions connect.
    pub ws_addr: SocketAddr,
    /// Where people and Prometheus ask.
    pub http_addr: SocketAddr,
    /// Where users of this machine ask.
    pub socket: PathBuf,
    /// All names.
    pub universe: Arc<Universe>,
    /// The limits in force.
    pub limits: Arc<RwLock<Arc<LimitTable>>>,
    /// What the engine shows.
    pub published: Arc<Published>,
    /// The switch.
    pub switch: Arc<Switch>,
    /// The time that the service goes by.
    pub clock: Arc<dyn Clock>,
    audit: Arc<Audit>,
    desk: Arc<Desk>,
    attestor: Arc<Attestor>,
    tls: Option<Arc<Tls>>,
    threads: Threads,
}

struct Threads {
    stop_ingest: tokio::sync::watch::Sender<bool>,
    stop_engine: Arc<AtomicBool>,
    stop_control: Arc<AtomicBool>,
    stop_api: tokio::sync::watch::Sender<bool>,
    stop_latch: Arc<AtomicBool>,
    /// Dropped, it ends the watch of the kill file.
    stop_killfile: crossbeam_channel::Sender<()>,
    /// Dropped, it ends the thread that ends overrides.
    stop_limits: crossbeam_channel::Sender<()>,
    limits: JoinHandle<()>,
    stop_gates: Arc<AtomicBool>,
    gates: Option<JoinHandle<()>>,
    bell: Arc<Bell>,
    ingest: JoinHandle<()>,
    engine: JoinHandle<()>,
    control: JoinHandle<std::io::Result<()>>,
    api: JoinHandle<()>,
    local: JoinHandle<()>,
    socket_file: SocketFile,
    killfile: Option<JoinHandle<()>>,
    /// Dropped, it ends the look at instances.
    stop_attest: crossbeam_channel::Sender<()>,
    attest: JoinHandle<()>,
    latch: JoinHandle<LatchStore>,
    journal: Option<journal::Running>,
    stop_incidents: Arc<AtomicBool>,
    incidents: Option<JoinHandle<()>>,
    alerting: Alerting,
    stop_guard: Arc<AtomicBool>,
    guard: JoinHandle<()>,
}

/// Events that may wait in front of the engine. At a million events a second that is 16 ms.
const EVENT_RING: usize = 16_384;
/// Trips, warnings and anomalies that may wait for the control thread.
const NOTICES: usize = 65_536;

/// Questions that may wait for the engine.
const QUERIES: usize = 8;

/// Open files besides connections, with room to spare: listeners, the latch, runtimes, the log.
const OTHER_FILES: u64 = 64;
/// Trips and kills that may wait for their report.
const INCIDENTS: usize = 1_024;

/// Makes a new state directory with an empty latch. The only way to have one.
///
/// # Errors
/// If there is anything in `dir`, or it cannot be written.
pub fn init_state_dir(dir: &Path) -> anyhow::Result<()> {
    LatchStore::init(dir).with_context(|| format!("cannot make the state directory {}", dir.display()))?;
    journal::init(dir)
}

/// Runs the service of the configuration at `path` until it is told to end.
///
/// # Errors
/// If the configuration is invalid, or the service cannot be started.
pub fn serve(path: &Path) -> anyhow::Result<ExitCode> {
    let loaded = config::read(path)?;
    let _guard = logs::init();
    for note in &loaded.notes {
        tracing::warn!(event = "config", field = note.field, "{}", note.text);
    }
    let api = ApiOptions::default();
    let doors = 2 * api.files() + loaded.ingest.max_connections;
    socket::allow_open_files(doors as u64 + OTHER_FILES);
    // Before the state directory is taken: from then on an end has to be an orderly one.
    let signals = Signals::hear()?;
    let manager = Manager::of_environment()?;
    let running = start(loaded, StartOptions { path: Some(path.to_owned()), ..StartOptions::default() })?;
    abort_on_panic(&running);
    tracing::info!(event = "started", ws = %running.ws_addr, http = %running.http_addr, socket = %running.socket.display(), "serving");
    let scheme = if running.tls.is_some() { "https" } else { "http" };
    let serving = format!("serving: events at ws://{}, people at {scheme}://{}", running.ws_addr, running.http_addr);
    eprintln!("{serving}");
    let notifier = Notifier::start(manager, running.published.clone(), serving)?;
    // Beside the thread that hears signals: a file that cannot be read must not keep a kill waiting.
    let (ask_reload, reloads) = crossbeam_channel::bounded::<()>(1);
    let (reloader, audit, tell) = (running.desk.clone(), running.audit.clone(), notifier.teller());
    let attestor = running.attestor.clone();
    let tls = running.tls.clone();
    spawn("reload", move || {
        while reloads.recv().is_ok() {
            tell(Told::Reloading);
            // Apart from the limits: a fault in one is no reason to go on with the other's old state.
            if let Some(tls) = &tls {
                reload_certificates(tls, &audit);
            }
            let entry = Entry::new("signal", "limits").because("SIGHUP");
            audit.record(match reloader.reload("signal", "SIGHUP") {
                Ok(generation) => entry.detail(format!("generation {generation}")),
                Err(violations) => entry.refused("the new limits are invalid").detail(violations.join("; ")),
            });
            attestor.reload_by_signal();
            tell(Told::Reloaded);
        }
    })?;
    signals.listen(|asked| match asked {
        Asked::End => false,
        Asked::Reload => {
            // Full: one is still to begin, and reads what is there by then.
            let _ = ask_reload.try_send(());
            true
        }
        Asked::Kill => {
            let now = running.clock.now();
            // The firm is a scope of every universe.
            let pressed = running.switch.press(Scope::Firm, Stop::Halted, "signal", "SIGUSR1", now);
            if let Ok(receipt) = pressed {
                let entry = Entry::new("signal", "kill").on(ScopeName::of(&running.universe, Scope::Firm));
                let detail = format!("mode halted, epoch {}, receipt {}", receipt.word.epoch, receipt.id);
                running.audit.record(entry.because("SIGUSR1").detail(detail));
            }
            true
        }
    });
    tracing::info!(event = "stopping", "ending");
    notifier.stopping();
    running.stop()?;
    Ok(ExitCode::SUCCESS)
}

/// Starts everything.
///
/// # Errors
/// If an address is taken, the state directory is missing, in use or unusable, or a thread cannot be made.
pub fn start(loaded: Loaded, options: StartOptions) -> anyhow::Result<Running> {
    let mut loaded = loaded;
    let clock = options.clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
    let universe = loaded.universe.clone();

    // 1. What can fail for a reason outside: addresses, state directory.
    let ws = listen(loaded.ingest.listen, options.any_port).context("the event listener")?;
    let http = listen(loaded.http.listen, options.any_port).context("the HTTP listener")?;
    let tls = loaded.http.tls.clone().map(Tls::load).transpose().context("TLS at the HTTP listener")?.map(Arc::new);
    let (ws_addr, http_addr) = (ws.local_addr()?, http.local_addr()?);
    if let Some(path) = &loaded.local.kill_file {
        killfile::check(path).with_context(|| format!("the kill file {}", path.display()))?;
    }
    let outlets = alerting::outlets(&loaded.alerts.delivery, &clock)?;
    LatchStore::check(&loaded.service.state_dir)?;
    let socket = loaded.control_socket();
    let (local, socket_file) = SocketFile::listen(&socket, loaded.local.group.as_ref())
        .with_context(|| format!("the local socket {}", socket.display()))?;
    let gate_door = loaded.gate.as_ref().map(|gate| GateDoor::open(gate, &loaded.service.state_dir)).transpose()?;
    // Last: a start that fails after this counts as a run that did not end orderly.
    let store = LatchStore::open(&loaded.service.state_dir)?;
    let events_taken = store.events_taken();
    let restored = store.restore(&universe, clock.now());
    for fault in &restored.faults {
        tracing::error!(event = "latch", "{fault}: the firm starts halted");
    }
    let mut causes = restored.causes;
    let (bell_words, bell_fd) = Words::sealed("haltline-bell", BELL_WORDS).context("memory for the engine's bell")?;
    let bell = Arc::new(Bell::over(bell_words));
    let previous = store.previous_run();
    let mut opening = Opening::read(&loaded);
    let recovered = journal::prepare(&loaded, clock, &bell, previous.unclean, previous.took_events, &mut opening);
    let prepared = match recovered {
        Ok(prepared) => prepared,
        Err(error) => {
            // Nothing was begun: the next start shall not take this one for a run that was killed.
            if !previous.unclean {
                store.close().context("ending a start that failed")?;
            }
            return Err(error);
        }
    };
    let clock = prepared.clock;
    let (page, page_fd) = settle_page(restored.page, gate_door.as_ref(), &universe, &mut causes, clock.as_ref())?;
    loaded.limits.generation = prepared.limits.generation;
    if let Some(why) = &prepared.unknown {
        tracing::error!(event = "restart", "{why}: the firm starts halted");
        if let Some(firm) = universe.slot(Scope::Firm) {
            let reason = format!("positions and working orders are unknown after a restart: {why}");
            latch_again(&page, &mut causes, (firm, Mode::Halted), reason, clock.as_ref());
        }
    }
    for (slot, mode, trip) in prepared.latched {
        // What the engine had latched and the latch file does not have: it ended in between.
        if mode > page.get(slot).mode {
            let reason = trip.unwrap_or_else(|| "the journal has it, the latch did not".to_owned());
            latch_again(&page, &mut causes, (slot, mode), reason, clock.as_ref());
        }
    }

    let (recorder, begin, writer, durability, audit_to) = match prepared.parts {
        Some(parts) => {
            let (durability, audit) = (parts.durability.clone(), parts.audit.clone());
            let (recorder, begin, threads) = parts.split();
            (Some(recorder), Some(begin), Some(threads), Some(durability), Some(audit))
        }
        None => (None, None, None, None, None),
    };

    // 2. What everybody shares.
    let page = Arc::new(page);
    let board = Arc::new(SessionBoard::new(universe.sessions.len()));
    let published = Arc::new(Published::new(&universe));
    let table = Arc::new(prepared.limits);
    let limits = Arc::new(RwLock::new(table.clone()));
    let alerts = Arc::new(Alerts::new(loaded.alerts.policy.clone()));
    let alerts_file = store::path(&loaded.service.state_dir);
    keeper::restore(&alerts, &alerts_file, clock.now().unix.0);
    let watch = Arc::new(Watch::new(loaded.watch.clone(), &universe));
    let guard_file = store::guard_path(&loaded.service.state_dir);
    guard::restore(&watch, &alerts, &guard_file, clock.now().unix.0);
    let (texts, take_texts) = crossbeam_channel::bounded(guard::TEXTS);
    let gates = Arc::new(Gates::default());
    // Before anybody can press: who was attached to the run before may send as soon as the lease is renewed.
    let former = match &gate_door {
        Some(_) => gates::find_former(&page, &universe, &board, &gates).context("gateways of the run before")?,
        None => Vec::new(),
    };
    let (lane_changes, take_lane_changes) = crossbeam_channel::bounded(64);
    let audit = Arc::new(Audit::new(audit_to, clock.clone()));
    let ingest_wake = IngestWake::default();
    let (commands, take_commands) = crossbeam_channel::bounded(64);
    let (notices, take_notices) = crossbeam_channel::bounded(NOTICES);
    let reload_state = Arc::new(ReloadState::loaded(clock.now().unix.0));

    // 3. The switch, with everybody who watches the page.
    let wakers: Vec<Waker> = {
        let (bell, ingest) = (bell.clone(), ingest_wake.clone());
        vec![Box::new(move || ingest.wake()), Box::new(move || bell.ring())]
    };
    let working = {
        let published = published.clone();
        move |slot| {
            // The switch asks for them between the two.
            reached(HALT_RAISED);
            published.scope(slot).map(|view| view.gauges[Gauge::Working as usize])
        }
    };
    let (switch, latch_jobs) = Switch::new(SwitchParts {
        page: page.clone(),
        board: board.clone(),
        gates: gates.clone(),
        universe: universe.clone(),
        clock: clock.clone(),
        wakers,
        working: Box::new(working),
        policy: rearm_policy(&loaded),
        causes,
        orphans: restored.orphans,
    });
    let switch = Arc::new(switch);
    {
        let published = published.clone();
        switch.watch_cancels(Box::new(move |slot| published.cancels.view(slot)));
    }
    let named = Arc::new(OrderNames::default());
    let (queries, take_queries) = crossbeam_channel::bounded(QUERIES);
    if loaded.engine.prefault {
        match prepared.engine.prefault() {
            Ok(bytes) => tracing::info!(event = "memory", bytes, "the engine's tables have their memory"),
            Err(error) => {
                tracing::warn!(event = "memory", "the engine's tables get their memory when it is first used: {error}");
            }
        }
    }

    // 4. The engine and its port.
    let (edge, engine_port) = port(EVENT_RING, bell.clone(), Box::new(ingest_wake.clone()));
    let grace_ns = u64::try_from(loaded.journal.grace.as_nanos()).unwrap_or(u64::MAX);
    let agent = EngineAgent::new(AgentParts {
        engine: prepared.engine,
        universe: universe.clone(),
        page: page.clone(),
        published: published.clone(),
        ports: vec![engine_port],
        lane_changes: take_lane_changes,
        lease_lag_ns: loaded.gate.as_ref().map_or(0, |gate| gate.lag.as_nanos() as u64),
        commands: take_commands,
        queries: take_queries,
        recorder,
        durable_before_verdict: loaded.journal.durable_before_verdict,
        grace_ns,
        begin,
        notices,
        page_raised: Box::new(PageRaised { switch: switch.clone() }),
        clock: clock.clone(),
    });

    // 5. Who may come in.
    let mut session_hashes = loaded.session_tokens.clone();
    for (name, hash) in options.session_hashes {
        if let Some(session) = universe.session(&name) {
            session_hashes[usize::from(session.0)] = Some(hash);
        }
    }
    let rehearser = match &loaded.drill {
        None => None,
        Some(drill) => {
            let made = new_token().map_err(|error| anyhow::anyhow!("the system gave no randomness: {error}"))?;
            let rehearser = Rehearser::of(drill, &universe, made.0, ws_addr);
            if let Some(who) = &rehearser {
                session_hashes[usize::from(who.session.0)] = Some(hash_token(&who.token));
            }
            rehearser
        }
    };
    let tokens = Arc::new(SessionTokens::new(session_hashes));
    let mut principals = options.principals;
    principals.extend(loaded.auth.operators.iter().map(|operator| Principal {
        name: operator.name.clone(),
        role: operator.role,
        scopes: operator.scopes.clone(),
        token_hash: operator.hash,
    }));
    let auth = Authenticator::new(principals).with_certificates(loaded.auth.certificates.clone());
    let auth = Arc::new(auth.with_logins_for(loaded.auth.login_lifetime));
    let local_users = socket::users(&loaded.local.operators);

    let desk = Arc::new(Desk::new(DeskParts {
        path: options.path,
        loaded: loaded.clone(),
        opening,
        limits: limits.clone(),
        commands,
        bell: bell.clone(),
        state: reload_state.clone(),
        clock: clock.clone(),
        switch: switch.clone(),
        published: published.clone(),
        alerts: alerts.clone(),
        audit: audit.clone(),
    }));
    let drills = Arc::new(DrillRoom::new(
        rehearser,
        switch.clone(),
        published.clone(),
        clock.clone(),
        alerts.clone(),
        &loaded.service.state_dir,
    ));
    let day = loaded.guard.preflight_at.map(|at| {
        Arc::new(DayOpen::new(DayParts {
            switch: switch.clone(),
            clock: clock.clone(),
            audit: audit.clone(),
            begins_ns: u64::try_from(at.as_nanos()).unwrap_or(0),
            state_dir: loaded.service.state_dir.clone(),
        }))
    });
    let preflight = PreflightParts {
        switch: switch.clone(),
        published: published.clone(),
        alerts: alerts.clone(),
        durability: durability.clone(),
        clock: clock.clone(),
        desk: desk.clone(),
        state_dir: loaded.service.state_dir.clone(),
        segment_bytes: loaded.journal.segment_bytes,
        day: day.clone(),
    };
    let (attestor, attest_jobs) = Attestor::new(
        AttestParts {
            switch: switch.clone(),
            clock: clock.clone(),
            audit: audit.clone(),
            alerts: alerts.clone(),
            published: published.clone(),
            config: loaded.guard.attestation.clone(),
            state_dir: loaded.service.state_dir.clone(),
            own: loaded.drill.as_ref().and_then(|drill| universe.session(&drill.session)),
            day: day.clone(),
            preflight: Box::new(move || preflight.checks()),
        },
        &universe,
    );
    attestor.on_new_build(Arc::new(Ramp { desk: desk.clone() }));
    let stats = Arc::new(IngestStats::default());
    let metrics = Metrics::new(MetricsParts {
        published: published.clone(),
        switch: switch.clone(),
        limits: limits.clone(),
        clock: clock.clone(),
        reload: reload_state,
        sources: [
            Some(auth.clone() as Arc<dyn Source>),
            Some(stats.clone()),
            Some(attestor.clone()),
            durability.clone().map(|d| d as _),
            writer.as_ref().map(|threads| threads.compaction.clone() as _),
            Some(desk.clone() as _),
            Some(drills.clone() as _),
            Some(Arc::new(AlertSource {
                alerts: alerts.clone(),
                clock: clock.clone(),
                receivers: outlets.iter().map(|outlet| outlet.status.clone()).collect(),
            })),
            Some(Arc::new(GuardSource(watch.clone()))),
            tls.clone().map(|tls| tls as _),
            day.map(|day| day as _),
        ]
        .into_iter()
        .flatten()
        .collect(),
    })?;

    // 6. Threads, the latch first and the doors last.
    let flag = || Arc::new(AtomicBool::new(false));
    let (stop_engine, stop_control, stop_latch) = (flag(), flag(), flag());
    let (stop_ingest, hear_ingest_stop) = tokio::sync::watch::channel(false);
    let (stop_api, hear_stop) = tokio::sync::watch::channel(false);
    let (stop_killfile, hear_killfile_stop) = crossbeam_channel::bounded::<()>(0);
    let latch = {
        let (switch, clock, stop) = (switch.clone(), clock.clone(), stop_latch.clone());
        spawn("latch", move || run_latch(store, &switch, &latch_jobs, &clock, &stop))?
    };
    let replay = writer.as_ref().map(|threads| threads.replay());
    let journal = writer.map(|threads| journal::spawn(threads, &audit)).transpose()?;
    let stop_incidents = flag();
    let (report, incidents) = match durability.as_ref().zip(replay) {
        None => (None, None),
        Some((durability, replay)) => {
            let (report, take) = crossbeam_channel::bounded(INCIDENTS);
            let state = &loaded.service.state_dir;
            let parts = IncidentParts {
                dir: state.join("incidents"),
                journal: state.join("journal"),
                switch: switch.clone(),
                published: published.clone(),
                durability: durability.clone(),
                config: blake3::Hash::from_bytes(loaded.hash).to_hex().to_string(),
                replay,
            };
            let stop = stop_incidents.clone();
            (Some(report), Some(spawn("incidents", move || run_incidents(&parts, &take, &stop))?))
        }
    };
    let alerting = {
        let (alerts, switch, audit) = (alerts.clone(), switch.clone(), audit.clone());
        let parts = KeeperParts { alerts, switch, audit, clock: clock.clone(), path: alerts_file };
        alerting::start(parts, outlets)?
    };
    let stop_guard = flag();
    let guard = {
        let parts = GuardParts {
            watch: watch.clone(),
            texts: take_texts,
            published: published.clone(),
            alerts: alerts.clone(),
            switch: switch.clone(),
            audit: audit.clone(),
            clock: clock.clone(),
            path: guard_file,
        };
        let stop = stop_guard.clone();
        spawn("guard", move || guard::run(&parts, &stop))?
    };
    let control = {
        let (switch, alerts, published, stop) =
            (switch.clone(), alerts.clone(), published.clone(), stop_control.clone());
        let audit = audit.clone();
        spawn("control", move || {
            let parts = ControlParts {
                audit: &audit,
                incidents: report,
                notices: take_notices,
                switch: &switch,
                alerts: &alerts,
                published: &published,
                events_taken: &events_taken,
            };
            run_control(&parts, &stop)
        })?
    };
    let engine = {
        let (idle, bell, stop) = (loaded.engine.idle, bell.clone(), stop_engine.clone());
        spawn("engine", move || agent.run(idle, &bell, &stop))?
    };
    // What it asks for is done before anybody is let in.
    let killfile = match &loaded.local.kill_file {
        None => None,
        Some(path) => {
            let file = KillFile::watch(path, switch.clone(), clock.clone(), audit.clone());
            Some(spawn("killfile", move || file.run(&hear_killfile_stop))?)
        }
    };
    let (stop_attest, hear_attest_stop) = crossbeam_channel::bounded::<()>(0);
    let attest = {
        let attestor = attestor.clone();
        spawn("attest", move || attestor.run(&attest_jobs, &hear_attest_stop))?
    };
    let (api, local) = {
        let reload = desk.clone();
        let parts = Arc::new(ApiParts {
            switch: switch.clone(),
            published: published.clone(),
            limits: limits.clone(),
            auth,
            tls: tls.clone(),
            local: local_users,
            clock: clock.clone(),
            alerts,
            watch: Some(watch),
            audit: audit.clone(),
            journal: durability.clone(),
            residual: ResidualAsker::new(queries, bell.clone(), named.clone()),
            files: files(durability.is_some(), &loaded.service.state_dir),
            render_metrics: Box::new(move || metrics.render()),
            reload: Box::new(move |actor, reason| reload.reload(actor, reason)),
            fleet: attestor.clone(),
            desk: Some(desk.clone()),
            drills: Some(drills),
            options: ApiOptions {
                metrics_need_token: !http_addr.ip().is_loopback(),
                streams: loaded.http.streams,
                stream_every: loaded.http.stream_every,
                ..ApiOptions::default()
            },
        });
        let (also, also_hear_stop) = (parts.clone(), hear_stop.clone());
        let api = spawn("api", move || {
            if let Err(error) = api::run(http, parts, hear_stop) {
                tracing::error!(%error, "the HTTP server ended");
            }
        })?;
        let local = spawn("local", move || {
            if let Err(error) = api::run_local(local, also, also_hear_stop) {
                tracing::error!(%error, "the server at the local socket ended");
            }
        })?;
        (api, local)
    };
    let (stop_limits, hear_limits_stop) = crossbeam_channel::bounded::<()>(0);
    let changing = {
        let desk = desk.clone();
        spawn("limits", move || desk::run(&desk, &hear_limits_stop))?
    };
    let stop_gates = flag();
    let gates = match (gate_door, page_fd) {
        (Some(door), Some(page_fd)) => {
            let parts = GateParts {
                listener: door.listener,
                page: page_fd,
                halt_page: page.clone(),
                former,
                bell: bell.clone(),
                bell_fd,
                universe: universe.clone(),
                auth: tokens.clone(),
                door: attestor.clone(),
                board: board.clone(),
                gates,
                lane_changes,
                texts: texts.clone(),
                clock: clock.clone(),
                options: door.options,
            };
            let stop = stop_gates.clone();
            Some(spawn("gates", move || {
                if let Err(error) = gates::run(parts, &stop) {
                    tracing::error!(%error, "no gateway can attach any more");
                }
            })?)
        }
        _ => None,
    };
    let ingest = {
        let parts = IngestParts {
            named,
            universe: universe.clone(),
            page,
            board,
            port: edge,
            clock: clock.clone(),
            auth: tokens,
            door: attestor.clone(),
            texts,
            listener: ws,
            options: IngestOptions {
                connections_max: loaded.ingest.max_connections,
                origins: loaded.ingest.allowed_origins.clone(),
                ..IngestOptions::default()
            },
            wake: ingest_wake.clone(),
            stats,
            stop: hear_ingest_stop,
            next_seq: prepared.next_seq,
            names: prepared.names,
        };
        spawn("ingest", move || {
            if let Err(error) = ws::run(parts) {
                tracing::error!(%error, "the event server ended");
            }
        })?
    };
    let threads = Threads {
        stop_ingest,
        stop_engine,
        stop_control,
        stop_api,
        stop_latch,
        stop_killfile,
        stop_limits,
        limits: changing,
        stop_gates,
        gates,
        bell,
        ingest,
        engine,
        control,
        api,
        local,
        socket_file,
        killfile,
        stop_attest,
        attest,
        latch,
        journal,
        stop_incidents,
        incidents,
        alerting,
        stop_guard,
        guard,
    };
    let hash = blake3::Hash::from_bytes(loaded.hash).to_hex();
    let found = prepared.unknown.as_deref().unwrap_or("positions are exact");
    let detail = format!("version {}, configuration {hash}, {found}", env!("CARGO_PKG_VERSION"));
    audit.record(Entry::new("haltline", "start").detail(detail));
    Ok(Running {
        ws_addr,
        http_addr,
        socket,
        universe,
        limits,
        published,
        switch,
        clock,
        audit,
        desk,
        attestor,
        tls,
        threads,
    })
}

impl Running {
    /// Loads the limits anew from the file that the service was started from.
    ///
    /// # Errors
    /// Every violation; the old limits stay.
    pub fn reload(&self, actor: &str, reason: &str) -> Result<u32, Vec<String>> {
        self.desk.reload(actor, reason)
    }

    /// A build that was not seen in `session` before has been approved: where the configuration has a ramp, the session begins
    /// it. When this returns the engine judges by it.
    ///
    /// # Errors
    /// If there is no such session, or the ramp could not be put in force: the session has to stay denied.
    pub fn new_build(&self, session: &str, build: &str) -> Result<(), String> {
        let session = self.universe.session(session).ok_or_else(|| format!("there is no session {session:?}"))?;
        self.desk.new_build(session, build)
    }

    /// Ends the service: first no more events, then what was taken is decided, latched and written.
    ///
    /// # Errors
    /// If something could not be written, or a thread had panicked: then the next start finds the run unclean.
    pub fn stop(self) -> anyhow::Result<()> {
        let t = self.threads;
        let joined = |name: &str| anyhow::anyhow!("the {name} thread panicked");
        let _ = t.stop_ingest.send(true);
        t.ingest.join().map_err(|_| joined("ingest"))?;
        t.stop_gates.store(true, Ordering::Release);
        if let Some(gates) = t.gates {
            gates.join().map_err(|_| joined("gates"))?;
        }
        // While the engine still takes commands.
        drop(t.stop_limits);
        t.limits.join().map_err(|_| joined("limits"))?;
        t.stop_engine.store(true, Ordering::Release);
        t.bell.ring();
        t.engine.join().map_err(|_| joined("engine"))?;
        t.stop_control.store(true, Ordering::Release);
        let noted = t.control.join().map_err(|_| joined("control"))?;
        let _ = t.stop_api.send(true);
        t.api.join().map_err(|_| joined("api"))?;
        t.local.join().map_err(|_| joined("local"))?;
        drop(t.socket_file);
        drop(t.stop_killfile);
        if let Some(killfile) = t.killfile {
            killfile.join().map_err(|_| joined("killfile"))?;
        }
        drop(t.stop_attest);
        t.attest.join().map_err(|_| joined("attest"))?;
        t.stop_guard.store(true, Ordering::Release);
        t.guard.join().map_err(|_| joined("guard"))?;
        // After everybody who raises alerts, before the latch: it may halt.
        t.alerting.stop().map_err(|name| joined(&name))?;
        t.stop_latch.store(true, Ordering::Release);
        let store = t.latch.join().map_err(|_| joined("latch"))?;
        t.stop_incidents.store(true, Ordering::Release);
        if let Some(incidents) = t.incidents {
            incidents.join().map_err(|_| joined("incidents"))?;
        }
        let mut journal = t.journal;
        if let Some(journal) = &mut journal {
            journal.end_compactor()?;
        }
        // The last record, when everybody who might make one has ended.
        self.audit.record(Entry::new("haltline", "stop"));
        if let Some(journal) = journal {
            journal.end()?;
        }
        noted.context("could not write down that events were taken")?;
        if let Some(error) = self.switch.latch().error {
            anyhow::bail!("the latch could not be written: {error}");
        }
        store.close().context("ending the run")
    }
}

/// Where gateways on this host come in.
struct GateDoor {
    dir: PathBuf,
    listener: OwnedFd,
    options: GateOptions,
    lease: Duration,
}

impl GateDoor {
    fn open(gate: &config::Gate, state_dir: &Path) -> anyhow::Result<GateDoor> {
        let dir = gate.dir(state_dir);
        match std::fs::DirBuilder::new().mode(0o755).create(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make the gate directory {}", dir.display()));
            }
            Ok(()) | Err(_) => {}
        }
        // Whoever owns the directory decides what gates see.
        let stat = rustix::fs::stat(&dir).with_context(|| format!("the gate directory {}", dir.display()))?;
        let ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
        anyhow::ensure!(
            ours,
            "the gate directory {} must belong to this user and be writable by no other",
            dir.display()
        );
        // On a disk a store into the page could wait for it, and a kill with it.
        let in_memory = rustix::fs::statfs(&dir).is_ok_and(|fs| fs.f_type == TMPFS || fs.f_type == RAMFS);
        anyhow::ensure!(in_memory, "the gate directory {} must be on a file system in memory", dir.display());
        let socket = config::Gate::socket(&dir);
        let listener = gates::listen(&socket, gate.socket_mode)
            .with_context(|| format!("gateways cannot be heard at {}", socket.display()))?;
        Ok(GateDoor { dir, listener, options: gate.options, lease: gate.lease })
    }
}

/// `f_type` of file systems in memory, see statfs(2).
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58F6;

/// Puts the page where gates see it. What was raised there while nobody served is a halt like any other.
fn settle_page(
    page: HaltPage,
    door: Option<&GateDoor>,
    universe: &Universe,
    causes: &mut Vec<(usize, Vec<Cause>)>,
    clock: &dyn Clock,
) -> anyhow::Result<(HaltPage, Option<OwnedFd>)> {
    let Some(door) = door else { return Ok((page, None)) };
    let path = config::Gate::page(&door.dir);
    let settled = page
        .settle_in(&path, &Shape::of(universe), 0o600, door.lease.as_nanos() as u64)
        .with_context(|| format!("the halt page {}", path.display()))?;
    if let Some(why) = settled.replaced {
        tracing::warn!(event = "page", "the halt page was made anew, gates have to attach again: {why}");
    }
    for slot in settled.adopted {
        let word = settled.page.get(slot);
        let cause = Cause {
            mode: word.mode,
            epoch: word.epoch,
            at: clock.now().unix.0,
            actor: "halt page".to_owned(),
            reason: "raised on the halt page while haltline did not serve, or ended before it could write down by whom"
                .to_owned(),
            trip: None,
        };
        tracing::error!(event = "page", slot, "{}", cause.reason);
        match causes.iter_mut().find(|(of, _)| *of == slot) {
            Some((_, list)) => list.push(cause),
            None => causes.push((slot, vec![cause])),
        }
    }
    Ok((settled.page, Some(settled.read_only)))
}

/// Puts new builds on probation, if a ramp is configured.
struct Ramp {
    desk: Arc<Desk>,
}

impl NewBuilds for Ramp {
    fn new_build(&self, new: &NewBuild) -> Result<(), String> {
        self.desk.new_build(new.session, &new.build)
    }
}

/// Told by the engine that a trip raised the page.
struct PageRaised {
    switch: Arc<Switch>,
}

impl Wake for PageRaised {
    fn wake(&self) {
        self.switch.page_changed();
    }
}

/// Raises the page at start, for a reason of our own.
fn latch_again(
    page: &HaltPage,
    causes: &mut Vec<(usize, Vec<Cause>)>,
    (slot, mode): (usize, Mode),
    reason: String,
    clock: &dyn Clock,
) {
    let word = page.raise(slot, mode);
    let actor = "haltline".to_owned();
    let cause = Cause { mode, epoch: word.epoch, at: clock.now().unix.0, actor, reason, trip: None };
    match causes.iter_mut().find(|(at, _)| *at == slot) {
        Some((_, list)) => list.push(cause),
        None => causes.push((slot, vec![cause])),
    }
}

/// A panic anywhere halts the firm, gives the latch a moment to get to disk, and ends the process: a part of the
/// service missing is not something to go on with.
fn abort_on_panic(running: &Running) {
    let switch = running.switch.clone();
    let firm = running.universe.slot(Scope::Firm);
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        if let Some(firm) = firm {
            switch.page().raise(firm, Mode::Halted);
        }
        let begin = Instant::now();
        while !switch.is_known_durable() && begin.elapsed() < Duration::from_millis(250) {
            std::thread::yield_now();
        }
        std::process::abort();
    }));
}

fn reload_certificates(tls: &Tls, audit: &Audit) {
    let entry = Entry::new("signal", "certificates").because("SIGHUP");
    audit.record(match tls.reload() {
        Ok(()) => {
            tracing::info!(event = "reload", "the certificates of the HTTP listener were read again");
            entry
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::error!(event = "reload", "the old certificates stay in force: {error:#}");
            entry.refused(&format!("{error:#}"))
        }
    });
}

/// How long a question about the audit may read on: what it has not found by then it says where to go on from.
const AUDIT_READ: Duration = Duration::from_secs(2);

/// What the API shows of the journal's directory.
fn files(journal: bool, state_dir: &Path) -> api::Files {
    if !journal {
        return api::Files::default();
    }
    let dir = state_dir.join("journal");
    let audit = move |query: &api::AuditQuery| {
        let until = Instant::now() + AUDIT_READ;
        let newest = newest(&dir, query.count, query.before, until, |entry| query.passes(entry));
        let newest = newest.map_err(|error| error.to_string())?;
        let entries = newest.found.into_iter().map(|found| (found.group, found.entry)).collect();
        Ok(api::AuditPage { entries, next: newest.next, note: newest.note })
    };
    api::Files { incidents: Some(state_dir.join("incidents")), audit: Some(Box::new(audit)) }
}

fn rearm_policy(loaded: &Loaded) -> RearmPolicy {
    let ns = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let (auth, rearm) = (&loaded.auth, &loaded.rearm);
    RearmPolicy {
        two_people: auth.two_people(),
        expiry_ns: ns(auth.rearm_expiry),
        rules: RearmRules {
            cool_off_ns: ns(rearm.cool_off),
            acknowledge: rearm.acknowledge,
            drill_within_ns: rearm.drill_within.map(ns),
            nonce: rearm.nonce,
        },
    }
}

fn listen(addr: SocketAddr, any_port: bool) -> anyhow::Result<TcpListener> {
    let listener = match TcpListener::bind(addr) {
        Err(error) if any_port && error.kind() == std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(addr.ip(), 0))
        }
        other => other,
    };
    let listener = listener.with_context(|| format!("cannot listen on {addr}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(format!("haltline-{name}"))
        .spawn(run)
        .with_context(|| format!("cannot start the {name} thread"))
}
