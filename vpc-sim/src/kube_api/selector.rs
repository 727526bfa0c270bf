//! Label and field selectors.

use super::store::Stored;

/// A parsed label selector; the empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LabelSelector(Vec<LabelTerm>);

#[derive(Debug, Clone, PartialEq)]
struct LabelTerm {
    key: String,
    test: LabelTest,
}

#[derive(Debug, Clone, PartialEq)]
enum LabelTest {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    Above(i64),
    Below(i64),
}

impl LabelSelector {
    /// Parses the query form: `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        split_terms(text)
            .into_iter()
            .map(|term| parse_label_term(term.trim()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn matches(&self, object: &Stored) -> bool {
        self.0.iter().all(|term| {
            let value = object.label(&term.key);
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match &term.test {
                LabelTest::In(set) => value.is_some_and(|value| set.iter().any(|one| one == value)),
                LabelTest::NotIn(set) => value.is_none_or(|value| set.iter().all(|one| one != value)),
                LabelTest::Exists => value.is_some(),
                LabelTest::Missing => value.is_none(),
                LabelTest::Above(bound) => number().is_some_and(|number| number > *bound),
                LabelTest::Below(bound) => number().is_some_and(|number| number < *bound),
            }
        })
    }
}

/// Splits at commas outside of parentheses; an empty text has no terms.
fn split_terms(text: &str) -> Vec<&str> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let mut depth = 0_i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth <= 0
    })
    .collect()
}

fn parse_label_term(term: &str) -> Result<LabelTerm, String> {
    let fault = || format!("unable to parse requirement: {term:?}");
    let make = |key: &str, test| {
        let key = key.trim();
        let valid = !key.is_empty()
            && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
        if valid { Ok(LabelTerm { key: key.into(), test }) } else { Err(fault()) }
    };
    let value = |text: &str| {
        let text = text.trim();
        let valid = text.len() <= 63
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if valid { Ok(text.to_owned()) } else { Err(fault()) }
    };
    if let Some(inner) = term.strip_suffix(')') {
        let (head, list) = inner.split_once('(').ok_or_else(fault)?;
        let set = list.split(',').map(value).collect::<Result<_, _>>()?;
        let (key, word) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(fault)?;
        return match word {
            "in" => make(key, LabelTest::In(set)),
            "notin" => make(key, LabelTest::NotIn(set)),
            _ => Err(fault()),
        };
    }
    if let Some((key, text)) = term.split_once("!=") {
        return make(key, LabelTest::NotIn(vec![value(text)?]));
    }
    if let Some((key, text)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return make(key, LabelTest::In(vec![value(text)?]));
    }
    let bound = |text: &str| text.trim().parse().map_err(|_| fault());
    if let Some((key, text)) = term.split_once('>') {
        return make(key, LabelTest::Above(bound(text)?));
    }
    if let Some((key, text)) = term.split_once('<') {
        return make(key, LabelTest::Below(bound(text)?));
    }
    match term.strip_prefix('!') {
        Some(key) => make(key, LabelTest::Missing),
        None => make(term, LabelTest::Exists),
    }
}

/// A parsed field selector; the empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct FieldSelector(Vec<FieldTerm>);

#[derive(Debug, Clone, PartialEq)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Parses `path=value`, `path==value` and `path!=value`, joined by commas;
    /// a backslash before a comma, an equals sign or a backslash takes it literally.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for term in split_unescaped(text).into_iter().filter(|term| !term.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = term.split_once("==") {
                (path, value, true)
            } else if let Some((path, value)) = term.split_once('=') {
                (path, value, true)
            } else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            terms.push(FieldTerm { path: path.into(), value: unescape(value)?, equal });
        }
        Ok(Self(terms))
    }

    /// The paths that it names.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|term| term.path.as_str())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn matches(&self, object: &Stored) -> bool {
        self.0.iter().all(|term| {
            let value = object.field(&term.path).unwrap_or_default();
            (value == term.value) == term.equal
        })
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                _ => return Err(format!("invalid field selector: invalid escape sequence in value: {text}")),
            },
            '=' => return Err(format!("invalid field selector: unescaped character in value: {text}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Both selectors of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Selector {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
}

impl Selector {
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Stored) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Stored {
        let value = json!({
            "metadata": {"name": "a", "namespace": "n", "labels": {"app": "web", "tier": "2"}},
        });
        Stored::new(&value, 1, vec![("spec.nodeName", "node-1".to_owned())])
    }

    #[test]
    fn labels() {
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=2", true),
            ("app=db", false),
            ("app!=db", true),
            ("missing!=db", true),
            ("app in (db, web)", true),
            ("app in (db),tier=2", false),
            ("app notin (db,cache)", true),
            ("missing notin (db)", true),
            ("app", true),
            ("!app", false),
            ("!missing,app", true),
            ("tier>1", true),
            ("tier<2", false),
        ] {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&pod()), expected, "{text}");
        }
        for text in ["a b", "app in web", "=x", "a=b c", ","] {
            LabelSelector::parse(text).expect_err(text);
        }
    }

    #[test]
    fn fields() {
        for (text, expected) in [
            ("", true),
            ("spec.nodeName=node-1", true),
            ("spec.nodeName==node-1,metadata.name=a", true),
            ("spec.nodeName!=node-1", false),
            ("metadata.namespace=n", true),
            ("spec.nodeName=", false),
            ("metadata.name=a\\,b", false),
        ] {
            let selector = FieldSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&pod()), expected, "{text}");
        }
        FieldSelector::parse("nonsense").expect_err("no operator");
    }
}
