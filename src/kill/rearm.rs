//! The authorised way back: who asked for which scope to be re-armed, in which epoch, and who agreed.
//!
//! ```text
//!            second person not needed
//!   ask ──────────────────────────────────▶ lowered ──▶ done (latch rewritten)
//!    │                                        ▲
//!    └─▶ pending ── another person agrees ────┘
//!           ├── the scope was raised again ──▶ void
//!           └── nobody agreed in time ───────▶ expired
//! ```

use std::collections::VecDeque;

use crate::kill::page::ModeWord;
use crate::kill::switch::Cause;
use crate::model::{Scope, ScopeKind};
use crate::units::{MonoNanos, Now};

/// Where two people are needed, and how long the first may wait for the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RearmPolicy {
    /// By [`ScopeKind`].
    pub two_people: [bool; ScopeKind::ALL.len()],
    /// How long a request waits for the second person, in ns.
    pub expiry_ns: u64,
    /// What it takes besides persons.
    pub rules: RearmRules,
}

/// How long ago something was. It grows with a clock that nobody sets: by the wall clock, what was stamped while that was ahead would
/// stay in the future until it got there, and all would be long ago once it was put forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// How much of it was over at `from`, in ns.
    before_ns: u64,
    from: MonoNanos,
}

impl Age {
    /// Of what is just now.
    #[must_use]
    pub const fn new(now: Now) -> Age {
        Age { before_ns: 0, from: now.mono }
    }

    /// Of what an earlier run stamped with `unix` (ns), which is all that is known of it; `None` if that is later than now: how long
    /// ago it was nobody knows.
    #[must_use]
    pub const fn of_stamp(unix: u64, now: Now) -> Option<Age> {
        match now.unix.0.checked_sub(unix) {
            Some(before_ns) => Some(Age { before_ns, from: now.mono }),
            None => None,
        }
    }

    /// In ns.
    #[must_use]
    pub const fn ns(self, now: Now) -> u64 {
        self.before_ns.saturating_add(now.mono.since(self.from))
    }
}

/// What a re-arm takes besides persons and the epoch. By default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RearmRules {
    /// How long after the last raise nothing is lowered, in ns.
    pub cool_off_ns: u64,
    /// The request names the cause that was looked at, by its [`Cause::id`].
    pub acknowledge: bool,
    /// The switch was rehearsed this recently, in ns.
    pub drill_within_ns: Option<u64>,
    /// The request carries a [nonce](Nonces).
    pub nonce: bool,
}

impl RearmRules {
    /// Whether a halt may be lowered, as far as time and rehearsal go. `raised`: how long ago, in ns, it was raised last; `None`: its
    /// cause is not known yet, so it is new. `drill`: how long ago the switch was last rehearsed; `None`: never, as far as is known.
    ///
    /// # Errors
    /// [`RearmRefused::CoolOff`], [`RearmRefused::DrillNeeded`].
    pub fn may_lower(&self, raised: Option<u64>, drill: Option<u64>) -> Result<(), RearmRefused> {
        let since = raised.unwrap_or(0);
        if since < self.cool_off_ns {
            return Err(RearmRefused::CoolOff(self.cool_off_ns - since));
        }
        if let Some(within) = self.drill_within_ns
            && drill.is_none_or(|age| age > within)
        {
            return Err(RearmRefused::DrillNeeded { within_ns: within, age_ns: drill });
        }
        Ok(())
    }

    /// Whether `named` is the latest of these causes.
    ///
    /// # Errors
    /// [`RearmRefused::NotAcknowledged`] with the one that has to be.
    pub fn is_acknowledged(&self, causes: &[Cause], named: Option<&str>) -> Result<(), RearmRefused> {
        let latest = causes.iter().max_by_key(|cause| cause.epoch).map(Cause::id);
        match named {
            None if !self.acknowledge => Ok(()),
            // Named although nobody asks for it: it has to be right all the same.
            Some(named) if latest.as_deref() == Some(named) => Ok(()),
            Some(_) | None => Err(RearmRefused::NotAcknowledged(latest)),
        }
    }
}

/// Numbers that are good for one request each: a request that was caught and is sent again is refused.
#[derive(Debug, Default)]
pub struct Nonces {
    list: VecDeque<(String, String, MonoNanos)>,
}

impl Nonces {
    /// How long one is good for, in ns.
    pub const LASTS_NS: u64 = 120_000_000_000;
    /// The most that are remembered; the oldest goes.
    pub const KEPT: usize = 256;

    /// Gives `actor` a nonce made of `random`.
    pub fn give(&mut self, actor: &str, random: [u8; 16], now: Now) -> String {
        let nonce = random.iter().map(|b| format!("{b:02x}")).collect::<String>();
        if self.list.len() == Nonces::KEPT {
            self.list.pop_front();
        }
        self.list.push_back((actor.to_owned(), nonce.clone(), MonoNanos(now.mono.0.saturating_add(Nonces::LASTS_NS))));
        nonce
    }

    /// Takes a nonce back: it was good once.
    ///
    /// # Errors
    /// [`RearmRefused::BadNonce`] if it was not given to `actor`, was used, or is too old.
    pub fn take(&mut self, actor: &str, nonce: &str, now: Now) -> Result<(), RearmRefused> {
        self.list.retain(|(_, _, until)| now.mono < *until);
        let at = self.list.iter().position(|(of, n, _)| of == actor && n == nonce).ok_or(RearmRefused::BadNonce)?;
        self.list.remove(at);
        Ok(())
    }
}

/// A request to lower a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RearmAsk<'a> {
    /// Which scope.
    pub scope: Scope,
    /// The epoch of the halt that was looked at.
    pub epoch: u64,
    /// Who asks.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a str,
    /// The [`Cause::id`] that was looked at.
    pub acknowledge: Option<&'a str>,
    /// A [nonce](Nonces).
    pub nonce: Option<&'a str>,
}

impl Default for RearmPolicy {
    fn default() -> RearmPolicy {
        let mut two_people = [false; ScopeKind::ALL.len()];
        two_people[ScopeKind::Firm as usize] = true;
        RearmPolicy { two_people, expiry_ns: 600_000_000_000, rules: RearmRules::default() }
    }
}

/// Where a re-arm is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RearmState {
    /// Waits for a second person.
    Pending,
    /// The page was lowered.
    Lowered {
        /// Who agreed; the asker, where one person suffices.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Now,
        /// [`HaltPage::changes`](crate::kill::page::HaltPage::changes) right after.
        changes: u64,
        /// When the latch without this halt was on disk. Until then a restart finds the scope halted.
        durable: Option<Now>,
    },
    /// The scope was raised again, or lowered by somebody else, before a second person agreed.
    Void,
    /// Nobody agreed in time.
    Expired,
}

/// One re-arm, from the request on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rearm {
    /// Never used twice, not even after a restart.
    pub id: u64,
    /// Which scope.
    pub scope: Scope,
    /// Its word when this was asked for: the epoch that is to be lowered.
    pub word: ModeWord,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Now,
    /// Until when a second person may agree.
    pub expires: MonoNanos,
    /// Where it is.
    pub state: RearmState,
}

/// Why a re-arm was refused. Nothing was lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RearmRefused {
    /// No such scope, or one that cannot be halted.
    UnknownScope,
    /// No reason was given.
    NoReason,
    /// The scope is not halted.
    NotHalted,
    /// The epoch named is not the one that the halt has now: somebody or something raised it again.
    Superseded(ModeWord),
    /// No request with this id.
    UnknownRequest,
    /// The request is not pending any more.
    NotPending(RearmState),
    /// The second person must be another one.
    SamePerson,
    /// What halts the scope is still there: see [`Switch::hold`](crate::kill::switch::Switch::hold).
    Held,
    /// The same, for this reason: see [`Switch::hold_because`](crate::kill::switch::Switch::hold_because).
    HeldBecause(String),
    /// Too many requests wait already.
    TooMany,
    /// It was raised so recently that for this long, in ns, nothing is lowered.
    CoolOff(u64),
    /// The cause was not named, or another one is the latest: this one, if it is known.
    NotAcknowledged(Option<String>),
    /// The switch was not rehearsed recently enough.
    DrillNeeded {
        /// How recently it has to be, in ns.
        within_ns: u64,
        /// How long ago it was, in ns; `None`: never, as far as is known.
        age_ns: Option<u64>,
    },
    /// The nonce is missing, was used, is too old, or somebody else's.
    BadNonce,
    /// What has to be in force before the scope is lowered could not be put there.
    NotPrepared(String),
}

/// Requests that wait and those that are over: bounded, the oldest that is over goes first.
#[derive(Debug, Default)]
pub struct Rearms {
    list: VecDeque<Rearm>,
}

impl Rearms {
    /// The most requests that are kept.
    pub const KEPT: usize = 256;

    /// Makes sure that one more can be kept. Call before [`Rearms::push`], and before lowering anything.
    ///
    /// # Errors
    /// [`RearmRefused::TooMany`] if every place is taken by one that is still pending.
    pub fn make_room(&mut self) -> Result<(), RearmRefused> {
        if self.list.len() >= Rearms::KEPT {
            let over = self.list.iter().position(|r| r.state != RearmState::Pending).ok_or(RearmRefused::TooMany)?;
            self.list.remove(over);
        }
        Ok(())
    }

    /// Keeps `rearm`.
    pub fn push(&mut self, rearm: Rearm) {
        self.list.push_back(rearm);
    }

    /// The request with this id.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Rearm> {
        self.list.iter_mut().find(|r| r.id == id)
    }

    /// All that are kept, oldest first.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Rearm> {
        self.list.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;
    use crate::units::UnixNanos;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Now {
        Now { mono: MonoNanos(seconds * SECOND), unix: UnixNanos((1_000 + seconds) * SECOND) }
    }

    fn cause(epoch: u64, seconds: u64) -> Cause {
        Cause {
            mode: Mode::Halted,
            epoch,
            at: (1_000 + seconds) * SECOND,
            actor: "olaf".into(),
            reason: "stop".into(),
            trip: None,
        }
    }

    #[test]
    fn nothing_is_lowered_before_it_has_cooled_off_and_the_time_left_is_told() {
        let rules = RearmRules { cool_off_ns: 60 * SECOND, ..RearmRules::default() };
        assert_eq!(rules.may_lower(Some(59 * SECOND), None), Err(RearmRefused::CoolOff(SECOND)));
        assert_eq!(rules.may_lower(Some(60 * SECOND), None), Ok(()));
        assert_eq!(rules.may_lower(None, None), Err(RearmRefused::CoolOff(60 * SECOND)), "its cause is not known yet");
        assert_eq!(RearmRules::default().may_lower(None, None), Ok(()));
    }

    #[test]
    fn a_rehearsal_has_to_be_recent() {
        let rules = RearmRules { drill_within_ns: Some(60 * SECOND), ..RearmRules::default() };
        assert_eq!(rules.may_lower(None, Some(60 * SECOND)), Ok(()));
        let refused = |age_ns| Err(RearmRefused::DrillNeeded { within_ns: 60 * SECOND, age_ns });
        assert_eq!(rules.may_lower(None, Some(61 * SECOND)), refused(Some(61 * SECOND)));
        assert_eq!(rules.may_lower(None, None), refused(None));
    }

    #[test]
    fn an_age_grows_with_time_whatever_is_done_to_the_wall_clock() {
        let new = Age::new(at(10));
        let set = |mono: u64, unix: u64| Now { mono: MonoNanos(mono * SECOND), unix: UnixNanos(unix * SECOND) };
        assert_eq!((new.ns(set(10, 0)), new.ns(set(15, 1_000_000))), (0, 5 * SECOND));
        assert_eq!(Age::of_stamp(900 * SECOND, at(10)).unwrap().ns(at(11)), 111 * SECOND);
        assert_eq!(Age::of_stamp(1_011 * SECOND, at(10)), None);
    }

    #[test]
    fn the_latest_cause_has_to_be_named() {
        let rules = RearmRules { acknowledge: true, ..RearmRules::default() };
        let causes = [cause(3, 0), cause(4, 0)];
        let (first, latest) = (causes[0].id(), causes[1].id());
        assert_ne!(first, latest);
        assert_eq!(rules.is_acknowledged(&causes, Some(&latest)), Ok(()));
        let refused = Err(RearmRefused::NotAcknowledged(Some(latest)));
        assert_eq!(rules.is_acknowledged(&causes, None), refused);
        assert_eq!(rules.is_acknowledged(&causes, Some(&first)), refused);
        assert_eq!(rules.is_acknowledged(&[], Some(&first)), Err(RearmRefused::NotAcknowledged(None)));
        let lax = RearmRules::default();
        assert_eq!(lax.is_acknowledged(&causes, None), Ok(()));
        assert_eq!(lax.is_acknowledged(&causes, Some(&first)), refused);
    }

    #[test]
    fn a_nonce_is_good_once_for_one_person_and_not_for_long() {
        let mut nonces = Nonces::default();
        let one = nonces.give("rita", [1; 16], at(0));
        assert_eq!(nonces.take("ruth", &one, at(1)), Err(RearmRefused::BadNonce));
        assert_eq!(nonces.take("rita", &one, at(1)), Ok(()));
        assert_eq!(nonces.take("rita", &one, at(1)), Err(RearmRefused::BadNonce));
        let late = nonces.give("rita", [2; 16], at(0));
        assert_eq!(nonces.take("rita", &late, at(120)), Err(RearmRefused::BadNonce));
        for n in 0..2 * Nonces::KEPT {
            nonces.give("rita", [n as u8; 16], at(0));
        }
        assert_eq!(nonces.list.len(), Nonces::KEPT);
    }
}
