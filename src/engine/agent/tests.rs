//! The agent around an engine, its ports and its recorder played by the test.

use super::*;
use crate::engine::core::Sizing;
use crate::engine::durability::Durability;
use crate::engine::record::Progress;
use crate::kill::testing::{TestClock, universe};
use crate::limits::LimitTable;
use crate::model::rule::{Action, Target};
use crate::model::{EventKind, Mode, Rule, Scope, ScopeKind, SessionKind, SessionSpec};
use crate::ring::cells::{self, CellReader};
use crate::ring::lane::{RECORD_WORDS, Reader, STAMP, Writer};
use crate::ring::shm::Words;

struct NoWake;
impl Wake for NoWake {
    fn wake(&self) {}
}

/// An agent, a transport's end of its port, and what keeps its channels open.
fn agent(universe: Universe, limits: LimitTable, clock: &Arc<TestClock>) -> (EngineAgent, EdgePort, impl Sized) {
    let universe = Arc::new(universe);
    let sizing =
        Sizing { working_orders: 16, remembered_orders: 16, execs: 16, pairs: 16, recent_orders: 16, parents: 16 };
    let (edge, end) = port(1_024, Bell::new(), Box::new(NoWake));
    let (commands_in, commands) = crossbeam_channel::bounded(1);
    let (notices, notices_out) = crossbeam_channel::bounded(16);
    let agent = EngineAgent::new(AgentParts {
        engine: Engine::new(universe.clone(), Arc::new(limits), sizing, clock.now()),
        page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
        published: Arc::new(Published::new(&universe)),
        universe,
        ports: vec![end],
        lane_changes: crossbeam_channel::never(),
        lease_lag_ns: 0,
        commands,
        queries: crossbeam_channel::never(),
        recorder: None,
        durable_before_verdict: false,
        grace_ns: 0,
        begin: None,
        notices,
        page_raised: Box::new(NoWake),
        clock: clock.clone(),
    });
    (agent, edge, (commands_in, notices_out))
}

#[test]
fn what_was_taken_before_a_gap_is_acknowledged() {
    let clock = TestClock::new();
    let limits = LimitTable::closed(&universe());
    let (mut agent, mut edge, _channels) = agent(universe(), limits, &clock);
    for (kind, seq) in [(EventKind::Heartbeat, 1), (EventKind::Cancel, 5)] {
        let event = Event::new(kind, SessionId(0), seq);
        edge.events.push(Inbound { event, received: clock.now().mono }).unwrap();
    }
    agent.do_work();
    let said: Vec<Effect> = core::iter::from_fn(|| edge.effects.pop().ok()).collect();
    let applied = Effect::Applied { session: SessionId(0), seq: 1 };
    assert!(said.contains(&applied), "{said:?}");
}

#[test]
fn trips_beyond_what_one_step_can_list_reach_the_page() {
    let clock = TestClock::new();
    let sessions = 3 * Effects::CAPACITY as u16;
    let names = universe();
    let session = |n| SessionSpec { name: format!("gw-{n}"), kind: SessionKind::Ask, strategies: vec![] };
    let universe = Universe::new(
        2,
        names.currencies.clone(),
        (0..sessions).map(session).collect(),
        names.accounts.clone(),
        names.strategies.clone(),
        names.instruments.clone(),
    );
    let mut limits = LimitTable::unlimited(&universe);
    let silence = limits.edit_all(ScopeKind::Session);
    silence.heartbeat_ns = 1_000_000_000;
    silence.action[Rule::HeartbeatLoss as usize] = Action::Halt(Target::Own);
    let (mut agent, mut edge, _channels) = agent(universe, limits, &clock);
    for s in 0..sessions {
        let event = Event::new(EventKind::Heartbeat, SessionId(s), 1);
        edge.events.push(Inbound { event, received: clock.now().mono }).unwrap();
    }
    while agent.do_work() > 0 {}
    clock.advance(2_000_000_000);
    agent.do_work();
    let halted = |s: &u16| {
        let slot = agent.shell.universe.slot(Scope::Session(SessionId(*s))).unwrap();
        agent.shell.page.get(slot).mode == Mode::Halted
    };
    assert_eq!((0..sessions).filter(halted).count(), usize::from(sessions), "a halt that is on no page is lost");
}

/// An agent with a journal that holds so many cells and may be behind for a millisecond, and the journal's end.
fn journalled(
    cells: u64,
    hold: bool,
) -> (EngineAgent, EdgePort, CellReader, Arc<Durability>, Arc<TestClock>, impl Sized) {
    let clock = TestClock::new();
    let universe = Arc::new(universe());
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader) = cells::create(&dir.path().join("ring"), cells, [0; 16], [0; 16], 0).unwrap();
    let durability = Arc::new(Durability::default());
    let recorder = Recorder::new(writer, durability.clone(), Progress::default(), universe.scope_count());
    let sizing =
        Sizing { working_orders: 4_096, remembered_orders: 16, execs: 16, pairs: 16, recent_orders: 16, parents: 16 };
    let (edge, end) = port(8_192, Bell::new(), Box::new(NoWake));
    let (commands_in, commands) = crossbeam_channel::bounded(1);
    let (notices, notices_out) = crossbeam_channel::bounded(16);
    let limits = Arc::new(LimitTable::unlimited(&universe));
    let agent = EngineAgent::new(AgentParts {
        engine: Engine::new(universe.clone(), limits, sizing, clock.now()),
        page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
        published: Arc::new(Published::new(&universe)),
        universe,
        ports: vec![end],
        lane_changes: crossbeam_channel::never(),
        lease_lag_ns: 0,
        commands,
        queries: crossbeam_channel::never(),
        recorder: Some(recorder),
        durable_before_verdict: hold,
        grace_ns: 1_000_000,
        begin: None,
        notices,
        page_raised: Box::new(NoWake),
        clock: clock.clone(),
    });
    (agent, edge, reader, durability, clock, (commands_in, notices_out, dir))
}

/// Sends a new order of session 0 and takes the agent's answers.
fn ask(agent: &mut EngineAgent, edge: &mut EdgePort, kind: EventKind, seq: u64) -> Vec<Option<Rule>> {
    let mut event = Event::new(kind, SessionId(0), seq);
    event.id = crate::units::OrdId(seq);
    event.qty = crate::units::Qty(1);
    event.px = crate::units::Px(100);
    edge.events.push(Inbound { event, received: MonoNanos(0) }).unwrap();
    agent.do_work();
    verdicts(edge)
}

fn verdicts(edge: &mut EdgePort) -> Vec<Option<Rule>> {
    let effects = core::iter::from_fn(|| edge.effects.pop().ok());
    effects
        .filter_map(|effect| match effect {
            Effect::Verdict(verdict) => Some(verdict.denial.map(|denial| denial.rule)),
            _ => None,
        })
        .collect()
}

#[test]
fn new_flow_is_denied_while_the_journal_is_behind_its_grace_and_cancels_are_not() {
    let (mut agent, mut edge, reader, durability, clock, _rest) = journalled(1 << 14, false);
    assert_eq!(ask(&mut agent, &mut edge, EventKind::New, 1), [None]);
    clock.advance(900_000);
    assert_eq!(ask(&mut agent, &mut edge, EventKind::New, 2), [None], "within the grace");
    clock.advance(1_100_000);
    assert_eq!(ask(&mut agent, &mut edge, EventKind::New, 3), [Some(Rule::Journal)]);
    assert_eq!(ask(&mut agent, &mut edge, EventKind::Cancel, 4), [None]);
    assert!(durability.state().denies_new_flow);
    durability.set_synced(reader.head());
    assert_eq!(ask(&mut agent, &mut edge, EventKind::New, 5), [None], "it has caught up");
    assert!(!durability.state().denies_new_flow);
    // A disk that is slow and steady is not behind.
    for seq in 6..20 {
        clock.advance(600_000);
        durability.set_synced(reader.head());
        assert_eq!(ask(&mut agent, &mut edge, EventKind::New, seq), [None]);
    }
}

#[test]
fn nothing_is_taken_in_that_cannot_be_recorded_and_nothing_is_lost() {
    let (mut agent, mut edge, mut reader, durability, _clock, _rest) = journalled(1 << 13, false);
    for seq in 1..=8_000 {
        let event = Event::new(EventKind::Heartbeat, SessionId(0), seq);
        edge.events.push(Inbound { event, received: MonoNanos(0) }).unwrap();
    }
    while agent.do_work() > 0 {}
    let head = reader.head();
    let waiting = agent.shell.ports[0].events.slots();
    assert!(waiting > 0 && head < 1 << 13, "{waiting} wait, {head} recorded");
    // A kill reaches the core all the same: there is room kept for it.
    agent.shell.page.raise(0, Mode::Halted);
    agent.do_work();
    assert_eq!(agent.engine.mode(Scope::Firm), Some(Mode::Halted));
    let (mut cells, mut taken) = (Vec::new(), 0);
    loop {
        cells.clear();
        reader.read(taken, reader.head(), &mut cells);
        taken += cells.len() as u64;
        reader.release(taken);
        durability.set_synced(taken);
        if agent.do_work() == 0 {
            break;
        }
    }
    assert_eq!(agent.engine.expected(SessionId(0)), 8_001);
    assert_eq!(durability.lost.get(), 0);
}

#[test]
fn verdicts_wait_for_the_disk_where_that_is_asked_for() {
    let (mut agent, mut edge, reader, durability, _clock, _rest) = journalled(1 << 14, true);
    assert_eq!(ask(&mut agent, &mut edge, EventKind::New, 1), []);
    let first = reader.head();
    assert_eq!(ask(&mut agent, &mut edge, EventKind::New, 2), []);
    durability.set_synced(first);
    agent.do_work();
    assert_eq!(verdicts(&mut edge), [None], "the first only");
    durability.set_synced(reader.head());
    agent.do_work();
    assert_eq!(verdicts(&mut edge), [None]);
}

/// A gateway's end of new lanes of session 0 whose stream begins behind `base`.
fn lane(agent: &mut EngineAgent, base: u64) -> (Words, Writer) {
    let (events, cursor) = (Words::heap(4 * RECORD_WORDS), Words::heap(1));
    let writer = Writer::resume(events.clone(), cursor.clone()).unwrap();
    let verdicts = Writer::resume(Words::heap(4 * RECORD_WORDS), Words::heap(1)).unwrap();
    let reader = Reader::behind(events.clone(), cursor, 0);
    agent.shell.lanes.clear();
    agent.shell.lanes.push(LanePort::new(SessionId(0), base, reader, verdicts, Arc::default()));
    (events, writer)
}

#[test]
fn a_session_whose_lane_is_broken_stays_halted_until_it_has_another() {
    let clock = TestClock::new();
    let (mut agent, _edge, _channels) = agent(universe(), LimitTable::closed(&universe()), &clock);
    let slot = agent.shell.universe.slot(Scope::Session(SessionId(0))).unwrap();
    let (events, _) = lane(&mut agent, 0);
    events[STAMP].store(9, core::sync::atomic::Ordering::Relaxed);
    while agent.do_work() > 0 {}
    let word = agent.shell.page.get(slot);
    assert_eq!(word.mode, Mode::Halted);
    agent.shell.page.lower(slot, word.epoch).unwrap();
    while agent.do_work() > 0 {}
    let word = agent.shell.page.get(slot);
    assert_eq!(word.mode, Mode::Halted, "what the gateway sends would not be booked");
    let (_, mut writer) = lane(&mut agent, 0);
    agent.shell.page.lower(slot, word.epoch).unwrap();
    writer.push(Event::new(EventKind::Heartbeat, SessionId(0), 0).to_record()).unwrap();
    while agent.do_work() > 0 {}
    assert_eq!((agent.shell.page.get(slot).mode, agent.engine.expected(SessionId(0))), (Mode::Normal, 2));
}

#[test]
fn a_gateway_that_goes_on_sending_does_not_hold_the_end_up() {
    let clock = TestClock::new();
    let (mut agent, _edge, _channels) = agent(universe(), LimitTable::closed(&universe()), &clock);
    let (_, mut writer) = lane(&mut agent, 0);
    let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            agent.run(Idle::Yield, &Bell::new(), &stop);
            ended.store(true, Ordering::Release);
        });
        let event = Event::new(EventKind::Heartbeat, SessionId(0), 0).to_record();
        let (begin, mut sent) = (std::time::Instant::now(), 0);
        while !ended.load(Ordering::Acquire) {
            assert!(begin.elapsed() < std::time::Duration::from_secs(120), "it never ends");
            sent += u32::from(writer.push(event).unwrap().is_some());
            stop.store(sent > 100, Ordering::Release);
        }
        // Perhaps it has ended while this thread stood still, and nothing was sent since.
        while writer.push(event).unwrap().is_some() {}
        assert_eq!(writer.room(), Ok(0), "what was sent last waits for the next run");
    });
}

#[test]
fn a_lane_that_repeats_its_stream_halts_its_session() {
    let clock = TestClock::new();
    let (mut agent, mut edge, _channels) = agent(universe(), LimitTable::closed(&universe()), &clock);
    let slot = agent.shell.universe.slot(Scope::Session(SessionId(0))).unwrap();
    let event = Event::new(EventKind::Heartbeat, SessionId(0), 1);
    edge.events.push(Inbound { event, received: clock.now().mono }).unwrap();
    let (_, mut writer) = lane(&mut agent, 0);
    writer.push(Event::new(EventKind::Fill, SessionId(0), 0).to_record()).unwrap();
    while agent.do_work() > 0 {}
    assert_eq!(agent.shell.page.get(slot).mode, Mode::Halted, "a fill was dropped and nobody hears of it");
}

#[test]
fn where_a_stream_is_counts_what_a_transport_has_taken_of_it() {
    let clock = TestClock::new();
    let (mut agent, mut edge, _channels) = agent(universe(), LimitTable::closed(&universe()), &clock);
    let (ask, changes) = crossbeam_channel::bounded(1);
    agent.shell.lane_changes = changes;
    for seq in 1..=3 {
        let event = Event::new(EventKind::Heartbeat, SessionId(0), seq);
        edge.events.push(Inbound { event, received: clock.now().mono }).unwrap();
    }
    let (reply, expected) = crossbeam_channel::bounded(1);
    ask.send(LaneChange::Expected { session: SessionId(0), reply }).unwrap();
    while agent.do_work() > 0 {}
    assert_eq!(expected.try_recv(), Ok(4));
}

#[test]
fn input_lag_is_the_age_of_what_waited_longest() {
    let universe = Arc::new(universe());
    let clock = TestClock::new();
    let published = Arc::new(Published::new(&universe));
    let (mut edges, ports): (Vec<_>, Vec<_>) = (0..2).map(|_| port(8, Bell::new(), Box::new(NoWake))).unzip();
    let sizing = Sizing { working_orders: 4, remembered_orders: 4, execs: 4, pairs: 4, recent_orders: 4, parents: 4 };
    let table = Arc::new(LimitTable::closed(&universe));
    let (_to_engine, commands) = crossbeam_channel::bounded(1);
    let (notices, _notices) = crossbeam_channel::bounded(1);
    let mut agent = EngineAgent::new(AgentParts {
        engine: Engine::new(universe.clone(), table, sizing, clock.now()),
        page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
        universe,
        published: published.clone(),
        ports,
        lane_changes: crossbeam_channel::never(),
        lease_lag_ns: 0,
        commands,
        queries: crossbeam_channel::never(),
        recorder: None,
        durable_before_verdict: false,
        grace_ns: 0,
        begin: None,
        notices,
        page_raised: Box::new(NoWake),
        clock: clock.clone(),
    });
    let event = |session, seq| Event::new(EventKind::Heartbeat, SessionId(session), seq);
    edges[1].events.push(Inbound { event: event(0, 1), received: clock.now().mono }).unwrap();
    clock.advance(7_000_000);
    edges[0].events.push(Inbound { event: event(1, 1), received: clock.now().mono }).unwrap();
    edges[1].events.push(Inbound { event: event(0, 2), received: clock.now().mono }).unwrap();
    clock.advance(1_000_000);
    assert_eq!(agent.do_work(), 3);
    let lag = published.input_lag_ns.get();
    assert!((8_000_000..8_001_000).contains(&lag), "{lag} ns");
    assert_eq!(agent.do_work(), 0);
    assert_eq!(published.input_lag_ns.get(), 0, "nothing waits");
}
