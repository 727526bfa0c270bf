//! Label selectors.

use super::{Labels, Name};

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The label is there and its value is one of these.
    In(Name, Vec<Name>),
    /// The label is absent, or its value is none of these.
    NotIn(Name, Vec<Name>),
    /// The label is there, with any value, the empty one too.
    Exists(Name),
    /// The label is absent.
    DoesNotExist(Name),
}

impl Requirement {
    /// Whether `labels` satisfy this requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        let among = |key: &Name, values: &[Name]| {
            labels.get(key).is_some_and(|have| values.iter().any(|value| value.as_ref() == have))
        };
        match self {
            Self::In(key, values) => among(key, values),
            Self::NotIn(key, values) => !among(key, values),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::DoesNotExist(key) => labels.get(key).is_none(),
        }
    }
}

/// A label selector: all requirements hold. The empty selector matches everything.
///
/// Requirements are kept sorted, each once, so that selectors which say the same in
/// another order are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// A selector of these requirements.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let mut list: Vec<Requirement> = requirements
            .into_iter()
            .map(|requirement| match requirement {
                Requirement::In(key, values) => Requirement::In(key, sorted(values)),
                Requirement::NotIn(key, values) => Requirement::NotIn(key, sorted(values)),
                other => other,
            })
            .collect();
        list.sort();
        list.dedup();
        Self(list)
    }

    /// The selector that every object satisfies.
    pub fn everything() -> Self {
        Self::default()
    }

    /// A selector of the matchLabels form.
    pub fn labels<K: Into<Name>, V: Into<Name>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::new(pairs.into_iter().map(|(key, value)| Requirement::In(key.into(), vec![value.into()])))
    }

    /// Whether `labels` satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether this selector has no requirement.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The requirements, sorted.
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }
}

fn sorted(mut values: Vec<Name>) -> Vec<Name> {
    values.sort();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, requirement: Requirement, expected: bool) {
        let labels: Labels = [("app", "web"), ("empty", "")].into_iter().collect();
        assert_eq!(Selector::new([requirement]).matches(&labels), expected, "{name}");
    }

    #[test]
    fn operators() {
        let values = |list: &[&str]| list.iter().map(|v| Name::from(*v)).collect::<Vec<_>>();
        check("In, one of", Requirement::In("app".into(), values(&["api", "web"])), true);
        check("In, none of", Requirement::In("app".into(), values(&["api"])), false);
        check("In, no values", Requirement::In("app".into(), values(&[])), false);
        check("In, missing key", Requirement::In("tier".into(), values(&["x", ""])), false);
        check("In, empty value", Requirement::In("empty".into(), values(&[""])), true);
        check("NotIn, one of", Requirement::NotIn("app".into(), values(&["web"])), false);
        check("NotIn, none of", Requirement::NotIn("app".into(), values(&["api"])), true);
        check("NotIn, missing key", Requirement::NotIn("tier".into(), values(&["x"])), true);
        check("Exists", Requirement::Exists("empty".into()), true);
        check("Exists, missing", Requirement::Exists("tier".into()), false);
        check("DoesNotExist", Requirement::DoesNotExist("app".into()), false);
        check("DoesNotExist, missing", Requirement::DoesNotExist("tier".into()), true);
    }

    #[test]
    fn order_does_not_matter() {
        let a = Selector::labels([("a", "1"), ("b", "2")]);
        let b = Selector::labels([("b", "2"), ("a", "1"), ("b", "2")]);
        assert_eq!(a, b);
        assert!(Selector::everything().matches(&Labels::default()));
    }
}
