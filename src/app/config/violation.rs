//! What is wrong with a configuration file, and where: for people (line and caret) and as JSON.

use core::fmt;
use core::ops::Range;
use std::cell::RefCell;
use std::collections::HashSet;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One rule that the file breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key, from the root: `limits.strategy.alpha.order_rate.count`. Empty where the text is not TOML.
    pub field: String,
    /// What is written there, shortened; `(missing)` where nothing is.
    pub value: String,
    /// What would be right.
    pub rule: String,
    span: Range<usize>,
}

/// Everything that is wrong with one file, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations {
    /// The file as it was named.
    pub file: String,
    /// At least one.
    pub list: Vec<Violation>,
    text: String,
}

impl Violations {
    /// One message with line and caret per violation. `color` adds terminal escapes.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for v in &self.list {
            // Only the line itself is handed over: the renderer would scan the whole text every time.
            let start = self.text[..v.span.start].rfind('\n').map_or(0, |at| at + 1);
            let end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
            let from = v.span.start - start;
            let to = v.span.end.clamp(v.span.start, end.max(v.span.start)) - start;
            let title = if v.field.is_empty() {
                v.rule.clone()
            } else {
                format!("{} = {}: {}", printable(&v.field), printable(&v.value), v.rule)
            };
            let snippet = Snippet::source(&self.text[start..end.max(v.span.start)])
                .path(&self.file)
                .line_start(v.line)
                .annotation(AnnotationKind::Primary.span(from..to));
            out.push_str(&renderer.render(&[Level::ERROR.primary_title(title).element(snippet)]));
            out.push_str("\n\n");
        }
        out
    }

    /// The violations as JSON: an array of objects with `file`, `line`, `column`, `field`, `value`, `rule`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let one = |v: &Violation| {
            serde_json::json!({
                "file": self.file, "line": v.line, "column": v.column,
                "field": v.field, "value": v.value, "rule": v.rule,
            })
        };
        serde_json::Value::Array(self.list.iter().map(one).collect())
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))?;
        write!(f, "{}: {} violation(s)", self.file, self.list.len())
    }
}

impl std::error::Error for Violations {}

/// Control characters would move the terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Where something is written: for messages about it that come later than its reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spot {
    pub span: Range<usize>,
    pub path: String,
}

/// Collects violations. Shared by all readers of one file.
#[derive(Debug)]
pub(super) struct Errors<'a> {
    file: &'a str,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    found: RefCell<Found>,
}

#[derive(Debug, Default)]
struct Found {
    list: Vec<Violation>,
    /// Each (place, field, rule) is kept once: a table that others start from is looked at again with each.
    seen: HashSet<(usize, String, String)>,
}

/// The longest value that a message repeats, in characters.
const SHOWN: usize = 60;

impl<'a> Errors<'a> {
    pub fn new(file: &'a str, text: &'a str) -> Errors<'a> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Errors { file, text, lines, found: RefCell::default() }
    }

    /// What is written at `spot` breaks `rule`.
    pub fn at(&self, spot: &Spot, rule: impl Into<String>) {
        let written = self.text.get(spot.span.clone()).unwrap_or("");
        let mut value: String = written.chars().take(SHOWN).collect();
        if value.len() < written.len() {
            value.push('…');
        }
        self.push(spot, value, rule.into());
    }

    /// Something that had to be written within `spot` is not there.
    pub fn missing(&self, spot: &Spot, key: &str, rule: impl Into<String>) {
        let path = join(&spot.path, key);
        self.push(&Spot { span: spot.span.clone(), path }, "(missing)".into(), rule.into());
    }

    fn push(&self, spot: &Spot, value: String, rule: String) {
        let clip = |at: usize| {
            let mut at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let span = clip(spot.span.start)..clip(spot.span.end.max(spot.span.start));
        let mut found = self.found.borrow_mut();
        if !found.seen.insert((span.start, spot.path.clone(), rule.clone())) {
            return;
        }
        let line = self.lines.partition_point(|start| *start <= span.start);
        let column = self.text[self.lines[line - 1]..span.start].chars().count() + 1;
        found.list.push(Violation { line, column, field: spot.path.clone(), value, rule, span });
    }

    /// All that was found, if anything.
    pub fn finish(self) -> Result<(), Violations> {
        let mut list = self.found.into_inner().list;
        if list.is_empty() {
            return Ok(());
        }
        list.sort_by(|a, b| (a.span.start, &a.field).cmp(&(b.span.start, &b.field)));
        Err(Violations { file: self.file.to_owned(), list, text: self.text.to_owned() })
    }
}

/// `path.key`, the key in quotes where TOML would need them.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let key = if bare { key.to_owned() } else { format!("\"{key}\"") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
