//! The kill file: while it exists, what it names is halted. For when there is a shell, or only a way to write a file, and
//! nothing else: no daemon that answers, no client, no token.
//!
//! ```text
//!  (empty)              the firm                 scope strategy:alpha     {"scope": "strategy:alpha",
//!                                                reason runaway            "reason": "runaway"}
//! ```
//!
//! Looked at by a thread of its own, by asking for the file's state and no more: that works on every file system. Each
//! appearance (another file at the path, or another time of change) is one press. Content that cannot be read or
//! understood halts the firm, and so does a path that cannot be looked at, since the file may be there. A file that goes away
//! re-arms nothing; as long as it is there what it halts cannot be re-armed ([`Switch::hold`]).

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::fs::OFlags;
use serde::Deserialize;

use crate::duty::Clock;
use crate::kill::audit::{Audit, Entry};
use crate::kill::switch::{Stop, Switch};
use crate::kill::words::ScopeName;
use crate::model::{Mode, Scope, Universe};

/// How often it is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A longer file is not what it should be.
const SIZE_MAX: u64 = 4_096;
/// The actor of its presses.
const ACTOR: &str = "kill file";

/// What was seen at the path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// A file: device, inode, time of change (s, ns), size; and whose it is.
    File([i64; 5], u32),
    /// The path cannot be looked at: why.
    Blind(ErrorKind),
}

/// Checks that there can be a file at `path`.
///
/// # Errors
/// If its directory is not there: then the file never could be, and nobody would notice.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    let dir = dir_of(path);
    let there = fs::metadata(&dir).with_context(|| format!("cannot look at its directory {}", dir.display()))?;
    anyhow::ensure!(there.is_dir(), "{} is not a directory", dir.display());
    Ok(())
}

fn dir_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// Watches one path.
pub(super) struct KillFile {
    path: PathBuf,
    dir: PathBuf,
    switch: Arc<Switch>,
    clock: Arc<dyn Clock>,
    audit: Arc<Audit>,
    last: Seen,
}

impl KillFile {
    /// Watches `path` from now on. If the file is there already, it has been obeyed when this returns.
    pub(super) fn watch(path: &Path, switch: Arc<Switch>, clock: Arc<dyn Clock>, audit: Arc<Audit>) -> KillFile {
        let mut file = KillFile { path: path.to_owned(), dir: dir_of(path), switch, clock, audit, last: Seen::Nothing };
        file.look();
        file
    }

    /// Looks until `stop` says so, or its sender is gone. A thread's whole life.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        while stop.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.look();
        }
    }

    fn look(&mut self) {
        let seen = self.seen();
        if seen == self.last {
            return;
        }
        match &seen {
            Seen::Nothing => {
                self.switch.hold(None);
                tracing::warn!(event = "kill_file", path = %self.path.display(), "it is gone; what it halted stays halted");
            }
            Seen::File(_, uid) => {
                let (scope, reason) = match read(&self.path).and_then(|text| parse(&text, self.switch.universe())) {
                    Ok(asked) => asked,
                    Err(why) => (Scope::Firm, format!("the file cannot be understood, so the firm is halted: {why}")),
                };
                self.press(scope, &format!("{reason} ({}, of uid {uid})", self.path.display()));
            }
            Seen::Blind(kind) => {
                let path = self.path.display();
                self.press(Scope::Firm, &format!("{path} cannot be looked at, so the firm is halted: {kind}"));
            }
        }
        self.last = seen;
    }

    fn seen(&self) -> Seen {
        // Of a link it is the link that counts: where it leads may not be there.
        match fs::symlink_metadata(&self.path) {
            Ok(file) => {
                let id = [file.dev().cast_signed(), file.ino().cast_signed(), file.ctime(), file.ctime_nsec()];
                let [dev, ino, s, ns] = id;
                Seen::File([dev, ino, s, ns, file.size().cast_signed()], file.uid())
            }
            // Not there, if its directory is.
            Err(error) if error.kind() == ErrorKind::NotFound => match fs::metadata(&self.dir) {
                Ok(_) => Seen::Nothing,
                Err(error) => Seen::Blind(error.kind()),
            },
            Err(error) => Seen::Blind(error.kind()),
        }
    }

    /// Raises, then keeps it raised. A re-arm that came in between was decided before the file was seen.
    fn press(&self, scope: Scope, reason: &str) {
        let universe = self.switch.universe();
        for _ in 0..2 {
            // The scope is one that can be halted: `parse` has seen to that.
            let _ = self.switch.press(scope, Stop::Halted, ACTOR, reason, self.clock.now());
            self.switch.hold(Some(scope));
            let is_halted = |slot| self.switch.page().get(slot).mode == Mode::Halted;
            if universe.slot(scope).is_some_and(is_halted) {
                break;
            }
        }
        self.audit.record(Entry::new(ACTOR, "kill").on(ScopeName::of(universe, scope)).because(reason));
        let scope = universe.scope_name(scope);
        tracing::error!(event = "kill", actor = ACTOR, scope, reason, "the kill file halted a scope");
    }
}

/// The text of the file, which is not waited for, whatever it is.
fn read(path: &Path) -> Result<String, String> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(|error| error.to_string())?;
    let is_file = file.metadata().map_err(|error| error.to_string())?.is_file();
    if !is_file {
        return Err("it is not a regular file".to_owned());
    }
    let mut text = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > SIZE_MAX {
        return Err(format!("it has more than {SIZE_MAX} bytes"));
    }
    String::from_utf8(text).map_err(|_| "it is not text".to_owned())
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    scope: Option<String>,
    reason: Option<String>,
}

/// The scope that `text` names (the firm, if it names none) and the reason.
fn parse(text: &str, universe: &Universe) -> Result<(Scope, String), String> {
    let content = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        lines(text)?
    };
    let asked = content.scope.as_deref().unwrap_or("firm");
    let (kind, name) = asked.split_once(':').unwrap_or((asked, ""));
    let scope = universe.scope_named(kind, name).filter(|scope| universe.slot(*scope).is_some());
    let scope = scope.ok_or_else(|| format!("there is no scope {asked:?}"))?;
    Ok((scope, content.reason.unwrap_or_else(|| "the kill file is there".to_owned())))
}

fn lines(text: &str) -> Result<Content, String> {
    let mut content = Content::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let place = match key {
            "scope" => &mut content.scope,
            "reason" => &mut content.reason,
            _ => return Err(format!("a line begins with {key:?}; there are scope and reason")),
        };
        if place.replace(value.trim().to_owned()).is_some() {
            return Err(format!("there are two lines {key}"));
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::rearm::RearmRefused;
    use crate::kill::testing::{TestClock, switch, universe};
    use crate::units::StrategyId;

    const ALPHA: Scope = Scope::Strategy(StrategyId(0));

    struct World {
        dir: tempfile::TempDir,
        switch: Arc<Switch>,
        clock: Arc<TestClock>,
        file: KillFile,
    }

    impl World {
        fn audit(clock: &Arc<TestClock>) -> Arc<Audit> {
            Arc::new(Audit::new(None, clock.clone()))
        }

        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            let clock = TestClock::new();
            let switch = Arc::new(switch(clock.clone()).0);
            let file = KillFile::watch(&dir.path().join("KILL"), switch.clone(), clock.clone(), World::audit(&clock));
            World { dir, switch, clock, file }
        }

        fn put(&mut self, text: &str) {
            let new = self.dir.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, &self.file.path).unwrap();
            self.file.look();
        }

        fn remove(&mut self) {
            fs::remove_file(&self.file.path).unwrap();
            self.file.look();
        }

        fn mode(&self, scope: Scope) -> Mode {
            self.switch.page().get(self.switch.universe().slot(scope).unwrap()).mode
        }

        fn presses(&self) -> u64 {
            self.switch.tally().presses
        }

        fn reason(&self) -> String {
            self.switch.receipts(1)[0].reason.clone()
        }

        fn rearm(&self, scope: Scope) -> Result<(), RearmRefused> {
            let epoch = self.switch.page().get(self.switch.universe().slot(scope).unwrap()).epoch;
            let rearm = self.switch.ask_rearm(scope, epoch, "rita", "fixed", self.clock.now())?;
            if self.switch.policy().two_people[scope.kind() as usize] {
                self.switch.agree_rearm(rearm.id, "ruth", "seen", self.clock.now())?;
            }
            Ok(())
        }
    }

    #[test]
    fn each_appearance_is_one_press_and_going_away_rearms_nothing() {
        let mut world = World::new();
        assert_eq!((world.presses(), world.mode(Scope::Firm)), (0, Mode::Normal));
        world.put("");
        world.file.look();
        world.file.look();
        assert_eq!((world.presses(), world.mode(Scope::Firm)), (1, Mode::Halted));
        world.put("");
        assert_eq!(world.presses(), 2, "another file is another press");
        world.remove();
        assert_eq!((world.presses(), world.mode(Scope::Firm)), (2, Mode::Halted));
    }

    #[test]
    fn what_the_file_halts_cannot_be_rearmed_while_it_is_there() {
        let mut world = World::new();
        world.put("scope strategy:alpha\nreason runaway");
        assert_eq!((world.mode(ALPHA), world.mode(Scope::Firm)), (Mode::Halted, Mode::Normal));
        assert!(world.reason().starts_with("runaway ("), "{}", world.reason());
        assert_eq!(world.rearm(ALPHA), Err(RearmRefused::Held));
        world.put("");
        assert_eq!(world.rearm(Scope::Firm), Err(RearmRefused::Held));
        assert_eq!(world.rearm(ALPHA), Ok(()), "the file names the firm now");
        world.remove();
        assert_eq!(world.rearm(Scope::Firm), Ok(()));
        assert_eq!(world.mode(Scope::Firm), Mode::Normal);
    }

    #[test]
    fn a_rearm_that_waits_for_the_second_person_is_refused_when_the_file_appears() {
        let mut world = World::new();
        world.put("");
        world.remove();
        let epoch = world.switch.page().get(0).epoch;
        let pending = world.switch.ask_rearm(Scope::Firm, epoch, "rita", "fixed", world.clock.now()).unwrap();
        world.switch.hold(Some(Scope::Firm));
        let agreed = world.switch.agree_rearm(pending.id, "ruth", "seen", world.clock.now());
        assert_eq!(agreed, Err(RearmRefused::Held));
        assert_eq!(world.mode(Scope::Firm), Mode::Halted);
    }

    #[test]
    fn content_that_makes_no_sense_halts_the_firm_and_says_so() {
        let long = "x".repeat(SIZE_MAX as usize + 1);
        for nonsense in
            ["scope galaxy", "scope pair:alpha/ES", "x", "{", "{\"scope\": 5}", "{\"scop\": \"firm\"}", &long]
        {
            let mut world = World::new();
            world.put(nonsense);
            assert_eq!(world.mode(Scope::Firm), Mode::Halted, "{nonsense}");
            assert!(world.reason().contains("cannot be understood"), "{}", world.reason());
        }
        let mut world = World::new();
        fs::write(&world.file.path, [0xff, 0xfe]).unwrap();
        world.file.look();
        assert!(world.reason().contains("not text"), "{}", world.reason());
    }

    #[test]
    fn what_is_no_regular_file_halts_the_firm_and_is_not_waited_for() {
        let mut world = World::new();
        fs::create_dir(&world.file.path).unwrap();
        world.file.look();
        assert_eq!(world.mode(Scope::Firm), Mode::Halted);
        let mut world = World::new();
        std::os::unix::fs::symlink("nowhere", &world.file.path).unwrap();
        world.file.look();
        assert_eq!(world.mode(Scope::Firm), Mode::Halted);
        let mut world = World::new();
        assert!(std::process::Command::new("mkfifo").arg(&world.file.path).status().unwrap().success());
        world.file.look();
        assert!(world.reason().contains("not a regular file"), "{}", world.reason());
    }

    #[test]
    fn a_directory_that_is_gone_halts_the_firm_once() {
        let mut world = World::new();
        fs::remove_dir(world.dir.path()).unwrap();
        world.file.look();
        world.file.look();
        assert_eq!((world.presses(), world.mode(Scope::Firm)), (1, Mode::Halted));
        assert!(world.reason().contains("cannot be looked at"), "{}", world.reason());
        assert_eq!(world.rearm(Scope::Firm), Err(RearmRefused::Held));
    }

    #[test]
    fn a_file_that_is_there_at_start_is_obeyed_and_a_missing_directory_is_refused() {
        let World { dir, switch, clock, file } = World::new();
        fs::write(&file.path, "").unwrap();
        KillFile::watch(&file.path, switch.clone(), clock.clone(), World::audit(&clock));
        assert_eq!(switch.page().get(0).mode, Mode::Halted);
        assert!(check(&file.path).is_ok() && check(Path::new("KILL")).is_ok());
        assert!(check(&dir.path().join("none/KILL")).is_err());
        assert!(check(&file.path.join("KILL")).is_err());
    }

    #[test]
    fn both_forms_name_a_scope_and_a_reason() {
        let universe = universe();
        for text in [
            "scope strategy:alpha\nreason it buys all\n",
            "\n reason   it buys all\r\nscope strategy:alpha",
            "{\"scope\": \"strategy:alpha\", \"reason\": \"it buys all\"}",
        ] {
            assert_eq!(parse(text, &universe), Ok((ALPHA, "it buys all".to_owned())), "{text}");
        }
        assert_eq!(parse(" \n", &universe).unwrap().0, Scope::Firm);
        assert_eq!(parse("{}", &universe).unwrap().0, Scope::Firm);
        assert!(parse("scope firm\nscope strategy:alpha", &universe).is_err());
        assert!(parse("scope", &universe).is_err());
    }
}
