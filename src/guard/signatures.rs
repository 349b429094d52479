//! Signatures of texts: a kind of reject text or log line that was never seen before, or comes far more often than it ever
//! did, is told to a person. Pure: the time is an argument, what was found comes back.
//!
//! On the morning of 1 August 2012, 97 mails said "Power Peg disabled" before the open; nobody had to read them. Here the
//! first is an alert, and the rest is its count.
//!
//! Whoever has never run it knows no text at all: for the time of `learn` everything that comes is learned, with one
//! summary instead of an alert each; only what `critical` names is told at once. What was learned is a file
//! ([`Signatures::saved`]).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::template::Template;
use crate::kill::alerts::Severity;
use crate::kill::words::{clean, rfc3339};
use crate::units::SessionId;

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;
/// Signatures that differ only by words in capitals before these are masked.
const VARIANTS_MAX: u32 = 8;

/// A text that somebody sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// When it came, Unix ns.
    pub at: u64,
    /// From whom.
    pub session: SessionId,
    /// What it is: `log` or `reject`.
    pub source: &'static str,
    /// The text.
    pub text: String,
}

/// How texts are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureOptions {
    /// How long the first run learns.
    pub learn: Duration,
    /// How bad a signature is that was never seen before.
    pub new: Severity,
    /// Parts of texts (in any case) that are critical from the first one on, learned or not.
    pub critical: Vec<String>,
    /// So many times its highest rate so far is far above it.
    pub factor: u32,
    /// Fewer in a minute are never too many.
    pub rate_min: u32,
    /// The most signatures that are kept.
    pub kept: usize,
    /// The most texts a second from one session; more are counted and not looked at.
    pub per_second: u32,
}

impl Default for SignatureOptions {
    fn default() -> SignatureOptions {
        SignatureOptions {
            learn: Duration::from_secs(86_400),
            new: Severity::Critical,
            critical: Vec::new(),
            factor: 5,
            rate_min: 20,
            kept: 4_096,
            per_second: 200,
        }
    }
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Its template.
    pub template: String,
    /// Where it came from first.
    pub source: String,
    /// The session that sent it first, by name.
    pub session: String,
    /// A text of it: the first.
    pub example: String,
    /// When first and last, Unix ns.
    pub first_at: u64,
    /// See `first_at`.
    pub last_at: u64,
    /// How often.
    pub count: u64,
    /// Known: learned, or answered by a person.
    pub known: bool,
    /// The most in one minute so far, other than in an alarm.
    pub peak: u32,
    /// The minute that is being counted, and its count.
    minute: (u64, u32),
    /// It is far above its own rate in this minute.
    #[serde(skip)]
    loud: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A signature that is not known, again and again until somebody answers.
    Unknown {
        /// The alert's name, which stands for the signature.
        name: String,
        /// The session that sent it first.
        session: String,
        /// How bad.
        severity: Severity,
        /// In words.
        text: String,
    },
    /// A known one comes far more often than it ever did.
    Loud {
        /// The alert's name.
        name: String,
        /// The session that sent it first.
        session: String,
        /// In words.
        text: String,
    },
    /// A session sends more texts than are looked at.
    Flood {
        /// Who.
        session: SessionId,
        /// How many were not looked at in the second before.
        dropped: u64,
    },
    /// There is no room for further signatures: this one was not kept.
    Full,
    /// The time of learning is over.
    Learned {
        /// How many are known now.
        known: usize,
    },
}

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSignatures {
    /// When learning began, Unix ns; 0: it has not.
    pub began: u64,
    /// Learning is over.
    pub learned: bool,
    /// All signatures.
    pub signatures: Vec<Signature>,
}

/// See the module.
#[derive(Debug)]
pub struct Signatures {
    options: SignatureOptions,
    names: HashSet<String>,
    sessions: Vec<String>,
    table: HashMap<String, Signature>,
    /// How many signatures there are of one skeleton.
    variants: HashMap<String, u32>,
    began: u64,
    learned: bool,
    /// By session: the second, texts in it, texts of it that were dropped.
    rates: Vec<(u64, u32, u64)>,
    full_told: bool,
    seen: u64,
    dropped: u64,
}

/// The name of a signature's alert: stable, and of characters that a name may have.
#[must_use]
pub fn alert_name(template: &str) -> String {
    format!("text-{}", &blake3::hash(template.as_bytes()).to_hex()[..10])
}

impl Signatures {
    /// Nothing is known yet. `sessions` by their ids; `names` are masked wherever they stand.
    #[must_use]
    pub fn new(options: SignatureOptions, sessions: Vec<String>, names: HashSet<String>) -> Signatures {
        Signatures {
            rates: vec![(0, 0, 0); sessions.len()],
            options,
            names,
            sessions,
            table: HashMap::new(),
            variants: HashMap::new(),
            began: 0,
            learned: false,
            full_told: false,
            seen: 0,
            dropped: 0,
        }
    }

    /// Goes on from what was saved.
    pub fn restore(&mut self, saved: SavedSignatures) {
        (self.began, self.learned) = (saved.began, saved.learned);
        for signature in saved.signatures {
            let skeleton = Template::of(&signature.example, &self.names).skeleton;
            *self.variants.entry(skeleton).or_insert(0) += 1;
            self.table.insert(signature.template.clone(), signature);
        }
    }

    /// What is kept over a restart.
    #[must_use]
    pub fn saved(&self) -> SavedSignatures {
        let mut signatures: Vec<Signature> = self.table.values().cloned().collect();
        signatures.sort_by(|a, b| a.template.cmp(&b.template));
        SavedSignatures { began: self.began, learned: self.learned, signatures }
    }

    /// Looks at a text.
    pub fn take(&mut self, text: &Text) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.began == 0 {
            self.began = text.at;
        }
        if !self.admit(text, &mut found) {
            return found;
        }
        self.seen += 1;
        found.extend(self.learn_ends(text.at));
        let Template { text: full, skeleton } = Template::of(&text.text, &self.names);
        let masked = self.variants.get(&skeleton).copied().unwrap_or(0) >= VARIANTS_MAX;
        // A variant that is known stays known when its place has become one for any word.
        let template = if masked && !self.table.contains_key(&full) { skeleton.clone() } else { full };
        let lower = text.text.to_lowercase();
        let named = self.options.critical.iter().any(|part| lower.contains(&part.to_lowercase()));
        if !self.table.contains_key(&template) {
            if self.table.len() >= self.options.kept && !self.make_room() {
                if !core::mem::replace(&mut self.full_told, true) {
                    found.push(Finding::Full);
                }
                return found;
            }
            *self.variants.entry(skeleton).or_insert(0) += 1;
            let known = !self.learned && !named;
            let first = self.first(text, template.clone(), known);
            self.table.insert(template.clone(), first);
        }
        let (factor, rate_min, new) = (self.options.factor, self.options.rate_min, self.options.new);
        let Some(signature) = self.table.get_mut(&template) else { return found };
        signature.count += 1;
        signature.last_at = text.at;
        let minute = text.at / MINUTE_NS;
        if signature.minute.0 != minute {
            if !signature.loud {
                signature.peak = signature.peak.max(signature.minute.1);
            }
            signature.minute = (minute, 0);
            signature.loud = false;
        }
        signature.minute.1 += 1;
        let name = alert_name(&template);
        if !signature.known {
            let severity = if named { Severity::Critical } else { new };
            let text = format!("never seen before, {} times now: {}", signature.count, signature.example);
            found.push(Finding::Unknown { name, session: signature.session.clone(), severity, text });
        } else if self.learned {
            let bound = rate_min.max(signature.peak.saturating_mul(factor));
            if signature.minute.1 > bound {
                signature.loud = true;
                let (count, peak) = (signature.minute.1, signature.peak);
                let text = format!("{count} in this minute, at most {peak} in any before: {}", signature.example);
                found.push(Finding::Loud { name, session: signature.session.clone(), text });
            }
        }
        found
    }

    /// Lets time pass: the time of learning ends without a text, too.
    pub fn tick(&mut self, at: u64) -> Option<Finding> {
        if self.began == 0 {
            self.began = at;
        }
        self.learn_ends(at)
    }

    /// A person has answered the alert of this name: what it stands for is known from now on, at the rate that it has.
    pub fn answered(&mut self, name: &str) {
        for signature in self.table.values_mut().filter(|s| (!s.known || s.loud) && alert_name(&s.template) == name) {
            signature.known = true;
            signature.loud = false;
            signature.peak = signature.peak.max(signature.minute.1);
        }
    }

    /// The names of alerts about signatures that nobody has answered for.
    #[must_use]
    pub fn unknown(&self) -> Vec<String> {
        self.table.values().filter(|s| !s.known || s.loud).map(|s| alert_name(&s.template)).collect()
    }

    /// Texts that were looked at, and texts that were dropped because a session sent too many.
    #[must_use]
    pub const fn counts(&self) -> (u64, u64) {
        (self.seen, self.dropped)
    }

    /// How many signatures are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// What `GET /v1/signatures` shows: the latest first, at most `count`.
    #[must_use]
    pub fn to_json(&self, count: usize) -> Value {
        let mut list: Vec<&Signature> = self.table.values().collect();
        list.sort_by(|a, b| (b.last_at, &a.template).cmp(&(a.last_at, &b.template)));
        let one = |s: &&Signature| {
            json!({
                "name": alert_name(&s.template), "template": s.template, "source": s.source, "session": s.session,
                "example": s.example, "first_at": rfc3339(s.first_at), "last_at": rfc3339(s.last_at),
                "count": s.count, "known": s.known, "peak_per_minute": s.peak, "this_minute": s.minute.1,
            })
        };
        json!({
            "learning": !self.learned,
            "learning_since": (self.began > 0).then(|| rfc3339(self.began)),
            "kept": self.table.len(),
            "room_for": self.options.kept,
            "texts": self.seen,
            "texts_dropped": self.dropped,
            "signatures": list.iter().take(count).map(one).collect::<Vec<_>>(),
        })
    }

    fn first(&self, text: &Text, template: String, known: bool) -> Signature {
        let session = self.sessions.get(usize::from(text.session.0)).cloned().unwrap_or_default();
        Signature {
            template,
            source: text.source.to_owned(),
            session,
            example: clean(&text.text),
            first_at: text.at,
            last_at: text.at,
            count: 0,
            known,
            peak: 0,
            minute: (text.at / MINUTE_NS, 0),
            loud: false,
        }
    }

    fn admit(&mut self, text: &Text, found: &mut Vec<Finding>) -> bool {
        let Some(rate) = self.rates.get_mut(usize::from(text.session.0)) else { return false };
        let second = text.at / SECOND_NS;
        if rate.0 != second {
            if rate.2 > 0 {
                found.push(Finding::Flood { session: text.session, dropped: rate.2 });
            }
            *rate = (second, 0, 0);
        }
        rate.1 += 1;
        if rate.1 > self.options.per_second {
            rate.2 += 1;
            self.dropped += 1;
            return false;
        }
        true
    }

    fn learn_ends(&mut self, at: u64) -> Option<Finding> {
        let learn = u64::try_from(self.options.learn.as_nanos()).unwrap_or(u64::MAX);
        if self.learned || at.saturating_sub(self.began) < learn {
            return None;
        }
        self.learned = true;
        // Nothing was known before: what is there to be known is only there if there is something.
        (!self.table.is_empty()).then_some(Finding::Learned { known: self.table.len() })
    }

    /// Drops the known signature that was not heard of for longest. False: all wait for a person.
    fn make_room(&mut self) -> bool {
        let oldest = self.table.values().filter(|s| s.known && !s.loud).min_by_key(|s| s.last_at);
        let Some(template) = oldest.map(|s| s.template.clone()) else { return false };
        self.table.remove(&template);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 1_800_000_000 * SECOND_NS;

    fn signatures(options: SignatureOptions) -> Signatures {
        Signatures::new(options, vec!["gw-1".into(), "gw-8".into()], HashSet::new())
    }

    fn text(second: u64, text: &str) -> Text {
        Text { at: DAY + second * SECOND_NS, session: SessionId(1), source: "log", text: text.into() }
    }

    /// One that has learned `known` on the day before.
    fn learned(options: SignatureOptions, known: &[&str]) -> Signatures {
        let mut all = signatures(options);
        for line in known {
            assert_eq!(all.take(&text(0, line)), []);
        }
        assert_eq!(all.tick(DAY + 2 * 86_400 * SECOND_NS), Some(Finding::Learned { known: known.len() }));
        all
    }

    const MORNING: u64 = 2 * 86_400;

    #[test]
    fn the_first_of_97_is_found_and_every_further_one_counts_for_the_same_alert() {
        let mut all = learned(SignatureOptions::default(), &["order 17 sent", "order 18 rejected: halted"]);
        let mut names = HashSet::new();
        for n in 0..97 {
            let at = MORNING + 55 * n;
            let found = all.take(&text(at, &format!("08:{:02}: SMARS[{n}]: Power Peg disabled", n % 60)));
            let [Finding::Unknown { name, session, severity, text: said }] = &found[..] else { panic!("{found:?}") };
            assert_eq!((session.as_str(), *severity), ("gw-8", Severity::Critical));
            assert!(said.contains(&format!("{} times", n + 1)), "{said}");
            names.insert(name.clone());
            // What is known stays silent.
            assert_eq!(all.take(&text(at, &format!("order {n} sent"))), []);
        }
        assert_eq!(names.len(), 1);
        let name = names.into_iter().next().unwrap();
        assert_eq!(all.unknown(), std::slice::from_ref(&name));
        all.answered(&name);
        assert_eq!(all.take(&text(MORNING + 9_000, "08:01: SMARS[1]: Power Peg disabled")), []);
        assert!(all.unknown().is_empty());
    }

    #[test]
    fn the_first_run_learns_silently_but_for_what_is_critical() {
        let critical = vec!["power peg".to_owned()];
        let mut all = signatures(SignatureOptions { critical, ..SignatureOptions::default() });
        for n in 0..50 {
            assert_eq!(all.take(&text(n, &format!("line of kind {}", ["a", "b", "c"][n as usize % 3]))), []);
        }
        let found = all.take(&text(60, "Power Peg disabled"));
        assert!(matches!(found[..], [Finding::Unknown { severity: Severity::Critical, .. }]), "{found:?}");
        let found = all.take(&text(86_400, "line of kind d"));
        assert_eq!(found[0], Finding::Learned { known: 4 });
        assert!(matches!(found[1], Finding::Unknown { .. }));
    }

    #[test]
    fn a_known_one_far_above_its_own_rate_is_found_and_not_learned_from() {
        let mut all = learned(SignatureOptions::default(), &["order 1 rejected: no borrow"]);
        // Ten a minute for an hour: that is its rate.
        for n in 0..600 {
            assert_eq!(all.take(&text(MORNING + 6 * n, "order 2 rejected: no borrow")), [], "{n}");
        }
        let minute = MORNING + 3_600;
        let found: Vec<usize> = (0..200)
            .filter(|n| !all.take(&text(minute + n / 4, "order 3 rejected: no borrow")).is_empty())
            .map(|n| n as usize)
            .collect();
        assert_eq!(found[0], 50, "five times ten");
        let again =
            (0..100).filter(|n| !all.take(&text(minute + 60 + n / 4, "order 4 rejected: no borrow")).is_empty());
        assert_eq!(again.count(), 50, "the flood was not learned as usual");
        all.answered(&alert_name("order <*> rejected: no borrow"));
        assert_eq!(all.take(&text(minute + 100, "order 5 rejected: no borrow")), []);
    }

    #[test]
    fn symbols_that_nobody_knows_are_a_few_alerts_and_then_one_kind() {
        let mut all = learned(SignatureOptions::default(), &["hello"]);
        let mut names = HashSet::new();
        for n in 0..500u32 {
            let symbol: String = [n / 26 % 26, n % 26].map(|c| char::from(b'A' + c as u8)).iter().collect();
            for found in all.take(&text(MORNING + u64::from(n), &format!("no quote for {symbol} today"))) {
                let Finding::Unknown { name, .. } = found else { panic!("{found:?}") };
                names.insert(name);
            }
        }
        assert_eq!(names.len(), VARIANTS_MAX as usize + 1);
    }

    #[test]
    fn a_session_that_floods_is_counted_and_the_table_is_bounded() {
        let mut all = learned(SignatureOptions { kept: 10, per_second: 5, ..SignatureOptions::default() }, &["hello"]);
        let word = |n: u64| -> String { format!("{n:04}").bytes().map(|b| char::from(b - b'0' + b'a')).collect() };
        let found: Vec<Finding> = (0..20).flat_map(|n| all.take(&text(MORNING, &word(n)))).collect();
        assert_eq!(found.len(), 5);
        assert!(all.take(&text(MORNING + 1, "x")).contains(&Finding::Flood { session: SessionId(1), dropped: 15 }));
        assert_eq!(all.counts(), (7, 15));
        let mut full = 0;
        for n in 0..1_000 {
            let found = all.take(&text(MORNING + 2 + n, &word(n + 100)));
            full += found.iter().filter(|f| **f == Finding::Full).count();
        }
        // What waits for a person is not dropped for what is newer; that this one was, is said once.
        assert_eq!((all.len(), full), (10, 1));
        assert!(all.unknown().contains(&alert_name(&word(0))));
    }

    #[test]
    fn known_ones_make_room_the_longest_silent_first() {
        let mut all = learned(SignatureOptions { kept: 3, ..SignatureOptions::default() }, &["aa", "bb", "cc"]);
        all.take(&text(MORNING, "aa"));
        all.take(&text(MORNING + 1, "cc"));
        all.take(&text(MORNING + 2, "dd"));
        let kept: Vec<String> = all.saved().signatures.into_iter().map(|s| s.template).collect();
        assert_eq!(kept, ["aa", "cc", "dd"]);
    }

    #[test]
    fn what_was_learned_is_known_after_a_restart() {
        let mut all = learned(SignatureOptions::default(), &["order 1 sent"]);
        all.take(&text(MORNING, "odd"));
        let saved = serde_json::to_string(&all.saved()).unwrap();
        let mut next = signatures(SignatureOptions::default());
        next.restore(serde_json::from_str(&saved).unwrap());
        assert_eq!(next.saved(), all.saved());
        assert_eq!(next.take(&text(MORNING + 1, "order 2 sent")), []);
        assert_eq!(next.unknown(), [alert_name("odd")]);
        let shown = next.to_json(10);
        assert_eq!(
            (&shown["learning"], &shown["signatures"][0]["template"]),
            (&json!(false), &json!("order <*> sent"))
        );
    }
}
