//! What happened around the orders: the deployment that missed a server, the mails, the rollback. One timeline per seed.
//!
//! Sourced (SEC Release 34-70694, paragraphs 13 to 16, 19 and 27): from 27 July on new code for the Retail Liquidity Program
//! (RLP) was put on the eight servers, and one of them was missed; the new code was reached by a flag that the old one, Power
//! Peg, unused since 2003, still read; from 08:01 on 1 August 97 mails said "Power Peg disabled" before the open at 09:30;
//! while it went on, the new code was taken from the seven servers that had it, so that the old code ran on all eight.
//! Assumed (the release does not say): that the deployment took one evening rather than stages over some days, who comes
//! first, when the servers started on 1 August, that mails and parents came evenly, one every 55 and 25 seconds, the mails' words
//! around those three, what else was logged, and that the rollback began 25 minutes after the open. That somebody halts the eighth server
//! a minute before is no assumption about Knight, where nobody could: it is what opens the incident in the run of the interlock.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::super::knight::{HEALTHY, PARENTS, SYMBOLS, symbol_name};
use crate::units::UnixNanos;

/// Nanoseconds since the open; negative before it.
pub type StoryNs = i64;

const SECOND: StoryNs = 1_000_000_000;
const MINUTE: StoryNs = 60 * SECOND;
const HOUR: StoryNs = 60 * MINUTE;
const DAY: StoryNs = 24 * HOUR;

/// 09:30 in New York on 1 August 2012.
pub const OPEN_UNIX: u64 = 1_343_827_800_000_000_000;
/// New York is so far behind UTC in summer.
const NEW_YORK: StoryNs = -4 * HOUR;

/// 26 July, 09:00: a day before the deployment, everybody runs what they always ran.
pub const USUAL: StoryNs = -6 * DAY - 30 * MINUTE;
/// 27 July, 20:00: the servers are stopped, and come back with what was deployed to them.
pub const DEPLOYMENT: StoryNs = -5 * DAY + 10 * HOUR + 30 * MINUTE;
/// 1 August, 07:45: they start for the day, with the flag set.
pub const START: StoryNs = -HOUR - 45 * MINUTE;
/// 1 August, 08:01: the first mail.
pub const FIRST_MAIL: StoryNs = -HOUR - 29 * MINUTE;
/// Mails before the open.
pub const MAILS: usize = 97;
/// From one to the next.
pub const MAIL_EVERY: StoryNs = 55 * SECOND;
/// 1 August, 08:01:10: the first of the parents that the eighth server received before the open.
const FIRST_PARENT: StoryNs = FIRST_MAIL + 10 * SECOND;
/// From one to the next.
const PARENT_EVERY: StoryNs = 25 * SECOND;
/// 1 August, 09:55: the new code is taken from the seven.
pub const ROLLBACK: StoryNs = 25 * MINUTE;
/// From one server's restart to the next one's.
const RESTART_EVERY: StoryNs = SECOND / 2;
/// Somebody has halted the eighth server so long before the rollback.
const PRESS_BEFORE: StoryNs = MINUTE;
/// What is always logged comes so often from each server.
const USUAL_EVERY: StoryNs = 10 * MINUTE;

const _: () = assert!(FIRST_MAIL + MAILS as StoryNs * MAIL_EVERY < 0, "all mails come before the open");

const _: () = assert!(parent_at(PARENTS - 1) < 0, "all parents come before the open");

/// When parent `number`, from 0, is received: before the open.
#[must_use]
pub const fn parent_at(number: usize) -> StoryNs {
    FIRST_PARENT + number as StoryNs * PARENT_EVERY
}

/// The old flag that the new code was given; to Power Peg it means something else.
pub const OLD_FLAG: &str = "smars.mode-5";
/// A flag that nobody has read before: what should have been used.
pub const NEW_FLAG: &str = "smars.rlp";

/// What a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Still has Power Peg.
    Old,
    /// Has RLP in its place.
    New,
}

impl Build {
    /// What it calls itself.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Build::Old => "powerpeg-2003",
            Build::New => "rlp-2012",
        }
    }
}

/// Something that happens. Instances count from 0; the last one is the eighth server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The manifest that knows the new build is in force.
    Deploy,
    /// An instance ends.
    Gone(usize),
    /// An instance comes, and says what it runs and which flag it has set, or not.
    Hello {
        /// Which.
        instance: usize,
        /// What it runs.
        build: Build,
        /// The flag that it knows.
        flag: &'static str,
        /// Whether it is set.
        set: bool,
    },
    /// A log line or mail of an instance.
    Text {
        /// Whose.
        instance: usize,
        /// The words.
        text: String,
    },
    /// A person halts an instance: from now on an incident is open.
    Press(usize),
}

/// Which story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plot {
    /// Another seed has other order numbers in its logs.
    pub seed: u64,
    /// One server is missed, and the flag is an old one. Without it all goes as it should have.
    pub fault: bool,
    /// When the rollback begins. Only if something is wrong is there one.
    pub rollback: StoryNs,
}

impl Plot {
    /// As it was.
    #[must_use]
    pub const fn knight(seed: u64) -> Plot {
        Plot { seed, fault: true, rollback: ROLLBACK }
    }

    /// As it should have been.
    #[must_use]
    pub const fn healthy(seed: u64) -> Plot {
        Plot { fault: false, ..Plot::knight(seed) }
    }

    /// Everything that happens, in its order.
    #[must_use]
    pub fn steps(self) -> VecDeque<(StoryNs, Step)> {
        let mut steps: Vec<(StoryNs, Step)> = Vec::new();
        let eighth = HEALTHY;
        let flag = if self.fault { OLD_FLAG } else { NEW_FLAG };
        let deployed = |instance| if self.fault && instance == eighth { Build::Old } else { Build::New };
        for instance in 0..=eighth {
            let i = instance as StoryNs;
            let hello = |build, flag, set| Step::Hello { instance, build, flag, set };
            steps.push((USUAL + i * SECOND, hello(Build::Old, OLD_FLAG, false)));
            steps.push((DEPLOYMENT + i * SECOND, Step::Gone(instance)));
            steps.push((DEPLOYMENT + (5 + i) * MINUTE, hello(deployed(instance), flag, false)));
            steps.push((START + i * SECOND, Step::Gone(instance)));
            steps.push((START + i * SECOND + SECOND / 2, hello(deployed(instance), flag, true)));
            if self.fault && instance != eighth {
                let at = self.rollback + i * RESTART_EVERY;
                steps.push((at, Step::Gone(instance)));
                // The flag stays set: that is what the old code was reached by.
                steps.push((at + RESTART_EVERY / 2, hello(Build::Old, flag, true)));
            }
        }
        steps.push((DEPLOYMENT + MINUTE, Step::Deploy));
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(1_000);
        let mut number = || 100_000 + rng.next_u32() % 900_000;
        if self.fault {
            for mail in 0..MAILS as StoryNs {
                let text = format!("SMARS: order {}: Power Peg disabled", number());
                steps.push((FIRST_MAIL + mail * MAIL_EVERY, Step::Text { instance: eighth, text }));
            }
            steps.push((self.rollback - PRESS_BEFORE, Step::Press(eighth)));
        }
        let end = self.rollback + HOUR;
        for tick in 1..(end - USUAL) / USUAL_EVERY {
            for instance in 0..=eighth {
                let symbol = symbol_name(number() as usize % SYMBOLS);
                let text = format!("order {} in {symbol} routed, {} us", number(), number() % 900);
                steps.push((USUAL + tick * USUAL_EVERY + instance as StoryNs * SECOND, Step::Text { instance, text }));
            }
        }
        steps.sort_by_key(|(at, _)| *at);
        steps.into()
    }
}

/// The moment `at` on the clock that the service has.
#[must_use]
pub const fn unix(at: StoryNs) -> UnixNanos {
    UnixNanos(OPEN_UNIX.saturating_add_signed(at))
}

/// `at` as a clock in New York shows it: with the day if it is not 1 August, with milliseconds from the open on.
#[must_use]
pub fn clock_text(at: StoryNs) -> String {
    let local = OPEN_UNIX.saturating_add_signed(NEW_YORK).saturating_add_signed(at) as StoryNs;
    let open_day = (OPEN_UNIX.saturating_add_signed(NEW_YORK) as StoryNs) / DAY;
    let (day, in_day) = (local / DAY, local % DAY);
    let (hours, minutes, seconds) = (in_day / HOUR, in_day / MINUTE % 60, in_day / SECOND % 60);
    let clock = format!("{hours:02}:{minutes:02}:{seconds:02}");
    match open_day - day {
        0 if at >= 0 => format!("{clock}.{:03}", in_day / 1_000_000 % 1_000),
        0 => clock,
        // The story has no earlier days than these, and no later one.
        before => format!("{} Jul {clock}", 32 - before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_that_of_new_york() {
        assert_eq!(clock_text(0), "09:30:00.000");
        assert_eq!(clock_text(147_900_000), "09:30:00.147");
        assert_eq!([FIRST_MAIL, START].map(clock_text), ["08:01:00", "07:45:00"]);
        assert_eq!([USUAL, DEPLOYMENT].map(clock_text), ["26 Jul 09:00:00", "27 Jul 20:00:00"]);
        assert_eq!(
            crate::kill::words::rfc3339(unix(DEPLOYMENT).0),
            "2012-07-28T00:00:00.000000000Z",
            "the next day in UTC"
        );
    }

    #[test]
    fn one_server_is_missed_and_97_mails_come_from_0801_to_the_open() {
        let steps = Plot::knight(1).steps();
        assert!(steps.iter().map(|(at, _)| at).is_sorted());
        let mails: Vec<_> =
            steps.iter().filter(|(_, s)| matches!(s, Step::Text { text, .. } if text.contains("Power Peg"))).collect();
        assert_eq!((mails.len(), mails[0].0), (97, FIRST_MAIL));
        assert_eq!(clock_text(mails[96].0), "09:29:00");
        assert_eq!([0, PARENTS - 1].map(|n| clock_text(parent_at(n))), ["08:01:10", "09:29:05"]);
        let runs = |instance: usize, by: StoryNs| {
            let hello = |(at, step): &(StoryNs, Step)| match step {
                Step::Hello { instance: who, build, .. } if *who == instance && *at <= by => Some(*build),
                _ => None,
            };
            steps.iter().filter_map(hello).next_back().unwrap()
        };
        assert!((0..8).all(|i| runs(i, DEPLOYMENT) == Build::Old));
        assert!((0..7).all(|i| runs(i, 0) == Build::New) && runs(7, 0) == Build::Old);
        assert!((0..8).all(|i| runs(i, HOUR) == Build::Old), "after the rollback it is on all eight");
    }

    #[test]
    fn as_it_should_have_been_all_run_the_new_code_and_nobody_mails() {
        let steps = Plot::healthy(1).steps();
        assert!(steps.iter().filter(|(at, _)| *at > DEPLOYMENT).all(|(_, step)| match step {
            Step::Hello { build, flag, .. } => *build == Build::New && *flag == NEW_FLAG,
            Step::Text { text, .. } => !text.contains("Power Peg"),
            Step::Press(_) => false,
            Step::Deploy | Step::Gone(_) => true,
        }));
    }

    #[test]
    fn a_seed_gives_one_story_and_another_seed_another() {
        assert_eq!(Plot::knight(3).steps(), Plot::knight(3).steps());
        assert_ne!(Plot::knight(3).steps(), Plot::knight(4).steps());
    }
}
