//! The way back: who may lower a scope, when, and what keeps it halted until then. What is asked and answered is in
//! [`rearm`](crate::kill::rearm).

use crate::kill::rearm::{Age, Rearm, RearmAsk, RearmRefused, RearmState};
use crate::kill::switch::Switch;
use crate::kill::switch::records::Records;
use crate::kill::words;
use crate::model::{Mode, Scope};
use crate::units::{MonoNanos, Now};

impl Switch {
    /// Refuses every re-arm of `scope` until this is called again, because what halts it is still there. `None`: nothing
    /// is held any more. It raises nothing: that comes before it, and who calls it looks at the page afterwards, since a
    /// re-arm may have come in between.
    pub fn hold(&self, scope: Option<Scope>) {
        let slot = scope.and_then(|scope| self.universe.slot(scope));
        self.lock().held = slot;
    }

    /// Refuses every re-arm of the scopes in `holds`, each with its reason, until `holder` calls this again: what halts them is still
    /// there. Holders do not see each other's. Nothing is raised: hold first, then raise, and a re-arm that came in between is undone
    /// by the raise.
    pub fn hold_because(&self, holder: &'static str, holds: Vec<(Scope, String)>) {
        let slots = holds.into_iter().filter_map(|(scope, why)| Some((self.universe.slot(scope)?, why)));
        let slots = slots.collect();
        self.lock().holds.insert(holder, slots);
    }

    /// A nonce for a re-arm of `actor`'s, made of `random`.
    #[must_use]
    pub fn nonce(&self, actor: &str, random: [u8; 16], now: Now) -> String {
        self.lock().nonces.give(&words::clean(actor), random, now)
    }

    /// The switch was just rehearsed with success, in a drill that began at `began`.
    pub fn rehearsed(&self, began: Now) {
        self.lock().last_drill = Some((began.unix.0, Age::new(began)));
    }

    /// An earlier run has rehearsed the switch with success, as its stamp says at `unix` (ns). The latest of those that are told
    /// counts; whether this one may: one that is later than now says nothing of when it was.
    pub fn rehearsed_before(&self, unix: u64, now: Now) -> bool {
        let Some(age) = Age::of_stamp(unix, now) else { return false };
        let mut records = self.lock();
        if records.last_drill.is_none_or(|(_, last)| last.ns(now) > age.ns(now)) {
            records.last_drill = Some((unix, age));
        }
        true
    }

    /// When the switch was last rehearsed with success, Unix ns, by the clock as it is now, and how long ago that is, in ns.
    #[must_use]
    pub fn last_drill(&self, now: Now) -> Option<(u64, u64)> {
        let (unix, age) = self.lock().last_drill?;
        let ago = age.ns(now);
        // The clock was put back since: the stamp would be in the future.
        let unix = if unix > now.unix.0 { now.unix.0.saturating_sub(ago) } else { unix };
        Some((unix, ago))
    }

    /// Asks to lower `scope`, whose halt has `epoch`, naming no cause and with no nonce. See [`Switch::ask_rearm_with`].
    ///
    /// # Errors
    /// See [`RearmRefused`].
    pub fn ask_rearm(
        &self,
        scope: Scope,
        epoch: u64,
        actor: &str,
        reason: &str,
        now: Now,
    ) -> Result<Rearm, RearmRefused> {
        self.ask_rearm_with(RearmAsk { scope, epoch, actor, reason, acknowledge: None, nonce: None }, now)
    }

    /// Whether a re-arm of `scope` would be taken, and whether it would lower the scope at once: what has to be in force
    /// before that is prepared only then. `agrees`: it is the second person's.
    ///
    /// # Errors
    /// See [`RearmRefused`].
    pub fn would_lower(&self, scope: Scope, epoch: u64, agrees: bool, now: Now) -> Result<bool, RearmRefused> {
        let slot = self.universe.slot(scope).ok_or(RearmRefused::UnknownScope)?;
        let word = self.page.get(slot);
        if word.mode == Mode::Normal {
            return Err(RearmRefused::NotHalted);
        }
        if word.epoch != epoch {
            return Err(RearmRefused::Superseded(word));
        }
        let records = self.lock();
        records.may_lower(slot, &self.policy, now)?;
        Ok(agrees || !self.policy.two_people[scope.kind() as usize])
    }

    /// Asks to lower a scope. Where one person suffices it is lowered at once.
    ///
    /// # Errors
    /// See [`RearmRefused`].
    pub fn ask_rearm_with(&self, ask: RearmAsk<'_>, now: Now) -> Result<Rearm, RearmRefused> {
        let RearmAsk { scope, epoch, actor, reason, acknowledge, nonce } = ask;
        let slot = self.universe.slot(scope).ok_or(RearmRefused::UnknownScope)?;
        let (actor, reason) = (words::clean(actor), words::clean(reason));
        if reason.is_empty() {
            return Err(RearmRefused::NoReason);
        }
        let word = self.page.get(slot);
        if word.mode == Mode::Normal {
            return Err(RearmRefused::NotHalted);
        }
        if word.epoch != epoch {
            return Err(RearmRefused::Superseded(word));
        }
        let mut records = self.lock();
        match nonce {
            Some(nonce) => records.nonces.take(&actor, nonce, now)?,
            None if self.policy.rules.nonce => return Err(RearmRefused::BadNonce),
            None => {}
        }
        records.may_lower(slot, &self.policy, now)?;
        let causes = records.causes.get(&slot).map_or(&[][..], Vec::as_slice);
        self.policy.rules.is_acknowledged(causes, acknowledge)?;
        records.age_rearms(&self.universe, &self.page, now);
        let waiting = records
            .rearms
            .iter_mut()
            .find(|r| r.state == RearmState::Pending && r.scope == scope && r.word.epoch == epoch && r.actor == actor);
        if let Some(waiting) = waiting {
            return Ok(waiting.clone());
        }
        records.rearms.make_room()?;
        let mut rearm = Rearm {
            id: records.take_id(),
            scope,
            word,
            actor: actor.clone(),
            reason: reason.clone(),
            at: now,
            expires: MonoNanos(now.mono.0.saturating_add(self.policy.expiry_ns)),
            state: RearmState::Pending,
        };
        if self.policy.two_people[scope.kind() as usize] {
            records.rearms.push(rearm.clone());
            return Ok(rearm);
        }
        rearm.state = self.lower(&mut records, slot, epoch, actor, reason, now)?;
        records.rearms.push(rearm.clone());
        drop(records);
        self.page_changed();
        Ok(rearm)
    }

    /// A second person agrees to request `id`: the scope is lowered, unless it was raised since.
    ///
    /// # Errors
    /// See [`RearmRefused`].
    pub fn agree_rearm(&self, id: u64, actor: &str, reason: &str, now: Now) -> Result<Rearm, RearmRefused> {
        let (actor, reason) = (words::clean(actor), words::clean(reason));
        if reason.is_empty() {
            return Err(RearmRefused::NoReason);
        }
        let mut records = self.lock();
        records.age_rearms(&self.universe, &self.page, now);
        let rearm = records.rearms.get_mut(id).ok_or(RearmRefused::UnknownRequest)?;
        if rearm.state != RearmState::Pending {
            return Err(RearmRefused::NotPending(rearm.state.clone()));
        }
        if rearm.actor == actor {
            return Err(RearmRefused::SamePerson);
        }
        let (scope, epoch) = (rearm.scope, rearm.word.epoch);
        let slot = self.universe.slot(scope).ok_or(RearmRefused::UnknownScope)?;
        records.may_lower(slot, &self.policy, now)?;
        let lowered = self.lower(&mut records, slot, epoch, actor, reason, now);
        let rearm = records.rearms.get_mut(id).ok_or(RearmRefused::UnknownRequest)?;
        rearm.state = match &lowered {
            Ok(state) => state.clone(),
            Err(_) => RearmState::Void,
        };
        let rearm = rearm.clone();
        lowered?;
        drop(records);
        self.page_changed();
        Ok(rearm)
    }

    /// Lowers what a drill has raised: only while the scope has the epoch of that very press, so that whatever was raised
    /// since stays. It needs no second person: the scope was normal, and is as it was before.
    ///
    /// # Errors
    /// [`RearmRefused::Superseded`], [`RearmRefused::Held`] or [`RearmRefused::HeldBecause`]: it stays halted.
    pub fn end_drill(&self, scope: Scope, receipt: u64, actor: &str, now: Now) -> Result<(), RearmRefused> {
        let slot = self.universe.slot(scope).ok_or(RearmRefused::UnknownScope)?;
        let mut records = self.lock();
        records.is_held(slot)?;
        let press = records.receipts.get_mut(receipt).filter(|r| r.scope == scope && !r.by_trip);
        let epoch = press.ok_or(RearmRefused::UnknownRequest)?.word.epoch;
        self.lower(&mut records, slot, epoch, words::clean(actor), "the drill is over".to_owned(), now)?;
        drop(records);
        self.page_changed();
        Ok(())
    }

    fn lower(
        &self,
        records: &mut Records,
        slot: usize,
        epoch: u64,
        by: String,
        reason: String,
        at: Now,
    ) -> Result<RearmState, RearmRefused> {
        self.page.lower(slot, epoch).map_err(|superseded| RearmRefused::Superseded(superseded.now))?;
        let changes = self.page.changes();
        // A kill that follows may have recorded its cause already: only what belongs to this halt goes.
        if let Some(causes) = records.causes.get_mut(&slot) {
            causes.retain(|cause| cause.epoch > epoch);
            if causes.is_empty() {
                records.causes.remove(&slot);
                records.cooling.remove(&slot);
            }
        }
        if slot == 0 {
            // The firm was halted because of them (see `latch`); with its re-arm they are dealt with.
            records.orphans.clear();
        }
        records.tally.rearms += 1;
        Ok(RearmState::Lowered { by, reason, at, changes, durable: None })
    }

    /// All re-arms that are remembered, newest first.
    #[must_use]
    pub fn rearms(&self, now: Now) -> Vec<Rearm> {
        let mut records = self.lock();
        records.age_rearms(&self.universe, &self.page, now);
        records.rearms.iter_mut().rev().map(|r| r.clone()).collect()
    }

    /// The re-arm with this id.
    #[must_use]
    pub fn rearm(&self, id: u64, now: Now) -> Option<Rearm> {
        let mut records = self.lock();
        records.age_rearms(&self.universe, &self.page, now);
        records.rearms.get_mut(id).map(|r| r.clone())
    }
}
