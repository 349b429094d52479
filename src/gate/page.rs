//! HOT: no I/O, lock, allocation, logging, formatting or syscall; the clock only through the caller or the vDSO.
//!
//! A gate's look at the halt page.

use crate::kill::page::{ModeWord, layout};
use crate::model::scope::{Mode, Scope};
use crate::ring::shm::View;
use crate::ring::sync::Ordering;
use crate::units::{AccountId, InstrumentId, SessionId, StrategyId};

/// Why a gate lets nothing through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A scope of the order is reduce-only or halted.
    Mode {
        /// Which.
        scope: Scope,
        /// Its word.
        word: ModeWord,
    },
    /// haltline has not renewed the lease: it stands, starves, lags or is gone.
    Lapsed {
        /// How long ago it lapsed, in ns; `u64::MAX`: there never was one.
        since: u64,
    },
    /// The page is out of service: attach again.
    Retired,
    /// The strategy or instrument is not on the page.
    Unknown,
    /// Something was raised or lowered after the order had been submitted: what was decided then does not count now.
    Changed,
}

/// The halt page as a gate of one session reads it.
#[derive(Clone, Debug)]
pub struct PageView {
    page: View,
    session: SessionId,
    accounts: usize,
    strategies: usize,
    instruments: usize,
    sessions: usize,
    /// Where the accounts of the strategies lie.
    account_of: usize,
}

/// A page that a gate cannot use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPage {
    /// It does not begin like one.
    Magic,
    /// It has another layout: library and haltline do not fit together.
    Version(u64),
    /// It is smaller than its header says.
    Short,
    /// The session is not on it.
    Session,
}

impl PageView {
    /// The page in `page`, for a gate of `session`.
    ///
    /// # Errors
    /// [`BadPage`].
    pub fn new(page: View, session: SessionId) -> Result<PageView, BadPage> {
        use layout::*;
        let word = |at| page.get(at, Ordering::Acquire).ok_or(BadPage::Short);
        if word(0)? != MAGIC {
            return Err(BadPage::Magic);
        }
        let version = word(AT_VERSION)?;
        if version != VERSION | (AT_WORDS as u64) << 32 {
            return Err(BadPage::Version(version));
        }
        let halves = |word: u64| ((word & 0xFFFF_FFFF) as usize, (word >> 32) as usize);
        let (accounts, strategies) = halves(word(AT_ACCOUNTS)?);
        let (instruments, sessions) = halves(word(AT_INSTRUMENTS)?);
        let account_of = AT_WORDS + 1 + accounts + strategies + instruments + sessions;
        if page.len() < account_of + strategies {
            return Err(BadPage::Short);
        }
        if usize::from(session.0) >= sessions {
            return Err(BadPage::Session);
        }
        Ok(PageView { page, session, accounts, strategies, instruments, sessions, account_of })
    }

    /// Whether an order of `strategy` in `instrument` may leave, as far as modes go: one load while nothing anywhere is raised.
    ///
    /// `allow_reduce` lets it pass in reduce-only: for an order that haltline has found to reduce.
    ///
    /// # Errors
    /// The most severe mode of its scopes; unknown ids.
    #[inline]
    pub fn check_modes(
        &self,
        strategy: StrategyId,
        instrument: InstrumentId,
        allow_reduce: bool,
    ) -> Result<(), Closed> {
        // SYNC word: acquire, behind the barrier of the slot; see `HaltPage::raise` for the order of count and word.
        if self.page.load(layout::AT_RAISED, Ordering::Acquire) == 0
            && usize::from(strategy.0) < self.strategies
            && (instrument.0 as usize) < self.instruments
        {
            return Ok(());
        }
        self.check_words(strategy, instrument, allow_reduce)
    }

    #[cold]
    fn check_words(&self, strategy: StrategyId, instrument: InstrumentId, allow_reduce: bool) -> Result<(), Closed> {
        if self.page.load(layout::AT_STATE, Ordering::Acquire) != layout::IN_SERVICE {
            return Err(Closed::Retired);
        }
        if usize::from(strategy.0) >= self.strategies || instrument.0 as usize >= self.instruments {
            return Err(Closed::Unknown);
        }
        let account = AccountId(self.page.load(self.account_of + usize::from(strategy.0), Ordering::Relaxed) as u16);
        let passes = if allow_reduce { Mode::ReduceOnly } else { Mode::Normal };
        let mut worst: Option<(Scope, ModeWord)> = None;
        for scope in [
            Scope::Firm,
            Scope::Account(account),
            Scope::Strategy(strategy),
            Scope::Instrument(instrument),
            Scope::Session(self.session),
        ] {
            let word = self.word(scope);
            if word.mode > passes && worst.is_none_or(|(_, w)| word.mode > w.mode) {
                worst = Some((scope, word));
            }
        }
        match worst {
            Some((scope, word)) => Err(Closed::Mode { scope, word }),
            None => Ok(()),
        }
    }

    /// The word of `scope`; one that is not on the page, and every pair, is halted.
    #[must_use]
    pub fn word(&self, scope: Scope) -> ModeWord {
        let base = layout::AT_WORDS + 1;
        let (from, index, count) = match scope {
            Scope::Firm => (layout::AT_WORDS, 0, 1),
            Scope::Account(a) => (base, usize::from(a.0), self.accounts),
            Scope::Strategy(s) => (base + self.accounts, usize::from(s.0), self.strategies),
            Scope::Instrument(i) => (base + self.accounts + self.strategies, i.0 as usize, self.instruments),
            Scope::Session(s) => {
                (base + self.accounts + self.strategies + self.instruments, usize::from(s.0), self.sessions)
            }
            Scope::Pair(..) => (0, 1, 0),
        };
        if index < count {
            ModeWord::unpack(self.page.load(from + index, Ordering::Acquire))
        } else {
            ModeWord { mode: Mode::Halted, epoch: 0 }
        }
    }

    /// The account that `strategy` trades for, which its orders name; `None` if it is not on the page.
    #[must_use]
    pub fn account_of(&self, strategy: StrategyId) -> Option<AccountId> {
        if usize::from(strategy.0) >= self.strategies {
            return None;
        }
        self.page.get(self.account_of + usize::from(strategy.0), Ordering::Relaxed).map(|a| AccountId(a as u16))
    }

    /// Whether the lease holds at `now` (`CLOCK_MONOTONIC` ns).
    ///
    /// # Errors
    /// [`Closed::Lapsed`].
    #[inline]
    pub fn check_lease(&self, now: u64) -> Result<(), Closed> {
        let until = self.page.load(layout::AT_LEASE, Ordering::Acquire);
        if now < until {
            return Ok(());
        }
        Err(Closed::Lapsed { since: if until == 0 { u64::MAX } else { now - until } })
    }

    /// The page's next epoch: whatever is raised or lowered from now on has this one or a later.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.page.load(layout::AT_EPOCH, Ordering::Acquire)
    }

    /// Whether no scope of an order was raised or lowered since the page's next epoch was `epoch`.
    ///
    /// # Errors
    /// [`Closed::Changed`].
    #[inline]
    pub fn check_unchanged(&self, epoch: u64, strategy: StrategyId, instrument: InstrumentId) -> Result<(), Closed> {
        if self.epoch() == epoch {
            return Ok(());
        }
        let account = self.page.get(self.account_of + usize::from(strategy.0), Ordering::Relaxed).unwrap_or(u64::MAX);
        let scopes = [
            Scope::Firm,
            Scope::Account(AccountId(account as u16)),
            Scope::Strategy(strategy),
            Scope::Instrument(instrument),
            Scope::Session(self.session),
        ];
        // An unknown scope has epoch 0: the modes deny it.
        if scopes.iter().any(|&scope| self.word(scope).epoch >= epoch) { Err(Closed::Changed) } else { Ok(()) }
    }

    /// How often a word of the page changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.page.load(layout::AT_CHANGES, Ordering::Acquire)
    }
}
