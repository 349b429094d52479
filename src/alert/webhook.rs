//! A signed webhook: every change of an alert once, in order, until the receiver has taken it.
//!
//! The form is that of the Standard Webhooks specification, so libraries for it can check the signature:
//!
//! ```text
//! webhook-id:        <instance>-<born>-<seq>     the same for every attempt: what was taken twice can be told by it
//! webhook-timestamp: <Unix seconds>              of the attempt: what is too old is a replay
//! webhook-signature: v1,<base64 of HMAC-SHA256(secret, "<id>.<timestamp>.<body>")>
//! ```

use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::alert::delivery::{Done, Outlet, Post};
use crate::duty::Clock;
use crate::kill::alerts::Alerts;

/// The shortest secret, in characters.
pub const SECRET_MIN: usize = 24;
/// What a secret begins with that is given as base64.
const BASE64_PREFIX: &str = "whsec_";

/// See the module.
pub struct Webhook {
    name: String,
    instance: String,
    clock: Arc<dyn Clock>,
    post: Post,
    key: Vec<u8>,
}

impl Webhook {
    /// The receiver called `name` at `post`'s address; `secret` as its file has it.
    ///
    /// # Errors
    /// If the secret begins with `whsec_`, and the rest is not base64.
    pub fn new(name: &str, instance: &str, clock: Arc<dyn Clock>, post: Post, secret: &str) -> Result<Webhook, String> {
        let key = match secret.strip_prefix(BASE64_PREFIX) {
            None => secret.as_bytes().to_vec(),
            Some(text) => from_base64(text).ok_or("the secret behind whsec_ must be base64")?,
        };
        Ok(Webhook { name: name.to_owned(), instance: instance.to_owned(), clock, post, key })
    }
}

/// The signature of a message as its header has it.
#[must_use]
pub fn sign(key: &[u8], id: &str, timestamp: &str, body: &[u8]) -> String {
    // A key of any length will do; only other MACs refuse some.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", base64(&mac.finalize().into_bytes()))
}

impl Outlet for Webhook {
    fn tell(&mut self, alerts: &Alerts) -> Result<Done, String> {
        let told = alerts.receiver(&self.name);
        let Some(change) = alerts.changes_after(told, 1).pop() else { return Ok(Done::Nothing) };
        let id = format!("{}-{:x}-{}", self.instance, alerts.born(), change.seq);
        let body = change.to_json(&id, &self.instance).to_string();
        let timestamp = (self.clock.now().unix.0 / 1_000_000_000).to_string();
        let signature = sign(&self.key, &id, &timestamp, body.as_bytes());
        let headers = [("webhook-id", &*id), ("webhook-timestamp", &*timestamp), ("webhook-signature", &*signature)];
        self.post.post(&headers, body.as_bytes())?;
        alerts.was_told(&self.name, change.seq);
        Ok(Done::Told(Some(change.at)))
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `bytes` in base64 with padding (RFC 4648, section 4).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let six = word >> (18 - 6 * place) & 63;
            text.push(if place <= three.len() { char::from(ALPHABET[six as usize]) } else { '=' });
        }
    }
    text
}

/// What [`base64`] made; `None` if it made no such text.
#[must_use]
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    let (mut bytes, mut word, mut bits) = (Vec::new(), 0u32, 0u32);
    for c in bare.bytes() {
        let six = ALPHABET.iter().position(|a| *a == c)?;
        word = word << 6 | six as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    (base64(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example of the Standard Webhooks specification's own libraries.
        let key = from_base64("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        for (id, timestamp, body) in [("other", "1614265330", "{}"), ("msg", "1614265331", "{}"), ("msg", "1", "{ }")] {
            assert_ne!(sign(&key, id, timestamp, body.as_bytes()), sign(&key, "msg", "1614265330", b"{}"));
        }
    }

    #[test]
    fn base64_goes_both_ways_and_refuses_what_it_did_not_make() {
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xee", "/+4=")]
        {
            assert_eq!((base64(bytes).as_str(), from_base64(text).as_deref()), (text, Some(bytes)));
        }
        for bad in ["Z", "Zg", "Zg=", "Zh==", "Z g=", "-_=="] {
            assert_eq!(from_base64(bad), None, "{bad}");
        }
    }
}
