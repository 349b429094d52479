//! Session tokens: kept as hashes, compared in constant time.

use subtle::ConstantTimeEq as _;

use crate::ingest::ws::Authenticate;
use crate::units::SessionId;

/// The BLAKE3 hash of each session's token.
#[derive(Debug)]
pub struct SessionTokens {
    hashes: Vec<Option<[u8; 32]>>,
}

impl SessionTokens {
    /// By [`SessionId`]; a session without a hash cannot connect.
    #[must_use]
    pub fn new(hashes: Vec<Option<[u8; 32]>>) -> SessionTokens {
        SessionTokens { hashes }
    }
}

impl Authenticate for SessionTokens {
    fn session(&self, bearer: &str) -> Option<SessionId> {
        let presented = blake3::hash(bearer.as_bytes());
        let mut found = None;
        // Every hash is compared, so that the time tells nothing about which one matched.
        for (index, hash) in self.hashes.iter().enumerate() {
            if let Some(hash) = hash
                && bool::from(hash.ct_eq(presented.as_bytes()))
            {
                found = Some(SessionId(index as u16));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_by_its_token_and_by_nothing_else() {
        let hash = |text: &str| Some(*blake3::hash(text.as_bytes()).as_bytes());
        let tokens = SessionTokens::new(vec![hash("one"), None, hash("three")]);
        assert_eq!(tokens.session("one"), Some(SessionId(0)));
        assert_eq!(tokens.session("three"), Some(SessionId(2)));
        for wrong in ["", "two", "One", "one "] {
            assert_eq!(tokens.session(wrong), None, "{wrong:?}");
        }
    }
}
