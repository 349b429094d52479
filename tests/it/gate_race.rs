//! Kills against admissions, across processes: gateways admit as fast as they can through a mapped page and slots in
//! sealed memory, while this process kills and re-arms. A pass that is still held when a kill has been confirmed is an
//! order that may leave after it: there must be none, and a gate without its half of the barrier must be caught.
//!
//! `HALTLINE_RACES` is how many kills and admissions are raced, per kind of gate; a million without it.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use haltline::gate::page::PageView;
use haltline::gate::region::{GateKind, Region, RegionShape};
use haltline::kill::gates::{AttachedGate, Gates};
use haltline::kill::page::HaltPage;
use haltline::kill::page_file::Shape;
use haltline::model::Mode;
use haltline::ring::barrier::{Fencing, register};
use haltline::ring::shm::{View, Words};
use haltline::ring::slots::{Slot, begin_grace, is_held};
use haltline::ring::sync::{AtomicU64, Ordering};
use haltline::units::{InstrumentId, SessionId, StrategyId};

use crate::gate::until;
use crate::support::PATIENCE;

/// Gateways, and order threads of each.
const GATEWAYS: u16 = 2;
const THREADS: usize = 2;

/// The board: words that all processes of a race share. Odd: a kill has been confirmed and not been re-armed yet.
const CONFIRMED: usize = 0;
/// Everybody ends.
const STOP: usize = 16;
/// 1: the gates do by themselves what a processor may do to a gate without a barrier: they look at the page before they enter.
const REORDERED: usize = 24;
/// Each thread's own: passes, looks that were denied, passes held after a confirmation.
const ADMITTED: usize = 0;
const DENIED: usize = 1;
const LATE: usize = 2;
const THREADS_AT: usize = 32;
/// And words on lines of their own that the thread stores just before it enters, while the kill's side reads them: each read
/// takes the line away, and what is stored behind it, the slot, stays in the store buffer until the line is back. That is
/// when a missing barrier shows.
const PULSES: [usize; 7] = [16, 32, 48, 64, 80, 96, 112];
const PER_THREAD: usize = 128;
const BOARD_WORDS: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barrier {
    /// Every entry is fenced.
    Fence,
    /// The kill's side does it.
    Membarrier,
    /// Nobody does it: the bug that has to be caught.
    Nobody,
}

impl Barrier {
    const ALL: [Barrier; 3] = [Barrier::Fence, Barrier::Membarrier, Barrier::Nobody];

    fn name(self) -> &'static str {
        match self {
            Barrier::Fence => "fence",
            Barrier::Membarrier => "membarrier",
            Barrier::Nobody => "nobody",
        }
    }
}

/// A small fast generator (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn spin(rounds: u64) {
    for _ in 0..rounds {
        core::hint::spin_loop();
    }
}

/// Memory of another process of ours, by one of its descriptors.
pub fn borrowed(pid: u32, fd: i32, words: usize) -> Words {
    let path = format!("/proc/{pid}/fd/{fd}");
    Words::from_sealed(OpenOptions::new().read(true).write(true).open(path).unwrap(), words).unwrap()
}

fn shape_of(session: u16) -> RegionShape {
    let session = SessionId(session);
    RegionShape { session, kind: GateKind::Observe, base: 0, events: 2, verdicts: 2, slots: THREADS as u32 }
}

/// One gateway's process, when this test binary is started as such by [`Race::start`].
#[test]
#[ignore = "a child process of the race"]
fn gateway() {
    let Ok(told) = std::env::var("HALTLINE_RACE") else { return };
    let told: Vec<&str> = told.split(' ').collect();
    let [barrier, session, page, pid, board, region] = told[..] else { panic!("told {told:?}") };
    let barrier = Barrier::ALL.into_iter().find(|b| b.name() == barrier).unwrap();
    let (session, pid): (u16, u32) = (session.parse().unwrap(), pid.parse().unwrap());
    let board = borrowed(pid, board.parse().unwrap(), BOARD_WORDS);
    let region = Region::read(borrowed(pid, region.parse().unwrap(), shape_of(session).words())).unwrap();
    let page = PageView::new(View::map(File::open(page).unwrap()).unwrap(), SessionId(session)).unwrap();
    let fencing = match barrier {
        Barrier::Fence => Fencing::Fence,
        Barrier::Membarrier => register(),
        Barrier::Nobody => Fencing::Membarrier,
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let slot = Slot::claim(&region.slots(), thread as u64 + 1, fencing).unwrap();
            let at = THREADS_AT + (usize::from(session) * THREADS + thread) * PER_THREAD;
            let (own, board, page) = (board.part(at..at + PER_THREAD), &board, &page);
            scope.spawn(move || admit_until_stopped(slot, page, board, &own));
        }
    });
}

fn admit_until_stopped(mut slot: Slot, page: &PageView, board: &[AtomicU64], own: &[AtomicU64]) {
    let mut dice = Dice(u64::from(std::process::id()) << 8 | 1);
    let count = |at: usize| own[at].store(own[at].load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    while board[STOP].load(Ordering::Relaxed) == 0 {
        let hold = dice.below(256);
        for pulse in PULSES {
            own[pulse].store(hold, Ordering::Relaxed);
        }
        let looked = (board[REORDERED].load(Ordering::Relaxed) == 1).then(|| {
            let looked = page.check_modes(StrategyId(0), InstrumentId(0), false);
            std::thread::yield_now();
            looked
        });
        slot.enter();
        if looked.unwrap_or_else(|| page.check_modes(StrategyId(0), InstrumentId(0), false)).is_err() {
            slot.exit();
            count(DENIED);
            std::thread::yield_now();
            continue;
        }
        spin(hold);
        // The send. What is read here was there while the pass was held.
        let confirmed = board[CONFIRMED].load(Ordering::Acquire);
        slot.exit();
        count(ADMITTED);
        if confirmed % 2 == 1 {
            count(LATE);
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    kills: u64,
    admitted: u64,
    denied: u64,
    late: u64,
}

struct Race {
    barrier: Barrier,
    page: HaltPage,
    gates: Gates,
    slots: Vec<Words>,
    board: Words,
    children: Vec<Child>,
    // What the children have opened by its number here.
    _fds: Vec<OwnedFd>,
    _dir: tempfile::TempDir,
}

impl Race {
    fn start(barrier: Barrier) -> Race {
        let dir = tempfile::Builder::new().prefix("haltline-").tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("page");
        let sessions = usize::from(GATEWAYS);
        let shape = Shape { digest: 1, accounts: 1, account_of: vec![0], instruments: 1, sessions };
        let page = HaltPage::new(shape.scopes(), 1).settle_in(&path, &shape, 0o600, 0).unwrap().page;
        let (board, board_fd) = Words::sealed("board", BOARD_WORDS).unwrap();
        let (mut children, mut fds, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let gates = Gates::default();
        for session in 0..GATEWAYS {
            let shape = shape_of(session);
            let (words, fd) = Words::sealed("region", shape.words()).unwrap();
            let region = Region::make(words, shape);
            let child = Race::child(barrier, session, &path, &board_fd, &fd);
            let membarrier = barrier == Barrier::Membarrier;
            let (session, build) = (SessionId(session), String::new());
            gates.add(Arc::new(AttachedGate::new(session, child.id(), 0, build, membarrier, region.slots())));
            slots.push(region.slots());
            children.push(child);
            fds.push(fd);
        }
        fds.push(board_fd);
        let race = Race { barrier, page, gates, slots, board, children, _fds: fds, _dir: dir };
        until("every thread admits", || (0..THREADS * sessions).all(|n| race.counted(n, ADMITTED) > 0));
        race
    }

    fn child(barrier: Barrier, session: u16, page: &Path, board: &OwnedFd, region: &OwnedFd) -> Child {
        let told = format!(
            "{} {session} {} {} {} {}",
            barrier.name(),
            page.display(),
            std::process::id(),
            board.as_raw_fd(),
            region.as_raw_fd()
        );
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "gate_race::gateway", "--test-threads=1"])
            .env("HALTLINE_RACE", told)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn counted(&self, thread: usize, what: usize) -> u64 {
        self.board[THREADS_AT + thread * PER_THREAD + what].load(Ordering::Relaxed)
    }

    fn sum(&self, what: usize) -> u64 {
        (0..THREADS * usize::from(GATEWAYS)).map(|thread| self.counted(thread, what)).fold(0, u64::wrapping_add)
    }

    fn outcome(&self, kills: u64) -> Outcome {
        Outcome { kills, admitted: self.sum(ADMITTED), denied: self.sum(DENIED), late: self.sum(LATE) }
    }

    /// Begins to wait for who is inside, as a kill does. What is returned looks again.
    fn begin_to_wait(&self) -> Box<dyn FnMut() -> bool> {
        match self.barrier {
            Barrier::Fence | Barrier::Membarrier => {
                let mut rows = self.gates.begin(None);
                Box::new(move || rows.iter_mut().all(|row| row.look()))
            }
            Barrier::Nobody => {
                let mut held = Vec::new();
                for slots in &self.slots {
                    begin_grace(slots, |h| held.push((slots.clone(), h)));
                }
                Box::new(move || held.iter().all(|(slots, h)| !is_held(slots, *h)))
            }
        }
    }

    /// Kills and re-arms until `enough`.
    fn run(&self, enough: impl Fn(&Outcome) -> bool) -> Outcome {
        let mut dice = Dice(0x9E37_79B9);
        let mut kills = 0;
        loop {
            // The firm, the account, the strategy or the instrument: every gate is concerned.
            let scope = dice.below(4) as usize;
            let mode = if dice.below(2) == 0 { Mode::ReduceOnly } else { Mode::Halted };
            let word = self.page.raise(scope, mode);
            let mut is_quiet = self.begin_to_wait();
            let begin = Instant::now();
            let mut looks = 0_u32;
            while !is_quiet() {
                looks += 1;
                // First for a core that is free, then for one that the holder of a pass waits for.
                if looks > 100 {
                    assert!(begin.elapsed() < PATIENCE, "a kill is not confirmed");
                    std::thread::yield_now();
                }
            }
            self.board[CONFIRMED].fetch_add(1, Ordering::SeqCst);
            kills += 1;
            spin(dice.below(512));
            if self.board[REORDERED].load(Ordering::Relaxed) == 1 {
                // However few processors there are, whoever is to be late has been by then.
                let steps = |thread| self.counted(thread, ADMITTED) + self.counted(thread, DENIED);
                let threads = 0..THREADS * usize::from(GATEWAYS);
                let before: Vec<u64> = threads.clone().map(steps).collect();
                until("every gate goes on", || threads.clone().all(|thread| steps(thread) > before[thread]));
            }
            self.board[CONFIRMED].fetch_add(1, Ordering::SeqCst);
            self.page.lower(scope, word.epoch).unwrap();
            for _ in 0..dice.below(64) {
                PULSES.into_iter().for_each(|pulse| _ = self.sum(pulse));
            }
            if kills % 64 == 0 {
                // So that who was denied and yielded comes back.
                std::thread::yield_now();
                let outcome = self.outcome(kills);
                if enough(&outcome) {
                    return outcome;
                }
            }
        }
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        self.board[STOP].store(1, Ordering::Release);
        for child in &mut self.children {
            let ended = child.wait();
            if !std::thread::panicking() {
                assert!(ended.unwrap().success(), "a gateway failed");
            }
        }
    }
}

fn races() -> u64 {
    std::env::var("HALTLINE_RACES").map_or(1_000_000, |n| n.parse().expect("HALTLINE_RACES is a number"))
}

#[track_caller]
fn nothing_is_late(barrier: Barrier) {
    let races = races();
    let outcome = Race::start(barrier).run(|o| o.kills + o.admitted >= races && o.kills >= races / 200);
    assert_eq!(outcome.late, 0, "admitted after a confirmation: {outcome:?}");
    assert!(outcome.admitted > 0 && outcome.denied > 0, "{outcome:?}");
    println!("{barrier:?}: {outcome:?}");
}

#[test]
fn nothing_is_admitted_after_a_confirmation_by_gates_with_fences() {
    nothing_is_late(Barrier::Fence);
}

#[test]
fn nothing_is_admitted_after_a_confirmation_by_gates_without_fences() {
    nothing_is_late(Barrier::Membarrier);
}

#[test]
fn gates_that_nobody_makes_a_barrier_for_are_caught() {
    let race = Race::start(Barrier::Nobody);
    let begin = Instant::now();
    let mut outcome = race.run(|o| o.late > 0 || begin.elapsed() > Duration::from_secs(10));
    println!("{outcome:?}");
    if outcome.late == 0 {
        // It takes a gate and a kill that run at the very same time, which they may never do on a busy machine.
        println!("no processor has shown it: the gates do it themselves");
        race.board[REORDERED].store(1, Ordering::Relaxed);
        let begin = Instant::now();
        outcome = race.run(|o| o.late > 0 || begin.elapsed() > PATIENCE);
    }
    assert!(outcome.late > 0, "the race cannot find what is wrong: {outcome:?}");
}
