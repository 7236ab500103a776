//! What is wrong with a configuration file, where, and how to mend it.
//!
//! Problems are collected, not thrown: one run over a file reports all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::Serialize;
use thiserror::Error;

/// One thing wrong (or doubtful) in a configuration file.
#[derive(Clone, Debug, Error, Diagnostic)]
#[error("{key}: {message}")]
pub struct Problem {
    /// The key's full path, e.g. `node.gw1.roles`.
    pub key: String,
    /// What was expected, or what contradicts what.
    pub message: String,
    /// How to mend it.
    #[help]
    pub help: Option<String>,
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
    /// Worth a word, but no reason to refuse the file.
    #[diagnostic(severity)]
    pub severity: miette::Severity,
    #[source_code]
    source_code: NamedSource<Arc<str>>,
    #[label("here")]
    span: SourceSpan,
}

impl Problem {
    /// One line for people and grep: `file:line:column: error: key: message; help: ...`.
    fn plain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            miette::Severity::Error => "error",
            _ => "warning",
        };
        let file = self.source_code.name();
        write!(
            f,
            "{file}:{}:{}: {kind}: {}: {}",
            self.line, self.column, self.key, self.message
        )?;
        match &self.help {
            Some(help) => write!(f, "; help: {help}"),
            None => Ok(()),
        }
    }

    /// The machine-readable form.
    pub fn view(&self) -> ProblemView<'_> {
        ProblemView {
            severity: match self.severity {
                miette::Severity::Error => "error",
                _ => "warning",
            },
            line: self.line,
            column: self.column,
            key: &self.key,
            message: &self.message,
            help: self.help.as_deref(),
        }
    }
}

/// A [`Problem`] as JSON shows it.
#[derive(Debug, Serialize)]
pub struct ProblemView<'a> {
    severity: &'static str,
    line: usize,
    column: usize,
    key: &'a str,
    message: &'a str,
    help: Option<&'a str>,
}

/// A file that is refused: everything wrong with it. `Display` prints one
/// line per problem; as a miette diagnostic it shows the source lines.
#[derive(Debug, Error, Diagnostic)]
pub struct Problems {
    /// The file's name as the user gave it.
    pub file: String,
    /// At least one of them is an error.
    #[related]
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        plain_lines(&self.list, f)
    }
}

/// Writes one line per problem.
fn plain_lines(list: &[Problem], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (n, problem) in list.iter().enumerate() {
        if n > 0 {
            writeln!(f)?;
        }
        problem.plain(f)?;
    }
    Ok(())
}

/// Formats warnings the way [`Problems`] formats errors.
pub struct Plain<'a>(pub &'a [Problem]);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        plain_lines(self.0, f)
    }
}

/// Collects problems while a file is read, and remembers where each key stands
/// so that later cross-checks can point at it by its path.
pub(super) struct Collector {
    source: Arc<str>,
    file: String,
    spans: BTreeMap<String, Range<usize>>,
    list: Vec<Problem>,
}

impl Collector {
    pub(super) fn new(file: &str, text: &str) -> Self {
        Self {
            source: Arc::from(text),
            file: file.to_owned(),
            spans: BTreeMap::new(),
            list: Vec::new(),
        }
    }

    /// Remembers that the value of `key` stands at `span`.
    pub(super) fn locate(&mut self, key: &str, span: Range<usize>) {
        self.spans.insert(key.to_owned(), span);
    }

    /// Whether the file sets `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.spans.contains_key(key)
    }

    /// Reports an error at `key`, or at its nearest enclosing table when the
    /// key itself is missing from the file.
    pub(super) fn error(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let span = self.span_of(key);
        self.push(
            miette::Severity::Error,
            key,
            span,
            message.into(),
            help.into(),
        );
    }

    /// Reports something doubtful at `key`.
    pub(super) fn warn(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let span = self.span_of(key);
        self.push(
            miette::Severity::Warning,
            key,
            span,
            message.into(),
            help.into(),
        );
    }

    /// Reports an error at a place that is not a known key's value.
    pub(super) fn error_at(
        &mut self,
        span: Range<usize>,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(
            miette::Severity::Error,
            key,
            span,
            message.into(),
            help.into(),
        );
    }

    /// `Ok(warnings)` if nothing forbids the file.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Problems> {
        self.list.sort_by_key(|p| (p.line, p.column));
        let fatal = |p: &Problem| p.severity == miette::Severity::Error;
        if self.list.iter().any(fatal) {
            return Err(Problems {
                file: self.file,
                list: self.list,
            });
        }
        Ok(self.list)
    }

    fn span_of(&self, key: &str) -> Range<usize> {
        let mut path = key;
        loop {
            if let Some(span) = self.spans.get(path) {
                return span.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return 0..0,
            }
        }
    }

    fn push(
        &mut self,
        severity: miette::Severity,
        key: &str,
        span: Range<usize>,
        message: String,
        help: String,
    ) {
        let (line, column) = position(&self.source, span.start);
        self.list.push(Problem {
            key: key.to_owned(),
            message,
            help: (!help.is_empty()).then_some(help),
            line,
            column,
            severity,
            source_code: NamedSource::new(&self.file, Arc::clone(&self.source)),
            span: span.into(),
        });
    }
}

/// 1-based line and column (in characters) of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}
