//! House rules that the compiler does not know. Each is a function from files to complaints, and each is shown a file
//! that breaks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Modules by layer, the lowest first. A module imports from layers below its own, never from its own or above.
const LAYERS: [&[&str]; 12] = [
    &["units"],
    &["model", "ring"],
    &["duty"],
    &["limits"],
    &["wire", "risk", "kill"],
    &["engine", "gate"],
    &["guard"],
    &["metrics"],
    &["alert", "journal", "ingest", "api"],
    &["app"],
    &["demo"],
    &["main", "cli"],
];

/// What a file that says HOT may not name outside `new` and tests, and why. Words are matched whole.
const NOT_HOT: [(&str, &[&str]); 6] = [
    ("allocates", &["String", "Box::new", "Vec::new", "Vec::with_capacity", "vec!", "collect", "to_vec", "to_owned"]),
    ("formats", &["format!", "write!", "to_string"]),
    ("logs", &["tracing", "log::", "println!", "eprintln!", "print!", "eprint!", "dbg!"]),
    ("locks", &["Mutex", "RwLock", "Condvar", "Barrier", "LazyLock", "mpsc", "crossbeam_channel"]),
    (
        "asks the system",
        &[
            "std::fs",
            "std::net",
            "std::io",
            "std::thread",
            "std::process",
            "std::time",
            "std::env",
            "Instant",
            "SystemTime",
        ],
    ),
    (
        "panics",
        &[
            "unwrap",
            "expect",
            "panic!",
            "todo!",
            "unimplemented!",
            "unreachable!",
            "assert!",
            "assert_eq!",
            "assert_ne!",
        ],
    ),
];

/// What lies at the top level, besides what is hidden or ignored.
const TOP_LEVEL: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "src", "benches", "config", "tests", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Where `unsafe` may be: what the house rule allows, and the allocator that counts.
const UNSAFE: [&str; 2] = ["src/ring/", "tests/alloc/main.rs"];

/// Parts of names of package registries and mirrors. In two pieces, so that this file does not name them.
const REGISTRIES: [(&str, &str); 8] = [
    ("crates", ".io"),
    ("sparse", "+http"),
    ("registry", "+http"),
    ("pypi", ".org"),
    ("npmjs", ".org"),
    ("proxy.golang", ".org"),
    ("artifact", "ory"),
    ("rsproxy", ".cn"),
];

/// A file: its path from the top, and its text.
struct File {
    path: String,
    text: String,
}

fn file(path: &str, text: &str) -> File {
    File { path: path.into(), text: text.into() }
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Its names from `src` down: `["kill", "page"]`, `["kill"]` for `mod.rs`.
    fn module(&self) -> Option<Vec<&str>> {
        let rest = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        Some(rest.strip_suffix("/mod").unwrap_or(rest).split('/').collect())
    }
}

/// Every file of the repository that is not ignored and is text.
fn repository() -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignored = ignored(&fs::read_to_string(top.join(".gitignore")).unwrap());
    let mut files = Vec::new();
    let mut todo = vec![top.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            if name == ".git" || is_ignored(&ignored, &name) {
                continue;
            }
            if path.is_dir() {
                todo.push(path);
            } else if let Ok(text) = String::from_utf8(fs::read(&path).unwrap()) {
                files.push(File { path: name, text });
            }
        }
    }
    assert!(files.iter().any(|f| f.path == "src/lib.rs") && files.len() > 50, "{} files", files.len());
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn ignored(gitignore: &str) -> BTreeSet<String> {
    gitignore.lines().map(|line| line.trim_matches('/').to_owned()).collect()
}

/// As git has it: a name without a directory before it is ignored at any depth.
fn is_ignored(ignored: &BTreeSet<String>, path: &str) -> bool {
    ignored.contains(path) || path.rsplit('/').next().is_some_and(|name| ignored.contains(name))
}

/// `text` with comments, strings and character literals blanked; every other character stays where it is.
fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let begin = i;
        let before = if i == 0 { '\0' } else { chars[i - 1] };
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                while i < chars.len() {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            ('r', '"' | '#') if !is_word(before) || before == 'b' => {
                let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
                if at(i + 1 + hashes) == '"' {
                    i += 2 + hashes;
                    while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                        i += 1;
                    }
                    i += 1 + hashes;
                } else {
                    // A raw identifier.
                    i += 1;
                    out.push('r');
                    continue;
                }
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (c, _) => {
                out.push(c);
                i += 1;
                continue;
            }
        }
        out.extend(chars[begin..i.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// From `open`, the place of a bracket, to behind the one that closes it.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (i, c) in code[open..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + i + c.len_utf8();
        }
    }
    code.len()
}

fn blank(code: &mut String, from: usize, to: usize) {
    let blanked: String = code[from..to].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
    code.replace_range(from..to, &blanked);
}

/// The end of the item or statement that begins at `from`: behind its block or its semicolon.
fn item_end(code: &str, from: usize) -> usize {
    let mut i = from;
    while let Some(found) = code[i..].find(['{', ';', '(', '[']) {
        match code.as_bytes()[i + found] {
            b';' => return i + found + 1,
            b'{' => return closing(code, i + found),
            _ => i = closing(code, i + found),
        }
    }
    code.len()
}

/// The attribute `#[cfg(…test…)]` that begins at or after `from`: its place and its end.
fn test_attribute(code: &str, mut from: usize) -> Option<(usize, usize)> {
    while let Some(found) = code[from..].find("#[cfg(") {
        let begin = from + found;
        let end = closing(code, begin + 1);
        let condition = &code[begin..end];
        if has_word(condition, "test") && !condition.contains("not(test") {
            return Some((begin, end));
        }
        from = end;
    }
    None
}

/// `code` without what is compiled for tests only, and the modules of that kind that are files of their own.
fn without_tests(mut code: String) -> (String, Vec<String>) {
    let (mut from, mut files) = (0, Vec::new());
    while let Some((begin, end)) = test_attribute(&code, from) {
        let item_end = item_end(&code, end);
        let item = &code[end..item_end];
        if let Some(name) = item.split("mod ").nth(1).and_then(|rest| rest.strip_suffix(';')) {
            files.push(name.trim().to_owned());
        }
        blank(&mut code, begin, item_end);
        from = item_end;
    }
    (code, files)
}

/// The Rust files under `src` as code that ships: no comments, strings, tests.
fn shipped(files: &[File]) -> Vec<(&File, String)> {
    let mut shipped: Vec<(&File, String)> = Vec::new();
    let mut tests: Vec<String> = Vec::new();
    for file in files.iter().filter(|f| f.is_rust() && f.path.starts_with("src/")) {
        let (code, names) = without_tests(code(&file.text));
        let dir = file.path.strip_suffix("mod.rs").map_or_else(|| file.path.replace(".rs", "/"), str::to_owned);
        tests.extend(names.into_iter().map(|name| format!("{dir}{name}.rs")));
        shipped.push((file, code));
    }
    shipped.retain(|(file, _)| !tests.contains(&file.path));
    shipped
}

/// Places of `word` in `code`, whole: `log` is neither in `logs` nor in `backlog`.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back().is_some_and(is_word);
        let after = word.ends_with(is_word) && code[at + word.len()..].chars().next().is_some_and(is_word);
        !before && !after
    })
}

fn has_word(code: &str, word: &str) -> bool {
    words(code, word).next().is_some()
}

fn line(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The names that the path `rest` (what follows `crate::`) begins with: one, or several in braces.
fn heads(rest: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    if !rest.starts_with('{') {
        return vec![word(rest)];
    }
    let mut heads = Vec::new();
    let (mut depth, mut expects) = (0, false);
    for (i, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && (c == ',' || (c == '{' && i == 0)) {
            expects = true;
        } else if expects && is_word(c) {
            heads.push(word(&rest[i..]));
            expects = false;
        }
    }
    heads
}

/// Top-level modules that `code` of the module `path` names, and where.
fn imports(path: &[&str], code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, "crate::") {
        found.extend(heads(&code[at + "crate::".len()..]).into_iter().map(|name| (at, name)));
    }
    for at in words(code, "super::").filter(|at| !code[..*at].ends_with("super::")) {
        // `super` as often as the module is deep is the crate.
        let (mut rest, mut ups) = (&code[at..], 0);
        while let Some(after) = rest.strip_prefix("super::") {
            (rest, ups) = (after, ups + 1);
        }
        if ups >= path.len() {
            found.extend(heads(rest).into_iter().map(|name| (at, name)));
        }
    }
    found.sort();
    found
}

fn check_layers(files: &[File]) -> Vec<String> {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut complaints = Vec::new();
    for (file, code) in shipped(files) {
        let Some(path) = file.module().filter(|path| path != &["lib"]) else { continue };
        let Some(own) = layer(path[0]) else {
            complaints.push(format!("{}: `{}` has no layer", file.path, path[0]));
            continue;
        };
        for (at, name) in imports(&path, &code).into_iter().filter(|(_, name)| name != path[0]) {
            if layer(&name).is_none_or(|other| other >= own) {
                complaints.push(format!("{}:{}: `{}` may not import `{name}`", file.path, line(&code, at), path[0]));
            }
        }
    }
    complaints
}

/// `code` without its constructors, which run once, at start, and without what the compiler evaluates.
fn without_start(mut code: String) -> String {
    for cold in ["fn new", "const _: () ="] {
        let places: Vec<usize> = words(&code, cold).collect();
        for at in places {
            let end = item_end(&code, at);
            blank(&mut code, at, end);
        }
    }
    code
}

fn says_hot(file: &File) -> bool {
    file.text.lines().take_while(|line| line.starts_with("//!")).any(|line| has_word(line, "HOT"))
}

fn check_hot(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (file, code) in shipped(files).into_iter().filter(|(file, _)| says_hot(file)) {
        let code = without_start(code);
        for (what, list) in NOT_HOT {
            for word in list {
                for at in words(&code, word) {
                    complaints.push(format!("{}:{}: is HOT and {what}: {word}", file.path, line(&code, at)));
                }
            }
        }
    }
    complaints
}

/// The files that have to be HOT: the way of an event and of a kill.
fn check_is_hot(files: &[File]) -> Vec<String> {
    let must = |path: &str| {
        path.starts_with("src/risk/")
            || ["core", "judge", "book"].iter().any(|name| path == format!("src/engine/{name}.rs"))
            || path == "src/kill/page.rs"
    };
    files.iter().filter(|f| must(&f.path) && !says_hot(f)).map(|f| format!("{}: has to say HOT", f.path)).collect()
}

fn check_unsafe(files: &[File]) -> Vec<String> {
    let allowed = |path: &str| UNSAFE.iter().any(|place| path.starts_with(place));
    let mut complaints = Vec::new();
    for file in files.iter().filter(|f| f.is_rust() && !allowed(&f.path)) {
        let code = code(&file.text);
        for word in ["unsafe", "unsafe_code"] {
            complaints.extend(words(&code, word).map(|at| format!("{}:{}: {word}", file.path, line(&code, at))));
        }
    }
    complaints
}

fn check_headers(files: &[File]) -> Vec<String> {
    let rust = files.iter().filter(|f| f.is_rust());
    rust.filter(|f| !f.text.starts_with("//! ")).map(|f| format!("{}: no `//!` header", f.path)).collect()
}

fn check_top_level(files: &[File]) -> Vec<String> {
    let tops: BTreeSet<&str> = files.iter().filter_map(|f| f.path.split('/').next()).collect();
    let known = |top: &str| top.starts_with('.') || TOP_LEVEL.contains(&top);
    tops.into_iter().filter(|top| !known(top)).map(|top| format!("{top}: not at the top level")).collect()
}

/// Where packages come from is the business of whoever builds. The lock file alone says it: from the public index.
fn check_registries(files: &[File]) -> Vec<String> {
    let public = ["registry", "+https://github.com/rust-lang/crates", ".io-index"].concat();
    let mut complaints = Vec::new();
    for file in files {
        for (n, text) in file.text.lines().enumerate() {
            let lock = file.path == "Cargo.lock" || file.path.ends_with("/Cargo.lock");
            let public_lock = lock && text == format!("source = \"{public}\"");
            let named = REGISTRIES.iter().any(|(a, b)| text.to_ascii_lowercase().contains(&[*a, *b].concat()));
            if named && !public_lock {
                complaints.push(format!("{}:{}: names a registry", file.path, n + 1));
            }
        }
    }
    complaints
}

/// What haltline is compared with stays out of what haltline is made of: other licence, hundreds of dependencies.
fn check_peers(files: &[File]) -> Vec<String> {
    let ours = files.iter().filter(|f| ["Cargo.toml", "Cargo.lock"].contains(&f.path.as_str()));
    ours.filter(|f| f.text.contains("nautilus")).map(|f| format!("{}: names nautilus", f.path)).collect()
}

#[track_caller]
fn clean(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn imports_point_down() {
    clean(check_layers(&repository()));
}

#[test]
fn hot_files_do_nothing_slow() {
    let files = repository();
    clean([check_is_hot(&files), check_hot(&files)].concat());
}

#[test]
fn unsafe_is_where_it_belongs() {
    clean(check_unsafe(&repository()));
}

#[test]
fn every_file_says_what_it_is() {
    clean(check_headers(&repository()));
}

#[test]
fn the_top_level_stays_short() {
    clean(check_top_level(&repository()));
}

#[test]
fn no_file_names_a_registry() {
    clean(check_registries(&repository()));
}

#[test]
fn peers_stay_out_of_the_package() {
    clean(check_peers(&repository()));
}

#[test]
fn layer_check_finds_what_points_up_or_sideways() {
    let complaints = |path: &str, text: &str| check_layers(&[file(path, text)]);
    let bad = [
        ("src/units.rs", "use crate::model::Event;"),
        ("src/model/event.rs", "fn f() { crate::risk::worst() }"),
        ("src/model/mod.rs", "use crate::ring::Page;"),
        ("src/risk/pairs.rs", "use crate::{\n    units::{Px, Qty},\n    engine::core,\n};"),
        ("src/api/routes.rs", "use crate::ingest::ws;"),
        ("src/units.rs", "use super::model::Event;"),
        ("src/risk/pairs.rs", "use super::super::engine;"),
        ("src/metrics/mod.rs", "use crate::nowhere;"),
        ("src/metrics/mod.rs", "#[cfg(not(test))]\nuse crate::api::routes;"),
    ];
    for (path, text) in bad {
        assert_eq!(complaints(path, text).len(), 1, "{path}: {text}");
    }
    assert_eq!(
        complaints("src/risk/pairs.rs", "\nuse crate::engine;")[0],
        "src/risk/pairs.rs:2: `risk` may not import `engine`"
    );
    assert_eq!(complaints("src/new.rs", ""), ["src/new.rs: `new` has no layer"]);
    let good = [
        ("src/engine/core.rs", "use crate::{units::Px, risk, engine::judge::Judge};"),
        ("src/engine/core.rs", "use super::judge;"),
        (
            "src/risk/pairs.rs",
            "//! See [`crate::engine`].\n/// crate::engine\nconst A: &str = \"crate::engine\"; // crate::app",
        ),
        ("src/risk/pairs.rs", "#[cfg(test)]\nmod tests {\n    use crate::engine::core;\n}\n"),
        (
            "src/risk/pairs.rs",
            "#[cfg(all(test, feature = \"service\"))]\nuse crate::engine::core;\nuse crate::units::Px;",
        ),
        ("src/ingest/ws.rs", "use crate::metrics::Source;"),
        ("src/lib.rs", "use crate::app;"),
    ];
    for (path, text) in good {
        clean(complaints(path, text));
    }
    let tests =
        [file("src/api/mod.rs", "#[cfg(test)]\nmod tests;"), file("src/api/tests.rs", "use crate::journal::latch;")];
    clean(check_layers(&tests));
    assert_eq!(check_layers(&tests[1..]).len(), 1, "nobody said that it is a test");
}

#[test]
fn hot_check_finds_what_is_slow() {
    let complaints = |text: &str| check_hot(&[file("src/risk/x.rs", &format!("//! HOT: this.\n{text}"))]);
    let bad = [
        "fn f(n: u64) { let _ = format!(\"{n}\"); }",
        "use std::sync::Mutex;",
        "fn f() { tracing::info!(\"x\"); }",
        "fn f() { let t = Instant::now(); }",
        "fn f() -> Box<u8> { Box::new(1) }",
        "fn f(v: Option<u8>) -> u8 { v.unwrap() }",
        "fn f(v: Option<u8>) -> u8 { v.expect(\"x\") }",
        "fn f() { assert!(false) }",
        "fn f() { std::fs::read(\"x\"); }",
        "fn newer() -> Vec<u8> { vec![1] }",
    ];
    for text in bad {
        assert_eq!(complaints(text).len(), 1, "{text}");
    }
    let good = [
        "fn new() -> Vec<u8> { assert!(true); vec![1] }",
        "fn f(v: Option<u8>) -> u8 { v.unwrap_or(0) } // format!",
        "const _: () = assert!(true);\nfn f() {}",
        "#[cfg(test)]\nmod tests { fn f() { panic!() } }",
        "fn logs(log: &DuplicateLog) { catalog(log) }",
    ];
    for text in good {
        clean(complaints(text));
    }
    clean(check_hot(&[file("src/risk/x.rs", "//! Cold.\nfn f() { panic!() }")]));
    assert_eq!(check_is_hot(&[file("src/risk/x.rs", "//! Cold.")]).len(), 1);
}

#[test]
fn other_checks_find_what_they_look_for() {
    assert_eq!(check_unsafe(&[file("src/engine/x.rs", "fn f() { unsafe { g() } }")]).len(), 1);
    assert_eq!(check_unsafe(&[file("src/engine/x.rs", "#![allow(unsafe_code)]")]).len(), 1);
    clean(check_unsafe(&[
        file("src/ring/x.rs", "unsafe fn f() {}"),
        file("src/x.rs", "// unsafe\nconst S: &str = r#\"unsafe\"#;"),
    ]));
    assert_eq!(check_headers(&[file("src/x.rs", "use a;\n//! late"), file("a.toml", "")]).len(), 1);
    assert_eq!(
        check_top_level(&[file("docs/x.md", ""), file("Makefile", ""), file(".ci/run", ""), file("src/a", "")]).len(),
        2
    );
    let host = ["https://mirror.example/artifact", "ory/api"].concat();
    assert_eq!(check_registries(&[file("README.md", &format!("see\n{host}"))]), ["README.md:2: names a registry"]);
    let lock = ["source = \"registry", "+https://elsewhere.example/index\""].concat();
    assert_eq!(check_registries(&[file("Cargo.lock", &lock)]).len(), 1);
    let lock = ["source = \"registry", "+https://github.com/rust-lang/crates", ".io-index\""].concat();
    clean(check_registries(&[file("Cargo.lock", &lock), file("benches/x/Cargo.lock", &lock)]));
    assert_eq!(check_registries(&[file("not-Cargo.lock", &lock)]).len(), 1);
    let peer = "nautilus-risk = \"1\"";
    assert_eq!(check_peers(&[file("Cargo.toml", peer), file("benches/x/Cargo.toml", peer)]).len(), 1);
    let ignored = ignored("target/\nbuild/out\n");
    assert!(is_ignored(&ignored, "target") && is_ignored(&ignored, "benches/x/target"));
    assert!(is_ignored(&ignored, "build/out") && !is_ignored(&ignored, "build") && !is_ignored(&ignored, "x/targets"));
}

#[test]
fn code_is_what_is_neither_comment_nor_text() {
    let text = "a /* b /* c */ d */ \"e\\\"f\" 'g' '\\'' <'h> r#\"i\"j\"# br\"k\" r#l // m\nn";
    let kept: String = code(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(kept, "a <'h> b r#l n");
    assert_eq!(code(text).chars().count(), text.chars().count());
}
