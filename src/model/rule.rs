//! The rules, in the order in which they are checked, and what a breach of one does.

use crate::model::scope::{Mode, ScopeKind};

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $n:literal, $word:literal;)*) => {
        /// Why an order was denied, a scope tripped or a warning raised. Declared in check order: of
        /// several breaches the verdict names the one with the most severe action, then the first here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Rule { $($(#[$doc])* $name = $n,)* }

        impl Rule {
            /// Every rule, in check order; the position is the number.
            pub const ALL: [Rule; Rule::COUNT] = [$(Rule::$name,)*];
            /// How many there are.
            pub const COUNT: usize = [$($n,)*].len();
            /// The word for it in configs, verdicts and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Rule::$name => $word,)* } }
            /// The rule called `word`.
            #[must_use]
            pub fn from_name(word: &str) -> Option<Rule> { match word { $($word => Some(Rule::$name),)* _ => None } }
        }
    };
}

rules! {
    /// The event cannot be what it says: a quantity or price out of range, a field that makes no sense.
    Malformed = 0, "malformed";
    /// A table of the engine is full: nothing is evicted to make room for an order.
    Capacity = 1, "capacity";
    /// The session's sequence has a gap: nothing after it is taken until the stream is sent again from there.
    StreamGap = 2, "stream_gap";
    /// The session was silent for longer than its heartbeat bound.
    HeartbeatLoss = 3, "heartbeat_loss";
    /// The event's own time stamp is too far from our clock, or missing where a bound is set.
    ClockSkew = 4, "clock_skew";
    /// A scope of the order is halted or reduce-only. Observed and limit are the mode's numbers.
    Mode = 5, "mode";
    /// A session, account, strategy or instrument that the configuration does not know.
    UnknownEntity = 6, "unknown_entity";
    /// The id is in use, or was, by an order that the engine remembers.
    DuplicateId = 7, "duplicate_id";
    /// A replace of an order that is not live, not known, or already being replaced.
    UnknownOrder = 8, "unknown_order";
    /// The session may not trade this strategy or account, or the strategy not this instrument.
    Permission = 9, "permission";
    /// The instrument is on the restricted list.
    Restricted = 10, "restricted";
    /// The side is not allowed here: long-only, buy-only, sell-only.
    SidePermission = 11, "side_permission";
    /// Quantity of one order.
    OrderQty = 12, "order_qty";
    /// Value of one order.
    OrderNotional = 13, "order_notional";
    /// Quantity of one order against average daily volume, in basis points of it.
    OrderParticipation = 14, "order_participation";
    /// Price further from the reference than the collar allows.
    Collar = 15, "collar";
    /// The same order again within the window.
    DuplicateOrder = 16, "duplicate_order";
    /// Position plus all buy leaves.
    PositionLong = 17, "position_long";
    /// Position less all sell leaves, turned round.
    PositionShort = 18, "position_short";
    /// Quantity traded today plus leaves, against average daily volume, in basis points of it.
    DayParticipation = 19, "day_participation";
    /// Worst-case long plus worst-case short value, per instrument, not netted.
    GrossExposure = 20, "gross_exposure";
    /// Net value if every buy and no sell were filled.
    NetLong = 21, "net_long";
    /// Net value, turned round, if every sell and no buy were filled.
    NetShort = 22, "net_short";
    /// Orders that are pending or working.
    WorkingOrders = 23, "working_orders";
    /// New orders in a window.
    OrderRate = 24, "order_rate";
    /// New, replace and cancel requests in a window. Cancels count but are never denied.
    MessageRate = 25, "message_rate";
    /// Cancel requests in a window: alerted, never denied.
    CancelRate = 26, "cancel_rate";
    /// New orders since the last re-arm by a person.
    RepeatedOrders = 27, "repeated_orders";
    /// Executions since the last re-arm by a person.
    RepeatedExecutions = 28, "repeated_executions";
    /// Realised plus unrealised loss since the day began.
    DailyLoss = 29, "daily_loss";
    /// Fall of the profit from its high-water mark.
    Drawdown = 30, "drawdown";
    /// Fall of the profit within a window.
    LossVelocity = 31, "loss_velocity";
    /// Denials in a window: escalates.
    Denials = 32, "denials";
    /// What was decided is not on disk for longer than the grace: nothing new until it is. Judged with [`Rule::Capacity`];
    /// numbered last because numbers on the wire do not change.
    Journal = 33, "journal";
    /// Fills, leaves and this order together are more than its parent's quantity.
    ParentQty = 34, "parent_qty";
    /// The order is the child of no parent that takes children. Observed: 0 it names none and has to, 1 unknown, 2 done,
    /// 3 past its deadline, 4 the parent is of another strategy, instrument or side.
    ParentState = 35, "parent_state";
    /// The price is beyond the parent's limit, or the order has none and the parent has.
    ParentPx = 36, "parent_px";
    /// Children of one parent.
    Children = 37, "children";
    /// New orders in a window, against parents that are open: so many for each.
    FanOut = 38, "fan_out";
    /// Fills in a window that belong to no order, come after its end or go beyond its leaves.
    OrphanFills = 39, "orphan_fills";
    /// Gross exposure of an account that nothing should be booked to.
    Suspense = 40, "suspense";
    /// A check that the limits ask for did not run. Observed: the number of its rule.
    Coverage = 41, "coverage";
}

/// What a rule's observed value and limit are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// The instrument's quantity unit.
    Qty,
    /// The instrument's price unit.
    Px,
    /// The firm's base unit.
    Notional,
    /// Basis points.
    Bps,
    /// A plain count.
    Count,
    /// Nanoseconds.
    Nanos,
    /// A sequence number.
    Seq,
    /// The number of a [`Mode`].
    Mode,
    /// No number belongs to it.
    None,
}

impl Rule {
    /// What its observed value and limit are counted in.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Rule::OrderQty | Rule::PositionLong | Rule::PositionShort | Rule::SidePermission | Rule::ParentQty => {
                Unit::Qty
            }
            Rule::Collar | Rule::ParentPx => Unit::Px,
            Rule::OrderNotional
            | Rule::GrossExposure
            | Rule::NetLong
            | Rule::NetShort
            | Rule::DailyLoss
            | Rule::Drawdown
            | Rule::LossVelocity
            | Rule::Suspense => Unit::Notional,
            Rule::OrderParticipation | Rule::DayParticipation => Unit::Bps,
            Rule::WorkingOrders
            | Rule::OrderRate
            | Rule::MessageRate
            | Rule::CancelRate
            | Rule::RepeatedOrders
            | Rule::RepeatedExecutions
            | Rule::DuplicateOrder
            | Rule::Denials
            | Rule::Children
            | Rule::FanOut
            | Rule::OrphanFills
            | Rule::Capacity => Unit::Count,
            Rule::HeartbeatLoss | Rule::ClockSkew => Unit::Nanos,
            Rule::StreamGap => Unit::Seq,
            Rule::Mode => Unit::Mode,
            Rule::Malformed
            | Rule::UnknownEntity
            | Rule::DuplicateId
            | Rule::UnknownOrder
            | Rule::Permission
            | Rule::Restricted
            | Rule::ParentState
            | Rule::Coverage
            | Rule::Journal => Unit::None,
        }
    }

    /// The rule with number `n`.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Rule> {
        Rule::ALL.get(usize::from(n)).copied()
    }
}

/// What was wrong with the thing that a rule looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Why {
    /// The limit was crossed, or the condition holds.
    Breach = 0,
    /// The rule is armed and its reference price has never been seen.
    ReferenceMissing = 1,
    /// The rule is armed and its reference price is older than allowed.
    ReferenceStale = 2,
    /// The rule is armed and the FX rate has never been seen.
    FxMissing = 3,
    /// The rule is armed and the FX rate is older than allowed.
    FxStale = 4,
    /// The rule is armed and the instrument has no average daily volume.
    VolumeMissing = 5,
    /// The observed value cannot be represented.
    Unrepresentable = 6,
}

impl Why {
    /// Every reason; the position is the number.
    pub const ALL: [Why; 7] = [
        Why::Breach,
        Why::ReferenceMissing,
        Why::ReferenceStale,
        Why::FxMissing,
        Why::FxStale,
        Why::VolumeMissing,
        Why::Unrepresentable,
    ];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Why::Breach => "breach",
            Why::ReferenceMissing => "reference_missing",
            Why::ReferenceStale => "reference_stale",
            Why::FxMissing => "fx_missing",
            Why::FxStale => "fx_stale",
            Why::VolumeMissing => "volume_missing",
            Why::Unrepresentable => "unrepresentable",
        }
    }
}

/// Which scope an action halts, seen from the order (or the scope) that breached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Target {
    /// The scope that the limit stands at; a pair's is its strategy.
    Own,
    /// The firm.
    Firm,
    /// The order's account.
    Account,
    /// The order's strategy.
    Strategy,
    /// The order's instrument.
    Instrument,
    /// The order's session.
    Session,
}

impl Target {
    /// The word for it in configs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Target::Own => "own",
            Target::Firm => "firm",
            Target::Account => "account",
            Target::Strategy => "strategy",
            Target::Instrument => "instrument",
            Target::Session => "session",
        }
    }
}

/// What a breach does besides denying the order, in ascending severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Deny. For an order that was only observed there is nothing to deny: the limit's own scope halts.
    Deny,
    /// Deny what does not reduce, and latch reduce-only.
    ReduceOnly(Target),
    /// Deny, and latch halted.
    Halt(Target),
}

impl Action {
    /// The mode that it latches, `Normal` for a plain denial.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Action::Deny => Mode::Normal,
            Action::ReduceOnly(_) => Mode::ReduceOnly,
            Action::Halt(_) => Mode::Halted,
        }
    }
}

/// Whether `rule` can be set as a limit at `kind`: the matrix that the configuration is checked against.
///
/// A rule may stand at every scope where its observed value means something: quantities of different
/// instruments are not added up, a position belongs to a strategy and not to the session that traded it,
/// and the state of a pair is kept small.
#[must_use]
pub const fn applies(rule: Rule, kind: ScopeKind) -> bool {
    use ScopeKind::{Account, Instrument, Pair, Session, Strategy};
    match rule {
        Rule::OrderQty | Rule::OrderNotional | Rule::OrderParticipation | Rule::Collar => true,
        Rule::DuplicateOrder => matches!(kind, Strategy),
        Rule::PositionLong | Rule::PositionShort | Rule::DayParticipation => matches!(kind, Pair | Instrument),
        Rule::WorkingOrders => true,
        Rule::GrossExposure | Rule::NetLong | Rule::NetShort => !matches!(kind, Session),
        Rule::OrderRate
        | Rule::MessageRate
        | Rule::CancelRate
        | Rule::RepeatedOrders
        | Rule::RepeatedExecutions
        | Rule::Denials => !matches!(kind, Pair),
        Rule::DailyLoss | Rule::Drawdown | Rule::LossVelocity => !matches!(kind, Pair | Session),
        Rule::HeartbeatLoss | Rule::ClockSkew | Rule::StreamGap => matches!(kind, Session),
        Rule::ParentQty | Rule::ParentState | Rule::ParentPx => matches!(kind, Strategy),
        Rule::Children => true,
        Rule::FanOut => !matches!(kind, Pair | Instrument),
        Rule::OrphanFills => !matches!(kind, Pair),
        Rule::Suspense => matches!(kind, Account),
        Rule::Malformed
        | Rule::Capacity
        | Rule::Mode
        | Rule::UnknownEntity
        | Rule::DuplicateId
        | Rule::UnknownOrder
        | Rule::Permission
        | Rule::Restricted
        | Rule::SidePermission
        | Rule::Coverage
        | Rule::Journal => false,
    }
}

/// Whether `rule` has no number that could be stated: what is written of it is an action alone.
#[must_use]
pub const fn is_numberless(rule: Rule) -> bool {
    matches!(rule, Rule::StreamGap | Rule::ParentQty | Rule::ParentState | Rule::ParentPx)
}

/// What a breach of `rule` does where nothing is said.
#[must_use]
pub const fn default_action(rule: Rule) -> Action {
    match rule {
        // A gateway that sends what its parent does not cover is broken: its next order would be no better.
        Rule::ParentQty
        | Rule::ParentState
        | Rule::ParentPx
        | Rule::Children
        | Rule::FanOut
        | Rule::OrphanFills
        | Rule::Suspense => Action::Halt(Target::Session),
        _ => Action::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_numbered_in_check_order() {
        for (i, rule) in Rule::ALL.into_iter().enumerate() {
            assert_eq!(rule as usize, i);
            assert_eq!(Rule::from_name(rule.name()), Some(rule));
            assert_eq!(Rule::from_u8(i as u8), Some(rule));
        }
    }

    #[test]
    fn readme_lists_every_rule_with_its_scopes_and_unit() {
        let readme = include_str!("../../README.md");
        for rule in Rule::ALL {
            let kinds: Vec<&str> =
                ScopeKind::ALL.into_iter().filter(|kind| applies(rule, *kind)).map(ScopeKind::name).collect();
            let place = match kinds.len() {
                0 => "–".to_owned(),
                6 => "all".to_owned(),
                _ => kinds.join(", "),
            };
            let unit = match rule.unit() {
                Unit::Qty => "quantity",
                Unit::Px => "price",
                Unit::Notional => "money",
                Unit::Bps => "basis points",
                Unit::Count => "count",
                Unit::Nanos => "time",
                Unit::Seq => "sequence",
                Unit::Mode => "mode",
                Unit::None => "–",
            };
            let row = format!("| `{}` | {place} | {unit} | ", rule.name());
            assert_eq!(readme.matches(&row).count(), 1, "README.md should have one row that begins with {row:?}");
        }
    }
}
