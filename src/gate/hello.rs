//! What gateway and haltline say to each other over the local socket: messages of 256 bytes, one per packet
//! (`SOCK_SEQPACKET`), numbers little-endian, text padded with zeros.
//!
//! ```text
//! request   0  magic u32 0x4147_4C48 "HLGA" | version u16 | op u16 (1 attach, 2 look up, 3 claim, 4 text)
//!   attach  8  session name [64] | 72 token [72] | 144 build [64], what the gateway calls itself
//!           with the descriptor of its region, if it has one from before
//!   look up 8  scope kind u64 (1 account, 2 strategy, 4 instrument, 5 session) | 16 name [64]
//!   claim   8  what u64 (1 configuration hash, 2 host, 3 flag) | 16 name [64], of a flag | 80 value [72]
//!           before attach: what the gateway says of itself besides its build
//!   text    8  source u64 (1 log, 2 reject) | 16 text [240], a line of the gateway's log or a reject text, for the guard
//!
//! answer    0  magic | version | status u16 (0 done)
//!           8  eight numbers u64
//!          72  text [184]: what is wrong
//!   attach     numbers: session, words of the region, 1 if the kill's side passes the barrier for the gate (else the gate
//!              fences itself); with three descriptors: page, region, bell
//!   look up    numbers: the id
//! ```
//!
//! The connection stays open: its end tells haltline that the gateway has gone.

/// The first four bytes of every message.
pub const MAGIC: u32 = 0x4147_4C48;
/// The version of the messages.
pub const VERSION: u16 = 1;
/// Bytes of every message.
pub const LEN: usize = 256;
/// Longest name or build.
pub const NAME_MAX: usize = 63;
/// Longest token.
pub const TOKEN_MAX: usize = 71;

/// Longest text for the guard. What is longer is cut where a character begins: kinds of text are told apart by how they begin.
pub const TEXT_MAX: usize = 239;

/// What a gateway asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To be a session's gate.
    Attach {
        /// The session's name.
        session: String,
        /// Its token.
        token: String,
        /// The gateway's build.
        build: String,
    },
    /// To be known for something, said before [`Request::Attach`].
    Claim {
        /// What it is about.
        what: ClaimOf,
        /// The name of a flag; empty for the others.
        name: String,
        /// What is claimed.
        value: String,
    },
    /// To pass a text to the guard, said after [`Request::Attach`].
    Text {
        /// Where it is from.
        source: TextSource,
        /// The text.
        text: String,
    },
    /// For the id of a name.
    LookUp {
        /// [`ScopeKind`](crate::model::ScopeKind) as a number.
        kind: u64,
        /// The name.
        name: String,
    },
}

/// What a [`Request::Claim`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOf {
    /// The hash of the gateway's configuration.
    ConfigHash = 1,
    /// The host that it runs on.
    Host = 2,
    /// A feature flag.
    Flag = 3,
}

impl ClaimOf {
    /// Every one.
    pub const ALL: [ClaimOf; 3] = [ClaimOf::ConfigHash, ClaimOf::Host, ClaimOf::Flag];
}

/// Where a [`Request::Text`] is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextSource {
    /// A line of the gateway's log.
    Log = 1,
    /// The text of a venue's reject.
    Reject = 2,
}

impl TextSource {
    /// Every one.
    pub const ALL: [TextSource; 2] = [TextSource::Log, TextSource::Reject];

    /// Its word, as over WebSocket.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TextSource::Log => "log",
            TextSource::Reject => "reject",
        }
    }
}

/// What haltline answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done([u64; 8]),
    /// Not done.
    Refused {
        /// One of [`status`].
        status: u16,
        /// Why, for people.
        text: String,
    },
}

/// Why something was refused.
pub mod status {
    /// The message is none.
    pub const MALFORMED: u16 = 1;
    /// No such session, or no right to be it.
    pub const NOT_ALLOWED: u16 = 2;
    /// The session is attached, and its gateway alive.
    pub const IN_USE: u16 = 3;
    /// There is no such name.
    pub const UNKNOWN: u16 = 4;
    /// The region that was offered cannot be gone on with.
    pub const BAD_REGION: u16 = 5;
    /// Haltline cannot now.
    pub const UNAVAILABLE: u16 = 6;
}

/// A message that says nothing: which field, and what is wrong with it.
pub type BadMessage = (&'static str, &'static str);

fn head(out: &mut [u8; LEN], third: u16) {
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[6..8].copy_from_slice(&third.to_le_bytes());
}

fn put(out: &mut [u8], text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(out.len() - 1)];
    out[..bytes.len()].copy_from_slice(bytes);
}

/// As much of `text` as has room in `max` bytes, cut where a character begins.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn text(bytes: &[u8], field: &'static str) -> Result<String, BadMessage> {
    let end = bytes.iter().position(|&b| b == 0).ok_or((field, "does not end"))?;
    if bytes[end..].iter().any(|&b| b != 0) {
        return Err((field, "has something behind its end"));
    }
    core::str::from_utf8(&bytes[..end]).map(str::to_owned).map_err(|_| (field, "is not UTF-8"))
}

fn third(bytes: &[u8]) -> Result<u16, BadMessage> {
    if bytes.len() != LEN {
        return Err(("message", "is not 256 bytes long"));
    }
    if bytes[0..4] != MAGIC.to_le_bytes() {
        return Err(("magic", "is not HLGA"));
    }
    if bytes[4..6] != VERSION.to_le_bytes() {
        return Err(("version", "is not 1"));
    }
    Ok(u16::from_le_bytes([bytes[6], bytes[7]]))
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

fn rest_is_zero(bytes: &[u8]) -> Result<(), BadMessage> {
    if bytes.iter().all(|&b| b == 0) { Ok(()) } else { Err(("reserved bytes", "are not 0")) }
}

impl Request {
    /// As bytes. A name that is too long is cut off, and then names nothing; of a text the beginning is left.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        match self {
            Request::Attach { session, token, build } => {
                head(&mut out, 1);
                put(&mut out[8..72], session);
                put(&mut out[72..144], token);
                put(&mut out[144..208], build);
            }
            Request::Claim { what, name, value } => {
                head(&mut out, 3);
                out[8..16].copy_from_slice(&(*what as u64).to_le_bytes());
                put(&mut out[16..80], name);
                put(&mut out[80..152], value);
            }
            Request::Text { source, text } => {
                head(&mut out, 4);
                out[8..16].copy_from_slice(&(*source as u64).to_le_bytes());
                put(&mut out[16..], cut(text, TEXT_MAX));
            }
            Request::LookUp { kind, name } => {
                head(&mut out, 2);
                out[8..16].copy_from_slice(&kind.to_le_bytes());
                put(&mut out[16..80], name);
            }
        }
        out
    }

    /// From bytes.
    ///
    /// # Errors
    /// Which field is wrong, and how.
    pub fn decode(bytes: &[u8]) -> Result<Request, BadMessage> {
        match third(bytes)? {
            1 => {
                rest_is_zero(&bytes[208..])?;
                Ok(Request::Attach {
                    session: text(&bytes[8..72], "session")?,
                    token: text(&bytes[72..144], "token")?,
                    build: text(&bytes[144..208], "build")?,
                })
            }
            2 => {
                rest_is_zero(&bytes[80..])?;
                Ok(Request::LookUp { kind: number(bytes, 8), name: text(&bytes[16..80], "name")? })
            }
            3 => {
                rest_is_zero(&bytes[152..])?;
                let what = number(bytes, 8);
                let what = ClaimOf::ALL.into_iter().find(|known| *known as u64 == what);
                Ok(Request::Claim {
                    what: what.ok_or(("subject", "is not 1, 2 or 3"))?,
                    name: text(&bytes[16..80], "name")?,
                    value: text(&bytes[80..152], "value")?,
                })
            }
            4 => {
                let source = number(bytes, 8);
                let source = TextSource::ALL.into_iter().find(|known| *known as u64 == source);
                let source = source.ok_or(("source", "is not 1 or 2"))?;
                Ok(Request::Text { source, text: text(&bytes[16..], "text")? })
            }
            _ => Err(("op", "is not 1 to 4")),
        }
    }
}

impl Answer {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        match self {
            Answer::Done(numbers) => {
                head(&mut out, 0);
                for (i, n) in numbers.iter().enumerate() {
                    out[8 + 8 * i..16 + 8 * i].copy_from_slice(&n.to_le_bytes());
                }
            }
            Answer::Refused { status, text } => {
                head(&mut out, *status);
                put(&mut out[72..], cut(text, LEN - 73));
            }
        }
        out
    }

    /// From bytes.
    ///
    /// # Errors
    /// Which field is wrong, and how.
    pub fn decode(bytes: &[u8]) -> Result<Answer, BadMessage> {
        match third(bytes)? {
            0 => Ok(Answer::Done(core::array::from_fn(|i| number(bytes, 8 + 8 * i)))),
            status => Ok(Answer::Refused { status, text: text(&bytes[72..], "text")? }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_socket() {
        let attach =
            Request::Attach { session: "gw-1".into(), token: "t".repeat(TOKEN_MAX), build: "b".repeat(NAME_MAX) };
        let look_up = Request::LookUp { kind: 4, name: "BTC-USD".into() };
        let value = "v".repeat(TOKEN_MAX);
        let claim = ClaimOf::ALL.map(|what| Request::Claim { what, name: "rlp".into(), value: value.clone() });
        for request in [attach, look_up].into_iter().chain(claim) {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        let said = |text: &str| Request::Text { source: TextSource::Reject, text: text.into() };
        assert_eq!(Request::decode(&said("price 7 too far").encode()), Ok(said("price 7 too far")));
        assert_eq!(Request::decode(&said(&"ä".repeat(120)).encode()), Ok(said(&"ä".repeat(119))));
        let refused = Answer::Refused { status: status::IN_USE, text: "ä".repeat(200) };
        let Ok(Answer::Refused { status: 3, text }) = Answer::decode(&refused.encode()) else { panic!() };
        assert_eq!(text, "ä".repeat(91));
        let done = Answer::Done([1, 2, 3, 4, 5, 6, 7, u64::MAX]);
        assert_eq!(Answer::decode(&done.encode()), Ok(done));
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let good = Request::LookUp { kind: 2, name: "a".into() }.encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Request::decode(&bytes).unwrap_err().0
        };
        assert_eq!(with(0, 0), "magic");
        assert_eq!(with(4, 9), "version");
        assert_eq!(with(6, 9), "op");
        assert_eq!(with(16, 0xFF), "name");
        assert_eq!(with(40, 1), "name");
        assert_eq!(with(200, 1), "reserved bytes");
        let mut said = Request::Text { source: TextSource::Log, text: "a".into() }.encode();
        said[8] = 3;
        assert_eq!(Request::decode(&said).unwrap_err().0, "source");
        assert_eq!(Request::decode(&good[..255]).unwrap_err().0, "message");
    }
}
