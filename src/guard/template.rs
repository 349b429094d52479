//! What kind of text it is: the text without what differs from one of its kind to the next.
//!
//! ```text
//! order 8812 of S014 rejected: price 10.25 outside "20.00-30.00" (id=7f3a-11)
//! order <*> of <name> rejected: price <*> outside <quoted> (id=<*>)
//! ```
//!
//! Tokens with a digit, long hexadecimal ones, what stands in quotes, and names that the configuration knows are masked.
//! Words in capitals stay: `HALT` is not the same as `FILL`. Where one place of a text takes ever more of them (symbols
//! that the configuration does not know), [`crate::guard::signatures`] masks these, too.

use std::collections::HashSet;

/// Bytes of a text that are looked at; what is beyond is cut off.
pub const TEXT_MAX: usize = 1_024;
/// Tokens of a template; what is beyond becomes `…`.
const TOKENS_MAX: usize = 48;
/// Hexadecimal digits that need no decimal one among them to be an id.
const HEX_MIN: usize = 8;
/// What stands for a number or an id.
const ANY: &str = "<*>";
/// What stands for a known name.
const NAME: &str = "<name>";
/// What stands for words in capitals where they are masked.
const CAPITALS: &str = "<CAPS>";

/// A text's template, and the same with words in capitals masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What it is known by.
    pub text: String,
    /// With words in capitals masked; the same if there are none, or nothing else.
    pub skeleton: String,
}

impl Template {
    /// The template of `text`; `names` are known names.
    #[must_use]
    pub fn of(text: &str, names: &HashSet<String>) -> Template {
        let text = cut(text, TEXT_MAX);
        let (mut full, mut skeleton) = (String::new(), String::new());
        let (mut words, mut capitals) = (0, 0);
        for (at, token) in tokens(text).enumerate() {
            let gap = if at == 0 { "" } else { " " };
            if at == TOKENS_MAX {
                full += " …";
                skeleton += " …";
                break;
            }
            let masked = mask(token, names);
            words += 1;
            let is_capitals = is_capitals(&masked);
            capitals += usize::from(is_capitals);
            skeleton += gap;
            skeleton += if is_capitals { CAPITALS } else { &masked };
            full += gap;
            full += &masked;
        }
        // A text that is all capitals shouts; it is no list of symbols.
        if 2 * capitals > words {
            skeleton.clone_from(&full);
        }
        Template { text: full, skeleton }
    }
}

fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Words, and what stands in quotes as one.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c.is_control());
        let first = rest.chars().next()?;
        // An apostrophe within a word is none of these.
        let quoted = ['"', '\'', '`'].contains(&first).then(|| rest[1..].find(first)).flatten();
        let end = match quoted {
            Some(at) => at + 2,
            None => rest.find(|c: char| c.is_whitespace() || c.is_control()).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(end);
        rest = after;
        Some(token)
    })
}

fn mask(token: &str, names: &HashSet<String>) -> String {
    if token.len() > 1 && token.starts_with(['"', '\'', '`']) {
        return "<quoted>".to_owned();
    }
    // `key=value` and `key:value` keep their key.
    if let Some((key, value)) = token.split_once(['=', ':'])
        && !key.is_empty()
        && !value.is_empty()
        && key.chars().all(|c| c.is_alphabetic() || "_-.([{".contains(c))
    {
        let sign = &token[key.len()..=key.len()];
        return format!("{key}{sign}{}", mask(value, names));
    }
    let bare = |c: char| !c.is_alphanumeric() && !"_-./".contains(c);
    let core = token.trim_matches(bare).trim_end_matches('.');
    let Some(at) = token.find(core).filter(|_| !core.is_empty()) else { return token.to_owned() };
    let hex = core.len() >= HEX_MIN && core.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let masked = if names.contains(core) {
        NAME
    } else if hex || core.bytes().any(|b| b.is_ascii_digit()) {
        ANY
    } else {
        return token.to_owned();
    };
    format!("{}{masked}{}", &token[..at], &token[at + core.len()..])
}

fn is_capitals(token: &str) -> bool {
    let core = token.trim_matches(|c: char| !c.is_alphanumeric());
    !core.is_empty() && !token.contains('<') && core.chars().all(|c| c.is_uppercase() || ".-/_".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> String {
        let names = ["ACME", "S014", "gw-8", "alpha"].map(str::to_owned).into();
        Template::of(text, &names).text
    }

    #[test]
    fn what_differs_within_a_kind_is_masked_and_nothing_else() {
        for (text, expected) in [
            ("Power Peg disabled", "Power Peg disabled"),
            ("Power Peg enabled", "Power Peg enabled"),
            ("order 8812 of S014 rejected", "order <*> of <name> rejected"),
            ("price 10.25, id=7f3a-11; qty:500", "price <*>, id=<*>; qty:<*>"),
            ("no route to \"NYSE ARCA\" (ACME)", "no route to <quoted> (<name>)"),
            ("session deadbeefcafe ended.", "session <*> ended."),
            ("2012-08-01T08:01:55Z SMARS[4711]: Power Peg disabled", "<*> <*>: Power Peg disabled"),
            ("it's 'odd' here", "it's <quoted> here"),
            ("  tabs\tand\nlines  ", "tabs and lines"),
            ("alpha: limit reached", "<name>: limit reached"),
            ("", ""),
        ] {
            assert_eq!(template(text), expected, "{text:?}");
        }
    }

    #[test]
    fn words_in_capitals_stay_and_are_masked_in_the_skeleton_only() {
        let of = |text: &str| Template::of(text, &HashSet::new());
        assert_eq!(of("no quote for XYZ today").text, "no quote for XYZ today");
        assert_eq!(of("no quote for XYZ today").skeleton, of("no quote for QRS today").skeleton);
        assert_eq!(of("HALT ALL").skeleton, "HALT ALL");
    }

    #[test]
    fn any_text_has_a_template_of_bounded_size() {
        let long = "äöü ".repeat(10_000);
        assert!(Template::of(&long, &HashSet::new()).text.len() <= 4 * TEXT_MAX);
        for odd in
            ["\u{0}\u{1}", "\"", "'''", "=", "a=", "=b", "a=b=c=1", "::::", "…", "9", "\u{10ffff}9", "x\"y", "(.)"]
        {
            let once = template(odd);
            assert_eq!(template(odd), once);
        }
    }
}
