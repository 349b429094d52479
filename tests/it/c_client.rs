//! A gate in C and C++ at work: against a haltline that the test plays, where every word and moment is the test's, and against
//! the real service.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use serde_json::{Value, json};

use haltline::gate::hello::{self, Answer, Request, status};
use haltline::gate::region::{GateKind, Region, RegionShape};
use haltline::kill::page::{HaltPage, layout};
use haltline::kill::page_file::Shape;
use haltline::model::effect::Denial;
use haltline::model::record::VerdictRecord;
use haltline::model::{Event, EventKind, Mode, Rule, Scope, Why};
use haltline::ring::barrier::heavy;
use haltline::ring::bell::BELL_WORDS;
use haltline::ring::lane::{Reader, Writer};
use haltline::ring::shm::Words;
use haltline::ring::slots::{self, begin_grace, is_held};
use haltline::units::{InstrumentId, OrdId, SessionId, StrategyId};

use crate::gate::Host;
use crate::support::cc::{Language, build};
use crate::support::{Daemon, Lines, PATIENCE, token};

fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `tests/c/gate.c`: answers each command with a line.
pub struct Puppet {
    child: Child,
    stdin: ChildStdin,
    lines: Lines,
}

impl Puppet {
    fn start(language: Language) -> Puppet {
        let mut child = Command::new(build("tests/c/gate.c", language))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        Puppet { child, stdin, lines }
    }

    /// Gives the command without waiting for its end.
    fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    fn hear(&self) -> String {
        self.lines.next()
    }

    fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.hear()
    }

    #[track_caller]
    pub fn expect(&mut self, command: &str, answer: &str) {
        assert_eq!(self.ask(command), answer, "{command}");
    }

    /// How many descriptors the process has.
    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Asks again until the answer is this.
    fn until(&mut self, command: &str, answer: &str) {
        let begin = Instant::now();
        loop {
            let got = self.ask(command);
            if got == answer {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{command}: {got:?} instead of {answer:?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the played haltline answers.
struct Script {
    numbers: [u64; 8],
    fds: Vec<Arc<OwnedFd>>,
    refuse: Option<(u16, &'static str)>,
    version: u16,
    /// The answer to the next look-up waits for the one behind it.
    hold: bool,
    /// Texts for the guard.
    said: Vec<String>,
}

/// A haltline of account `main` (0), strategies `alpha` (0) and `beta` (1), instrument `ACME` (0), for its session 1.
struct Stub {
    dir: tempfile::TempDir,
    page: HaltPage,
    /// The page's words as haltline could write them.
    page_words: Words,
    region: Region,
    script: Arc<Mutex<Script>>,
    events: Reader,
    verdicts: Writer,
}

const FIRM: usize = 0;
const ALPHA: usize = 2;
const ACME: usize = 4;
/// Where a session's slots begin in its region, as in [`haltline::gate::region`].
const BASE: u64 = 41;

impl Stub {
    fn start(kind: GateKind) -> Stub {
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape { digest: 7, accounts: 1, account_of: vec![0, 0], instruments: 1, sessions: 2 };
        let path = dir.path().join("page");
        let settled = HaltPage::new(shape.scopes(), 1).settle_in(&path, &shape, 0o600, 1).unwrap();
        let shape = RegionShape { session: SessionId(1), kind, base: BASE, events: 16, verdicts: 16, slots: 3 };
        let (words, region_fd) = Words::sealed("region", shape.words()).unwrap();
        let region = Region::make(words, shape);
        let (_, bell_fd) = Words::sealed("bell", BELL_WORDS).unwrap();
        let script = Script {
            numbers: [1, shape.words() as u64, u64::from(heavy()), 0, 0, 0, 0, 0],
            fds: [settled.read_only, region_fd, bell_fd].map(Arc::new).to_vec(),
            refuse: None,
            version: hello::VERSION,
            hold: false,
            said: Vec::new(),
        };
        let script = Arc::new(Mutex::new(script));
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(dir.path().join("gate")).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let answers = script.clone();
        // Both kinds of threads end with the test's process; nothing is shared with them but the script.
        std::thread::spawn(move || {
            while let Ok(connection) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                let answers = answers.clone();
                std::thread::spawn(move || serve(&connection, &answers));
            }
        });
        let events = Reader::resume(region.events(), region.event_cursor());
        let verdicts = Writer::resume(region.verdicts(), region.verdict_cursor()).unwrap();
        let page_words = Words::of_file(&path).unwrap();
        Stub { dir, page: settled.page, page_words, region, script, events, verdicts }
    }

    /// Keeps the gates open for as long as any test takes.
    fn open(self) -> Stub {
        self.page.renew_lease(clock() + 3_600_000_000_000);
        self
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("gate")
    }

    fn attach(&self, language: Language) -> Puppet {
        let mut puppet = Puppet::start(language);
        let answer = puppet.ask(&self.attach_command());
        assert!(answer.starts_with("done session 1 "), "{answer}");
        puppet
    }

    fn attach_command(&self) -> String {
        format!("attach {} gw t0ken", self.socket().display())
    }

    /// The next event, when it has come.
    fn event(&mut self) -> Event {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "no event has come");
            let position = self.events.position();
            if let Some(record) = self.events.pop().unwrap() {
                return Event::from_record(&record, SessionId(1), BASE + position).unwrap();
            }
            std::thread::yield_now();
        }
    }

    /// Answers the request with sequence `seq`.
    fn answer(&mut self, event: &Event, denial: Option<Denial>) {
        let verdict = VerdictRecord { seq: event.seq, id: event.id, kind: event.kind, denial, checks: 1 };
        assert!(self.verdicts.push(verdict.to_record()).unwrap().is_some());
    }

    fn lower(&self, slot: usize) {
        self.page.lower(slot, self.page.get(slot).epoch).unwrap();
    }
}

fn serve(connection: &OwnedFd, script: &Mutex<Script>) {
    let mut held = Vec::new();
    loop {
        let mut bytes = [0; hello::LEN + 1];
        let len = match rustix::net::recv(connection, &mut bytes[..], RecvFlags::empty()) {
            Ok((_, len)) if len > 0 => len,
            _ => return,
        };
        let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, fds) = match Request::decode(&bytes[..len]).unwrap() {
            Request::Attach { session, token, build } => {
                let build_is_known = build == "puppet 1.0" || build == "wrapper";
                assert!(session == "gw" && token == "t0ken" && build_is_known, "{session} {token} {build}");
                match script.refuse {
                    Some((status, text)) => (Answer::Refused { status, text: text.into() }, Vec::new()),
                    None => (Answer::Done(script.numbers), script.fds.clone()),
                }
            }
            Request::Claim { what, name, value } => panic!("nothing is claimed here: {what:?} {name} {value}"),
            Request::Text { source, text } => {
                script.said.push(format!("{} {text}", source.name()));
                (Answer::Done([0; 8]), Vec::new())
            }
            Request::LookUp { kind, name } => {
                let id = match (kind, name.as_str()) {
                    (1, "main") | (2, "alpha") | (4, "ACME") => Ok(0),
                    (2, "beta") => Ok(1),
                    _ => Err(()),
                };
                match id {
                    Ok(id) => (Answer::Done([id, 0, 0, 0, 0, 0, 0, 0]), Vec::new()),
                    Err(()) => (Answer::Refused { status: status::UNKNOWN, text: "no such name".into() }, Vec::new()),
                }
            }
        };
        let mut bytes = answer.encode();
        bytes[4..6].copy_from_slice(&script.version.to_le_bytes());
        held.push((bytes, fds));
        if std::mem::take(&mut script.hold) {
            continue;
        }
        drop(script);
        for (bytes, fds) in held.drain(..) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            // The other side may be gone by now.
            let _ = rustix::net::sendmsg(connection, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
        }
    }
}

#[test]
fn gate_opens_and_closes_with_lease_modes_and_page() {
    for language in Language::BOTH {
        let stub = Stub::start(GateKind::Observe);
        let mut gate = stub.attach(language);
        gate.expect("checker", "done");
        gate.expect("admit 0 0", "2 haltline has given no lease");
        stub.page.renew_lease(clock() + 3_600_000_000_000);
        gate.expect("admit 0 0", "pass");
        gate.expect("admit 0 0", "13 the pass before was not exited");
        gate.expect("exit", "done");
        for unknown in ["admit 2 0", "admit 65535 0", "admit 0 1", "admit 0 4294967295"] {
            gate.expect(unknown, "4 strategy or instrument is not on the halt page");
        }
        let names = ["firm", "account 0", "strategy 0", "strategy 1", "instrument 0", "session 0", "session 1"];
        for (slot, name) in names.into_iter().enumerate() {
            for (mode, word) in [(Mode::ReduceOnly, "reduce_only"), (Mode::Halted, "halted")] {
                let epoch = stub.page.raise(slot, mode).epoch;
                let closed = format!("1 {name} is {word} since epoch {epoch}");
                let (alpha, beta) = match slot {
                    2 => (closed.as_str(), "pass"),
                    3 => ("pass", closed.as_str()),
                    5 => ("pass", "pass"),
                    _ => (closed.as_str(), closed.as_str()),
                };
                gate.expect("admit 0 0", alpha);
                gate.expect("exit", "done");
                gate.expect("admit 1 0", beta);
                gate.expect("exit", "done");
            }
            stub.lower(slot);
            gate.expect("admit 0 0", "pass");
            gate.expect("exit", "done");
        }
        stub.page.raise(FIRM, Mode::ReduceOnly);
        let epoch = stub.page.raise(ACME, Mode::Halted).epoch;
        gate.expect("admit 0 0", &format!("1 instrument 0 is halted since epoch {epoch}"));
        gate.expect("mode 0 0", "reduce_only");
        gate.expect("mode 4 0", "halted");
        gate.expect("mode 2 0", "normal");
        gate.expect("mode 2 9", "halted");
        stub.lower(FIRM);
        stub.lower(ACME);
        stub.page_words[layout::AT_LEASE].store(clock() - 1, Ordering::Release);
        let lapsed = gate.ask("admit 0 0");
        assert!(lapsed.starts_with("2 haltline's lease lapsed "), "{lapsed}");
        stub.page_words[layout::AT_RAISED].fetch_or(layout::RETIRED_COUNT, Ordering::SeqCst);
        stub.page_words[layout::AT_STATE].store(layout::RETIRED, Ordering::SeqCst);
        gate.expect("admit 0 0", "3 the halt page is out of service");
    }
}

#[test]
fn slots_are_seen_from_both_sides() {
    for language in Language::BOTH {
        let stub = Stub::start(GateKind::Observe).open();
        let mut gate = stub.attach(language);
        let slots = stub.region.slots();
        let inside = |slots: &Words| {
            let mut held = Vec::new();
            begin_grace(slots, |h| held.push(h));
            held
        };
        gate.expect("checker", "done");
        let owner = slots[slots::OWNER].load(Ordering::Acquire);
        assert_eq!(owner >> 32, u64::from(gate.child.id()), "{owner:#x}");
        assert!(inside(&slots).is_empty());
        gate.expect("admit 0 0", "pass");
        let held = inside(&slots);
        assert_eq!((held.len(), held[0].slot, held[0].owner), (1, 0, owner));
        gate.expect("exit", "done");
        assert!(!is_held(&slots, held[0]) && inside(&slots).is_empty());
        gate.expect("admit 0 0", "pass");
        assert!(!is_held(&slots, held[0]), "it has entered anew, and has seen the page");
        // A denied one is outside at once.
        gate.expect("exit", "done");
        gate.expect("admit 9 9", "4 strategy or instrument is not on the halt page");
        assert!(inside(&slots).is_empty());
        // One of the three is taken by Rust, one by the asker: there is none for another.
        let ours = slots::Slot::claim(&slots, 5, haltline::ring::barrier::Fencing::Fence).unwrap();
        gate.expect("asker", "done");
        assert_eq!(slots[2 * slots::SLOT_WORDS + slots::OWNER].load(Ordering::Acquire), owner);
        gate.expect("detach", "error 6 0 2 checkers or askers are in use");
        gate.expect("drop_asker", "done");
        gate.expect("asker", "done");
        gate.expect("asker", "error 6 0 the session has an asker already");
        gate.expect("drop_asker", "done");
        drop(ours);
        gate.expect("admit 0 0", "pass");
        gate.expect("drop_checker", "done");
        assert!(inside(&slots).is_empty(), "a slot that was given back is outside");
        assert_eq!(slots[slots::OWNER].load(Ordering::Acquire), 0);
    }
}

/// KIND STRATEGY INSTRUMENT SIDE ID REF QTY PX.
fn new_order(id: u64) -> String {
    format!("1 0 0 2 {id} 3 100 -7")
}

#[test]
fn orders_are_asked_answered_and_withdrawn() {
    for language in Language::BOTH {
        let mut stub = Stub::start(GateKind::Ask).open();
        let mut gate = stub.attach(language);
        gate.expect("asker", "done");
        let denial = Denial {
            rule: Rule::PositionLong,
            why: Why::Breach,
            scope: Scope::Pair(StrategyId(0), InstrumentId(0)),
            observed: 101,
            limit: 100,
        };
        // Asked and admitted.
        gate.tell(&format!("ask {} 60000", new_order(1)));
        let event = stub.event();
        assert_eq!((event.kind, event.id, event.seq), (EventKind::New, OrdId(1), BASE + 1));
        assert_eq!((event.qty.0, event.px.0, event.ref_id), (100, -7, 3));
        stub.answer(&event, None);
        assert_eq!(gate.hear(), "pass");
        gate.expect(&format!("ask {} 60000", new_order(2)), "13 the pass before was not exited");
        gate.expect("asker_exit", "done");
        // Asked and denied.
        gate.tell(&format!("ask {} 60000", new_order(2)));
        let event = stub.event();
        stub.answer(&event, Some(denial));
        let text = "6 position_long at pair of strategy 0 and instrument 0: breach, observed 101, limit 100";
        assert_eq!(gate.hear(), text);
        // Halted between verdict and pass: withdrawn.
        gate.expect(&format!("submit {}", new_order(3)), "position 3");
        gate.expect("poll", "nothing");
        let event = stub.event();
        stub.answer(&event, None);
        gate.expect("poll", "3 admitted");
        let epoch = stub.page.raise(ALPHA, Mode::Halted).epoch;
        gate.expect("pass", &format!("1 strategy 0 is halted since epoch {epoch}"));
        let told = stub.event();
        assert_eq!((told.kind, told.id, told.seq), (EventKind::Withdrawn, OrdId(3), BASE + 4));
        stub.lower(ALPHA);
        // Halted and re-armed in the meantime: what was decided before does not count.
        gate.expect(&format!("submit {}", new_order(4)), "position 5");
        let event = stub.event();
        stub.page.raise(FIRM, Mode::Halted);
        stub.lower(FIRM);
        stub.answer(&event, None);
        gate.expect("poll", "4 admitted");
        gate.expect("pass", "5 a scope was raised or lowered after the order had been submitted");
        assert_eq!((stub.event().kind, stub.events.position()), (EventKind::Withdrawn, 7));
        // A change elsewhere does not matter.
        gate.expect(&format!("submit {}", new_order(5)), "position 7");
        let event = stub.event();
        stub.page.raise(ALPHA + 1, Mode::Halted);
        stub.answer(&event, None);
        gate.expect("poll", "5 admitted");
        gate.expect("pass", "pass");
        gate.expect("asker_exit", "done");
        stub.lower(ALPHA + 1);
        // In reduce-only what haltline admitted passes; a mere check does not.
        stub.page.raise(ALPHA, Mode::ReduceOnly);
        gate.tell(&format!("ask {} 60000", new_order(6)));
        let event = stub.event();
        stub.answer(&event, None);
        assert_eq!(gate.hear(), "pass");
        gate.expect("asker_exit", "done");
        stub.lower(ALPHA);
        // No verdict in time: given up, and withdrawn when it comes. One that comes twice is not.
        gate.expect(&format!("ask {} 1", new_order(7)), "8 no verdict in time");
        let event = stub.event();
        stub.answer(&event, None);
        stub.answer(&event, None);
        gate.expect("poll", "nothing");
        let told = stub.event();
        assert_eq!((told.kind, told.id), (EventKind::Withdrawn, OrdId(7)));
        assert!(!stub.events.has_next());
        // What was submitted, and not waited for, is given up by the next question.
        gate.expect(&format!("submit {}", new_order(8)), "position 11");
        gate.tell(&format!("ask {} 60000", new_order(9)));
        let (first, second) = (stub.event(), stub.event());
        stub.answer(&first, None);
        stub.answer(&second, None);
        assert_eq!(gate.hear(), "pass");
        gate.expect("asker_exit", "done");
        let told = stub.event();
        assert_eq!((told.kind, told.id), (EventKind::Withdrawn, OrdId(8)));
        // A new asker knows nothing of what the one before asked: withdrawn.
        gate.expect(&format!("submit {}", new_order(10)), "position 14");
        gate.expect("drop_asker", "done");
        gate.expect("asker", "done");
        let event = stub.event();
        stub.answer(&event, None);
        gate.expect("poll", "nothing");
        assert_eq!(stub.event().id, OrdId(10));
        // Only requests are asked, and only what exists is reported.
        gate.expect("ask 4 0 0 1 1 0 1 1 1", "11 only new and replace are asked for");
        gate.expect("report 10 0 0 0 1 2 3 4", "12 the event's side is 0, which does not exist");
        gate.expect("report 10 0 0 2 1 2 3 4", "done");
        let fill = stub.event();
        assert_eq!((fill.kind, fill.qty.0, fill.px.0, fill.ref_id), (EventKind::Fill, 3, 4, 2));
    }
}

#[test]
fn full_and_damaged_lanes_are_said() {
    for language in Language::BOTH {
        let mut stub = Stub::start(GateKind::Observe).open();
        let mut gate = stub.attach(language);
        gate.expect("asker", "done");
        gate.expect("room", "16");
        for n in 0..16 {
            gate.expect("report 15 0 0 1 0 0 0 0", "done");
            gate.expect("room", &(15 - n).to_string());
        }
        gate.expect("report 15 0 0 1 0 0 0 0", "7 the lane to haltline is full");
        gate.expect(&format!("submit {}", new_order(1)), "7 the lane to haltline is full");
        assert_eq!(stub.event().kind, EventKind::Heartbeat);
        gate.expect("report 15 0 0 1 0 0 0 0", "done");
        // A stamp that nobody can have meant.
        stub.region.verdicts()[2].store(99, Ordering::Release);
        gate.expect("poll", "9 damaged lane: stamp 99 at position 1");
        stub.region.event_cursor()[0].store(1 << 40, Ordering::Release);
        gate.expect("room", "9 damaged lane: cursor 1099511627776 at position 18");
        gate.expect("drop_asker", "done");
        stub.region.event_cursor()[0].store(u64::MAX, Ordering::Release);
        gate.expect("asker", "error 8 0 damaged lane: cursor 18446744073709551615");
        // As many requests as the lane has places wait for their verdicts: none of them is forgotten for another.
        let mut stub = Stub::start(GateKind::Ask).open();
        let mut gate = stub.attach(language);
        gate.expect("asker", "done");
        for id in 1..=16 {
            gate.expect(&format!("submit {}", new_order(id)), &format!("position {id}"));
        }
        let event = stub.event();
        gate.expect(&format!("submit {}", new_order(17)), "7 the lane to haltline is full");
        stub.answer(&event, None);
        gate.expect("poll", "1 admitted");
        gate.expect(&format!("submit {}", new_order(17)), "position 17");
        // A verdict of a rule that does not exist is no verdict.
        let mut stub = Stub::start(GateKind::Ask).open();
        let mut gate = stub.attach(language);
        gate.expect("asker", "done");
        gate.expect(&format!("submit {}", new_order(1)), "position 1");
        let event = stub.event();
        let verdict = VerdictRecord { seq: event.seq, id: event.id, kind: event.kind, denial: None, checks: 1 };
        let mut record = verdict.to_record();
        record[0] |= 1 << 8 | 200 << 16;
        stub.verdicts.push(record).unwrap().unwrap();
        gate.expect("poll", "10 the verdict's rule 200 does not exist");
    }
}

/// Looks on closely for a while, then leaves the processor to the one that is looked at: there may be no other.
fn pause(looks: u64) {
    if looks.is_multiple_of(4_096) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// How often the page is raised against each kind of gate.
const KILLS: u64 = 20_000;

#[test]
fn nothing_leaves_after_a_kill_was_confirmed() {
    for fences in [false, true] {
        let stub = Stub::start(GateKind::Observe).open();
        let file = stub.dir.path().join("race");
        let (race, _, _) = Words::in_file(&file, 512, 0o600).unwrap();
        let mut gate = stub.attach(if fences { Language::C } else { Language::Cpp });
        if fences {
            gate.expect("fence", "done");
        }
        gate.expect("checker", "done");
        gate.tell(&format!("race 0 0 {}", file.display()));
        let slots = stub.region.slots();
        let raised = &stub.page_words[layout::AT_RAISED];
        if fences {
            // The gate looks at the state only while something is raised.
            stub.page_words[layout::AT_STATE].store(layout::RETIRED, Ordering::SeqCst);
        }
        let wait_for_pass = |after: u64| {
            let (begin, mut looks) = (Instant::now(), 0_u64);
            while race[1].load(Ordering::Relaxed) <= after {
                assert!(begin.elapsed() < PATIENCE, "it passes no more");
                looks += 1;
                pause(looks);
            }
        };
        let mut inside = 0;
        for round in 0..KILLS {
            // It has passed since the re-arm, so there is something to stop.
            wait_for_pass(race[1].load(Ordering::Relaxed));
            for _ in 0..round % 97 {
                std::hint::spin_loop();
            }
            if fences {
                // As short as can be, and the slot in this processor's cache, so that the gate's store has to wait for it: a
                // gate without its fence has looked at the page by then.
                std::hint::black_box(slots[slots::STATE].load(Ordering::Acquire));
                raised.store(layout::RETIRED_COUNT, Ordering::Relaxed);
                fence(Ordering::SeqCst);
            } else {
                stub.page.raise(FIRM, Mode::Halted);
                heavy();
            }
            let mut held = Vec::new();
            begin_grace(&slots, |h| held.push(h));
            inside += held.len();
            let mut looks = 0;
            while held.iter().any(|&h| is_held(&slots, h)) {
                looks += 1;
                pause(looks);
            }
            let confirmed = clock();
            let passes = race[1].load(Ordering::Acquire);
            for _ in 0..200 {
                std::hint::spin_loop();
            }
            let last = race[0].load(Ordering::Acquire);
            assert!(last <= confirmed, "round {round}: sent {} ns after the confirmation", last - confirmed);
            assert_eq!(race[1].load(Ordering::Acquire), passes, "round {round}: it passed after the confirmation");
            if fences {
                raised.store(0, Ordering::Release);
            } else {
                stub.lower(FIRM);
            }
        }
        race[2].store(1, Ordering::Release);
        let summary = gate.hear();
        assert!(inside > 0, "no kill ever met a pass: {summary}");
        assert!(summary.ends_with(" denials") && !summary.contains(" 0 denials"), "{summary}");
    }
}

#[test]
fn checks_questions_and_reports_make_no_system_call() {
    for language in Language::BOTH {
        let mut stub = Stub::start(GateKind::Ask).open();
        let mut gate = stub.attach(language);
        gate.expect("checker", "done");
        gate.expect("asker", "done");
        gate.tell("quiet 0 0 100000");
        // At least one verdict, and the rest of the lane stays full.
        let event = stub.event();
        stub.answer(&event, None);
        let summary = gate.hear();
        let passes: u64 = summary.split(' ').next().unwrap().parse().unwrap();
        assert!(passes >= 100_000, "{summary}");
        assert!(summary.ends_with(", 1 verdicts") && !summary.contains(" 0 submitted"), "{summary}");
    }
}

#[test]
fn a_forked_child_cannot_use_the_gate() {
    let stub = Stub::start(GateKind::Observe).open();
    let mut gate = stub.attach(Language::C);
    gate.expect("checker", "done");
    gate.expect("fork 0 0", "signal 11");
    gate.expect("admit 0 0", "pass");
}

#[test]
fn answers_that_do_not_fit_are_refused_with_a_text() {
    let unfit = "error 4 0 haltline and this header do not fit together:";
    let attempt = |stub: &Stub, expected: &str| {
        let mut gate = Puppet::start(Language::C);
        // Its first answer says that it has begun.
        gate.expect("drop_checker", "done");
        let before = gate.descriptors();
        let answer = gate.ask(&stub.attach_command());
        assert_eq!(answer, expected);
        assert_eq!(gate.descriptors(), before, "something of the attempt is left: {expected}");
    };
    let stub = Stub::start(GateKind::Ask);
    stub.change(|script| script.refuse = Some((status::IN_USE, "session \"gw\" is attached by process 7")));
    attempt(&stub, "error 3 3 haltline refused: session \"gw\" is attached by process 7");
    stub.change(|script| {
        script.refuse = None;
        script.version = 2;
    });
    attempt(&stub, &format!("{unfit} messages of version 2, this header's are 1"));
    stub.change(|script| script.version = 1);

    for fds in [0, 1, 2, 4, 6] {
        let all = stub.script.lock().unwrap().fds.clone();
        stub.change(|script| script.fds = all.iter().cycle().take(fds).cloned().collect());
        // The header takes note of four at most.
        attempt(&stub, &format!("{unfit} {} descriptors came instead of 3", fds.min(4)));
        stub.change(|script| script.fds = all);
    }
    let unsealed = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    let sealed_all = stub.script.lock().unwrap().fds.clone();
    let size = stub.script.lock().unwrap().numbers[1] * 8;
    rustix::fs::ftruncate(&unsealed, size).unwrap();
    stub.change(|script| script.fds[1] = Arc::new(unsealed));
    attempt(&stub, "error 4 0 the size of the region is not sealed");
    stub.change(|script| script.fds = sealed_all.clone());
    let (_, large) = Words::sealed("large", 1024).unwrap();
    stub.change(|script| script.fds[1] = Arc::new(large));
    attempt(&stub, "error 4 0 the region has 8192 bytes, which cannot be");
    stub.change(|script| script.fds = sealed_all.clone());
    stub.change(|script| script.numbers[0] = 0);
    attempt(&stub, "error 4 0 the region is another session's");
    stub.change(|script| script.numbers[0] = 1);

    let words = Words::from_sealed(&*sealed_all[1], size as usize / 8).unwrap();
    let wrong = [
        (0, 1, "magic"),
        (1, 3, "layout version"),
        (2, 1 << 16, "kind"),
        (4, 1, "event places"),
        (4, 1 << 32, "verdict places"),
        (5, 1 << 20, "slots"),
        (5, 64, "size"),
        (3, 1 << 63, "base"),
    ];
    for (word, flip, field) in wrong {
        words[word].fetch_xor(flip, Ordering::SeqCst);
        attempt(&stub, &format!("{unfit} the region's {field} cannot be"));
        words[word].fetch_xor(flip, Ordering::SeqCst);
    }
    let pages = [
        (0, 1, "is none: its first word is wrong"),
        (layout::AT_VERSION, 3, "has another layout version than 1"),
        (layout::AT_VERSION, 1 << 32, "has another layout version than 1"),
        (layout::AT_ACCOUNTS, 1 << 62, "is shorter than its header says"),
        (layout::AT_INSTRUMENTS, 3 << 32, "does not have the session"),
    ];
    for (word, flip, text) in pages {
        stub.page_words[word].fetch_xor(flip, Ordering::SeqCst);
        attempt(&stub, &format!("{unfit} the halt page {text}"));
        stub.page_words[word].fetch_xor(flip, Ordering::SeqCst);
    }
    let mut gate = Puppet::start(Language::C);
    let nowhere = stub.dir.path().join("nowhere");
    let answer = gate.ask(&format!("attach {} gw t0ken", nowhere.display()));
    assert_eq!(
        answer,
        format!("error 2 0 haltline cannot be reached: {}: No such file or directory", nowhere.display())
    );
    let long = "x".repeat(100);
    gate.expect(&format!("attach /{long}/{long} gw t0ken"), "error 1 0 socket: the path must have 1 to 107 bytes");
    // And with nothing wrong it attaches.
    drop(stub.attach(Language::C));
}

#[test]
fn a_look_up_that_was_answered_too_late_answers_no_other() {
    for language in Language::BOTH {
        let stub = Stub::start(GateKind::Ask);
        let mut gate = stub.attach(language);
        gate.expect("strategy beta", "1");
        gate.expect("instrument ACME", "0");
        gate.expect("account main", "0");
        gate.expect("strategy gamma", "error 3 4 haltline refused: no such name");
        gate.expect("detach", "done");
        // For so long it waits for an answer from here on.
        gate.expect("patience 300", "done");
        let late = "error 2 0 haltline cannot be reached: receive: no answer in time";
        let begin = Instant::now();
        // On a busy machine everything may be too late, which is no answer; a wrong one is.
        let until = |gate: &mut Puppet, question: &str, answer: &str| loop {
            let got = gate.ask(question);
            if got.starts_with(answer) {
                return;
            }
            assert!(got == late && begin.elapsed() < PATIENCE, "{question}: {got}");
        };
        until(&mut gate, &stub.attach_command(), "done session 1 ");
        stub.change(|script| script.hold = true);
        gate.expect("strategy beta", late);
        // The answer to that, 1, comes now, before this one's.
        until(&mut gate, "strategy alpha", "0");
        until(&mut gate, "strategy beta", "1");
    }
}

#[test]
fn a_text_is_passed_on_and_answered() {
    for language in Language::BOTH {
        let stub = Stub::start(GateKind::Ask);
        let mut gate = stub.attach(language);
        gate.expect("text 1 disabled", "done");
        gate.expect("text 2 too-far", "done");
        gate.expect("text 3 x", "error 1 0 source is neither HL_TEXT_LOG nor HL_TEXT_REJECT");
        gate.expect("text 1", "error 1 0 text is empty");
        gate.expect("strategy beta", "1");
        assert_eq!(stub.script.lock().unwrap().said, ["log disabled", "reject too-far"]);
    }
}

#[test]
fn a_gate_goes_on_in_the_same_memory_after_a_reconnect() {
    for language in Language::BOTH {
        let mut stub = Stub::start(GateKind::Ask).open();
        let mut gate = Puppet::start(language);
        // Its first answer says that it has begun.
        gate.expect("drop_checker", "done");
        let before = gate.descriptors();
        assert!(gate.ask(&stub.attach_command()).starts_with("done session 1 "));
        gate.expect("asker", "done");
        gate.expect("checker", "done");
        gate.expect("report 15 0 0 1 0 0 0 0", "done");
        let reconnect = stub.attach_command().replace("attach", "reconnect");
        // The engine of the haltline started anew sleeps by another bell, and hears the gate through it.
        let (bell, bell_fd) = Words::sealed("new bell", BELL_WORDS).unwrap();
        bell[16].store(1, Ordering::SeqCst);
        let old = stub.script.lock().unwrap().fds.clone();
        stub.change(|script| script.fds[2] = Arc::new(bell_fd));
        gate.expect(&reconnect, "done");
        gate.expect("report 15 0 0 1 0 0 0 0", "done");
        assert_eq!(bell[0].load(Ordering::SeqCst), 1, "nobody rang");
        assert_eq!((stub.event().seq, stub.event().seq), (BASE + 1, BASE + 2));
        gate.expect("admit 0 0", "pass");
        gate.expect("exit", "done");
        gate.expect("connected", "yes");
        gate.expect("strategy beta", "1");
        // Another page, another region, or a haltline that cannot reach this gate's threads: not the same gate any more.
        let changed = "error 5 0 haltline has another configuration now";
        let other = Stub::start(GateKind::Ask);
        let others = other.script.lock().unwrap().fds.clone();
        for which in [0, 1] {
            stub.change(|script| script.fds = old.clone());
            stub.change(|script| script.fds[which] = others[which].clone());
            gate.expect(&reconnect, changed);
        }
        stub.change(|script| script.fds = old.clone());
        if stub.script.lock().unwrap().numbers[2] == 1 {
            stub.change(|script| script.numbers[2] = 0);
            gate.expect(&reconnect, "error 5 0 haltline can no longer use membarrier(2), which this gate relies on");
        }
        gate.expect("connected", "yes");
        gate.expect("drop_checker", "done");
        gate.expect("drop_asker", "done");
        gate.expect("detach", "done");
        assert_eq!(gate.descriptors(), before, "descriptors are left");
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", gate.child.id())).unwrap();
        assert!(!maps.contains("memfd:") && !maps.contains(stub.dir.path().to_str().unwrap()), "{maps}");
    }
}

#[test]
fn wrapper_holds_and_gives_back_like_an_owner() {
    let mut stub = Stub::start(GateKind::Ask).open();
    let child = Command::new(build("tests/c/wrapper.cpp", Language::Cpp))
        .arg(stub.socket())
        .args(["gw", "t0ken", "beta", "ACME"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let first = stub.event();
    stub.answer(&first, None);
    let second = stub.event();
    let scope = Scope::Strategy(StrategyId(1));
    stub.answer(&second, Some(Denial { rule: Rule::OrderQty, why: Why::Breach, scope, observed: 1, limit: 0 }));
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}");
    assert_eq!(
        text,
        "nowhere: 2\nnobody: 4\nsecond asker: refused\nconnected: 1, ends: 2\npass: 1\n\
         again: 0, the pass before was not exited\nafter the pass: outside\nin a thread: 1, inside\n\
         order 1: pass\norder 2: order_qty at strategy 1: breach, observed 1, limit 0\n"
    );
    assert!(
        (0..3).all(|slot| stub.region.slots()[slot * slots::SLOT_WORDS + slots::OWNER].load(Ordering::Acquire) == 0)
    );
}

/// Attaches to the real service, and waits for the first lease.
pub fn attached(host: &Host, language: Language) -> Puppet {
    let mut gate = Puppet::start(language);
    let attach = format!("attach {} gw-1 {}", host.socket().display(), token("gw-1"));
    let begin = Instant::now();
    let mut answer = gate.ask(&attach);
    // The engine may be too late to be asked about it.
    while answer.starts_with("error 3 6 ") && begin.elapsed() < PATIENCE {
        answer = gate.ask(&attach);
    }
    assert!(answer.starts_with("done session "), "{answer}");
    gate.expect("strategy alpha", "0");
    gate.expect("instrument ACME", "0");
    gate.expect("checker", "done");
    gate.expect("asker", "done");
    gate.until("admit 0 0", "pass");
    gate.expect("exit", "done");
    gate
}

fn working(daemon: &Daemon, orders: u32) -> bool {
    let metrics = daemon.get("vera", "/metrics");
    metrics.as_str().unwrap().lines().any(|line| line == format!("haltline_working_orders {orders}"))
}

#[test]
fn a_gate_in_c_obeys_the_real_service() {
    for language in Language::BOTH {
        let host = Host::start("");
        let mut gate = attached(&host, language);
        let buy = |id: u32, qty: u32| format!("ask 1 0 0 1 {id} 0 {qty} 1000 600000");
        gate.expect(&buy(1, 100), "pass");
        gate.expect("asker_exit", "done");
        gate.expect(&buy(2, 1_001), "6 order_qty at strategy 0: breach, observed 1001, limit 1000");
        host.daemon.until("the order is counted", |d| working(d, 1));
        gate.expect("report 4 0 0 1 1 0 0 0", "done");
        gate.expect("report 10 0 0 1 1 77 100 1000", "done");
        host.daemon.until("the order is filled", |d| working(d, 0));

        // Reduce-only: what reduces the position of 100 goes out, what adds to it does not.
        let press = json!({
            "scope": { "kind": "strategy", "name": "alpha" }, "mode": "reduce_only", "reason": "test", "wait_ms": 5000,
        });
        let (code, receipt) = host.daemon.ask("olaf", "POST", "/v1/kill", Some(&press));
        assert_eq!(code, 200, "{receipt}");
        host.daemon.confirmed(receipt);
        let denied = gate.ask(&buy(3, 1));
        assert!(denied.starts_with("6 mode at strategy 0: "), "{denied}");
        gate.expect("ask 1 0 0 2 4 0 60 1000 600000", "pass");
        gate.expect("asker_exit", "done");

        let receipt = host.daemon.kill_confirmed("firm", "", "test");
        let row: &Value = &receipt["gates"][0];
        assert_eq!((&row["session"], &row["build"]), (&json!("gw-1"), &json!("puppet 1.0")), "{receipt}");
        assert_eq!((&row["pid"], &row["status"]), (&json!(gate.child.id()), &json!("confirmed")), "{receipt}");
        let denied = gate.ask("admit 0 0");
        assert!(denied.starts_with("1 firm is halted since epoch "), "{denied}");
        let denied = gate.ask("ask 1 0 0 2 5 0 1 1000 600000");
        assert!(denied.starts_with("6 mode at firm: "), "{denied}");
        // A cancel needs no pass, and is reported in every mode.
        gate.expect("report 3 0 0 1 6 4 0 0", "done");
        gate.expect("report 6 0 0 1 4 0 0 0", "done");
        host.daemon.until("the order is canceled", |d| working(d, 0));
    }
}

#[test]
fn a_pass_held_in_c_keeps_the_receipt_unconfirmed() {
    let host = Host::start("");
    let mut gate = attached(&host, Language::C);
    gate.expect("admit 0 0", "pass");
    let press = json!({ "scope": { "kind": "firm", "name": "" }, "reason": "test", "wait_ms": 0 });
    let (_, receipt) = host.daemon.ask("olaf", "POST", "/v1/kill", Some(&press));
    assert_eq!((&receipt["status"], &receipt["missing"]["gates"]), (&json!("unconfirmed"), &json!(1)), "{receipt}");
    let path = format!("/v1/kills/{}", receipt["id"].as_str().unwrap());
    gate.expect("exit", "done");
    host.daemon.until("the receipt is confirmed", |d| d.get("olaf", &path)["status"] == "confirmed");
}

#[test]
fn a_frozen_service_closes_gates_in_c_and_a_new_one_takes_them_over() {
    let host = Host::leasing("lease = \"50ms\"\nlag = \"50ms\"\n", "");
    let mut gate = attached(&host, Language::C);
    host.daemon.signal("STOP");
    let lapsed = loop {
        let answer = gate.ask("admit 0 0");
        if answer != "pass" {
            break answer;
        }
        gate.expect("exit", "done");
    };
    assert!(lapsed.starts_with("2 haltline's lease lapsed "), "{lapsed}");
    gate.expect("connected", "yes");
    host.daemon.signal("CONT");
    gate.until("admit 0 0", "pass");
    gate.expect("exit", "done");

    // SIGKILL: the gate closes, and the next service, which recovers from its journal, finds it where it was.
    let reconnect = format!("reconnect {} gw-1 {}", host.socket().display(), token("gw-1"));
    let Host { daemon, dir } = host;
    let files = daemon.sigkill();
    gate.until("connected", "no");
    let refused = gate.ask(&reconnect);
    assert!(refused.starts_with("error 2 0 haltline cannot be reached: "), "{refused}");
    let daemon = Daemon::run(files);
    assert_eq!(daemon.mode("firm", ""), "normal");
    gate.until(&reconnect, "done");
    gate.expect("connected", "yes");
    gate.until("admit 0 0", "pass");
    gate.expect("exit", "done");
    let receipt = daemon.kill_confirmed("firm", "", "test");
    // With a lease as short as this one it may have lapsed just now.
    let denied = loop {
        let denied = gate.ask("admit 0 0");
        if !denied.starts_with("2 haltline's lease lapsed ") {
            break denied;
        }
    };
    assert!(denied.starts_with("1 firm is halted since epoch "), "{denied}");
    assert_eq!(receipt["gates"][0]["pid"], gate.child.id(), "{receipt}");
    drop(dir);
}

#[test]
fn strangers_in_c_are_refused() {
    let host = Host::start("");
    let mut gate = Puppet::start(Language::Cpp);
    let socket = host.socket();
    gate.expect(
        &format!("attach {} gw-1 {}", socket.display(), token("nobody")),
        "error 3 2 haltline refused: the token is not that of session \"gw-1\"",
    );
    let _first = attached(&host, Language::C);
    let second = gate.ask(&format!("attach {} gw-1 {}", socket.display(), token("gw-1")));
    assert!(second.starts_with("error 3 3 haltline refused: session \"gw-1\" is attached by process "), "{second}");
    assert!(Path::new(&socket).exists());
}
