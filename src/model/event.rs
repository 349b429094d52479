//! The 64-byte record that every transport turns its input into.

use crate::units::{AccountId, ExecId, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos};

/// What an [`Event`] reports or asks. The numbers are the wire's: they never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// A new order. Asked: gets a verdict. Observed: it has been sent already.
    New = 1,
    /// A request to replace order `ref_id` by `id` with a new quantity and price.
    Replace = 2,
    /// A request (id `id`) to cancel order `ref_id`. Never denied.
    Cancel = 3,
    /// The venue accepted order `id`: it is working.
    Ack = 4,
    /// The venue replaced `ref_id` by `id`, now with total quantity `qty` at `px`.
    Replaced = 5,
    /// Order `id` is canceled, asked for or not: leaves 0.
    Canceled = 6,
    /// Order `id` expired: leaves 0.
    Expired = 7,
    /// The venue rejected new order `id`: leaves 0.
    Rejected = 8,
    /// The venue rejected the cancel or replace request `id` on order `ref_id`, which stays as it was.
    CancelRejected = 9,
    /// Execution `ref_id` of `qty` at `px` on order `id`.
    Fill = 10,
    /// Execution `id` (as [`Event::exec_ref`]) is void. `ref_id` is the bust's own exec id.
    Bust = 11,
    /// Execution `id` (as [`Event::exec_ref`]) was really `qty` at `px`. `ref_id` is the correction's own exec id.
    Correct = 12,
    /// The reference price of `instrument` is `px`.
    Mark = 13,
    /// One unit of currency `instrument` is worth `px × 10^-10` units of the base currency.
    Fx = 14,
    /// The session is alive.
    Heartbeat = 15,
    /// Order `id` was admitted and is not sent: it does not exist. Made by haltline where it withheld the verdict because
    /// a halt had been raised in the meantime (its sequence is 0), and by a gate that did not let the order out.
    Withdrawn = 16,
    /// The order management side has a parent order `id` for `qty`, of which children may be sent until `ref_id`
    /// ([`Event::deadline`]). `ord_type` is [`OrdType::Limit`] with the limit price in `px`, or [`OrdType::Market`] without.
    ParentNew = 17,
    /// Parent `id` has quantity `qty` in all, limit price and deadline as here, from now on.
    ParentReplace = 18,
    /// Parent `id` is over, filled or not: no more children.
    ParentDone = 19,
}

impl EventKind {
    /// Every kind, in wire order.
    pub const ALL: [EventKind; 19] = [
        EventKind::New,
        EventKind::Replace,
        EventKind::Cancel,
        EventKind::Ack,
        EventKind::Replaced,
        EventKind::Canceled,
        EventKind::Expired,
        EventKind::Rejected,
        EventKind::CancelRejected,
        EventKind::Fill,
        EventKind::Bust,
        EventKind::Correct,
        EventKind::Mark,
        EventKind::Fx,
        EventKind::Heartbeat,
        EventKind::Withdrawn,
        EventKind::ParentNew,
        EventKind::ParentReplace,
        EventKind::ParentDone,
    ];

    /// The kind with wire number `n`.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<EventKind> {
        EventKind::ALL.get(usize::from(n).wrapping_sub(1)).copied()
    }

    /// The word for it on every surface.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::New => "new",
            EventKind::Replace => "replace",
            EventKind::Cancel => "cancel",
            EventKind::Ack => "ack",
            EventKind::Replaced => "replaced",
            EventKind::Canceled => "canceled",
            EventKind::Expired => "expired",
            EventKind::Rejected => "rejected",
            EventKind::CancelRejected => "cancel_rejected",
            EventKind::Fill => "fill",
            EventKind::Bust => "bust",
            EventKind::Correct => "correct",
            EventKind::Mark => "mark",
            EventKind::Fx => "fx",
            EventKind::Heartbeat => "heartbeat",
            EventKind::Withdrawn => "withdrawn",
            EventKind::ParentNew => "parent_new",
            EventKind::ParentReplace => "parent_replace",
            EventKind::ParentDone => "parent_done",
        }
    }

    /// Whether a session that asks gets a verdict for it.
    #[must_use]
    pub const fn is_request(self) -> bool {
        matches!(self, EventKind::New | EventKind::Replace | EventKind::Cancel)
    }

    /// Whether it tells of a parent order: what only a session of the order management side may send.
    #[must_use]
    pub const fn is_parent(self) -> bool {
        matches!(self, EventKind::ParentNew | EventKind::ParentReplace | EventKind::ParentDone)
    }
}

/// Which way an order trades.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// Adds to the position.
    #[default]
    Buy = 1,
    /// Takes from the position. A short sale is a `Sell` too: what counts is the quantity.
    Sell = 2,
}

impl Side {
    /// The side with wire number `n`.
    #[must_use]
    pub const fn from_u8(n: u8) -> Option<Side> {
        match n {
            1 => Some(Side::Buy),
            2 => Some(Side::Sell),
            _ => None,
        }
    }
    /// +1 for a buy, -1 for a sell.
    #[must_use]
    pub const fn sign(self) -> i64 {
        match self {
            Side::Buy => 1,
            Side::Sell => -1,
        }
    }
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Side::Buy => "buy",
            Side::Sell => "sell",
        }
    }
}

/// Order type. Decides what price an order is valued and collared at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OrdType {
    /// At `px` or better.
    #[default]
    Limit = 1,
    /// At whatever the market gives: valued at its worst case, see [`crate::risk`].
    Market = 2,
    /// A market order once triggered: `px` is the trigger, valued at the worse of it and the market's worst case.
    Stop = 3,
    /// A limit order at `px` once triggered.
    StopLimit = 4,
}

impl OrdType {
    /// The type with wire number `n`.
    #[must_use]
    pub const fn from_u8(n: u8) -> Option<OrdType> {
        match n {
            1 => Some(OrdType::Limit),
            2 => Some(OrdType::Market),
            3 => Some(OrdType::Stop),
            4 => Some(OrdType::StopLimit),
            _ => None,
        }
    }
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            OrdType::Limit => "limit",
            OrdType::Market => "market",
            OrdType::Stop => "stop",
            OrdType::StopLimit => "stop_limit",
        }
    }
}

/// One event. All of them have the same 64 bytes; which fields mean something is the kind's to say.
///
/// ```text
///  0  kind u8 | side u8 | ord_type u8 | flags u8 | session u16 | account u16
///  8  strategy u16 | reserved u16 | instrument u32
/// 16  seq u64            per session, from 1, without gaps
/// 24  sent_at u64        sender's clock, ns since the Unix epoch; 0: not said
/// 32  id u64             cl_ord_id; for bust and correct the exec id that they refer to
///                        for parent_new, parent_replace and parent_done the parent id
/// 40  ref_id u64         orig_cl_ord_id, exec_id, or a new order's parent id (0: none);
///                        for parent_new and parent_replace the deadline, ns since the Unix epoch (0: none)
/// 48  qty i64            > 0 where the kind has one
/// 56  px i64
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// What it says.
    pub kind: EventKind,
    /// Buy or sell: `new`, `parent_new`, and `fill` (needed to book a fill of an unknown order).
    pub side: Side,
    /// Order type: `new`, `replace`; of a parent whether it has a limit price.
    pub ord_type: OrdType,
    /// [`Event::MALFORMED`] and others to come; 0 otherwise.
    pub flags: u8,
    /// Whose stream it came in on. Set by the transport from the authenticated session.
    pub session: SessionId,
    /// Account that the order trades for.
    pub account: AccountId,
    /// Strategy that the order is attributed to.
    pub strategy: StrategyId,
    /// Zero.
    pub reserved: u16,
    /// Instrument; for `fx` the currency.
    pub instrument: InstrumentId,
    /// Position in the session's stream, from 1.
    pub seq: u64,
    /// The sender's clock; 0 where it did not say.
    pub sent_at: UnixNanos,
    /// See the layout.
    pub id: OrdId,
    /// See the layout.
    pub ref_id: u64,
    /// Quantity, see the kind.
    pub qty: Qty,
    /// Price, see the kind.
    pub px: Px,
}

const _: () = assert!(size_of::<Event>() == 64);

impl Event {
    /// Set by the edge on a request whose envelope it could read but whose body it could not: denied as
    /// [`Rule::Malformed`](crate::model::Rule::Malformed), and the stream goes on.
    pub const MALFORMED: u8 = 1;
    /// Decimal places of the rate in an `fx` event.
    pub const FX_SCALE: u8 = 10;

    /// An event of `kind` with every other field zero or default.
    #[must_use]
    pub const fn new(kind: EventKind, session: SessionId, seq: u64) -> Event {
        Event {
            kind,
            side: Side::Buy,
            ord_type: OrdType::Limit,
            flags: 0,
            session,
            account: AccountId(0),
            strategy: StrategyId(0),
            reserved: 0,
            instrument: InstrumentId(0),
            seq,
            sent_at: UnixNanos(0),
            id: OrdId(0),
            ref_id: 0,
            qty: Qty(0),
            px: Px(0),
        }
    }

    /// `orig_cl_ord_id` of a replace, cancel, replaced or cancel reject.
    #[must_use]
    pub const fn orig_id(&self) -> OrdId {
        OrdId(self.ref_id)
    }

    /// The parent that a new order names; 0: none. Parent ids are one namespace, whichever session names one.
    #[must_use]
    pub const fn parent_id(&self) -> u64 {
        self.ref_id
    }

    /// Until when children of a parent may be sent; 0: no end. `parent_new`, `parent_replace`.
    #[must_use]
    pub const fn deadline(&self) -> UnixNanos {
        UnixNanos(self.ref_id)
    }

    /// The event's own exec id: `fill`, `bust`, `correct`.
    #[must_use]
    pub const fn exec_id(&self) -> ExecId {
        ExecId(self.ref_id)
    }

    /// The exec id that a bust or correct refers to.
    #[must_use]
    pub const fn exec_ref(&self) -> ExecId {
        ExecId(self.id.0)
    }
}
