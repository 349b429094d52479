//! `haltline.h` against the Rust side: the same numbers, the same records, the same lanes, and a gate in C that does what a
//! gate in Rust does. Every source is compiled and run as C11 and as C++17.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use haltline::gate::hello::{self, Answer, ClaimOf, Request, TextSource};
use haltline::gate::region::{self, GateKind, Region, RegionShape};
use haltline::kill::page::layout;
use haltline::model::record::VerdictRecord;
use haltline::model::{Event, EventKind, Mode, OrdType, Rule, Scope, ScopeKind, Side, Why};
use haltline::ring::lane::{self, Reader, Record, Writer, check_of};
use haltline::ring::shm::Words;
use haltline::ring::{bell, slots};
use haltline::units::{AccountId, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos};

use crate::support::cc::{Language, build};
use crate::support::{Lines, PATIENCE};

/// Runs `program` to its end, which must be a good one, and returns what it printed.
fn run(program: &Path, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn header_knows_every_number_of_the_layout() {
    let words = Words::heap(
        RegionShape { session: SessionId(1), kind: GateKind::Ask, base: 0, events: 8, verdicts: 8, slots: 1 }.words(),
    );
    let shape = RegionShape { session: SessionId(1), kind: GateKind::Ask, base: 0, events: 8, verdicts: 8, slots: 1 };
    let region = Region::make(words.clone(), shape);
    let at = |part: &Words| (part.as_ptr().addr() - words.as_ptr().addr()) / 8;
    let mut expected = vec![
        ("HL_I_PAGE_MAGIC".to_owned(), layout::MAGIC),
        ("HL_I_PAGE_VERSION".into(), layout::VERSION),
        ("HL_I_PAGE_AT_VERSION".into(), layout::AT_VERSION as u64),
        ("HL_I_PAGE_AT_ACCOUNTS".into(), layout::AT_ACCOUNTS as u64),
        ("HL_I_PAGE_AT_INSTRUMENTS".into(), layout::AT_INSTRUMENTS as u64),
        ("HL_I_PAGE_AT_STATE".into(), layout::AT_STATE as u64),
        ("HL_I_PAGE_AT_RAISED".into(), layout::AT_RAISED as u64),
        ("HL_I_PAGE_AT_EPOCH".into(), layout::AT_EPOCH as u64),
        ("HL_I_PAGE_AT_CHANGES".into(), layout::AT_CHANGES as u64),
        ("HL_I_PAGE_AT_LEASE".into(), layout::AT_LEASE as u64),
        ("HL_I_PAGE_AT_WORDS".into(), layout::AT_WORDS as u64),
        ("HL_I_PAGE_IN_SERVICE".into(), layout::IN_SERVICE),
        ("HL_I_REGION_MAGIC".into(), region::MAGIC),
        ("HL_I_REGION_VERSION".into(), region::VERSION),
        ("HL_I_REGION_AT_EVENT_CURSOR".into(), at(&region.event_cursor()) as u64),
        ("HL_I_REGION_AT_VERDICT_CURSOR".into(), at(&region.verdict_cursor()) as u64),
        ("HL_I_REGION_AT_ANSWERED".into(), at(&region.answered()) as u64),
        ("HL_I_REGION_AT_BODY".into(), at(&region.slots()) as u64),
        ("HL_I_MAX_PLACES".into(), region::MAX_PLACES.into()),
        ("HL_I_MAX_SLOTS".into(), region::MAX_SLOTS.into()),
        ("HL_I_SLOT_WORDS".into(), slots::SLOT_WORDS as u64),
        ("HL_I_SLOT_STATE".into(), slots::STATE as u64),
        ("HL_I_SLOT_OWNER".into(), slots::OWNER as u64),
        ("HL_I_RISK_CHECK".into(), haltline::model::record::RISK_CHECK),
        ("HL_I_RECORD_WORDS".into(), lane::RECORD_WORDS as u64),
        ("HL_I_STAMP".into(), lane::STAMP as u64),
        ("HL_I_BELL_WORDS".into(), bell::BELL_WORDS as u64),
        ("HL_I_HELLO_MAGIC".into(), hello::MAGIC.into()),
        ("HL_I_HELLO_VERSION".into(), hello::VERSION.into()),
        ("HL_I_HELLO_LEN".into(), hello::LEN as u64),
        ("HL_NAME_MAX".into(), hello::NAME_MAX as u64),
        ("HL_TOKEN_MAX".into(), hello::TOKEN_MAX as u64),
        ("HL_RULES".into(), Rule::COUNT as u64),
        ("HL_WHYS".into(), Why::ALL.len() as u64),
        ("HL_BUY".into(), Side::Buy as u64),
        ("HL_SELL".into(), Side::Sell as u64),
        ("HL_LIMIT".into(), OrdType::Limit as u64),
        ("HL_MARKET".into(), OrdType::Market as u64),
        ("HL_STOP".into(), OrdType::Stop as u64),
        ("HL_STOP_LIMIT".into(), OrdType::StopLimit as u64),
        ("HL_KIND_ASK".into(), GateKind::Ask as u64),
        ("HL_KIND_OBSERVE".into(), GateKind::Observe as u64),
        ("HL_REFUSED_MALFORMED".into(), hello::status::MALFORMED.into()),
        ("HL_REFUSED_NOT_ALLOWED".into(), hello::status::NOT_ALLOWED.into()),
        ("HL_REFUSED_IN_USE".into(), hello::status::IN_USE.into()),
        ("HL_REFUSED_UNKNOWN".into(), hello::status::UNKNOWN.into()),
        ("HL_REFUSED_BAD_REGION".into(), hello::status::BAD_REGION.into()),
        ("HL_REFUSED_UNAVAILABLE".into(), hello::status::UNAVAILABLE.into()),
        ("rule:?".into(), Rule::COUNT as u64),
        ("why:?".into(), Why::ALL.len() as u64),
    ];
    let upper = |name: &str| format!("HL_{}", name.to_uppercase());
    expected.extend(EventKind::ALL.iter().map(|kind| (upper(kind.name()), *kind as u64)));
    expected.extend(ScopeKind::ALL.iter().map(|kind| (upper(kind.name()), *kind as u64)));
    expected.extend(ScopeKind::ALL.iter().map(|kind| (format!("scope:{}", kind.name()), *kind as u64)));
    expected.extend(Rule::ALL.iter().map(|rule| (format!("rule:{}", rule.name()), *rule as u64)));
    expected.extend(Why::ALL.iter().map(|why| (format!("why:{}", why.name()), *why as u64)));
    for mode in [Mode::Normal, Mode::ReduceOnly, Mode::Halted] {
        expected.push((upper(mode.name()), mode as u64));
        expected.push((format!("mode:{}", mode.name()), mode as u64));
    }
    expected.sort();
    for language in Language::BOTH {
        let printed = run(&build("tests/c/layout.c", language), &[]);
        let mut has: Vec<(String, u64)> = printed
            .lines()
            .map(|line| line.rsplit_once(' ').map(|(name, n)| (name.to_owned(), n.parse().unwrap())).unwrap())
            .collect();
        has.sort();
        assert_eq!(has, expected, "{language:?}");
    }
}

/// Asks a program all of `questions` at once and returns its answers.
fn ask_all(program: &Path, questions: &[String]) -> Vec<String> {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = Lines::of(child.stdout.take().unwrap());
    stdin.write_all((questions.join("\n") + "\n").as_bytes()).unwrap();
    drop(stdin);
    let answers = lines.rest();
    let status = child.wait().unwrap();
    assert!(status.success() && answers.len() == questions.len(), "{status}: {} answers", answers.len());
    answers
}

fn text(words: &Record) -> String {
    words.map(|w| w.to_string()).join(" ")
}

/// A number that is often a special one.
fn number(rng: &mut ChaCha12Rng) -> u64 {
    match rng.next_u32() % 8 {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << (rng.next_u32() % 64),
        3 => u64::from(rng.next_u32() % 40),
        _ => rng.next_u64(),
    }
}

#[test]
fn records_are_the_same_words_in_both_languages() {
    let mut rng = ChaCha12Rng::seed_from_u64(11);
    let (mut questions, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..20_000 {
        let record: Record = std::array::from_fn(|_| number(&mut rng));
        questions.push(format!("check {}", text(&record)));
        expected.push(check_of(&record).to_string());
    }
    for _ in 0..5_000 {
        let event = Event {
            kind: EventKind::ALL[rng.next_u32() as usize % EventKind::ALL.len()],
            side: if rng.next_u32().is_multiple_of(2) { Side::Buy } else { Side::Sell },
            ord_type: OrdType::from_u8(1 + (rng.next_u32() % 4) as u8).unwrap(),
            flags: 0,
            session: SessionId(0),
            account: AccountId(number(&mut rng) as u16),
            strategy: StrategyId(number(&mut rng) as u16),
            reserved: 0,
            instrument: InstrumentId(number(&mut rng) as u32),
            seq: 0,
            sent_at: UnixNanos(number(&mut rng)),
            id: OrdId(number(&mut rng)),
            ref_id: number(&mut rng),
            qty: Qty(number(&mut rng) as i64),
            px: Px(number(&mut rng) as i64),
        };
        let Event { kind, side, ord_type, account, strategy, instrument, sent_at, id, ref_id, qty, px, .. } = event;
        questions.push(format!(
            "event {} {} {} {} {} {} {} {} {ref_id} {} {}",
            kind as u8, side as u8, ord_type as u8, account.0, strategy.0, instrument.0, sent_at.0, id.0, qty.0, px.0
        ));
        expected.push(text(&event.to_record()));
    }
    for (field, bad) in [("kind", "0 1 1"), ("kind", "20 1 1"), ("side", "1 0 1"), ("side", "1 3 1")]
        .into_iter()
        .chain([("ord_type", "1 1 0"), ("ord_type", "1 1 5")])
    {
        let value = bad.split(' ').find(|n| *n != "1").unwrap();
        questions.push(format!("event {bad} 0 0 0 0 1 0 1 1"));
        expected.push(format!("bad {field} {value}"));
    }
    for language in Language::BOTH {
        let answers = ask_all(&build("tests/c/records.c", language), &questions);
        for ((question, answer), expected) in questions.iter().zip(&answers).zip(&expected) {
            assert_eq!(answer, expected, "{language:?}: {question}");
        }
    }
}

fn verdict_text(record: &Record) -> String {
    let verdict = match VerdictRecord::from_record(record) {
        Ok(verdict) => verdict,
        Err(bad) => return format!("bad {} {}", bad.field, bad.value),
    };
    let VerdictRecord { seq, id, kind, denial, checks } = verdict;
    let Some(d) = denial else { return format!("{seq} {} {} admitted 0 0 0 0 0 0 0 {checks}", id.0, kind as u8) };
    let (strategy, index) = match d.scope {
        Scope::Firm => (0, 0),
        Scope::Account(a) => (0, u32::from(a.0)),
        Scope::Strategy(s) => (0, u32::from(s.0)),
        Scope::Pair(s, i) => (s.0, i.0),
        Scope::Instrument(i) => (0, i.0),
        Scope::Session(s) => (0, u32::from(s.0)),
    };
    let scope = d.scope.kind() as u8;
    format!(
        "{seq} {} {} denied {} {} {scope} {strategy} {index} {} {} {checks}",
        id.0, kind as u8, d.rule as u8, d.why as u8, d.observed, d.limit
    )
}

#[test]
fn verdicts_are_read_alike_and_nonsense_is_refused_alike() {
    let mut rng = ChaCha12Rng::seed_from_u64(12);
    let mut questions = Vec::new();
    let mut records = Vec::new();
    for _ in 0..20_000 {
        let mut record: Record = std::array::from_fn(|_| number(&mut rng));
        // Mostly possible, now and then one step beyond.
        let below = |rng: &mut ChaCha12Rng, n: u64| u64::from(rng.next_u32()) % n;
        let (kind, denied) = (below(&mut rng, 21), below(&mut rng, 17).min(2));
        let (rule, why, scope) = (below(&mut rng, 43), below(&mut rng, 8), below(&mut rng, 7));
        let denied = if denied == 2 && rng.next_u32().is_multiple_of(2) { 1 } else { denied };
        record[0] = kind | denied << 8 | rule << 16 | why << 24 | scope << 48;
        questions.push(format!("verdict {}", text(&record)));
        records.push(record);
    }
    let expected: Vec<String> = records.iter().map(verdict_text).collect();
    for word in ["admitted", "denied", "bad kind", "bad denied", "bad rule", "bad why", "bad scope"] {
        assert!(expected.iter().filter(|line| line.contains(word)).count() > 20, "{word}");
    }
    for language in Language::BOTH {
        let answers = ask_all(&build("tests/c/records.c", language), &questions);
        for ((question, answer), expected) in questions.iter().zip(&answers).zip(&expected) {
            assert_eq!(answer, expected, "{language:?}: {question}");
        }
    }
}

#[test]
fn messages_over_the_socket_are_the_same_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (long, longest) = ("x".repeat(64), "y".repeat(71));
    let attach = Request::Attach { session: "gw-1".into(), token: longest.clone(), build: "desk 7".replace(' ', "-") };
    let look_up = Request::LookUp { kind: 4, name: "BTC-USD".into() };
    let claim =
        |what, name: &str, value: &str| hex(&Request::Claim { what, name: name.into(), value: value.into() }.encode());
    let said = |source, text: &str| hex(&Request::Text { source, text: text.into() }.encode());
    let done = Answer::Done([1, 2, 3, 4, 5, 6, 7, u64::MAX]).encode();
    let refused = Answer::Refused { status: hello::status::IN_USE, text: "in use since ä".into() }.encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = done;
        bytes[at] = byte;
        bytes
    };
    let unfit = "haltline and this header do not fit together:";
    let cases = [
        (format!("attach gw-1 {longest} desk-7"), hex(&attach.encode())),
        (format!("attach gw-1 {longest}y desk-7"), "token has 72 bytes; there may be 71".into()),
        (format!("attach {long} {longest} desk-7"), "session has 64 bytes; there may be 63".into()),
        (format!("attach gw-1 {longest} {long}"), "build has 64 bytes; there may be 63".into()),
        ("lookup 4 BTC-USD".into(), hex(&look_up.encode())),
        (format!("lookup 4 {long}"), "name has 64 bytes; there may be 63".into()),
        (format!("claim 1 - {longest}"), claim(ClaimOf::ConfigHash, "", &longest)),
        ("claim 2 - tor-7".into(), claim(ClaimOf::Host, "", "tor-7")),
        ("claim 3 rlp on".into(), claim(ClaimOf::Flag, "rlp", "on")),
        (format!("claim 3 {long} on"), "flag has 64 bytes; there may be 63".into()),
        (format!("claim 3 rlp {longest}y"), "claim has 72 bytes; there may be 71".into()),
        ("text 1 Power Peg disabled".into(), said(TextSource::Log, "Power Peg disabled")),
        (format!("text 2 {}", "ä".repeat(120)), said(TextSource::Reject, &"ä".repeat(119))),
        ("text 3 x".into(), "source is neither HL_TEXT_LOG nor HL_TEXT_REJECT".into()),
        (format!("answer {}", hex(&done)), format!("done 1 2 3 4 5 6 7 {}", u64::MAX)),
        (format!("answer {}", hex(&refused)), "3 3 haltline refused: in use since ä".into()),
        (format!("answer {}", hex(&done[..255])), format!("4 0 {unfit} an answer has 255 bytes instead of 256")),
        (format!("answer {}", hex(&with(0, 1))), format!("4 0 {unfit} not haltline's answer")),
        (format!("answer {}", hex(&with(4, 2))), format!("4 0 {unfit} messages of version 2, this header's are 1")),
    ];
    let questions: Vec<String> = cases.iter().map(|(question, _)| question.clone()).collect();
    for language in Language::BOTH {
        let answers = ask_all(&build("tests/c/records.c", language), &questions);
        for ((question, expected), answer) in cases.iter().zip(&answers) {
            assert_eq!(answer, expected, "{language:?}: {question}");
        }
    }
}

/// The lane of `tests/c/lane.c` in a file: the cursor in the first word, the places from word 512 on.
struct LaneFile {
    dir: tempfile::TempDir,
    places: Words,
    cursor: Words,
}

const PLACES: usize = 64;

impl LaneFile {
    fn new() -> LaneFile {
        let dir = tempfile::tempdir().unwrap();
        let len = 512 + PLACES * lane::RECORD_WORDS;
        let (words, _, _) = Words::in_file(&dir.path().join("lane"), len, 0o600).unwrap();
        LaneFile { dir, places: words.part(512..len), cursor: words.part(0..1) }
    }

    fn command(&self, language: Language, end: &str, count: u64) -> Command {
        let mut command = Command::new(build("tests/c/lane.c", language));
        command.arg(end).arg(self.dir.path().join("lane")).args([PLACES.to_string(), count.to_string()]);
        command.stdout(Stdio::piped());
        command
    }
}

/// As `record_of` in `tests/c/lane.c`.
fn record_of(position: u64) -> Record {
    std::array::from_fn(|i| position.wrapping_add(i as u64 * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// `record` without its check and stamp.
fn bare(mut record: Record) -> Record {
    record[0] &= !0x0000_FFFF_0000_0000;
    record[1] &= !0x0000_0000_FFFF_0000;
    record[lane::STAMP] = 0;
    record
}

/// One end of the lane in a process of its own, which does not outlive the test.
struct End {
    child: Child,
    lines: Lines,
}

impl End {
    fn start(mut command: Command) -> End {
        let mut child = command.spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        End { child, lines }
    }

    /// How often it waited, when it has come to its end.
    fn waited(mut self) -> u64 {
        let waited = self.lines.next().parse().unwrap();
        assert!(self.child.wait().unwrap().success());
        waited
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const RECORDS: u64 = 1_000_000;
const SPINS: u64 = 256;

/// Waits so closely behind the other end that what is a store too early is seen, and yields the core now and then.
fn pause(waited: &mut u64) {
    *waited += 1;
    if waited.is_multiple_of(SPINS) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

#[test]
fn c_writer_and_rust_reader_lose_tear_and_repeat_nothing() {
    for language in Language::BOTH {
        let lane = LaneFile::new();
        let mut reader = Reader::resume(lane.places.clone(), lane.cursor.clone());
        let end = End::start(lane.command(language, "write", RECORDS));
        // The lane is full before anything is taken.
        let last = (PLACES - 1) * lane::RECORD_WORDS + lane::STAMP;
        let begin = Instant::now();
        while lane.places[last].load(Ordering::Acquire) == 0 {
            assert!(begin.elapsed() < PATIENCE, "{language:?}: it writes nothing");
            std::thread::yield_now();
        }
        let mut waited = 0;
        while reader.position() <= RECORDS {
            let expected = reader.position();
            match reader.pop().unwrap() {
                Some(record) => assert_eq!(bare(record), bare(record_of(expected)), "{language:?} {expected}"),
                None => pause(&mut waited),
            }
        }
        assert_eq!(reader.pop(), Ok(None));
        assert!(end.waited() > 0, "{language:?}: it was never full");
    }
}

#[test]
fn rust_writer_and_c_reader_lose_tear_and_repeat_nothing() {
    for language in Language::BOTH {
        let lane = LaneFile::new();
        let mut writer = Writer::resume(lane.places.clone(), lane.cursor.clone()).unwrap();
        let mut full = 0_u64;
        while writer.push(record_of(writer.position())).unwrap().is_some() {}
        assert_eq!(writer.position(), PLACES as u64 + 1);
        let mut end = End::start(lane.command(language, "read", RECORDS));
        while writer.position() <= RECORDS {
            if writer.push(record_of(writer.position())).unwrap().is_none() {
                pause(&mut full);
                if full.is_multiple_of(SPINS) {
                    assert_eq!(end.child.try_wait().unwrap(), None, "{language:?}: it does not read to the end");
                }
            }
        }
        end.waited();
        assert!(full > 0);
        assert_eq!(writer.room(), Ok(PLACES as u64), "{language:?}: everything was released");
    }
}

#[test]
fn c_writer_that_is_killed_at_any_moment_goes_on_where_it_was() {
    let lane = LaneFile::new();
    let mut reader = Reader::resume(lane.places.clone(), lane.cursor.clone());
    let mut rng = ChaCha12Rng::seed_from_u64(13);
    for _ in 0..40 {
        let end = End::start(lane.command(Language::C, "write", u64::MAX / 4));
        let until = reader.position() + u64::from(rng.next_u32() % 5_000);
        while reader.position() <= until {
            let expected = reader.position();
            match reader.pop().unwrap() {
                Some(record) => assert_eq!(bare(record), bare(record_of(expected)), "{expected}"),
                None => std::thread::yield_now(),
            }
        }
        drop(end);
    }
}

#[test]
fn c_reader_that_is_killed_at_any_moment_loses_nothing() {
    let lane = LaneFile::new();
    let mut writer = Writer::resume(lane.places.clone(), lane.cursor.clone()).unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(14);
    for _ in 0..40 {
        // The reader compares every record with what its position should hold, so a lost one ends it with an error.
        let mut end = End::start(lane.command(Language::C, "read", u64::MAX / 4));
        let until = writer.position() + PLACES as u64 + u64::from(rng.next_u32() % 5_000);
        while writer.position() <= until {
            if writer.push(record_of(writer.position())).unwrap().is_none() {
                assert_eq!(end.child.try_wait().unwrap(), None, "it found a record that is not what was written");
                std::thread::yield_now();
            }
        }
        drop(end);
    }
}

#[test]
fn c_reader_sees_every_flipped_bit() {
    for word in 0..lane::RECORD_WORDS {
        for bit in [0, 1, 15, 16, 31, 32, 47, 48, 63] {
            let lane = LaneFile::new();
            let mut writer = Writer::resume(lane.places.clone(), lane.cursor.clone()).unwrap();
            writer.push(record_of(1)).unwrap().unwrap();
            // Bit 0 of the first stamp makes it 0: as if it had never been written, which the reader would wait for.
            if word == lane::STAMP && bit == 0 {
                continue;
            }
            lane.places[word].fetch_xor(1 << bit, Ordering::Relaxed);
            let out = lane.command(Language::C, "read", 1).stderr(Stdio::piped()).output().unwrap();
            assert_eq!(out.status.code(), Some(1), "word {word} bit {bit}");
            let text = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(text.starts_with("pop: "), "word {word} bit {bit}: {text}");
        }
    }
}
