//! No change of a text makes it panic.

use proptest::prelude::*;

use super::*;

/// One change of a text: at a byte (rounded to a character), so many bytes away, and a piece put in.
fn edit() -> impl Strategy<Value = (prop::sample::Index, usize, usize)> {
    (any::<prop::sample::Index>(), 0usize..12, 0usize..PIECES.len())
}

const PIECES: &[&str] = &[
    "",
    "",
    "0",
    "-1",
    "9",
    "99999999999999999999",
    "1e9",
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "#",
    "*",
    "/",
    "\"*\"",
    "\"unlimited\"",
    "\"halt:session\"",
    "true",
    "1.5",
    "nan",
    "\"0.5\"",
    "\"7d\"",
    "\"1ns\"",
    "inf",
    "ü",
    "\u{0}",
    "\r\n",
    "[limits.pair.\"alpha/*\"]\nposition_long = 1\n",
    "[instrument_series]\nprefix = \"Q\"\ncount = 40\n",
    "others = \"unlimited\"\n",
    "qty_scale = 12\n",
    "multiplier = \"0.000000000001\"\n",
    "max = ",
    "warn = [1, 2]",
    "0x1F",
    "1979-05-27",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_the_example_makes_it_panic(
        edits in prop::collection::vec(edit(), 0..5),
        lines in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..3),
    ) {
        let mut rows: Vec<&str> = EXAMPLE.lines().filter(|l| !l.trim_start().starts_with('#')).collect();
        for (a, b) in &lines {
            let (a, b) = (a.index(rows.len()), b.index(rows.len()));
            let row = rows.remove(a);
            rows.insert(b.min(rows.len()), row);
        }
        let mut text = rows.join("\n");
        for (at, away, piece) in edits {
            let boundary = |text: &str, mut at: usize| {
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let from = boundary(&text, at.index(text.len() + 1));
            let to = boundary(&text, (from + away).min(text.len())).max(from);
            text.replace_range(from..to, PIECES[piece]);
        }
        match load("t.toml", &text) {
            Ok(before) => {
                let printed = effective("t.toml", &text).unwrap();
                let after = load("p.toml", &printed).unwrap_or_else(|violations| panic!("{violations}"));
                assert_same(&before, &after);
                let again = reload(&before, "t.toml", &text).unwrap();
                prop_assert_eq!(again.limits.generation, 2);
            }
            Err(violations) => {
                prop_assert!(!violations.list.is_empty());
                let lines = text.matches('\n').count() + 1;
                prop_assert!(violations.list.iter().all(|v| v.line <= lines && v.line > 0 && !v.rule.is_empty()));
                prop_assert!(violations.to_string().len() > 20);
                prop_assert!(violations.to_json().is_array());
            }
        }
    }
}
