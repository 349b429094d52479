//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! Conservation: what the order management side asked for, held against what gateways send. See `Parents` in the contract.

use crate::engine::core::{Engine, anomaly};
use crate::engine::coverage;
use crate::engine::judge::{Judgement, Request, Targets};
use crate::limits::hot::armed;
use crate::limits::{ParentRule, RateOf};
use crate::model::effect::Denial;
use crate::model::{AnomalyKind, Effects, Event, OrdType, Rule, Scope, Why};
use crate::risk::parents::{Parent, ParentState};
use crate::units::{MonoNanos, Now, REPRESENTABLE_MAX, SessionId, UnixNanos};

/// What [`Rule::ParentState`] observes.
mod found {
    pub const NONE_NAMED: i64 = 0;
    pub const UNKNOWN: i64 = 1;
    pub const DONE: i64 = 2;
    pub const EXPIRED: i64 = 3;
    pub const FOREIGN: i64 = 4;
}

/// The places, in a request's slots, of the scopes that fan-out is counted at: firm, account, strategy, session.
const FANNED: [usize; 4] = [0, 1, 2, 5];

/// The limit price that the event of a parent states, if quantity and price are possible.
fn terms(event: &Event, negative_px: bool) -> Option<i64> {
    let px = match event.ord_type {
        OrdType::Market => Parent::NO_PX,
        OrdType::Limit if event.px.0 > 0 || negative_px => event.px.0,
        OrdType::Limit | OrdType::Stop | OrdType::StopLimit => return None,
    };
    let representable = px == Parent::NO_PX || px.unsigned_abs() <= REPRESENTABLE_MAX as u64;
    (representable && (1..=REPRESENTABLE_MAX).contains(&event.qty.0)).then_some(px)
}

fn has_expired(parent: &Parent, now: UnixNanos) -> bool {
    parent.deadline != 0 && now.0 > parent.deadline
}

impl Engine {
    // --- the order management side ------------------------------------------------------------------

    pub(super) fn take_parent(&mut self, event: &Event, out: &mut Effects) {
        let spec = self.universe.instruments.get(event.instrument.0 as usize);
        let account = self.accounts.get(usize::from(event.strategy.0));
        let listed = &self.universe.sessions[usize::from(event.session.0)].strategies;
        let fits = account == Some(&event.account)
            && (listed.is_empty() || listed.contains(&event.strategy))
            && event.id.0 != 0
            && self.parents.find(event.id.0).is_none();
        let px = spec.filter(|_| fits).and_then(|spec| terms(event, spec.negative_px));
        let Some(px) = px else {
            return anomaly(out, AnomalyKind::ParentRefused, event, event.id.0, event.qty.0);
        };
        let parent = Parent {
            id: event.id.0,
            qty: event.qty.0,
            filled: 0,
            leaves: 0,
            px,
            deadline: event.deadline().0,
            children: 0,
            instrument: event.instrument,
            strategy: event.strategy,
            session: event.session,
            owner: SessionId::UNKNOWN,
            side: event.side,
            state: ParentState::Open,
        };
        match self.parents.insert(parent) {
            Ok(slot) => self.count_open(slot, 1),
            Err(_) => anomaly(out, AnomalyKind::ParentTableFull, event, event.id.0, event.qty.0),
        }
    }

    /// The parent that `event` may change.
    fn parent_of_session(&self, event: &Event) -> Option<u32> {
        self.parents.find(event.id.0).filter(|&slot| {
            let parent = self.parents.get(slot);
            parent.session == event.session && parent.state != ParentState::Done
        })
    }

    pub(super) fn take_parent_replace(&mut self, event: &Event, out: &mut Effects) {
        // Its numbers are in the units of the instrument that it names, so that has to be the parent's.
        let slot = self.parent_of_session(event);
        let slot = slot.filter(|&slot| self.parents.get(slot).instrument == event.instrument);
        let spec = self.universe.instruments.get(event.instrument.0 as usize);
        match slot.zip(spec.and_then(|spec| terms(event, spec.negative_px))) {
            Some((slot, px)) => self.move_parent(slot, |parent| {
                (parent.qty, parent.px, parent.deadline) = (event.qty.0, px, event.deadline().0);
            }),
            None => anomaly(out, AnomalyKind::ParentRefused, event, event.id.0, event.qty.0),
        }
    }

    pub(super) fn take_parent_done(&mut self, event: &Event, out: &mut Effects) {
        match self.parent_of_session(event) {
            Some(slot) => self.move_parent(slot, |parent| parent.state = ParentState::Done),
            None => anomaly(out, AnomalyKind::ParentRefused, event, event.id.0, 0),
        }
    }

    // --- judging ------------------------------------------------------------------------------------

    /// The parent that `r` counts towards: one that it names, if its strategy is held to parents and the parent is for what
    /// the order trades.
    pub(super) fn parent_of(&self, r: &Request) -> Option<u32> {
        let held = r.parent != 0 && self.table.parents(r.strategy) != ParentRule::Ignored;
        let slot = if held { self.parents.find(r.parent) } else { None };
        slot.filter(|&slot| !is_foreign(self.parents.get(slot), r))
    }

    pub(super) fn judge_parent(
        &self,
        now: UnixNanos,
        r: &Request,
        slots: &[usize; 6],
        profiles: &[u32; 6],
        j: &mut Judgement,
    ) {
        let held = coverage::is_held(self.scopes[slots[2]].parents, r.parent != 0, r.replace);
        if !held || self.leaves_out(coverage::PARENT) {
            return;
        }
        j.checks |= (coverage::PARENT | coverage::CHILDREN) & coverage::applicable(r.replace, r.reduces);
        let limits = self.table.profile(profiles[2]);
        let (action, off) = (&limits.action, limits.parent_off);
        let breach = |rule: Rule, observed: i64, limit: i64, j: &mut Judgement| {
            let scope = Scope::Strategy(r.strategy);
            let (observed, limit) = (observed.min(REPRESENTABLE_MAX), limit.min(REPRESENTABLE_MAX));
            if off & 1 << rule as u64 != 0 {
                return;
            }
            j.breach(Denial { rule, why: Why::Breach, scope, observed, limit }, action[rule as usize]);
        };
        let named = if r.parent == 0 { None } else { self.parents.find(r.parent) };
        let Some(slot) = named else {
            let state = if r.parent == 0 { found::NONE_NAMED } else { found::UNKNOWN };
            return breach(Rule::ParentState, state, 0, j);
        };
        let parent = self.parents.get(slot);
        if is_foreign(parent, r) {
            return breach(Rule::ParentState, found::FOREIGN, 0, j);
        }
        // A replace that adds nothing takes nothing from its parent.
        if r.added_qty > 0 {
            if parent.state == ParentState::Done {
                breach(Rule::ParentState, found::DONE, 0, j);
            } else if has_expired(parent, now) {
                breach(Rule::ParentState, found::EXPIRED, 0, j);
            }
            let total = parent.with(r.added_qty);
            if total > parent.qty {
                breach(Rule::ParentQty, total, parent.qty, j);
            }
        }
        if parent.px != Parent::NO_PX {
            match r.ord_type {
                OrdType::Limit | OrdType::StopLimit if parent.allows_px(r.px) => {}
                OrdType::Limit | OrdType::StopLimit => breach(Rule::ParentPx, r.px, parent.px, j),
                // It has no price of its own that could keep it within the parent's.
                OrdType::Market | OrdType::Stop => breach(Rule::ParentPx, r.worst_px.unwrap_or(0), parent.px, j),
            }
        }
        if !r.replace {
            let children = i64::from(parent.children) + 1;
            for (i, &p) in profiles.iter().enumerate() {
                let limit = self.hot(p).children;
                if children > limit {
                    self.breach_at(Rule::Children, Why::Breach, r.scopes()[i], p, children, limit, j);
                }
            }
        }
    }

    pub(super) fn judge_fan_out(
        &self,
        now: MonoNanos,
        r: &Request,
        slots: &[usize; 6],
        profiles: &[u32; 6],
        j: &mut Judgement,
    ) {
        if self.leaves_out(coverage::FAN_OUT) {
            return;
        }
        j.checks |= coverage::FAN_OUT;
        for i in FANNED {
            if let Some((observed, limit)) = self.fans.excess(slots[i], now) {
                self.breach_at(Rule::FanOut, Why::Breach, r.scopes()[i], profiles[i], observed, limit, j);
            }
        }
    }

    /// Whether a new limit order of `event` certainly breaches nothing of its parent's: the slot then, `None` inside if it
    /// counts towards none. `children`: the tightest limit of them.
    #[inline]
    pub(super) fn surely_covered(
        &self,
        now: Now,
        event: &Event,
        rule: ParentRule,
        children: i64,
    ) -> Option<Option<u32>> {
        match (rule, event.parent_id()) {
            (ParentRule::Ignored, _) | (ParentRule::Checked, 0) => return Some(None),
            (ParentRule::Required, 0) => return None,
            (ParentRule::Checked | ParentRule::Required, _) => {}
        }
        let slot = self.parents.find(event.parent_id())?;
        let parent = self.parents.get(slot);
        let same = parent.strategy == event.strategy
            && parent.instrument == event.instrument
            && parent.side == event.side
            && parent.state != ParentState::Done;
        let fits = same
            && !has_expired(parent, now.unix)
            && parent.with(event.qty.0) <= parent.qty
            && parent.allows_px(event.px.0)
            && i64::from(parent.children) < children;
        fits.then_some(Some(slot))
    }

    /// The same for fan-out, at firm, account, strategy and session: the scopes that `arms` says are limited at all.
    #[inline]
    pub(super) fn surely_fans_within(&self, now: MonoNanos, arms: u32, slots: [usize; 4]) -> bool {
        arms & armed::FAN_OUT == 0 || slots.iter().all(|&slot| self.fans.excess(slot, now).is_none())
    }

    // --- booking ------------------------------------------------------------------------------------

    /// Parents at the scopes of the one in `slot` opened, or are over.
    fn count_open(&mut self, slot: u32, by: i32) {
        let parent = self.parents.get(slot);
        let strategy = usize::from(parent.strategy.0);
        let places = [0, 1 + usize::from(self.accounts[strategy].0), self.strategy_base + strategy];
        let owner = (parent.owner != SessionId::UNKNOWN).then(|| self.session_base + usize::from(parent.owner.0));
        for place in places.into_iter().chain(owner) {
            self.fans.opened(place, by);
        }
    }

    fn move_parent(&mut self, slot: u32, change: impl FnOnce(&mut Parent)) {
        let opened = self.parents.change(slot, change);
        if opened != 0 {
            self.count_open(slot, opened);
        }
    }

    /// Counts one more child of `qty`, which came over `session`.
    pub(super) fn add_child(&mut self, slot: u32, session: SessionId, qty: i64) {
        let parent = self.parents.get(slot);
        let first = parent.owner == SessionId::UNKNOWN;
        if first && parent.is_open() {
            self.fans.opened(self.session_base + usize::from(session.0), 1);
        }
        self.move_parent(slot, |parent| {
            parent.children = parent.children.saturating_add(1);
            parent.leaves = parent.leaves.saturating_add(qty);
            if first {
                parent.owner = session;
            }
        });
    }

    /// Counts a new order that is let through, or out already, at the scopes of `slots` (firm, account, strategy, session).
    #[inline]
    pub(super) fn count_out(&mut self, now: MonoNanos, slots: [usize; 4]) {
        for slot in slots {
            self.fans.record(slot, now);
        }
    }

    /// What a child of the parent called `parent` (0: none) has more or less of.
    #[inline]
    pub(super) fn move_child(&mut self, parent: u64, leaves: i64, filled: i64) {
        if parent != 0
            && (leaves != 0 || filled != 0)
            && let Some(slot) = self.parents.find(parent)
        {
            self.move_parent(slot, |parent| {
                parent.leaves = parent.leaves.saturating_add(leaves).max(0);
                parent.filled = parent.filled.saturating_add(filled).max(0);
            });
        }
    }

    /// After an execution of a child: whether the parent has more than it asked for.
    pub(super) fn watch_parent(&mut self, parent: u64, event: &Event, targets: &Targets, out: &mut Effects) {
        let slot = if parent == 0 { None } else { self.parents.find(parent) };
        let Some(parent) = slot.map(|slot| *self.parents.get(slot)) else { return };
        if parent.filled <= parent.qty {
            return;
        }
        anomaly(out, AnomalyKind::ParentOverfill, event, parent.id, parent.filled - parent.qty);
        let scope = Scope::Strategy(parent.strategy);
        let cause = Denial {
            rule: Rule::ParentQty,
            why: Why::Breach,
            scope,
            observed: parent.filled.min(REPRESENTABLE_MAX),
            limit: parent.qty,
        };
        let limits = self.limits_of(scope);
        let is_on = limits.parent_off & 1 << Rule::ParentQty as u64 == 0;
        if is_on && self.table.parents(parent.strategy) != ParentRule::Ignored {
            let action = limits.action[Rule::ParentQty as usize];
            self.act(action, cause, targets, Some(event), out);
        }
    }

    // --- orphans and suspense -----------------------------------------------------------------------

    /// Counts an execution that no live order accounts for.
    pub(super) fn count_orphan(&mut self, now: MonoNanos, event: &Event, targets: &Targets, out: &mut Effects) {
        let scopes = [
            Some(Scope::Firm),
            targets.account.map(Scope::Account),
            targets.strategy.map(Scope::Strategy),
            targets.instrument.map(Scope::Instrument),
            targets.session.map(Scope::Session),
        ];
        for scope in scopes.into_iter().flatten() {
            if let Some(slot) = self.universe.slot(scope) {
                self.count_rate(now, event, slot, scope, |of| of == RateOf::Orphans, targets, out);
            }
        }
    }

    /// Tells of checks that should have run.
    pub(super) fn watch_coverage(&self, j: &Judgement, event: &Event, out: &mut Effects) {
        if j.missing != 0 {
            anomaly(out, AnomalyKind::CoverageGap, event, event.id.0, j.missing as i64);
        }
    }

    /// Tells of an order or an execution on an account that should have none.
    pub(super) fn watch_suspense(&self, account: usize, event: &Event, out: &mut Effects) {
        if self.scopes[account].suspense {
            anomaly(out, AnomalyKind::SuspenseActivity, event, event.id.0, event.qty.0);
        }
    }
}

fn is_foreign(parent: &Parent, r: &Request) -> bool {
    parent.strategy != r.strategy || parent.instrument != r.instrument || parent.side != r.side
}
