//! The whole morning: what came before the orders and beside them, and which control answers which link of the chain.
//!
//! [`story`] is what happened, [`guard`] runs the guard's controls over it, [`table`] says when each control fired and what had
//! got out by then. The engine's controls and the orders are in [`super::alone`].

pub mod guard;
pub mod story;
pub mod table;

use self::guard::GuardControl;
use crate::model::Rule;

/// A link of the chain that led to the loss: SEC Release 34-70694, the paragraphs in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, from 1.
    pub number: u8,
    /// What it was.
    pub what: &'static str,
}

const fn link(number: u8, what: &'static str) -> Link {
    Link { number, what }
}

/// The chain.
pub const LINKS: [Link; 14] = [
    link(1, "Power Peg, unused since 2003, could still be called [13]"),
    link(2, "the count of what was filled had been moved, and not tested again [14]"),
    link(3, "the new code was given Power Peg's old flag [13]"),
    link(4, "one of eight servers was missed by the deployment [15]"),
    link(5, "97 mails from 08:01 on, which were no alerts [19]"),
    link(6, "the 9.5% collar did not cover what came before the open [21]"),
    link(7, "the router did not learn that parents were filled [16]"),
    link(8, "orders out were not compared with orders in [21]"),
    link(9, "1,481 executions a second from one of eight servers"),
    link(10, "fills on the 33 account, whose limit blocked nothing [23]"),
    link(11, "$3.5bn long, $3.15bn short, and no limit over the firm [17]"),
    link(12, "the monitor was looked at by people, and late under load [25]"),
    link(13, "the fix put the old code on the other seven servers [27]"),
    link(14, "nobody had a way to stop the router [21]"),
];

/// The link that a limit answers, if it is one of the chain.
#[must_use]
pub const fn link_of_rule(rule: Rule) -> Option<u8> {
    match rule {
        Rule::ParentQty => Some(2),
        Rule::Collar | Rule::Coverage => Some(6),
        Rule::ParentState => Some(7),
        Rule::Children | Rule::FanOut => Some(8),
        Rule::OrderRate | Rule::MessageRate | Rule::RepeatedOrders | Rule::RepeatedExecutions => Some(9),
        Rule::OrphanFills | Rule::Suspense => Some(10),
        Rule::GrossExposure | Rule::NetLong | Rule::NetShort => Some(11),
        Rule::ClockSkew => Some(12),
        Rule::Malformed
        | Rule::Capacity
        | Rule::Mode
        | Rule::UnknownEntity
        | Rule::DuplicateId
        | Rule::UnknownOrder
        | Rule::Permission
        | Rule::Restricted
        | Rule::SidePermission
        | Rule::Journal
        | Rule::StreamGap
        | Rule::HeartbeatLoss
        | Rule::OrderQty
        | Rule::OrderNotional
        | Rule::OrderParticipation
        | Rule::DuplicateOrder
        | Rule::ParentPx
        | Rule::PositionLong
        | Rule::PositionShort
        | Rule::DayParticipation
        | Rule::WorkingOrders
        | Rule::CancelRate
        | Rule::Denials
        | Rule::DailyLoss
        | Rule::Drawdown
        | Rule::LossVelocity => None,
    }
}

impl GuardControl {
    /// The link that it answers.
    #[must_use]
    pub const fn link(self) -> u8 {
        match self {
            GuardControl::Manifest | GuardControl::Dormant => 1,
            GuardControl::Meanings => 3,
            GuardControl::Minority | GuardControl::Ramp => 4,
            GuardControl::Signatures => 5,
            GuardControl::Peers => 9,
            GuardControl::Interlock => 13,
            GuardControl::Press => 14,
        }
    }
}
