//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! The risk state: orders, positions, exposure, profit, rates. What follows is the contract that the
//! engine keeps and that the tests' naive oracle is written from.
//!
//! # One event
//!
//! 1. **Stream.** Each session's `seq` counts from 1. `seq` = expected: taken. Below: already taken, so
//!    nothing happens (anomaly `duplicate_seq`; the edge answers from its own memory). Above: **not
//!    taken** (anomaly `seq_gap` for the first, effect `Resend { from: expected }` for each); a `new` or
//!    `replace` that asks is denied `stream_gap`, a cancel admitted (it is booked when it is sent again). When the expected one arrives the gap is over (`seq_gap_closed`).
//!    Not taking leaves every bit of state as it was, except the stream's own.
//!    An [`Action`](crate::model::Action) other than `deny` for `stream_gap` at the session latches at the first event of a gap.
//! 2. **Clock.** With a skew bound set at the session, an event of a `Reference` or order session whose
//!    `sent_at` is 0 or further than the bound from `now.unix`: requests are denied `clock_skew`; reports
//!    are taken all the same (anomaly `clock_skew`). A bound of 0 (unset) always denies.
//! 3. The event is **judged** (requests) and **booked** (what was admitted, observed or reported).
//!    Exactly one verdict per taken request of an `Ask` session; `Applied { seq }` for every other taken event.
//!
//! `withdrawn` with `seq` 0 is haltline's own: it stands outside the sequence, and is answered by nothing.
//! `session` must be known (the transport authenticated it); an event with an unknown one is ignored.
//! A `Reference` session may send `mark`, `fx` and `heartbeat`; an `Orders` session `parent_new`, `parent_replace`,
//! `parent_done` and `heartbeat`; an order session everything else; what
//! one may not send is anomaly `bad_reference` (mark, fx) or `malformed_report`, or, if it is a request
//! of a `Reference` or `Orders` session, ignored as `malformed_report`.
//!
//! # Positions
//!
//! A *pair* is strategy × instrument. It has: position `P` (signed), leaves per side `LB`, `LS`
//! (quantities), `raw_LB`, `raw_LS` (Σ quantity × worst price, exact, price unit × quantity unit),
//! `cash` (Σ −sign × quantity × price of fills, exact, since the day began). With reference price `m`
//! (0 while there is none) and the instrument's conversion `c` (unit price × unit quantity → base units,
//! see [`Conversion`](crate::units::Conversion)):
//!
//! ```text
//! net_long  = c.up(P × m + raw_LB)          net_short = c.up(raw_LS − P × m)
//! gross     = max(0, net_long) + max(0, net_short)
//! pnl       = c.down(cash + P × m)
//! position_long = P + LB     position_short = LS − P
//! day_qty   = Σ |quantity| filled today + LB + LS
//! ```
//!
//! Account, strategy, instrument and firm hold the sums of their pairs' `net_long`, `net_short`,
//! `gross` and `pnl`; the instrument also those of `position_long`, `position_short`, `day_qty`. A mark
//! or a rate revalues the pairs it concerns: at once up to [`REVALUE_PER_STEP`] pairs, the rest with the
//! next events and ticks; a pair that an order is judged on is always revalued first.
//! A conversion that is unknown (no FX rate yet) or a value beyond
//! [`REPRESENTABLE_MAX`](crate::units::REPRESENTABLE_MAX) makes the pair *unvalued*: it contributes its
//! last values, and every order on it that an armed exposure or loss limit covers is denied
//! (`fx_missing`, `unrepresentable`).
//!
//! # Worst price of an order
//!
//! Its price for `limit` and `stop_limit`. For `market`, and for `stop`, the *market worst case*: with
//! reference `m` and the tightest collar `k` bps over the order's scopes: `m + ceil(|m| × k / 10000)`
//! for both sides (a sell's worst exposure is at the higher price); without a collar `m`. For `stop`
//! the larger of that and the trigger price. The raw value of an order is quantity × worst price, at
//! least 0. Without a reference a market or stop order is denied `collar`/`reference_missing` whatever is armed
//! (an observed one is booked with worst price = its `px`, 0 if none, and trips as below).
//!
//! # Judging `new`
//!
//! All rules are judged, in the order of [`Rule`](crate::model::Rule), and within a rule firm, account,
//! strategy, pair, instrument, session. Of several breaches the verdict names the one with the most
//! severe action (halt, reduce-only, deny; `mode` counts as the mode that it found), then the first. Every latching action of every breach is
//! carried out. *Nothing is consumed by a denied order* but the `denials` rate (and, in `Observe`, see below).
//!
//! 1. `malformed`: flag set; `qty` not in 1..=MAX; `id` 0; `limit`/`stop_limit`/`stop` price beyond ±MAX, or not
//!    positive where the instrument has no `negative_px`. (MAX = [`REPRESENTABLE_MAX`](crate::units::REPRESENTABLE_MAX).)
//!    `unknown_entity`: strategy, account or instrument unknown. After either of these two no other rule is
//!    judged, except `denials`.
//! 2. `capacity`: no room for the order, the pair, the duplicate log; or the exec table is full. `journal`: the last
//!    [`Command::Behind`](crate::engine::Command::Behind) said so (scope: the firm).
//! 3. `stream_gap`, `heartbeat_loss`, `clock_skew`: see there. `heartbeat_loss`: the session's last event before
//!    this one is longer ago than its bound. A bound of 0 (unset) always denies. A session that has not sent anything yet is
//!    not silent; one that has been silent too long is reported once, and the action latches, at the next tick.
//! 4. `mode`: the largest mode over firm, account, strategy, instrument, session. `Halted` denies.
//!    `ReduceOnly` denies unless the order *reduces*: buy with `P < 0` and `LB + qty ≤ −P`; sell with `P > 0` and
//!    `LS + qty ≤ P`. Observed: the mode's number; scope: the first with that mode.
//! 5. `duplicate_id`: an order of that session with this id is live or remembered.
//! 6. `permission`: the session's list lacks the strategy; the account is not the strategy's; the strategy
//!    may not trade the instrument. `restricted`. `side_permission`: `BuyOnly`, `SellOnly`; `LongOnly`: a sell with
//!    `LS + qty > P` (observed `LS + qty`, limit `P`).
//! 7. `order_qty` (observed > limit), `order_notional` (`c.up(qty × worst price)`), `order_participation`
//!    (`ceil(qty × 10000 / adv)`). Limits that the order type cannot be judged by (FX missing …) deny.
//! 8. `collar`: `limit`, `stop_limit`, `stop`: |px − m| × 10000 > k × |m| (observed px; limit the bound that was crossed, the
//!    largest distance allowed rounded towards the reference). `market` has no price: needs a fresh reference only.
//! 9. `duplicate_order` (strategy): already `count` equal ones (strategy, instrument, side, type, qty, px)
//!    admitted or observed within `window` before now (age < window).
//! 10. Gauges. `after > limit` **and** the order increases it, for: `position_long` (buy), `position_short`
//!     (sell) at pair and instrument; `day_participation` (bps: `ceil(day_qty × 10000 / adv)`); `gross_exposure`,
//!     `net_long`, `net_short`; `working_orders`; `repeated_orders`. `repeated_executions`: `count > limit` already, or
//!     limit 0. `daily_loss` (−pnl), `drawdown`, `loss_velocity`: `value > limit` already, or limit 0.
//!     An order that *reduces* (see 4) is exempt from positions, day participation, exposures and losses.
//! 11. `order_rate`, `message_rate`: see [`rate`]. All windows at all scopes reserve, or none does.
//!
//! Inputs. A rule is *armed* if its limit is not unlimited at any of the order's scopes. `collar` needs the
//! instrument's reference, fresh; exposures and losses need reference and FX, fresh; `order_notional` needs FX,
//! fresh, and for market and stop orders the reference. `order_participation` and `day_participation` need the
//! volume. Missing or stale: a denial by that rule with the [`Why`](crate::model::Why) that says so, at the
//! first scope that arms it; observed is the age in ns (0: missing), limit the age allowed. The base currency
//! needs no rate. Age = now − receipt; stale if age > limit. A reducing order needs no inputs for the rules that it is exempt from.
//!
//! An admitted order is booked before its verdict: pending, `LB`/`LS` and raw by its quantity and worst price,
//! `working_orders` + 1 and `repeated_orders` + 1 at every scope where they are kept, rates, duplicate log.
//!
//! # Observed requests
//!
//! The same rules; nothing is denied, everything is booked and consumed, including what would have been
//! denied (unless it is malformed, unknown, a duplicate id or there is no room: then it cannot be booked,
//! and its session halts). For each breach with action `deny`, the limit's own scope halts instead (a pair's strategy; for rules
//! without a limit table entry, and for 1 to 9: the session). An observed order while its scope is halted is anomaly `order_while_halted`.
//!
//! # Judging `replace`
//!
//! `ref_id` is a live order of the session without a replace or a cancel pending, else `unknown_order`; `id` is new, else
//! `duplicate_id`. The strategy and instrument that it names are the order's, else `unknown_order`; side and account are the order's. `qty` is the new total quantity; it must be
//! larger than `cum_qty`, else `malformed`. The new leaves are `qty − cum_qty`. Judged by the same rules with
//! quantity = `qty`, except: not `duplicate_order`, `order_rate`, `repeated_orders`, `working_orders`. Gauges take the worse of old and new:
//! leaves `max(old, new)`, raw `max(old raw, new raw)`; a replace *reduces* if it increases neither, or if
//! its increase reduces as in 4. In `Halted` it is denied. Consumes `message_rate`.
//! `replaced` sets quantity and price to the new ones; `cancel_rejected` of it restores the old.
//!
//! # `cancel`
//!
//! Always admitted, in every mode, for any id. Counts in `message_rate` and `cancel_rate`: over the limit is an
//! effect `Warn` with 100 percent, and the latching part of the action. Marks the order as pending cancel.
//!
//! # Reports
//!
//! `ack`: pending → working. `replaced`: see above. `canceled`, `expired`, `rejected`: leaves 0, done.
//! `cancel_rejected`: pending cancel or pending replace undone. `withdrawn`: done; one of a session's own only while
//! the order is pending, because what the venue has acknowledged was sent. Not fitting the state: anomaly,
//! and the safe side: leaves never grow by a report, except by `replaced` and `bust`.
//!
//! `fill`: by exec id once per session. Books `P`, `cash`, day quantity, executions + 1, and takes the quantity off the order's leaves
//! (a pending replace's new leaves too). More than the leaves: `overfill`, leaves 0. Order done: `late_fill`. Order
//! unknown: `unknown_fill`, booked by the fill's own strategy, instrument, side. `leaves` 0 (and no larger replace pending): done. An order id that was
//! replaced stands for its successor.
//! `bust`: takes the execution back (position, cash, day quantity); if its order is live, `cum_qty` falls and leaves grow back.
//! `correct`: bust, then fill of the new quantity and price on the same order.
//! Executions and marks are never denied; after them the gauges of their scopes are judged: a limit exceeded and grown
//! trips if its action latches (the action `deny` leaves it at denying new orders).
//!
//! # Parents
//!
//! The order management side says what is to be traded; orders say which parent they are children of (`ref_id` of `new`; one
//! namespace for all sessions). `parent_new` opens a parent: strategy (with its account), instrument, side, quantity, limit
//! price or none, deadline or none. Its own session may replace quantity, price and deadline, until it says `parent_done`.
//! What does not fit is anomaly `parent_refused` and changes nothing; without room, `parent_table_full`. A parent that is
//! done or filled may be forgotten when there is no room for another and no child of it is live.
//!
//! Per parent: `filled` (executions of its children, busts taken off), `leaves` (those of its live children, a pending
//! replace at its worse), `children` (let through or observed). A strategy's orders are *ignored*, *checked* if they name a
//! parent, or *required* to name one. Those that are checked are judged, at the strategy, by
//!
//! - `parent_state`: observed 0 none named, 1 unknown, 4 of another strategy, instrument or side (after these three nothing
//!   else here is judged), 2 done, 3 `now.unix` is past the deadline;
//! - `parent_qty`: `filled + leaves + quantity > qty`;
//! - `parent_px`: a buy above the limit, a sell below; a market or stop order of a parent with a limit;
//! - `children` (every scope): `children + 1 > limit`.
//!
//! The first three have no number; written out as unlimited they do not breach ([`ScopeLimits::parent_off`](crate::limits::ScopeLimits::parent_off)).
//! A replace is judged by its order's parent: state and quantity only if the leaves grow, and then by what they grow;
//! price always; not `children`. Denied orders take nothing. An observed order that breaches is booked to the parent that it
//! fits. After an execution with `filled > qty`: anomaly `parent_overfill`, and the latching part of `parent_qty`'s action.
//! Children of a parent that is done are booked like all others, for what was let through before may still fill.
//!
//! `fan_out` (firm, account, strategy, session), whether orders are held to parents or not: with one more, the new orders of
//! the window are more than `count × max(1, open parents)`. Open: not done, and `filled < qty`; in a session if it sent the
//! parent's first child. The window reaches from 7/7 to 8/7 back, see [`fan`]. Counted from re-arm on.
//!
//! # Coverage
//!
//! A verdict's `checks` are the rules that were looked at: each part of judging notes its own. What has to be looked at follows
//! from the limits alone: what needs no limit (the first six points of `new`), and each rule that is armed at any scope of the
//! request and applies to it (a replace is not judged by what counts new orders, one that reduces not by exposures and losses,
//! one that is not held to a parent not by the parent). If a rule of the second is not among the first, the request is denied
//! `coverage` at the session (observed: the number of the first such rule), with anomaly `coverage_gap`; an observed one
//! halts its session.
//!
//! Scopes may demand rules ([`ScopeLimits::demanded`](crate::limits::ScopeLimits::demanded)). If a rule that applies to the request
//! is demanded at any of its scopes and armed at none, the request is denied `coverage` at the first scope that demands the first
//! such rule (observed: its number), with the same anomaly and the same halt. The rules about parents are armed if the request
//! is held to a parent and they are not written out as unlimited; `children` only then.
//!
//! # Orphans and suspense
//!
//! A fill that is `unknown_fill`, `late_fill` or `overfill` counts in `orphan_fills` at firm, account, strategy, instrument and
//! session: beyond the limit a warning and the latching part of the action. Every new order and execution on a suspense
//! account is anomaly `suspense_activity`; `suspense` is a second limit of that account's gross exposure, judged like it.
//!
//! # Losses
//!
//! Per scope: `loss = −pnl`; `high` = largest pnl since the day, the start or the last re-arm of that scope began (at least
//! the pnl then, which starts at 0); `drawdown = high − pnl`. `loss_velocity` with window W: time is cut into W/16 slices;
//! for the present slice and the 16 before it the largest pnl that held at any moment of the slice is kept; `loss_velocity` =
//! the largest of these − pnl, at least 0.
//!
//! # Latching, re-arming
//!
//! A trip raises the engine's own mode of the scope at once; a scope that is at least at that mode already does not trip
//! again. When a scope's mode is lowered, its `repeated_orders`, `repeated_executions`, denial windows, `high` and loss slices
//! start anew from now.
//!
//! `denials`: each denied request (not observed ones) counts at firm, account (the strategy's), strategy, instrument, session, as far as known; the
//! denial that makes the count in the window exceed the limit carries the action out. With action `deny` it only warns.
//!
//! # Warnings
//!
//! When an admitted, observed or reported event takes a gauge with a finite limit to a level's percentage of the limit
//! or above, `Warn` is raised once for the highest level reached. It may be raised again after the gauge has fallen below the level; pairs excepted, see
//! [`core`](crate::engine::core). Rates warn likewise at the order that reaches the level.

pub mod duplicates;
pub mod execs;
pub mod fan;
pub mod index;
pub mod losses;
pub mod orders;
pub mod pairs;
pub mod parents;
pub mod rate;

/// The most pairs that one step revalues because of marks and rates.
pub const REVALUE_PER_STEP: usize = 32;
