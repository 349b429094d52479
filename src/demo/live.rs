//! The live run: eight gateways and a source of prices stream the morning to the running service.
//!
//! What is told about a halt is what the gateways saw of it: verdicts, pushed modes, and the answer of
//! `GET /v1/state`. Nothing is read from the inside of the service.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::FutureExt;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::alone::{Cast, Control};
use super::gateway::{Gateway, MarketData, Route};
use super::knight::{MORNING_NS, PARENTS, SYMBOLS};
use super::link::StateHalt;
use super::morning::table::shortened;
use super::orders::Orders;
use super::pacer::Pacer;
use super::show::{Ink, Screen, count, span, usd};
use super::{ServiceHandle, link};
use crate::duty::Clock;
use crate::limits::{LimitTable, RateKind};
use crate::model::rule::Unit;
use crate::model::{Event, EventKind, Mode, Rule, Scope, ScopeKind, Universe};
use crate::units::MonoNanos;

/// A denial as the wire tells it: the numbers are decimals in the rule's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The rule.
    pub rule: Rule,
    /// Where the limit stands.
    pub scope: Scope,
    /// What was observed.
    pub observed: String,
    /// What would have been allowed.
    pub limit: String,
}

/// What a gateway hears from the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The answer to a request.
    Verdict {
        /// Which request.
        kind: EventKind,
        /// Its id.
        id: u64,
        /// `None`: admitted.
        denial: Option<Denied>,
    },
    /// The mode of a scope, now.
    Mode {
        /// Which scope.
        scope: Scope,
        /// Its mode.
        mode: Mode,
    },
    /// Wanted: a cancel of this order, because a scope of it is halted.
    Cancel {
        /// The order.
        id: u64,
    },
    /// Everything up to this sequence was taken.
    Applied {
        /// The sequence.
        seq: u64,
    },
}

/// A gateway's connection to the service.
pub trait Link {
    /// Puts `event` into the queue; session, sequence and time are the connection's to set.
    fn queue(&mut self, event: Event) -> anyhow::Result<()>;
    /// Sends what is queued.
    fn flush(&mut self) -> impl Future<Output = anyhow::Result<()>>;
    /// The next message. May be given up on and called again without losing one.
    fn hear(&mut self) -> impl Future<Output = anyhow::Result<Heard>>;
}

/// Scenario time: the service's own clock, counted from the open.
#[derive(Clone)]
struct Scenario {
    clock: Arc<dyn Clock>,
    open: MonoNanos,
    speed: u32,
}

impl Scenario {
    fn now(&self) -> u64 {
        self.clock.now().mono.since(self.open)
    }

    /// How long it is until scenario time `at`, by the pacer's clock.
    fn until(&self, at: u64) -> Duration {
        Duration::from_nanos(at.saturating_sub(self.now()) / u64::from(self.speed))
    }
}

/// Something worth a line, as a gateway saw it.
#[derive(Clone, Debug)]
enum Seen {
    Denial(FirstDenial),
    Mode(ModeTold),
    /// A connection was lost.
    Lost {
        who: String,
        error: String,
    },
}

/// The first denial of a gateway by a rule at a kind of scope.
#[derive(Clone, Debug)]
struct FirstDenial {
    gateway: usize,
    at_ns: u64,
    order: u64,
    executions: u64,
    gross_cents: i64,
    denial: Denied,
}

/// A pushed mode, and what the gateway had done by then.
#[derive(Clone, Copy, Debug)]
struct ModeTold {
    gateway: usize,
    at_ns: u64,
    scope: Scope,
    mode: Mode,
    order: u64,
    executions: u64,
    gross_cents: i64,
}

/// A control that fired in the live run, as the gateways saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveFired {
    /// Which control.
    pub control: Control,
    /// Scope, rule and numbers, in words.
    pub text: String,
    /// Scenario time.
    pub at_ns: u64,
    /// Orders that the gateway had asked for.
    pub order: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveResult {
    /// The bad flow was halted, kept trying, and nothing more of it was admitted.
    pub stopped: bool,
    /// From its first execution to the moment at which the bad gateway saw the halt; `None`: no halt.
    pub halt_after_ns: Option<u64>,
    /// Executions of the bad instance, those included that were at the venue when the halt came.
    pub executions_out: u64,
    /// Their position, gross.
    pub gross_cents: i64,
    /// What fired first.
    pub first: Option<LiveFired>,
    /// Everything that fired on the bad instance.
    pub fired: Vec<LiveFired>,
    /// Round trip of an ask in ns, all gateways: 50th, 99th, 99.9th percentile, and how many.
    pub ask_ns: [u64; 3],
    /// How many asks were measured.
    pub asks: u64,
}

/// How long the flow is watched after the halt, scenario time.
const OBSERVE_NS: u64 = 5_000_000_000;
/// How long a halt is waited for, scenario time.
const GIVE_UP_NS: u64 = 60_000_000_000;
/// How long the disaster is shown with `--exit`, scenario time.
const DISASTER_NS: u64 = 30_000_000_000;
/// How often the run looks at itself, real time.
const LOOK: Duration = Duration::from_millis(20);
/// How long after a pushed mode the service is asked what was behind it, at most; real time.
const SETTLE: Duration = Duration::from_millis(300);
/// A session says at least this often that it is alive, scenario time.
const HEARTBEAT_NS: u64 = 1_000_000_000;
/// How many events a gateway sends before it reads again.
const ROUND: usize = 64;

/// How time passes in a live run.
pub struct Pace {
    /// Scenario time, and the service's clock with it, passes so many times as fast as the pacer's.
    pub speed: u32,
    /// What the gateways and the prices wait by.
    pub pacer: Pacer,
}

impl Pace {
    /// That of the host's clock, for `cast`.
    ///
    /// # Errors
    /// If the pacer's thread cannot be started.
    pub fn of_host(speed: u32, cast: &Cast) -> anyhow::Result<Pace> {
        let pacer = Pacer::start(cast.sessions().len() + 1).context("starting the pacer's thread")?;
        Ok(Pace { speed, pacer })
    }
}

/// The running morning: drop it to end the streams.
pub struct Live<'a> {
    service: &'a ServiceHandle,
    screen: &'a Screen,
    scenario: Scenario,
    pacer: Rc<Pacer>,
    names: Vec<String>,
    gateways: Vec<Rc<RefCell<Gateway>>>,
    asks: Rc<RefCell<Histogram<u64>>>,
    seen: mpsc::UnboundedReceiver<Seen>,
    /// Taken out of `seen`, not shown yet.
    later: VecDeque<Seen>,
    fired: Vec<LiveFired>,
    /// Modes as they were pushed.
    modes: HashMap<Scope, Mode>,
    /// How often one of them changed.
    changes: u64,
    tasks: JoinSet<()>,
}

impl<'a> Live<'a> {
    /// Connects everybody, lets the reference prices arrive, and opens the market.
    ///
    /// # Errors
    /// If the configuration lacks a name of the scenario or a connection fails.
    pub async fn open<L: Link + 'static>(
        service: &'a ServiceHandle,
        screen: &'a Screen,
        cast: &Cast,
        seed: u64,
        Pace { speed, pacer }: Pace,
        connect: impl AsyncFn(&str) -> anyhow::Result<L>,
    ) -> anyhow::Result<Live<'a>> {
        let universe = &service.universe;
        let names = cast.sessions();
        let gateways: Vec<_> = cast.gateways(universe, seed)?.into_iter().map(|g| Rc::new(RefCell::new(g))).collect();
        let mut links = Vec::new();
        for name in &names {
            links.push(connect(name).await.with_context(|| format!("session {name}"))?);
        }
        let mut market_data = MarketData::new(universe, &cast.market_data, seed)?;
        let mut prices = connect(&cast.market_data).await.with_context(|| format!("session {}", cast.market_data))?;
        let bad = Route::find(universe, &cast.bad)?;
        let orders = Rc::new(RefCell::new(Orders::new(universe, &cast.orders, &bad, seed)?));
        let mut parents = connect(&cast.orders).await.with_context(|| format!("session {}", cast.orders))?;
        for parent in orders.borrow().parents() {
            parents.queue(*parent)?;
        }
        parents.flush().await?;
        while !matches!(parents.hear().await?, Heard::Applied { seq } if seq >= PARENTS as u64) {}
        let parent_count = count(PARENTS as u64);
        screen.event(0, Ink::Plain, "READY", &format!("{} sessions connected over WebSocket", names.len() + 2));
        screen.event(
            0,
            Ink::Plain,
            "READY",
            &format!("{} has {parent_count} parent orders, all received pre-open", cast.bad),
        );

        // Before the open every symbol has a price: an order without one would be denied, and rightly.
        while let Some(mark) = market_data.poll(0) {
            prices.queue(mark)?;
        }
        prices.flush().await?;
        while !matches!(prices.hear().await?, Heard::Applied { seq } if seq >= SYMBOLS as u64) {}
        let scenario = Scenario { clock: service.clock.clone(), open: service.clock.now().mono, speed };
        screen.event(0, Ink::Plain, "OPEN", &format!("{} symbols priced, {} instances trade", SYMBOLS, names.len()));

        let asks = Rc::new(RefCell::new(Histogram::new_with_bounds(1, 60_000_000_000, 3)?));
        let (tell, seen) = mpsc::unbounded_channel();
        let (over, overs) = mpsc::unbounded_channel();
        let pacer = Rc::new(pacer);
        let mut tasks = JoinSet::new();
        for (index, (gateway, link)) in gateways.iter().zip(links).enumerate() {
            let driver = Driver {
                index,
                gateway: gateway.clone(),
                scenario: scenario.clone(),
                pacer: pacer.clone(),
                asks: asks.clone(),
                tell: tell.clone(),
                asked_at: HashMap::new(),
                modes: HashMap::new(),
                denials: Vec::new(),
                orders: (index + 1 == gateways.len()).then(|| (orders.clone(), over.clone())),
            };
            let (tell, who) = (tell.clone(), names[index].clone());
            tasks.spawn_local(async move {
                if let Err(error) = driver.run(link).await {
                    drop(tell.send(Seen::Lost { who, error: format!("{error:#}") }));
                }
            });
        }
        let (who, told) = (cast.orders.clone(), tell.clone());
        tasks.spawn_local(async move {
            if let Err(error) = stream_orders(overs, parents).await {
                drop(told.send(Seen::Lost { who, error: format!("{error:#}") }));
            }
        });
        let (who, clock, paced, index) = (cast.market_data.clone(), scenario.clone(), pacer.clone(), gateways.len());
        tasks.spawn_local(async move {
            if let Err(error) = stream_prices(market_data, prices, clock, paced, index).await {
                drop(tell.send(Seen::Lost { who, error: format!("{error:#}") }));
            }
        });
        let (later, fired, modes) = (VecDeque::new(), Vec::new(), HashMap::new());
        let changes = 0;
        Ok(Live { service, screen, scenario, pacer, names, gateways, asks, seen, later, fired, modes, changes, tasks })
    }

    fn bad(&self) -> &RefCell<Gateway> {
        &self.gateways[self.gateways.len() - 1]
    }

    /// Ends the streams.
    pub fn end(&mut self) {
        self.tasks.abort_all();
    }

    /// Prints what the gateways see until `until` completes.
    pub async fn show_until<T>(&mut self, until: impl Future<Output = T>) -> T {
        let mut until = std::pin::pin!(until);
        loop {
            while let Some(seen) = self.later.pop_front() {
                self.show(seen).await;
            }
            tokio::select! {
                out = &mut until => return out,
                Some(seen) = self.seen.recv() => self.show(seen).await,
                Some(Err(panic)) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if panic.is_panic() {
                        self.screen.event(self.scenario.now(), Ink::Bad, "LOST", &format!("a gateway's task: {panic}"));
                    }
                }
            }
        }
    }

    /// Prints what the gateways see for so long, by the pacer's clock.
    async fn pass(&mut self, wait: Duration) {
        let pacer = self.pacer.clone();
        self.show_until(pacer.nap(wait)).await;
    }

    /// Runs until the bad flow was halted and then watched for a while, or a halt was waited for in vain.
    pub async fn observe_halt(&mut self) -> LiveResult {
        self.screen.start_bar(OBSERVE_NS / 1_000_000, "waiting for a halt");
        let halted = loop {
            self.pass(LOOK).await;
            let now = self.scenario.now();
            let halt = self.bad().borrow().tally().halt;
            match halt {
                Some(halt) if now >= halt.at_ns + OBSERVE_NS => break true,
                Some(halt) => self.screen.bar_at((now - halt.at_ns) / 1_000_000),
                None if now >= GIVE_UP_NS => break false,
                None => {}
            }
        };
        self.screen.end_bar();
        self.show_flow(halted);
        self.result()
    }

    /// Runs for `ns` of scenario time, whatever comes of it.
    pub async fn observe_for(&mut self, ns: u64) -> LiveResult {
        while self.scenario.now() < ns {
            self.pass(LOOK).await;
        }
        self.show_flow(true);
        self.result()
    }

    /// Shows what happens without controls, until `end_ns` of scenario time.
    pub async fn observe_disaster(&mut self, exit: bool) -> LiveResult {
        let end = if exit { DISASTER_NS } else { MORNING_NS };
        let mut next = 1_000_000_000;
        loop {
            self.pass(LOOK).await;
            let now = self.scenario.now();
            if now >= next {
                next = match now {
                    0..10_000_000_000 => (now / 1_000_000_000 + 1) * 1_000_000_000,
                    10_000_000_000..600_000_000_000 => (now / 10_000_000_000 + 1) * 10_000_000_000,
                    _ => (now / 60_000_000_000 + 1) * 60_000_000_000,
                };
                let (gross, net) = self.bad().borrow_mut().exposure_cents(now);
                let executions = count(self.bad().borrow().tally().executions);
                let text = format!("{executions} executions out, {} gross, {} net", usd(gross), usd(net));
                self.screen.event(now, Ink::Bad, "RUNS", &text);
            }
            if now >= end {
                return self.result();
            }
        }
    }

    /// Asks the service itself which scopes are halted and by what.
    ///
    /// A control that trips on an execution denies nothing by its own name: the gateways learn of it here.
    ///
    /// # Errors
    /// If the service does not answer as its API documents.
    pub async fn ask_state(&mut self) -> anyhow::Result<()> {
        let state = link::get(self.service, "/v1/state").await.context("GET /v1/state")?;
        let halts = link::halts(&state).context("GET /v1/state")?;
        let halt = self.bad().borrow().tally().halt;
        let now = self.scenario.now();
        for told in &halts {
            self.screen.event(now, Ink::Plain, "STATE", &told.text());
            if let (Some(control), Some(halt)) = (told.trip, halt)
                && !self.fired.iter().any(|f| f.control == control)
            {
                let (text, at_ns, order) = (told.cause.clone(), halt.at_ns, halt.attempts);
                self.fired.push(LiveFired { control, text, at_ns, order });
            }
        }
        if halts.is_empty() {
            self.screen.event(now, Ink::Plain, "STATE", "no scope is halted");
        }
        Ok(())
    }

    /// Goes on, and tells of every halt and re-arm, until `until` completes.
    ///
    /// # Errors
    /// See [`Live::ask_state`].
    pub async fn serve<T>(&mut self, until: impl Future<Output = T>) -> anyhow::Result<T> {
        let mut until = std::pin::pin!(until);
        let (mut told, pacer) = (self.changes, self.pacer.clone());
        loop {
            let wait = async {
                tokio::select! {
                    out = &mut until => Some(out),
                    () = pacer.nap(SETTLE) => None,
                }
            };
            if let Some(out) = self.show_until(wait).await {
                return Ok(out);
            }
            if told != self.changes {
                told = self.changes;
                self.ask_state().await?;
            }
        }
    }

    /// What has come of it so far.
    #[must_use]
    pub fn result(&self) -> LiveResult {
        let (gross_cents, _) = self.bad().borrow_mut().exposure_cents(self.scenario.now());
        let bad = self.bad().borrow();
        let tally = bad.tally();
        // Each admitted child is executed once: if none was admitted after the halt, none more went out.
        let stopped = tally.halt.is_some_and(|h| tally.attempts > h.attempts && tally.admitted == h.admitted);
        let halt_after_ns = tally.halt.map(|h| h.at_ns.saturating_sub(tally.first_execution_ns.unwrap_or(h.at_ns)));
        let asks = self.asks.borrow();
        LiveResult {
            stopped,
            halt_after_ns,
            executions_out: tally.executions,
            gross_cents,
            first: self.fired.first().cloned(),
            fired: self.fired.clone(),
            ask_ns: [50.0, 99.0, 99.9].map(|p| asks.value_at_percentile(p)),
            asks: asks.len(),
        }
    }

    async fn show(&mut self, seen: Seen) {
        match seen {
            Seen::Denial(first) => self.show_denial(&first),
            Seen::Mode(told) => self.show_mode(&told).await,
            Seen::Lost { who, error } => {
                self.screen.event(self.scenario.now(), Ink::Bad, "LOST", &format!("{who}: {error}"));
            }
        }
    }

    fn show_denial(&mut self, first: &FirstDenial) {
        let denial = &first.denial;
        if denial.rule == Rule::Mode && self.modes.get(&denial.scope).is_some_and(|m| *m != Mode::Normal) {
            // The halt has had its line.
            return;
        }
        let bad = first.gateway == self.gateways.len() - 1;
        let text = describe(&self.service.universe, &self.service.limits, denial);
        let mut line = format!("{} order #{}  {text}", self.names[first.gateway], count(first.order));
        if bad {
            line += &format!("  ({} executions out, {} gross)", count(first.executions), usd(first.gross_cents));
            let control = Control { rule: denial.rule, scope: denial.scope.kind() };
            if denial.rule != Rule::Mode && !self.fired.iter().any(|f| f.control == control) {
                self.fired.push(LiveFired { control, text, at_ns: first.at_ns, order: first.order });
            }
        }
        self.screen.event(first.at_ns, if bad { Ink::Good } else { Ink::Bad }, "DENY", &line);
    }

    async fn show_mode(&mut self, told: &ModeTold) {
        let ModeTold { scope, mode, .. } = *told;
        // Every gateway hears of every scope: one line, at the moment at which the one concerned heard.
        let covers_bad = self.bad().borrow().route().is_covered_by(scope);
        let first = told.gateway == self.gateways.len() - 1 || !covers_bad;
        if !first || self.modes.insert(scope, mode).unwrap_or_default() == mode {
            return;
        }
        self.changes += 1;
        let (word, ink) = match mode {
            Mode::Normal => ("REARM", Ink::Plain),
            Mode::ReduceOnly => ("LIMIT", Ink::Halt),
            Mode::Halted => ("HALT", Ink::Halt),
        };
        let mut line = scope_text(&self.service.universe, scope);
        if mode != Mode::Normal {
            let halt = self.halt_of(&line).await;
            // The push may overtake the verdict that belongs to it, on its way here only.
            while let Ok(seen) = self.seen.try_recv() {
                match seen {
                    Seen::Denial(first) => self.show_denial(&first),
                    later @ (Seen::Mode(_) | Seen::Lost { .. }) => self.later.push_back(later),
                }
            }
            let cause = halt.map_or(mode.name().to_owned(), |halt| {
                let fired = self.fired.iter().find(|f| Some(f.control) == halt.trip);
                fired.map_or(halt.cause, |f| f.text.clone())
            });
            // A limit at the halted scope itself need not repeat its name.
            let cause = cause.strip_prefix(&format!("{line}  ")).unwrap_or(&cause).to_owned();
            line += &format!("  {}", shortened(&cause));
            if covers_bad && told.order > 0 {
                let (order, executions) = (count(told.order), count(told.executions));
                line += &format!("  (order #{order}, {executions} executions out, {} gross)", usd(told.gross_cents));
            }
        }
        self.screen.event(told.at_ns, ink, word, &line);
    }

    /// The halt of `scope` (in words), as the service tells it. It may hear of a trip a moment after the gateways.
    async fn halt_of(&self, scope: &str) -> Option<StateHalt> {
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline {
            let state = link::get(self.service, "/v1/state").await.ok()?;
            let told = link::halts(&state).ok()?.into_iter().find(|h| h.scope == scope);
            if let Some(halt) = told.filter(|h| !h.cause.is_empty()) {
                return Some(halt);
            }
            self.pacer.nap(LOOK).await;
        }
        None
    }

    fn show_flow(&self, halted: bool) {
        let now = self.scenario.now();
        let bad = self.bad().borrow();
        let tally = bad.tally();
        let name = &self.names[self.names.len() - 1];
        let tried = tally.attempts - tally.halt.map_or(0, |h| h.attempts);
        let text = match tally.halt {
            Some(halt) if halted => format!(
                "{name} tried {} more orders: {} admitted; {} executions were at the venue already",
                count(tried),
                count(tally.admitted - halt.admitted),
                count(tally.executions - halt.executions),
            ),
            _ => format!("{name} was not halted: {} executions out", count(tally.executions)),
        };
        let ink = if halted && tally.halt.is_some_and(|h| h.admitted == tally.admitted) { Ink::Good } else { Ink::Bad };
        self.screen.event(now, ink, "FLOW", &text);

        let (mut admitted, mut since, mut denied, mut withheld) = (0, 0, 0, 0);
        for healthy in &self.gateways[..self.gateways.len() - 1] {
            let healthy = healthy.borrow();
            let t = healthy.tally();
            admitted += t.admitted;
            denied += t.denied;
            withheld += t.withheld;
            since += u64::from(t.last_execution_ns > tally.halt.map_or(0, |h| h.at_ns));
        }
        let healthy = self.gateways.len() - 1;
        let text = format!(
            "the healthy {healthy}: {} orders admitted, {} denied, {} withheld; {since} of {healthy} traded after the halt",
            count(admitted),
            count(denied),
            count(withheld),
        );
        self.screen.event(now, if denied == 0 { Ink::Good } else { Ink::Bad }, "FLOW", &text);
    }
}

/// A scope as a person reads it: `session smars-8`, `firm`.
#[must_use]
pub fn scope_text(universe: &Universe, scope: Scope) -> String {
    format!("{} {}", scope.kind().name(), universe.scope_name(scope)).trim_end().to_owned()
}

/// A denial as a person reads it: `session smars-8  order_rate 301 > 300 per 1s`.
#[must_use]
pub fn describe(universe: &Universe, limits: &LimitTable, denied: &Denied) -> String {
    let head = format!("{}  {}", scope_text(universe, denied.scope), denied.rule.name());
    let (observed, limit) = (&denied.observed, &denied.limit);
    let window = limits.scope(universe, denied.scope).and_then(|l| {
        let rate = l.rates.iter().find(|r| r.of.rule() == denied.rule && r.count.to_string() == *limit)?;
        matches!(rate.kind, RateKind::Sliding).then(|| format!(" per {}", span(rate.window_ns)))
    });
    match denied.rule.unit() {
        Unit::Notional => format!("{head} ${observed} > ${limit}"),
        Unit::Qty | Unit::Px | Unit::Bps | Unit::Count | Unit::Nanos | Unit::Seq => {
            format!("{head} {observed} > {limit}{}", window.unwrap_or_default())
        }
        Unit::Mode | Unit::None => head,
    }
}

/// One gateway on its connection.
struct Driver {
    index: usize,
    gateway: Rc<RefCell<Gateway>>,
    scenario: Scenario,
    pacer: Rc<Pacer>,
    asks: Rc<RefCell<Histogram<u64>>>,
    tell: mpsc::UnboundedSender<Seen>,
    asked_at: HashMap<u64, Instant>,
    /// The modes of the scopes that cover the gateway.
    modes: HashMap<Scope, Mode>,
    /// Rule and kind of scope of the denials that were told of.
    denials: Vec<(Rule, ScopeKind)>,
    /// Of the instance whose parents they are: who sees them filled, and where it says so.
    orders: Option<(Rc<RefCell<Orders>>, mpsc::UnboundedSender<Event>)>,
}

impl Driver {
    async fn run(mut self, mut link: impl Link) -> anyhow::Result<()> {
        let mut last_sent = self.scenario.now();
        loop {
            let mut sent = 0;
            while sent < ROUND {
                let event = self.gateway.borrow_mut().poll(self.scenario.now());
                let Some(event) = event else { break };
                if let Some((orders, over)) = &self.orders
                    && let Some(done) = orders.borrow_mut().hear(&event)
                {
                    // Nobody listens any more once the demo ends.
                    let _ = over.send(done);
                }
                if event.kind.is_request() {
                    self.asked_at.insert(event.id.0, Instant::now());
                }
                link.queue(event)?;
                sent += 1;
            }
            if sent > 0 {
                link.flush().await?;
                last_sent = self.scenario.now();
            }
            let wake = last_sent + HEARTBEAT_NS;
            let wake = self.gateway.borrow_mut().next_at().map_or(wake, |at| at.min(wake));
            tokio::select! {
                biased;
                heard = link.hear() => self.hear(heard?),
                () = self.pacer.until(self.index, self.scenario.until(wake)) => {}
            }
            // What has arrived is read before more is sent, or a gateway that is behind would never catch up.
            while let Some(heard) = link.hear().now_or_never() {
                self.hear(heard?);
            }
            if self.scenario.now() >= last_sent + HEARTBEAT_NS {
                let session = self.gateway.borrow().route().session;
                link.queue(Event::new(EventKind::Heartbeat, session, 0))?;
                link.flush().await?;
                last_sent = self.scenario.now();
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        let now = self.scenario.now();
        let mut gateway = self.gateway.borrow_mut();
        match heard {
            Heard::Verdict { kind, id, denial } => {
                if let Some(at) = self.asked_at.remove(&id) {
                    // Beyond the histogram's bound of a minute it counts as a minute.
                    self.asks.borrow_mut().saturating_record(at.elapsed().as_nanos() as u64);
                }
                gateway.verdict(now, kind, id, denial.as_ref().map(|d| (d.rule, d.scope)));
                if let Some(denial) = denial
                    && !self.denials.contains(&(denial.rule, denial.scope.kind()))
                {
                    self.denials.push((denial.rule, denial.scope.kind()));
                    let (gross_cents, _) = gateway.exposure_cents(now);
                    let (order, executions) = (Gateway::order_number(id), gateway.tally().executions);
                    let gateway = self.index;
                    let first = FirstDenial { gateway, at_ns: now, order, executions, gross_cents, denial };
                    drop(self.tell.send(Seen::Denial(first)));
                }
            }
            Heard::Mode { scope, mode } => {
                if gateway.route().is_covered_by(scope) {
                    self.modes.insert(scope, mode);
                    let strictest = self.modes.values().copied().max().unwrap_or_default();
                    gateway.mode(now, strictest);
                }
                let (gross_cents, _) = gateway.exposure_cents(now);
                let (order, executions) = (gateway.tally().attempts, gateway.tally().executions);
                let gateway = self.index;
                let told = ModeTold { gateway, at_ns: now, scope, mode, order, executions, gross_cents };
                drop(self.tell.send(Seen::Mode(told)));
            }
            Heard::Cancel { id } => gateway.cancel(now, id),
            Heard::Applied { .. } => {}
        }
    }
}

/// The order management side on its connection: it tells of parents that are over.
async fn stream_orders(mut overs: mpsc::UnboundedReceiver<Event>, mut link: impl Link) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            heard = link.hear() => drop(heard?),
            Some(over) = overs.recv() => {
                link.queue(over)?;
                while let Ok(over) = overs.try_recv() {
                    link.queue(over)?;
                }
                link.flush().await?;
            }
        }
    }
}

/// The market data on its connection.
async fn stream_prices(
    mut source: MarketData,
    mut link: impl Link,
    scenario: Scenario,
    pacer: Rc<Pacer>,
    index: usize,
) -> anyhow::Result<()> {
    loop {
        while let Some(mark) = source.poll(scenario.now()) {
            link.queue(mark)?;
        }
        link.flush().await?;
        let next = scenario.until(source.next_at());
        tokio::select! {
            heard = link.hear() => drop(heard?),
            () = pacer.until(index, next) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;
    use crate::demo::gateway::tests::universe;
    use crate::demo::morning::guard::GuardSettings;
    use crate::demo::pacer::stream::Time;
    use crate::engine::core::{Engine, Sizing};
    use crate::limits::{RateLimit, RateOf};
    use crate::model::{Action, Effect, Effects, ScopeKind, Target};
    use crate::units::SessionId;

    /// The engine in the same thread, in the place of the service.
    struct Inner {
        engine: Engine,
        effects: Effects,
        inboxes: HashMap<SessionId, Rc<Inbox>>,
    }

    #[derive(Default)]
    struct Inbox {
        heard: RefCell<VecDeque<Heard>>,
        bell: Notify,
    }

    impl Inbox {
        fn put(&self, heard: Heard) {
            self.heard.borrow_mut().push_back(heard);
            self.bell.notify_one();
        }
    }

    struct InProcess {
        session: SessionId,
        seq: u64,
        inner: Rc<RefCell<Inner>>,
        inbox: Rc<Inbox>,
        clock: Arc<dyn Clock>,
    }

    impl Link for InProcess {
        fn queue(&mut self, mut event: Event) -> anyhow::Result<()> {
            self.seq += 1;
            event.session = self.session;
            event.seq = self.seq;
            let now = self.clock.now();
            event.sent_at = now.unix;
            let Inner { engine, effects, inboxes } = &mut *self.inner.borrow_mut();
            effects.clear();
            engine.step(now, &event, effects);
            for effect in effects.as_slice() {
                match *effect {
                    Effect::Verdict(v) => {
                        let denial = v.denial.map(|d| Denied {
                            rule: d.rule,
                            scope: d.scope,
                            observed: d.observed.to_string(),
                            limit: d.limit.to_string(),
                        });
                        self.inbox.put(Heard::Verdict { kind: v.kind, id: v.id.0, denial });
                    }
                    Effect::Applied { seq, .. } => self.inbox.put(Heard::Applied { seq }),
                    Effect::Trip(trip) => {
                        for inbox in inboxes.values() {
                            inbox.put(Heard::Mode { scope: trip.scope, mode: trip.mode });
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        }

        async fn flush(&mut self) -> anyhow::Result<()> {
            Ok(())
        }

        async fn hear(&mut self) -> anyhow::Result<Heard> {
            loop {
                if let Some(heard) = self.inbox.heard.borrow_mut().pop_front() {
                    return Ok(heard);
                }
                self.inbox.bell.notified().await;
            }
        }
    }

    fn run(edit: impl FnOnce(&mut LimitTable)) -> LiveResult {
        // The stream's own time: what comes of it does not depend on how fast the machine is.
        let time = Arc::new(Time::default());
        let universe = Arc::new(universe());
        let mut limits = LimitTable::unlimited(&universe);
        edit(&mut limits);
        let limits = Arc::new(limits);
        let clock: Arc<dyn Clock> = time.clone();
        let sizing = Sizing {
            working_orders: 1 << 12,
            remembered_orders: 1 << 14,
            execs: 1 << 17,
            pairs: 1 << 8,
            recent_orders: 1 << 12,
            parents: 1 << 12,
        };
        let inner = Rc::new(RefCell::new(Inner {
            engine: Engine::new(universe.clone(), limits.clone(), sizing, clock.now()),
            effects: Effects::new(),
            inboxes: HashMap::new(),
        }));
        let service = ServiceHandle {
            ws_url: String::new(),
            http_url: String::new(),
            session_token: Box::new(|_| Ok(String::new())),
            operator_token: String::new(),
            universe: universe.clone(),
            limits,
            guard: GuardSettings::default(),
            clock: clock.clone(),
            shutdown: Box::new(|| Ok(())),
        };
        let connect = async |name: &str| {
            let session = universe.session(name).context("a session of the universe")?;
            let inbox = Rc::new(Inbox::default());
            inner.borrow_mut().inboxes.insert(session, inbox.clone());
            Ok(InProcess { session, seq: 0, inner: inner.clone(), inbox, clock: clock.clone() })
        };
        let screen = Screen::new(true);
        let pace = Pace { speed: 1, pacer: Pacer::by(time.clone()) };
        time.run(tokio::task::LocalSet::new().run_until(async {
            let mut live = Live::open(&service, &screen, &Cast::default(), 1, pace, connect).await.unwrap();
            live.observe_halt().await
        }))
    }

    fn rate(count: u32, action: Action) -> Vec<RateLimit> {
        vec![RateLimit { of: RateOf::Orders, kind: RateKind::Sliding, count, window_ns: 1_000_000_000, action }]
    }

    #[test]
    fn a_halt_is_seen_by_the_gateways_and_ends_the_flow() {
        let result = run(|limits| limits.edit_all(ScopeKind::Session).rates = rate(300, Action::Halt(Target::Own)));
        assert!(result.stopped, "{result:?}");
        let first = result.first.unwrap();
        assert_eq!((first.control.rule, first.control.scope, first.order), (Rule::OrderRate, ScopeKind::Session, 301));
        assert_eq!(result.executions_out, 300);
        assert!(result.halt_after_ns.is_some() && result.asks > 300);
    }

    #[test]
    fn a_flow_that_is_only_slowed_counts_as_not_stopped() {
        let result = run(|limits| limits.edit_all(ScopeKind::Session).rates = rate(300, Action::Deny));
        assert!(!result.stopped && result.halt_after_ns.is_none(), "{result:?}");
        assert!(result.executions_out > 10_000 && !result.fired.is_empty());
    }

    #[test]
    fn a_denial_is_told_with_scope_numbers_and_window() {
        let universe = universe();
        let mut limits = LimitTable::unlimited(&universe);
        limits.edit_all(ScopeKind::Session).rates = rate(300, Action::Deny);
        let mut denial = Denied {
            rule: Rule::OrderRate,
            scope: Scope::Session(SessionId(7)),
            observed: "301".to_owned(),
            limit: "300".to_owned(),
        };
        assert_eq!(describe(&universe, &limits, &denial), "session smars-8  order_rate 301 > 300 per 1s");
        denial.rule = Rule::GrossExposure;
        denial.scope = Scope::Firm;
        (denial.observed, denial.limit) = ("50000000.01".to_owned(), "50000000".to_owned());
        assert_eq!(describe(&universe, &limits, &denial), "firm  gross_exposure $50000000.01 > $50000000");
    }
}
