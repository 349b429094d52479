//! The halt page in a file: made, taken over from the run before, opened from outside.

use crate::kill::page::HaltPage;
use crate::kill::page::layout::*;
#[cfg(feature = "service")]
use crate::kill::page::{EPOCH_MASK, ModeWord};
#[cfg(feature = "service")]
use crate::model::scope::Mode;
#[cfg(feature = "service")]
use crate::model::universe::Universe;
use crate::ring::shm::Words;
use crate::ring::sync::Ordering;

/// Whose words a page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Digest of all names; see [`Shape::of`].
    pub digest: u64,
    /// How many accounts there are.
    pub accounts: usize,
    /// The account of each strategy.
    pub account_of: Vec<u16>,
    /// How many instruments there are.
    pub instruments: usize,
    /// How many sessions there are.
    pub sessions: usize,
}

impl Shape {
    /// The shape for the scopes of `universe`.
    #[cfg(feature = "service")]
    #[must_use]
    pub fn of(universe: &Universe) -> Shape {
        // FNV-1a over the names, each with its length: not against forgers, who would need the file's owner's rights anyway.
        let mut digest = 0xCBF2_9CE4_8422_2325_u64;
        let mut eat = |bytes: &[u8]| {
            for &byte in bytes {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
            }
        };
        for slot in 0..universe.scope_count() {
            let Some(scope) = universe.scope_at(slot) else { continue };
            let name = universe.scope_name(scope);
            eat(&[scope.kind() as u8]);
            eat(&(name.len() as u64).to_le_bytes());
            eat(name.as_bytes());
        }
        let account_of: Vec<u16> = universe.strategies.iter().map(|s| s.account.0).collect();
        for account in &account_of {
            eat(&account.to_le_bytes());
        }
        Shape {
            digest,
            accounts: universe.accounts.len(),
            account_of,
            instruments: universe.instruments.len(),
            sessions: universe.sessions.len(),
        }
    }

    /// How many mode words there are.
    #[must_use]
    pub fn scopes(&self) -> usize {
        1 + self.accounts + self.account_of.len() + self.instruments + self.sessions
    }

    /// How many words the page has.
    #[must_use]
    pub fn words(&self) -> usize {
        // Whole pages of the system.
        (self.attached_at() + 2 * self.sessions).next_multiple_of(512)
    }

    fn attached_at(&self) -> usize {
        AT_WORDS + self.scopes() + self.account_of.len()
    }

    fn header(&self) -> [(usize, u64); 5] {
        let two = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        [
            (0, MAGIC),
            (AT_VERSION, VERSION | (AT_WORDS as u64) << 32),
            (AT_DIGEST, self.digest),
            (AT_ACCOUNTS, two(self.accounts, self.account_of.len())),
            (AT_INSTRUMENTS, two(self.instruments, self.sessions)),
        ]
    }

    #[cfg(feature = "service")]
    fn write(&self, all: &Words) {
        for (at, value) in self.header() {
            all[at].store(value, Ordering::Relaxed);
        }
        let accounts = AT_WORDS + self.scopes();
        for (i, account) in self.account_of.iter().enumerate() {
            all[accounts + i].store(u64::from(*account), Ordering::Relaxed);
        }
    }

    fn is_of(&self, all: &Words) -> bool {
        let accounts = AT_WORDS + self.scopes();
        all.len() == self.words()
            && self.header().iter().all(|&(at, value)| all[at].load(Ordering::Relaxed) == value)
            && (0..self.account_of.len())
                .all(|i| all[accounts + i].load(Ordering::Relaxed) == u64::from(self.account_of[i]))
    }
}

/// A page that is in a file now, see [`HaltPage::settle_in`].
#[cfg(feature = "service")]
#[derive(Debug)]
pub struct Settled {
    /// The page.
    pub page: HaltPage,
    /// A descriptor of its file that can only be read from, to be given to gates.
    pub read_only: std::os::fd::OwnedFd,
    /// Scopes that were raised in the file, from outside, beyond what the latch knew.
    pub adopted: Vec<usize>,
    /// Why the file that was there could not be taken over, if so. Gates of it find it out of service.
    pub replaced: Option<String>,
}

impl HaltPage {
    /// Moves this page into the file at `path`, where gates see it. Nobody else may have the page yet.
    ///
    /// If a page of the same shape is there, it is taken over with the gates that have mapped it: each scope keeps the more severe of the
    /// two modes, so a halt that was raised in the file while nobody served is in force. Otherwise the old
    /// file is taken out of service and a new one made. The lease is at its end until the engine renews it.
    ///
    /// # Errors
    /// The system's.
    #[cfg(feature = "service")]
    pub fn settle_in(
        self,
        path: &std::path::Path,
        shape: &Shape,
        mode: u32,
        lease_span_ns: u64,
    ) -> std::io::Result<Settled> {
        let mut replaced = None;
        let found = match Words::of_file(path) {
            Ok(all) if shape.is_of(&all) => Some(all),
            Ok(all) => {
                if all.len() > AT_STATE && all[0].load(Ordering::Relaxed) == MAGIC {
                    all[AT_STATE].store(RETIRED, Ordering::SeqCst);
                    // A gate that finds nothing raised does not look at the state.
                    all[AT_RAISED].fetch_or(RETIRED_COUNT, Ordering::SeqCst);
                }
                replaced = Some("it is of another configuration or layout".into());
                None
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                replaced = Some(error.to_string());
                None
            }
        };
        if replaced.is_some() {
            std::fs::remove_file(path)?;
        }
        let all = match found {
            Some(all) => all,
            None => {
                let (all, _, _) = Words::in_file(path, shape.words(), mode)?;
                shape.write(&all);
                all
            }
        };
        let attached = all.part(shape.attached_at()..shape.attached_at() + 2 * shape.sessions);
        let page = HaltPage { words: all.part(AT_WORDS..AT_WORDS + shape.scopes()), all, attached };
        page.keep_lease(lease_span_ns);
        let first = self.next_epoch().max(page.all[AT_EPOCH].load(Ordering::SeqCst) & EPOCH_MASK);
        page.all[AT_EPOCH].store(first, Ordering::SeqCst);
        let mut adopted = Vec::new();
        for slot in 0..page.words.len() {
            // By compare-and-swap, and counted before and after like any raise: somebody may be raising the file at this moment.
            let latched = self.get(slot);
            page.all[AT_RAISED].fetch_add(1, Ordering::SeqCst);
            let mut counted = false;
            let mut seen = page.words[slot].load(Ordering::SeqCst);
            loop {
                let there = ModeWord::unpack(seen);
                if there.mode > latched.mode {
                    adopted.push(slot);
                    break;
                }
                let epoch = there.epoch.max(latched.epoch);
                let word = ModeWord { mode: latched.mode, epoch };
                match page.words[slot].compare_exchange(seen, word.pack(), Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => {
                        counted = there.mode == Mode::Normal && word.mode != Mode::Normal;
                        break;
                    }
                    Err(now) => seen = now,
                }
            }
            if !counted {
                page.all[AT_RAISED].fetch_sub(1, Ordering::SeqCst);
            }
            let word = page.get(slot);
            page.all[AT_EPOCH].fetch_max(word.epoch + 1, Ordering::SeqCst);
        }
        page.all[AT_CHANGES].fetch_add(1, Ordering::SeqCst);
        page.all[AT_STATE].store(IN_SERVICE, Ordering::SeqCst);
        let read_only = rustix::fs::open(
            path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        Ok(Settled { page, read_only, adopted, replaced })
    }

    /// Opens the page in the file at `path` of a service that is dead, wedged or alive, to raise it from outside.
    /// `shape` says whose it should be; `None` trusts the header, and only the firm's slot, 0, is known.
    ///
    /// # Errors
    /// If there is none, it may not be written, or it is not of that shape.
    pub fn open(path: &std::path::Path, shape: Option<&Shape>) -> std::io::Result<HaltPage> {
        let all = Words::of_file(path)?;
        let wrong = |text: &str| Err(std::io::Error::other(text.to_owned()));
        if all.len() <= AT_WORDS || all[0].load(Ordering::Relaxed) != MAGIC {
            return wrong("this is no halt page");
        }
        if all[AT_VERSION].load(Ordering::Relaxed) != VERSION | (AT_WORDS as u64) << 32 {
            return wrong("the halt page has another layout");
        }
        if all[AT_STATE].load(Ordering::SeqCst) != IN_SERVICE {
            return wrong("the halt page is out of service");
        }
        let scopes = match shape {
            Some(shape) if shape.is_of(&all) => shape.scopes(),
            Some(_) => return wrong("the halt page is of another configuration"),
            None => 1,
        };
        let words = all.part(AT_WORDS..AT_WORDS + scopes);
        Ok(HaltPage { attached: all.part(0..0), all, words })
    }
}

#[cfg(all(test, feature = "service", not(miri)))]
mod tests {
    use super::*;
    use crate::kill::page::AttachedProcess;
    use crate::kill::testing::universe;

    #[test]
    fn the_run_after_knows_whose_gates_it_finds() {
        let (dir, universe) = (tempfile::tempdir().unwrap(), universe());
        let (path, shape) = (dir.path().join("page"), Shape::of(&universe));
        let start = || HaltPage::new(universe.scope_count(), 1).settle_in(&path, &shape, 0o600, 1_000).unwrap().page;
        let process = AttachedProcess { pid: 77, began: u64::MAX };
        let page = start();
        assert_eq!(page.attached(1), None);
        page.note_attached(1, Some(process));
        page.note_attached(9, Some(process));
        drop(page);
        let page = start();
        assert_eq!((page.attached(0), page.attached(1), page.attached(9)), (None, Some(process), None));
        page.note_attached(1, None);
        assert_eq!(page.attached(1), None);
    }

    #[test]
    fn a_raise_that_is_under_way_at_a_start_leaves_no_raised_word_uncounted() {
        let (dir, universe) = (tempfile::tempdir().unwrap(), universe());
        let (path, shape) = (dir.path().join("page"), Shape::of(&universe));
        let start = |latched: Option<ModeWord>| {
            let mut page = HaltPage::new(universe.scope_count(), 1);
            if let Some(word) = latched {
                page.restore(1, word);
            }
            page.settle_in(&path, &shape, 0o600, 1_000).unwrap().page
        };
        drop(start(None));
        let outside = HaltPage::open(&path, Some(&shape)).unwrap();
        // Another process raises the firm's account: it has counted, and is held up before it swaps the word.
        outside.all[AT_RAISED].fetch_add(1, Ordering::SeqCst);
        let page = start(Some(ModeWord { mode: Mode::Halted, epoch: 7 }));
        // It goes on, finds a word that is raised already, and takes its own count back.
        outside.all[AT_RAISED].fetch_sub(1, Ordering::SeqCst);
        assert_eq!(page.get(1).mode, Mode::Halted);
        assert_eq!(page.all[AT_RAISED].load(Ordering::SeqCst), 1, "a gate that finds 0 looks at no word");
        drop(page);
        let again = start(Some(ModeWord { mode: Mode::Halted, epoch: 7 }));
        assert_eq!(again.all[AT_RAISED].load(Ordering::SeqCst), 1, "it is counted once");
    }
}
