//! A small order gateway in Rust: floods a venue with orders, each of which passes haltline's gate.
//!
//! `gateway SOCKET SESSION TOKEN_FILE VENUE STRATEGY INSTRUMENT`, for a session that asks or one that observes. Runs until it is
//! ended or the venue closes the connection, and prints a line when its gate opens, when it closes, and when a thousand orders in a
//! row were denied. With a sixth argument, `BUILD[,FLAG=VALUE...]`, it says what it is.
//!
//! Needs nothing but haltline's gate: `cargo build --no-default-features --example gateway`.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use haltline::gate::page::Closed;
use haltline::gate::region::GateKind;
use haltline::gate::{Asker, Denied, Gate, ReportError};
use haltline::model::cancel::Instruct;
use haltline::model::claim::BadClaim;
use haltline::model::{Claim, Event, EventKind, OrdType, Side};
use haltline::units::{OrdId, Px, Qty, SessionId};

/// How long a verdict may take. What waits for longer is given up; nobody but the gate decides how late an order may be.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long haltline may take to answer what is not an order.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The same for the first attach: haltline may read this executable before it answers.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(60);
/// Orders that the venue may owe an answer.
const OUTSTANDING: u32 = 256;
/// Places of the event lane that one order needs at most: itself, its ack, its end.
const EVENTS_PER_ORDER: u64 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, socket, session, token_file, venue, strategy, instrument, claim @ ..] = &arguments[..] else {
        return Err("usage: gateway SOCKET SESSION TOKEN_FILE VENUE STRATEGY INSTRUMENT [CLAIM]".into());
    };
    let claim = claimed(claim.first().map_or("example gateway (Rust)", String::as_str))?;
    let socket = PathBuf::from(socket);
    let token = std::fs::read_to_string(token_file)?;
    let token = token.trim();
    let mut venue = TcpStream::connect(venue)?;
    venue.set_nodelay(true)?;
    let mut answers = Answers { venue: venue.try_clone()?, begun: String::new() };

    let gate = Arc::new(Gate::attach_as(&socket, session, token, &claim, ATTACH_TIMEOUT)?);
    let (strategy, instrument_id) = (gate.strategy(strategy)?, gate.instrument(instrument)?);
    let account = gate.page().account_of(strategy).ok_or("the strategy is not on the page")?;
    let mut asker = gate.asker().ok_or("the session has an asker already, or no slot")?;

    // Ids are never used twice, not even by the next run.
    let mut id = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
    let mut log = Log::default();
    let mut outstanding = 0;
    loop {
        while let Some(event) = answers.next()? {
            outstanding -= u32::from(event.kind != EventKind::Ack);
            report(&mut asker, &Event { strategy, account, instrument: instrument_id, ..event })?;
        }
        while let Some(instruction) = asker.instruction().map_err(|denied| format!("{denied:?}"))? {
            match instruction.what {
                Instruct::Cancel { id: order, .. } => {
                    venue.write_all(format!("cancel {}\n", order.0).as_bytes())?;
                    id += 1;
                    let mut cancel = Event::new(EventKind::Cancel, SessionId(0), 0);
                    (cancel.id, cancel.ref_id) = (OrdId(id), order.0);
                    report(&mut asker, &cancel)?;
                }
                // Only a gateway that says that it takes it is told.
                Instruct::MassCancel => {}
                Instruct::Disconnect => return Err("haltline wants the connection to the venue cut".into()),
            }
        }
        if outstanding >= OUTSTANDING {
            std::thread::yield_now();
            continue;
        }
        id += 1;
        let mut order = Event::new(EventKind::New, SessionId(0), 0);
        order.id = OrdId(id);
        order.strategy = strategy;
        order.account = account;
        order.instrument = instrument_id;
        order.side = if id.is_multiple_of(2) { Side::Buy } else { Side::Sell };
        order.ord_type = OrdType::Limit;
        order.qty = Qty(1);
        order.px = Px(1_000);
        // Room first: what is sent has to be reported.
        let sent = if asker.room().map_err(|damaged| format!("{damaged:?}"))? < EVENTS_PER_ORDER {
            Err(Denied::Full)
        } else {
            let pass = match gate.kind() {
                GateKind::Ask => asker.ask(&order, PATIENCE),
                GateKind::Observe => asker.admit(strategy, instrument_id).map_err(Denied::Closed),
            };
            // The pass lives until the write has returned, and no longer. A venue that does not read keeps it alive, and a kill
            // unconfirmed: rightly so, for part of the order may be on its way.
            pass.map(|_pass| {
                let side = order.side.name();
                let line = format!("new {id} {instrument} {side} {} {} {}\n", order.qty.0, order.px.0, clock());
                venue.write_all(line.as_bytes())
            })
        };
        match sent {
            Ok(written) => {
                written?;
                outstanding += 1;
                log.opened();
                if gate.kind() == GateKind::Observe {
                    report(&mut asker, &order)?;
                }
            }
            Err(denied) => {
                log.closed(&denied);
                if matches!(denied, Denied::Closed(Closed::Lapsed { .. })) {
                    // Haltline may have been started anew. Until it has, the gate stays closed.
                    let _ = gate.reconnect_as(&socket, session, token, &claim, TIMEOUT);
                }
                std::thread::yield_now();
            }
        }
    }
}

/// `BUILD[,FLAG=VALUE...]`.
fn claimed(text: &str) -> Result<Claim, Box<dyn Error>> {
    let mut parts = text.split(',');
    let wrong = |bad: BadClaim| format!("{} {}", bad.field, bad.rule);
    let mut claim = Claim::of_build(parts.next().unwrap_or_default()).map_err(wrong)?;
    for flag in parts {
        let (name, value) = flag.split_once('=').ok_or("a flag is NAME=VALUE")?;
        claim.add_flag(name, value).map_err(wrong)?;
    }
    Ok(claim)
}

/// Reports `event`, which must not be lost: waits while the lane is full.
fn report(asker: &mut Asker, event: &Event) -> Result<(), Box<dyn Error>> {
    loop {
        match asker.report(event) {
            Ok(_) => return Ok(()),
            Err(ReportError::Full) => std::thread::yield_now(),
            Err(ReportError::Damaged(damaged)) => return Err(format!("{damaged:?}").into()),
        }
    }
}

/// What the venue says.
struct Answers {
    venue: TcpStream,
    begun: String,
}

impl Answers {
    /// The next answer, if it is here already.
    fn next(&mut self) -> Result<Option<Event>, Box<dyn Error>> {
        if !self.begun.contains('\n') {
            let mut bytes = [0; 4096];
            self.venue.set_nonblocking(true)?;
            let read = self.venue.read(&mut bytes);
            self.venue.set_nonblocking(false)?;
            match read {
                Ok(0) => return Err("the venue closed the connection".into()),
                Ok(len) => self.begun.push_str(core::str::from_utf8(&bytes[..len])?),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let Some((line, rest)) = self.begun.split_once('\n') else { return Ok(None) };
        let words: Vec<&str> = line.split(' ').collect();
        let mut event = Event::new(EventKind::Ack, SessionId(0), 0);
        match words[..] {
            ["ack", id] => event.id = OrdId(id.parse()?),
            ["expired", id] => {
                event.kind = EventKind::Expired;
                event.id = OrdId(id.parse()?);
            }
            ["canceled", id] => {
                event.kind = EventKind::Canceled;
                event.id = OrdId(id.parse()?);
            }
            ["fill", id, exec, qty, px] => {
                event.kind = EventKind::Fill;
                event.id = OrdId(id.parse()?);
                event.ref_id = exec.parse()?;
                event.side = if event.id.0.is_multiple_of(2) { Side::Buy } else { Side::Sell };
                event.qty = Qty(qty.parse()?);
                event.px = Px(px.parse()?);
            }
            _ => return Err(format!("the venue said {line:?}").into()),
        }
        self.begun = rest.to_owned();
        Ok(Some(event))
    }
}

/// Says when the gate opens and closes.
#[derive(Default)]
struct Log {
    open: Option<bool>,
    denials: u64,
}

impl Log {
    fn opened(&mut self) {
        if self.open != Some(true) {
            println!("open");
        }
        (self.open, self.denials) = (Some(true), 0);
    }

    fn closed(&mut self, denied: &Denied) {
        if self.open != Some(false) {
            println!("closed: {denied:?}");
        }
        self.open = Some(false);
        self.denials += 1;
        if self.denials == 1_000 {
            println!("denied 1000");
        }
    }
}

/// `CLOCK_MONOTONIC` in ns, as in haltline's receipts.
fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
