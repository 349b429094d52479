//! Attaching, asking, checking, reporting.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::gate::hello::{self, Answer, ClaimOf, Request, TextSource};
use crate::gate::page::{BadPage, Closed, PageView};
use crate::gate::region::{GateKind, Region};
use crate::model::Claim;
use crate::model::cancel::Instruction;
use crate::model::claim::BadClaim;
use crate::model::effect::Denial;
use crate::model::event::{Event, EventKind};
use crate::model::record::VerdictRecord;
use crate::model::scope::{Mode, ScopeKind};
use crate::ring::barrier::{Fencing, register};
use crate::ring::bell::{BELL_WORDS, Bell};
use crate::ring::lane::{Damaged, Reader, Writer};
use crate::ring::shm::{View, Words};
use crate::ring::slots::Slot;
use crate::ring::sync::{AtomicU64, Ordering};
use crate::units::{AccountId, InstrumentId, OrdId, SessionId, StrategyId};

/// An attached session. Shared by the gateway's threads; the connection ends when it is dropped.
pub struct Gate {
    socket: Mutex<Socket>,
    page: PageView,
    page_file: (u64, u64),
    region: Region,
    region_fd: OwnedFd,
    bell: Mutex<Arc<Bell>>,
    /// How often there was a new bell.
    bells: AtomicU64,
    fencing: Fencing,
    asker: Mutex<bool>,
}

/// The connection to haltline.
struct Socket {
    fd: OwnedFd,
    /// Answers that were given up waiting for and may still come.
    owed: u32,
}

/// Why a gateway is not attached.
#[derive(Debug)]
pub enum AttachError {
    /// The socket cannot be reached, or ended.
    Io(Error),
    /// Haltline said no: one of [`hello::status`], and why.
    Refused(u16, String),
    /// The answer, or what came with it, is not what was agreed: library and haltline do not fit together.
    Protocol(String),
    /// Only at [`Gate::reconnect`]: haltline has another configuration now. Make a new gate.
    Changed,
    /// What the gateway says of itself cannot be said.
    Claim(BadClaim),
}

impl core::fmt::Display for AttachError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            AttachError::Io(error) => write!(f, "haltline cannot be reached: {error}"),
            AttachError::Refused(_, text) => write!(f, "haltline refused: {text}"),
            AttachError::Protocol(text) => write!(f, "haltline and this library do not fit together: {text}"),
            AttachError::Changed => f.write_str("haltline has another configuration now"),
            AttachError::Claim(BadClaim { field, rule }) => {
                write!(f, "what the gateway says of itself: {field} {rule}")
            }
        }
    }
}

impl core::error::Error for AttachError {}

impl From<Error> for AttachError {
    fn from(error: Error) -> Self {
        AttachError::Io(error)
    }
}

impl From<rustix::io::Errno> for AttachError {
    fn from(error: rustix::io::Errno) -> Self {
        AttachError::Io(error.into())
    }
}

/// Why an order must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The gate is closed.
    Closed(Closed),
    /// Haltline's verdict.
    Verdict(Denial),
    /// The lane to haltline is full: it takes nothing now.
    Full,
    /// No verdict in time. Should it come, it is not used: the order was withdrawn.
    NoAnswer,
    /// What came back cannot be right.
    Damaged(Damaged),
    /// The verdict says something that does not exist.
    BadVerdict,
    /// Not a `new` or `replace`: nothing to ask for.
    NotARequest,
}

/// Why an event was not reported. It has to be reported again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportError {
    /// The lane is full.
    Full,
    /// See [`Damaged`]: attach anew.
    Damaged(Damaged),
}

/// The right to send one order, as long as it lives. Drop it when the send has returned.
#[must_use = "the order may be sent only while the pass lives"]
#[derive(Debug)]
pub struct Pass<'a> {
    slot: &'a mut Slot,
}

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        self.slot.exit();
    }
}

/// One order thread's end of the gate, for sessions that observe, or to look before asking.
#[derive(Debug)]
pub struct Checker {
    slot: Slot,
    page: PageView,
}

impl Gate {
    /// Attaches to the haltline that listens at `socket` as `session`. `token` is the session's, if it has one; `build` is what
    /// this gateway calls itself. Waits at most `timeout` for each answer.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(
        socket: &Path,
        session: &str,
        token: &str,
        build: &str,
        timeout: Duration,
    ) -> Result<Gate, AttachError> {
        Gate::attach_as(socket, session, token, &Claim::of_build(build).map_err(AttachError::Claim)?, timeout)
    }

    /// As [`Gate::attach`], with all that the gateway says of itself: build, configuration, flags, host.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_as(
        socket: &Path,
        session: &str,
        token: &str,
        claim: &Claim,
        timeout: Duration,
    ) -> Result<Gate, AttachError> {
        let (connection, got) = attach(socket, session, token, claim, timeout, None)?;
        let Got { session, region, region_fd, page_fd, bell, membarrier } = got;
        let fencing = if membarrier { register() } else { Fencing::Fence };
        let page_file = identity(&page_fd)?;
        let page = PageView::new(View::map(&page_fd)?, session).map_err(bad_page)?;
        Ok(Gate {
            socket: Mutex::new(Socket { fd: connection, owed: 0 }),
            page,
            page_file,
            region,
            region_fd,
            bell: Mutex::new(Arc::new(bell)),
            bells: AtomicU64::new(0),
            fencing,
            asker: Mutex::new(false),
        })
    }

    /// Connects again, after haltline was restarted: goes on in the same memory, where both sides stopped. Order threads need not
    /// know: their gate was closed, and opens when haltline has renewed the lease.
    ///
    /// # Errors
    /// [`AttachError`]; with [`AttachError::Changed`] the gate stays closed for good.
    pub fn reconnect(
        &self,
        socket: &Path,
        session: &str,
        token: &str,
        build: &str,
        timeout: Duration,
    ) -> Result<(), AttachError> {
        self.reconnect_as(socket, session, token, &Claim::of_build(build).map_err(AttachError::Claim)?, timeout)
    }

    /// As [`Gate::reconnect`], for a gate that was attached with [`Gate::attach_as`]: the claim is made again.
    ///
    /// # Errors
    /// As [`Gate::reconnect`].
    pub fn reconnect_as(
        &self,
        socket: &Path,
        session: &str,
        token: &str,
        claim: &Claim,
        timeout: Duration,
    ) -> Result<(), AttachError> {
        let (connection, got) = attach(socket, session, token, claim, timeout, Some(self.region_fd.as_fd()))?;
        if identity(&got.page_fd)? != self.page_file || identity(&got.region_fd)? != identity(&self.region_fd)? {
            return Err(AttachError::Changed);
        }
        // This gate's half of the barrier is nothing: without the other half no kill could be confirmed to have reached it.
        if self.fencing == Fencing::Membarrier && !got.membarrier {
            return Err(AttachError::Changed);
        }
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(got.bell);
        self.bells.fetch_add(1, Ordering::Release);
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Socket { fd: connection, owed: 0 };
        Ok(())
    }

    /// Whether haltline still holds the other end of the connection. If not, its lease will lapse: [`Gate::reconnect`].
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(&socket.fd, &mut byte[..], flags) {
            Ok((_, len)) => len > 0,
            Err(error) => error == rustix::io::Errno::AGAIN,
        }
    }

    /// The session that this is.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.region.shape().session
    }

    /// What the session may do.
    #[must_use]
    pub fn kind(&self) -> GateKind {
        self.region.shape().kind
    }

    /// The halt page.
    #[must_use]
    pub fn page(&self) -> &PageView {
        &self.page
    }

    /// How the gate's half of the barrier is made here.
    #[must_use]
    pub const fn fencing(&self) -> Fencing {
        self.fencing
    }

    /// The id of the account called `name`. Asks haltline: not for order threads.
    ///
    /// # Errors
    /// [`AttachError::Refused`] if there is none.
    pub fn account(&self, name: &str) -> Result<AccountId, AttachError> {
        Ok(AccountId(self.look_up(ScopeKind::Account, name)? as u16))
    }

    /// The id of the strategy called `name`. As [`Gate::account`].
    ///
    /// # Errors
    /// As [`Gate::account`].
    pub fn strategy(&self, name: &str) -> Result<StrategyId, AttachError> {
        Ok(StrategyId(self.look_up(ScopeKind::Strategy, name)? as u16))
    }

    /// The id of the instrument called `name`. As [`Gate::account`].
    ///
    /// # Errors
    /// As [`Gate::account`].
    pub fn instrument(&self, name: &str) -> Result<InstrumentId, AttachError> {
        Ok(InstrumentId(self.look_up(ScopeKind::Instrument, name)? as u32))
    }

    /// Passes a line of the gateway's log, or the text of a reject, to haltline's guard: a kind that was never seen before is
    /// an alert. Of a longer text the first [`hello::TEXT_MAX`] bytes are passed. Waits for the answer: for a thread of its own,
    /// never for one that sends orders.
    ///
    /// # Errors
    /// As [`Gate::account`]; [`AttachError::Refused`] with [`hello::status::UNAVAILABLE`] if the guard has no room now, and with
    /// [`hello::status::MALFORMED`] if the text is blank.
    pub fn text(&self, source: TextSource, text: &str) -> Result<(), AttachError> {
        self.exchange(&Request::Text { source, text: text.to_owned() }).map(|_| ())
    }

    fn look_up(&self, kind: ScopeKind, name: &str) -> Result<u64, AttachError> {
        let numbers = self.exchange(&Request::LookUp { kind: kind as u64, name: name.to_owned() })?;
        Ok(numbers[0])
    }

    fn exchange(&self, request: &Request) -> Result<[u64; 8], AttachError> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; hello::LEN + 1];
        // The answer to an earlier question, which came too late, is not the answer to this one.
        while socket.owed > 0 {
            let (_, len) = rustix::net::recv(&socket.fd, &mut bytes[..], RecvFlags::empty())?;
            socket.owed = if len == 0 { 0 } else { socket.owed - 1 };
        }
        rustix::net::send(&socket.fd, &request.encode(), SendFlags::NOSIGNAL)?;
        match rustix::net::recv(&socket.fd, &mut bytes[..], RecvFlags::empty()) {
            Ok((_, 0)) => Err(AttachError::Io(ErrorKind::UnexpectedEof.into())),
            Ok((_, len)) => done(&bytes[..len.min(bytes.len())]),
            Err(error) => {
                socket.owed += 1;
                Err(error.into())
            }
        }
    }

    /// A thread's end of the gate; `None` if all slots are taken. Not for the hot path: do it once per thread.
    #[must_use]
    pub fn checker(&self) -> Option<Checker> {
        let slot = Slot::claim(&self.region.slots(), owner(), self.fencing)?;
        Some(Checker { slot, page: self.page.clone() })
    }

    /// The one end that asks and reports; `None` while there is one already, or if all slots are taken, or the lanes are damaged.
    #[must_use]
    pub fn asker(self: &Arc<Gate>) -> Option<Asker> {
        let mut taken = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        if *taken {
            return None;
        }
        let events = Writer::resume(self.region.events(), self.region.event_cursor()).ok()?;
        let verdicts = Reader::resume(self.region.verdicts(), self.region.verdict_cursor());
        let checker = self.checker()?;
        *taken = true;
        let shape = self.region.shape();
        Some(Asker {
            checker,
            events,
            verdicts,
            base: shape.base,
            epochs: vec![Waiting::default(); shape.events as usize].into_boxed_slice(),
            answered: self.region.answered(),
            instructions: VecDeque::with_capacity(shape.verdicts as usize),
            // Before the bell itself: one that is exchanged in between is taken anew.
            bells: self.bells.load(Ordering::Acquire),
            bell: self.bell.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            gate: self.clone(),
        })
    }
}

impl Checker {
    /// A pass for an order of `strategy` in `instrument`, if the page is open and the lease holds now.
    ///
    /// In reduce-only nothing passes here: whether an order reduces only haltline can say, to a session that asks.
    ///
    /// # Errors
    /// Why not. Nothing is held then.
    #[inline]
    pub fn admit(&mut self, strategy: StrategyId, instrument: InstrumentId) -> Result<Pass<'_>, Closed> {
        self.slot.enter();
        let open = self.page.check_modes(strategy, instrument, false).and_then(|()| self.page.check_lease(clock()));
        self.stay(open)?;
        Ok(Pass { slot: &mut self.slot })
    }

    /// As [`Checker::admit`], at a time that the caller has just read: `CLOCK_MONOTONIC` in ns, *before* this call and not
    /// longer ago than the caller would have the lease outlast haltline.
    ///
    /// # Errors
    /// As [`Checker::admit`].
    #[inline]
    pub fn admit_at(&mut self, now: u64, strategy: StrategyId, instrument: InstrumentId) -> Result<Pass<'_>, Closed> {
        self.slot.enter();
        let open = self.page.check_modes(strategy, instrument, false).and_then(|()| self.page.check_lease(now));
        self.stay(open)?;
        Ok(Pass { slot: &mut self.slot })
    }

    /// Stays inside if the gate is open.
    #[inline]
    fn stay(&mut self, open: Result<(), Closed>) -> Result<(), Closed> {
        if open.is_err() {
            self.slot.exit();
        }
        open
    }

    /// Goes inside for an order that haltline admitted when the page's next epoch was `epoch`.
    #[inline]
    fn enter_answered(&mut self, answered: &Answered) -> Result<(), Closed> {
        let Answered { verdict, epoch, strategy, instrument } = *answered;
        self.slot.enter();
        // A raise takes its epoch before it shows the mode. An order that was submitted in between has an epoch that looks new
        // enough, and may have been decided before the mode was seen: so what reduces goes by the verdict, not by the epoch.
        let open = self
            .page
            .check_modes(strategy, instrument, verdict.reduces())
            .and_then(|()| self.page.check_unchanged(epoch, strategy, instrument))
            .and_then(|()| self.page.check_lease(clock()));
        self.stay(open)
    }
}

/// What is remembered of a request until its verdict comes.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    position: u64,
    id: OrdId,
    epoch: u64,
    strategy: StrategyId,
    instrument: InstrumentId,
    withdrawn: bool,
}

/// A verdict as it came. An admitted order still needs its pass: [`Asker::pass`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The verdict.
    pub verdict: VerdictRecord,
    epoch: u64,
    strategy: StrategyId,
    instrument: InstrumentId,
}

/// The one writer and reader of a session's lanes. One thread at a time; any thread.
pub struct Asker {
    checker: Checker,
    events: Writer,
    verdicts: Reader,
    base: u64,
    epochs: Box<[Waiting]>,
    answered: Words,
    /// Instructions that came between verdicts, as many as the lane has places.
    instructions: VecDeque<Instruction>,
    bell: Arc<Bell>,
    /// Which of the gate's bells this is.
    bells: u64,
    gate: Arc<Gate>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        *self.gate.asker.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl Asker {
    /// Asks for `order`, a `new` or `replace`, and waits at most `patience` for the verdict. The event's session and sequence are
    /// set here.
    ///
    /// Spins: this is for a core that has nothing else to do. Where it has, [`Asker::submit`] and [`Asker::poll`].
    ///
    /// # Errors
    /// Why the order must not be sent. If it had been admitted, haltline is told that it was withdrawn.
    pub fn ask(&mut self, order: &Event, patience: Duration) -> Result<Pass<'_>, Denied> {
        let position = self.submit(order)?;
        let begin = clock();
        let mut rounds = 0_u32;
        let answered = loop {
            let polled = self.poll().and_then(|polled| match polled {
                // An earlier request that was submitted and not waited for: its caller gave it up by asking.
                Some(earlier) if earlier.verdict.seq != self.base + position => {
                    if earlier.verdict.denial.is_none() {
                        self.withdraw(&earlier)?;
                    }
                    Ok(None)
                }
                other => Ok(other),
            });
            // Whatever goes wrong meanwhile: the verdict of this one will not be used.
            let polled = polled.inspect_err(|_| self.give_up(position))?;
            match polled {
                Some(answered) => break answered,
                None => {
                    core::hint::spin_loop();
                    rounds += 1;
                    if rounds.is_multiple_of(64) {
                        if clock().saturating_sub(begin) > patience.as_nanos() as u64 {
                            self.give_up(position);
                            return Err(Denied::NoAnswer);
                        }
                        std::thread::yield_now();
                    }
                }
            }
        };
        if let Some(denial) = answered.verdict.denial {
            return Err(Denied::Verdict(denial));
        }
        self.pass(&answered)
    }

    /// Puts a request into the lane and returns its position. Never waits.
    ///
    /// # Errors
    /// [`Denied::Full`], [`Denied::Damaged`], [`Denied::NotARequest`], and a gate that is closed already.
    pub fn submit(&mut self, order: &Event) -> Result<u64, Denied> {
        match order.kind {
            EventKind::New | EventKind::Replace => {}
            _ => return Err(Denied::NotARequest),
        }
        // Before the order is in the lane: what is raised from here on makes its verdict worthless.
        let epoch = self.checker.page.epoch();
        let at = (self.events.position() - 1) as usize & (self.epochs.len() - 1);
        let waiting = Waiting {
            position: self.events.position(),
            id: order.id,
            epoch,
            strategy: order.strategy,
            instrument: order.instrument,
            withdrawn: false,
        };
        // Verdicts come in order: one at or before `answered` will not come. A request that was given up needs no memory: a
        // verdict that nobody waits for is withdrawn.
        let place = self.epochs[at];
        if place.position > self.answered[0].load(Ordering::Relaxed) && !place.withdrawn {
            return Err(Denied::Full);
        }
        match self.events.push(order.to_record()) {
            Ok(Some(position)) => {
                self.epochs[at] = waiting;
                self.ring();
                Ok(position)
            }
            Ok(None) => Err(Denied::Full),
            Err(damaged) => Err(Denied::Damaged(damaged)),
        }
    }

    /// The next verdict, if one has come. A request whose verdict was lost with a haltline that died gets none: it is withdrawn
    /// when a later one's comes.
    ///
    /// # Errors
    /// [`Denied::Damaged`], [`Denied::BadVerdict`]: nothing more can be asked here.
    pub fn poll(&mut self) -> Result<Option<Answered>, Denied> {
        loop {
            let Some(record) = self.verdicts.pop().map_err(Denied::Damaged)? else { return Ok(None) };
            if Instruction::is_record(&record) {
                self.keep_instruction(&record)?;
                continue;
            }
            let verdict = VerdictRecord::from_record(&record).map_err(|_| Denied::BadVerdict)?;
            let position = verdict.seq.wrapping_sub(self.base);
            // Haltline died between answering and counting, and has answered again: the order may have been sent.
            let answered = self.answered[0].load(Ordering::Relaxed);
            if position <= answered {
                continue;
            }
            // A process that dies between these two words never used the verdict: haltline goes on counting the order.
            self.answered[0].store(position, Ordering::Release);
            self.withdraw_lost(answered, position);
            let at = position.wrapping_sub(1) as usize & (self.epochs.len() - 1);
            let waiting = self.epochs[at];
            if waiting.position == position && !waiting.withdrawn {
                self.epochs[at].position = 0;
                let Waiting { epoch, strategy, instrument, .. } = waiting;
                return Ok(Some(Answered { verdict, epoch, strategy, instrument }));
            }
            // Given up, or asked by a process that died before it read the verdict: it is not sent, and haltline is told.
            match verdict.kind {
                EventKind::New | EventKind::Replace if verdict.denial.is_none() => self.tell_withdrawn(verdict.id)?,
                _ => {}
            }
        }
    }

    fn keep_instruction(&mut self, record: &[u64; 8]) -> Result<(), Denied> {
        let instruction = Instruction::from_record(record, self.gate.session()).map_err(|_| Denied::BadVerdict)?;
        // One that finds no room is given again, like one that is not answered.
        if self.instructions.len() < self.instructions.capacity() {
            self.instructions.push_back(instruction);
        }
        Ok(())
    }

    /// The next thing that haltline wants done about orders that work under a halt, if there is any. Never waits; look now and
    /// then, also when nothing is asked.
    ///
    /// Of a cancel, [`Asker::report`] a `cancel` for the order when it goes out, and what the venue says in time: an order of which
    /// nothing is heard is told again. What was told for a scope that has been re-armed since is not given out.
    ///
    /// # Errors
    /// [`Denied::Damaged`], [`Denied::BadVerdict`]: nothing more can be asked here.
    pub fn instruction(&mut self) -> Result<Option<Instruction>, Denied> {
        while self.verdicts.next_kind().is_some_and(Instruction::is_kind) {
            let Some(record) = self.verdicts.pop().map_err(Denied::Damaged)? else { break };
            self.keep_instruction(&record)?;
        }
        while let Some(instruction) = self.instructions.pop_front() {
            if self.checker.page.word(instruction.scope).mode != Mode::Normal {
                return Ok(Some(instruction));
            }
        }
        Ok(None)
    }

    /// Tells haltline that this gateway can cancel every order of a scope when it is told once
    /// ([`Instruct::MassCancel`](crate::model::cancel::Instruct::MassCancel)), for as long as it is attached.
    ///
    /// # Errors
    /// As [`Asker::report`].
    pub fn accept_mass_cancel(&mut self) -> Result<u64, ReportError> {
        let mut event = Event::new(EventKind::Heartbeat, SessionId(0), 0);
        event.id = OrdId(crate::model::cancel::TAKES_MASS_CANCEL);
        self.report(&event)
    }

    /// Verdicts come in the order of their requests. One between `before` and `now` that has none never gets it: haltline wrote
    /// down what it had decided, and died before it said so. Its order is not sent.
    fn withdraw_lost(&mut self, before: u64, now: u64) {
        let oldest = now.saturating_sub(self.epochs.len() as u64);
        for position in before.max(oldest) + 1..now {
            let at = position.wrapping_sub(1) as usize & (self.epochs.len() - 1);
            if self.epochs[at].position == position {
                self.epochs[at].position = 0;
                // If there is no room, haltline goes on counting the order.
                let _ = self.tell_withdrawn(self.epochs[at].id);
            }
        }
    }

    /// The pass for an order that was admitted.
    ///
    /// # Errors
    /// If the gate has closed since, or anything of the order's scopes was raised or lowered: haltline is told that the order was
    /// withdrawn.
    pub fn pass(&mut self, answered: &Answered) -> Result<Pass<'_>, Denied> {
        if let Some(denial) = answered.verdict.denial {
            return Err(Denied::Verdict(denial));
        }
        if let Err(closed) = self.checker.enter_answered(answered) {
            self.withdraw(answered)?;
            return Err(Denied::Closed(closed));
        }
        Ok(Pass { slot: &mut self.checker.slot })
    }

    /// Tells haltline that an order it admitted is not sent.
    ///
    /// # Errors
    /// If it cannot be told: [`Denied::Full`], [`Denied::Damaged`]. Haltline goes on counting the order.
    pub fn withdraw(&mut self, answered: &Answered) -> Result<(), Denied> {
        self.tell_withdrawn(answered.verdict.id)
    }

    fn tell_withdrawn(&mut self, id: OrdId) -> Result<(), Denied> {
        let mut event = Event::new(EventKind::Withdrawn, SessionId(0), 0);
        event.id = id;
        match self.report(&event) {
            Ok(_) => Ok(()),
            Err(ReportError::Full) => Err(Denied::Full),
            Err(ReportError::Damaged(damaged)) => Err(Denied::Damaged(damaged)),
        }
    }

    fn give_up(&mut self, position: u64) {
        let at = (position - 1) as usize & (self.epochs.len() - 1);
        if self.epochs[at].position == position {
            self.epochs[at].withdrawn = true;
        }
    }

    /// Reports an event of any kind: what the venue said, a cancel that goes out, a heartbeat, an order that was sent under a
    /// [`Checker`]'s pass. Returns its position. Never waits.
    ///
    /// # Errors
    /// [`ReportError`]: it was not taken, and has to be reported again.
    pub fn report(&mut self, event: &Event) -> Result<u64, ReportError> {
        match self.events.push(event.to_record()) {
            Ok(Some(position)) => {
                self.ring();
                Ok(position)
            }
            Ok(None) => Err(ReportError::Full),
            Err(damaged) => Err(ReportError::Damaged(damaged)),
        }
    }

    /// Wakes the engine, if it sleeps.
    #[inline]
    fn ring(&mut self) {
        if self.gate.bells.load(Ordering::Acquire) != self.bells {
            self.take_new_bell();
        }
        self.bell.ring();
    }

    /// Haltline was restarted, and sleeps by another one.
    #[cold]
    fn take_new_bell(&mut self) {
        self.bells = self.gate.bells.load(Ordering::Acquire);
        self.bell = self.gate.bell.lock().unwrap_or_else(PoisonError::into_inner).clone();
    }

    /// How many events fit now. An observing gateway looks before it sends, so that what it sent can be reported.
    ///
    /// # Errors
    /// If the lane is damaged.
    pub fn room(&mut self) -> Result<u64, Damaged> {
        self.events.room()
    }

    /// The check without the question, as [`Checker::admit`].
    ///
    /// # Errors
    /// As [`Checker::admit`].
    pub fn admit(&mut self, strategy: StrategyId, instrument: InstrumentId) -> Result<Pass<'_>, Closed> {
        self.checker.admit(strategy, instrument)
    }

    /// The sequence that haltline knows position `position` by.
    #[must_use]
    pub const fn seq(&self, position: u64) -> u64 {
        self.base + position
    }
}

/// `CLOCK_MONOTONIC` in ns, without a system call.
#[inline]
fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// This process and thread, for a slot.
fn owner() -> u64 {
    let id = |pid: rustix::process::Pid| u64::from(pid.as_raw_nonzero().get().unsigned_abs());
    id(rustix::process::getpid()) << 32 | id(rustix::thread::gettid())
}

/// What came with the answer.
struct Got {
    session: SessionId,
    region: Region,
    region_fd: OwnedFd,
    page_fd: OwnedFd,
    bell: Bell,
    membarrier: bool,
}

fn attach(
    socket: &Path,
    session: &str,
    token: &str,
    claim: &Claim,
    timeout: Duration,
    offered: Option<BorrowedFd<'_>>,
) -> Result<(OwnedFd, Got), AttachError> {
    let connection = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for direction in [rustix::net::sockopt::Timeout::Recv, rustix::net::sockopt::Timeout::Send] {
        rustix::net::sockopt::set_socket_timeout(&connection, direction, Some(timeout.max(Duration::from_millis(1))))?;
    }
    rustix::net::connect(&connection, &SocketAddrUnix::new(socket)?)?;
    let mut bytes = [0; hello::LEN + 1];
    for request in claims(claim) {
        send_with(&connection, &request.encode(), None)?;
        let (len, _) = receive_with(&connection, &mut bytes)?;
        done(&bytes[..len])?;
    }
    let build = claim.build().unwrap_or_default().to_owned();
    let request = Request::Attach { session: session.to_owned(), token: token.to_owned(), build }.encode();
    send_with(&connection, &request, offered)?;
    let (len, mut fds) = receive_with(&connection, &mut bytes)?;
    let numbers = done(&bytes[..len])?;
    let protocol = |text: String| AttachError::Protocol(text);
    if fds.len() != 3 {
        return Err(protocol(format!("{} descriptors came instead of 3", fds.len())));
    }
    let (bell_fd, region_fd, page_fd) = (fds.remove(2), fds.remove(1), fds.remove(0));
    let words = usize::try_from(numbers[1]).map_err(|_| protocol("the region is too large".into()))?;
    let region =
        Region::read(Words::from_sealed(&region_fd, words)?).map_err(|field| protocol(format!("region: {field}")))?;
    let bell = Bell::over(Words::from_sealed(&bell_fd, BELL_WORDS)?);
    let session = region.shape().session;
    if u64::from(session.0) != numbers[0] {
        return Err(protocol("the region is another session's".into()));
    }
    Ok((connection, Got { session, region, region_fd, page_fd, bell, membarrier: numbers[2] == 1 }))
}

/// What is said before the attach.
fn claims(claim: &Claim) -> impl Iterator<Item = Request> + '_ {
    let one = |what, value: &str| Request::Claim { what, name: String::new(), value: value.to_owned() };
    let hash = claim.config_hash().map(|hash| one(ClaimOf::ConfigHash, hash));
    let host = claim.host().map(|host| one(ClaimOf::Host, host));
    let flag = |(name, value): &(String, String)| Request::Claim {
        what: ClaimOf::Flag,
        name: name.clone(),
        value: value.clone(),
    };
    hash.into_iter().chain(host).chain(claim.flags().iter().map(flag))
}

/// Sends one packet, with a descriptor if there is one.
fn send_with(socket: &OwnedFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), AttachError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds;
    if let Some(fd) = fd {
        fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet and the descriptors that came with it.
fn receive_with(socket: &OwnedFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), AttachError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Err(AttachError::Io(ErrorKind::UnexpectedEof.into()));
    }
    Ok((got.bytes, fds))
}

fn done(bytes: &[u8]) -> Result<[u64; 8], AttachError> {
    match Answer::decode(bytes) {
        Ok(Answer::Done(numbers)) => Ok(numbers),
        Ok(Answer::Refused { status, text }) => Err(AttachError::Refused(status, text)),
        Err((field, what)) => Err(AttachError::Protocol(format!("the answer's {field} {what}"))),
    }
}

fn bad_page(bad: BadPage) -> AttachError {
    AttachError::Protocol(format!("the halt page: {bad:?}"))
}

/// Which file a descriptor is of.
fn identity(fd: impl AsFd) -> Result<(u64, u64), AttachError> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(all(test, feature = "service", not(loom), not(miri)))]
mod tests {
    use super::*;
    use crate::gate::region::RegionShape;
    use crate::kill::page::HaltPage;
    use crate::kill::page_file::Shape;
    use crate::kill::testing::universe;
    use crate::model::cancel::Instruct;
    use crate::model::record::RISK_CHECK;
    use crate::model::scope::Scope;
    use crate::ring::slots::SLOT_WORDS;

    /// A gateway's end that asks, and haltline's ends of the lanes.
    fn asker() -> (Asker, Reader, Writer, (tempfile::TempDir, HaltPage)) {
        let (dir, universe) = (tempfile::tempdir().unwrap(), universe());
        let settled = HaltPage::new(universe.scope_count(), 1)
            .settle_in(&dir.path().join("page"), &Shape::of(&universe), 0o600, 1)
            .unwrap();
        settled.page.renew_lease(u64::MAX);
        let shape =
            RegionShape { session: SessionId(0), kind: GateKind::Ask, base: 40, events: 8, verdicts: 8, slots: 1 };
        let region = Region::make(Words::heap(shape.words()), shape);
        let events = Reader::resume(region.events(), region.event_cursor());
        let verdicts = Writer::resume(region.verdicts(), region.verdict_cursor()).unwrap();
        let gate = Gate {
            socket: Mutex::new(Socket { fd: settled.read_only.try_clone().unwrap(), owed: 0 }),
            page: PageView::new(View::map(&settled.read_only).unwrap(), SessionId(0)).unwrap(),
            page_file: identity(&settled.read_only).unwrap(),
            region,
            region_fd: settled.read_only,
            bell: Mutex::new(Bell::new()),
            bells: AtomicU64::new(0),
            fencing: Fencing::Fence,
            asker: Mutex::new(false),
        };
        (Arc::new(gate).asker().unwrap(), events, verdicts, (dir, settled.page))
    }

    #[test]
    fn an_order_whose_verdict_was_lost_is_withdrawn_with_the_next_verdict() {
        let (mut asker, mut events, mut verdicts, _dir) = asker();
        let mut submit = |asker: &mut Asker, id: u64| {
            let order = Event { id: OrdId(id), ..Event::new(EventKind::New, SessionId(0), 0) };
            let position = asker.submit(&order).unwrap();
            assert!(events.pop().unwrap().is_some());
            position
        };
        let lost = submit(&mut asker, 11);
        let position = submit(&mut asker, 12);
        assert_eq!((lost, position), (1, 2));
        let verdict =
            VerdictRecord { seq: 40 + position, id: OrdId(12), kind: EventKind::New, denial: None, checks: RISK_CHECK };
        verdicts.push(verdict.to_record()).unwrap().unwrap();
        let answered = asker.poll().unwrap().unwrap();
        assert_eq!(answered.verdict.id, OrdId(12));
        assert!(asker.pass(&answered).is_ok());
        let told = Event::from_record(&events.pop().unwrap().unwrap(), SessionId(0), 43).unwrap();
        assert_eq!(
            (told.kind, told.id),
            (EventKind::Withdrawn, OrdId(11)),
            "haltline counts an order that is not sent"
        );
        assert_eq!(events.pop(), Ok(None));
        // Reports have no verdicts and are not taken for requests.
        asker.report(&Event::new(EventKind::Heartbeat, SessionId(0), 0)).unwrap();
        events.pop().unwrap().unwrap();
        assert_eq!(asker.poll(), Ok(None));
    }

    #[test]
    fn instructions_come_between_verdicts_and_not_for_a_scope_that_was_rearmed() {
        let (mut asker, mut events, mut verdicts, (_dir, page)) = asker();
        let order = Event { id: OrdId(12), ..Event::new(EventKind::New, SessionId(0), 0) };
        let position = asker.submit(&order).unwrap();
        assert!(events.pop().unwrap().is_some());
        let word = page.raise(universe().slot(Scope::Firm).unwrap(), Mode::Halted);
        let tell = |id| Instruction {
            to: SessionId(0),
            scope: Scope::Firm,
            what: Instruct::Cancel { of: SessionId(0), id: OrdId(id), attempt: 1 },
        };
        let verdict =
            VerdictRecord { seq: 40 + position, id: OrdId(12), kind: EventKind::New, denial: None, checks: RISK_CHECK };
        for record in [tell(1).to_record(), verdict.to_record(), tell(2).to_record()] {
            verdicts.push(record).unwrap().unwrap();
        }
        assert_eq!(asker.instruction(), Ok(Some(tell(1))));
        assert_eq!(asker.instruction(), Ok(None), "a verdict is not passed over");
        assert_eq!(asker.poll().unwrap().unwrap().verdict.id, OrdId(12));
        assert_eq!(asker.poll(), Ok(None));
        assert_eq!(asker.instruction(), Ok(Some(tell(2))), "what the verdicts were read past");
        verdicts.push(tell(3).to_record()).unwrap().unwrap();
        page.lower(universe().slot(Scope::Firm).unwrap(), word.epoch).unwrap();
        assert_eq!(asker.instruction(), Ok(None), "trading is allowed again");
        asker.accept_mass_cancel().unwrap();
        let told = Event::from_record(&events.pop().unwrap().unwrap(), SessionId(0), 42).unwrap();
        assert_eq!((told.kind, told.id.0), (EventKind::Heartbeat, crate::model::cancel::TAKES_MASS_CANCEL));
    }

    #[test]
    fn what_was_submitted_while_reduce_only_was_raised_and_decided_before_does_not_pass() {
        let (dir, universe) = (tempfile::tempdir().unwrap(), universe());
        let settled = HaltPage::new(universe.scope_count(), 1)
            .settle_in(&dir.path().join("page"), &Shape::of(&universe), 0o600, 1)
            .unwrap();
        settled.page.renew_lease(u64::MAX);
        let page = PageView::new(View::map(&settled.read_only).unwrap(), SessionId(0)).unwrap();
        let slot = Slot::claim(&Words::heap(SLOT_WORDS), 1, Fencing::Fence).unwrap();
        let mut checker = Checker { slot, page };
        // The epoch as a gate reads it when the raise has taken its own and not yet shown the mode.
        let raised = settled.page.raise(universe.slot(Scope::Firm).unwrap(), Mode::ReduceOnly);
        let mut enter = |checks| {
            let verdict = VerdictRecord { seq: 1, id: OrdId(1), kind: EventKind::New, denial: None, checks };
            let (strategy, instrument) = (StrategyId(0), InstrumentId(0));
            let entered = checker.enter_answered(&Answered { verdict, epoch: raised.epoch + 1, strategy, instrument });
            checker.slot.exit();
            entered
        };
        assert_eq!(enter(RISK_CHECK), Err(Closed::Mode { scope: Scope::Firm, word: raised }));
        assert_eq!(enter(0), Ok(()), "haltline has found that it reduces");
    }
}
