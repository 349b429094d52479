//! What a gateway says of itself when it comes: its build, configuration, feature flags and host. A claim and nothing more: what
//! can be measured is measured, and counts for more.

/// What a gateway says of itself. Every part may be missing. Texts are bounded and printable, so that they can stand in logs,
/// files and terminals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    build: Option<String>,
    config_hash: Option<String>,
    host: Option<String>,
    /// By name, each once, in the order of the names.
    flags: Vec<(String, String)>,
}

/// Why a part of a claim is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadClaim {
    /// Which part.
    pub field: &'static str,
    /// The rule that it broke.
    pub rule: &'static str,
}

impl Claim {
    /// The longest text of a part, in bytes.
    pub const TEXT_MAX: usize = 63;
    /// The longest configuration hash, in digits.
    pub const HASH_MAX: usize = 64;
    /// The most flags.
    pub const FLAGS_MAX: usize = 64;

    /// A claim of nothing but a build; an empty one is none.
    ///
    /// # Errors
    /// As [`Claim::set_build`].
    pub fn of_build(build: &str) -> Result<Claim, BadClaim> {
        let mut claim = Claim::default();
        if !build.is_empty() {
            claim.set_build(build)?;
        }
        Ok(claim)
    }

    /// The build is called `text`: 1 to 63 bytes without control characters.
    ///
    /// # Errors
    /// If it is something else.
    pub fn set_build(&mut self, text: &str) -> Result<(), BadClaim> {
        self.build = Some(words("build", text)?);
        Ok(())
    }

    /// The hash of its configuration: 8 to 64 digits out of 0-9 a-f.
    ///
    /// # Errors
    /// If it is something else.
    pub fn set_config_hash(&mut self, text: &str) -> Result<(), BadClaim> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !digits || !(8..=Claim::HASH_MAX).contains(&text.len()) {
            return Err(BadClaim { field: "config_hash", rule: "must be 8 to 64 digits out of 0-9 a-f" });
        }
        self.config_hash = Some(text.to_owned());
        Ok(())
    }

    /// The host that it runs on, as it calls itself: 1 to 63 bytes without control characters.
    ///
    /// # Errors
    /// If it is something else.
    pub fn set_host(&mut self, text: &str) -> Result<(), BadClaim> {
        self.host = Some(words("host", text)?);
        Ok(())
    }

    /// The feature flag `name` has `value`. A name is 1 to 63 characters out of A-Z a-z 0-9 . _ -, a value at most 63 bytes
    /// without control characters.
    ///
    /// # Errors
    /// If one of them is something else, the flag was named before, or there are 64 already.
    pub fn add_flag(&mut self, name: &str, value: &str) -> Result<(), BadClaim> {
        let bad = |rule| Err(BadClaim { field: "flags", rule });
        if !is_flag_name(name) {
            return bad("a flag's name must be 1 to 63 characters out of A-Z a-z 0-9 . _ -");
        }
        if value.len() > Claim::TEXT_MAX || value.chars().any(char::is_control) {
            return bad("a flag's value must be at most 63 bytes without control characters");
        }
        match self.flags.binary_search_by(|(known, _)| known.as_str().cmp(name)) {
            Ok(_) => bad("a flag must not be named twice"),
            Err(_) if self.flags.len() >= Claim::FLAGS_MAX => bad("there may be 64 flags"),
            Err(at) => {
                self.flags.insert(at, (name.to_owned(), value.to_owned()));
                Ok(())
            }
        }
    }

    /// What it calls its build.
    #[must_use]
    pub fn build(&self) -> Option<&str> {
        self.build.as_deref()
    }

    /// The hash of its configuration.
    #[must_use]
    pub fn config_hash(&self) -> Option<&str> {
        self.config_hash.as_deref()
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Its flags, in the order of their names.
    #[must_use]
    pub fn flags(&self) -> &[(String, String)] {
        &self.flags
    }
}

/// Whether `text` can be a flag's name.
#[must_use]
pub fn is_flag_name(text: &str) -> bool {
    (1..=Claim::TEXT_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

/// Whether a flag with this value is set: anything but nothing, `off`, `false`, `no` and `0`.
#[must_use]
pub fn is_set(value: &str) -> bool {
    !["", "off", "false", "no", "0"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn words(field: &'static str, text: &str) -> Result<String, BadClaim> {
    let fits = (1..=Claim::TEXT_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(BadClaim { field, rule: "must be 1 to 63 bytes without control characters" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_holds_what_can_be_shown_and_nothing_else() {
        let mut claim = Claim::of_build("router 2.4.1").unwrap();
        claim.set_config_hash("0123456789abcdef").unwrap();
        claim.set_host("tor-7").unwrap();
        claim.add_flag("rlp", "on").unwrap();
        claim.add_flag("a.b", "").unwrap();
        assert_eq!((claim.build(), claim.host()), (Some("router 2.4.1"), Some("tor-7")));
        assert_eq!(claim.flags(), [("a.b".to_owned(), String::new()), ("rlp".to_owned(), "on".to_owned())]);
        let before = claim.clone();
        assert_eq!(claim.add_flag("rlp", "off").unwrap_err().rule, "a flag must not be named twice");
        for (name, value) in
            [("", "x"), ("a b", "x"), ("c", "\u{1b}[2J"), (&*"n".repeat(64), ""), ("d", &"v".repeat(64))]
        {
            assert_eq!(claim.add_flag(name, value).unwrap_err().field, "flags", "{name:?}");
        }
        for hash in ["", "0123456", "ABCDEF01", &"0".repeat(65)] {
            assert_eq!(claim.set_config_hash(hash).unwrap_err().field, "config_hash", "{hash:?}");
        }
        assert!(claim.set_host("").is_err() && claim.set_build("a\nb").is_err());
        assert_eq!(claim, before, "what is refused changes nothing");
        for n in 0..62 {
            claim.add_flag(&format!("f{n}"), "1").unwrap();
        }
        assert_eq!(claim.add_flag("one-more", "1").unwrap_err().rule, "there may be 64 flags");
        assert_eq!(Claim::of_build(""), Ok(Claim::default()));
    }

    #[test]
    fn a_flag_is_set_unless_its_value_says_no() {
        for off in ["", "off", "OFF", "false", "no", "0"] {
            assert!(!is_set(off), "{off}");
        }
        for on in ["on", "1", "true", "yes", "percent=5"] {
            assert!(is_set(on), "{on}");
        }
    }
}
