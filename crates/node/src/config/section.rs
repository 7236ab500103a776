//! Reading one TOML table strictly: every key is known, every value has its
//! type, and whatever is wrong is reported without stopping.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Collector;

/// Why a value was refused: what was expected, and how to mend it (or empty).
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) expected: String,
    pub(super) help: String,
}

impl Wrong {
    pub(super) fn new(expected: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            help: help.into(),
        }
    }
}

/// The result of turning one TOML value into a typed one.
pub(super) type Parsed<T> = Result<T, Wrong>;

/// One table of the file and the path that leads to it.
pub(super) struct Section<'t, 'i> {
    path: String,
    span: Range<usize>,
    table: &'t DeTable<'i>,
}

impl<'t, 'i> Section<'t, 'i> {
    /// The whole document.
    pub(super) fn root(document: &'t Spanned<DeTable<'i>>) -> Self {
        Self {
            path: String::new(),
            span: 0..0,
            table: document.get_ref(),
        }
    }

    /// The path of `key` inside this section.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Reports every key that is not among `known`.
    pub(super) fn only(&self, known: &[&str], out: &mut Collector) {
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let help = match closest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known keys here: {}", known.join(", ")),
                };
                out.error_at(key.span(), &self.path_of(name), "unknown key", help);
            }
        }
    }

    /// The names of this section's keys, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&'t str, Range<usize>)> + use<'t, 'i> {
        self.table
            .iter()
            .map(|(key, _)| (key.get_ref().as_ref(), key.span()))
    }

    /// A value that may be absent; `None` too when it is wrong (and reported).
    pub(super) fn optional<T>(
        &self,
        key: &str,
        out: &mut Collector,
        parse: impl FnOnce(&DeValue<'i>) -> Parsed<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let path = self.path_of(key);
        out.locate(&path, value.span());
        match parse(value.get_ref()) {
            Ok(parsed) => Some(parsed),
            Err(wrong) => {
                out.error(&path, wrong.expected, wrong.help);
                None
            }
        }
    }

    /// A value that must be there.
    pub(super) fn required<T>(
        &self,
        key: &str,
        example: &str,
        out: &mut Collector,
        parse: impl FnOnce(&DeValue<'i>) -> Parsed<T>,
    ) -> Option<T> {
        if self.value(key).is_none() {
            let help = format!("add `{key} = {example}`");
            out.error_at(
                self.span.clone(),
                &self.path_of(key),
                "required key is missing",
                help,
            );
            return None;
        }
        self.optional(key, out, parse)
    }

    /// A list, each of whose elements is parsed (and located) on its own.
    /// `None` when absent or when any element is wrong.
    pub(super) fn list<T>(
        &self,
        key: &str,
        out: &mut Collector,
        mut parse: impl FnMut(&str, &Spanned<DeValue<'i>>, &mut Collector) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let path = self.path_of(key);
        out.locate(&path, value.span());
        let DeValue::Array(elements) = value.get_ref() else {
            let found = kind(value.get_ref());
            out.error(
                &path,
                format!("expected a list, found {found}"),
                "write it as `[ ... ]`",
            );
            return None;
        };
        let mut parsed = Vec::with_capacity(elements.len());
        for (n, element) in elements.iter().enumerate() {
            let path = format!("{path}[{n}]");
            out.locate(&path, element.span());
            parsed.extend(parse(&path, element, out));
        }
        (parsed.len() == elements.len()).then_some(parsed)
    }

    /// A list of plain values.
    pub(super) fn values<T>(
        &self,
        key: &str,
        out: &mut Collector,
        mut parse: impl FnMut(&DeValue<'i>) -> Parsed<T>,
    ) -> Option<Vec<T>> {
        self.list(key, out, |path, element, out| {
            match parse(element.get_ref()) {
                Ok(parsed) => Some(parsed),
                Err(wrong) => {
                    out.error(path, wrong.expected, wrong.help);
                    None
                }
            }
        })
    }

    /// A sub-table; `None` when absent or not a table (which is reported).
    pub(super) fn section(&self, key: &str, out: &mut Collector) -> Option<Section<'t, 'i>> {
        Self::of(&self.path_of(key), self.value(key)?, out)
    }

    /// `value` as a table at `path`.
    pub(super) fn of(
        path: &str,
        value: &'t Spanned<DeValue<'i>>,
        out: &mut Collector,
    ) -> Option<Section<'t, 'i>> {
        out.locate(path, value.span());
        let DeValue::Table(table) = value.get_ref() else {
            let found = kind(value.get_ref());
            out.error(
                path,
                format!("expected a table, found {found}"),
                format!("write `[{path}]`"),
            );
            return None;
        };
        Some(Section {
            path: path.to_owned(),
            span: value.span(),
            table,
        })
    }

    /// The raw value of `key`.
    pub(super) fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.table
            .iter()
            .find(|(k, _)| k.get_ref() == key)
            .map(|(_, value)| value)
    }
}

/// The candidate most like `name`, if one is near enough to be a slip.
pub(super) fn closest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|(distance, c)| *distance <= 1 + c.len() / 4)
        .min()
        .map(|(_, c)| c)
}

/// What a value is, in the words of a message.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
