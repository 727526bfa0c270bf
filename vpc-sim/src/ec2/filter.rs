//! Filters of Describe operations.

use super::error::ApiError;
use super::params::Params;
use super::tags::Tags;

/// One filter: any of its values must match any value of the thing's attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    name: String,
    values: Vec<String>,
}

/// All filters of one request; a thing must pass each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(Vec<Filter>);

/// More values in one request are refused.
const MAX_VALUES: usize = 200;

impl Filters {
    /// Takes `Filter.N.Name` and `Filter.N.Value.M`. A name must be one of
    /// `known`, or begin with `tag:`.
    pub(crate) fn parse(params: &mut Params, known: &[&str]) -> Result<Self, ApiError> {
        let mut filters = Vec::new();
        let mut values_in_all = 0;
        for key in params.indices("Filter")? {
            let name = params.required(&format!("{key}.Name"))?;
            let values = params.texts(&format!("{key}.Value"))?;
            if !known.contains(&name.as_str()) && name.strip_prefix("tag:").is_none_or(str::is_empty) {
                return Err(ApiError::invalid(format!("The filter '{name}' is invalid")));
            }
            if values.is_empty() {
                return Err(ApiError::invalid(format!("The filter '{name}' has no value")));
            }
            values_in_all += values.len();
            filters.push(Filter { name, values });
        }
        if values_in_all > MAX_VALUES {
            return Err(ApiError::new(
                "FilterLimitExceeded",
                format!("The maximum number of filter values specified on a single call is {MAX_VALUES}"),
            ));
        }
        Ok(Self(filters))
    }

    /// Whether a thing passes, of which `attribute` gives the values by filter
    /// name, tags apart.
    pub(crate) fn pass(&self, tags: &Tags, attribute: impl Fn(&str) -> Vec<String>) -> bool {
        self.0.iter().all(|filter| {
            let has = match filter.name.as_str() {
                "tag-key" => tags.keys().cloned().collect(),
                "tag-value" => tags.values().cloned().collect(),
                name => match name.strip_prefix("tag:") {
                    Some(key) => tags.get(key).cloned().into_iter().collect(),
                    None => attribute(name),
                },
            };
            filter.values.iter().any(|pattern| has.iter().any(|value| matches(pattern, value)))
        })
    }
}

/// Whether a value matches: `*` is any text, `?` any character, a backslash
/// takes the next character as it is. Case counts.
fn matches(pattern: &str, value: &str) -> bool {
    let mut tokens = Vec::new();
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        tokens.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Just(characters.next().unwrap_or('\\')),
            c => Token::Just(c),
        });
    }
    let value: Vec<char> = value.chars().collect();
    // Where to go on after the last `*` when what follows it does not fit.
    let (mut at, mut token, mut retry) = (0, 0, None);
    while at < value.len() {
        match tokens.get(token) {
            Some(Token::Any) => {
                retry = Some((at, token));
                token += 1;
                continue;
            }
            Some(Token::One) => {}
            Some(Token::Just(c)) if *c == value[at] => {}
            _ => {
                let Some((from, any)) = retry else {
                    return false;
                };
                retry = Some((from + 1, any));
                (at, token) = (from + 1, any + 1);
                continue;
            }
        }
        at += 1;
        token += 1;
    }
    tokens[token..].iter().all(|token| matches!(token, Token::Any))
}

enum Token {
    Any,
    One,
    Just(char),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_ec2_says() {
        for (pattern, value, expected) in [
            ("abc", "abc", true),
            ("abc", "Abc", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b*", "abc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            (r"\\", r"\", true),
            ("**a", "xa", true),
        ] {
            assert_eq!(matches(pattern, value), expected, "{pattern} {value}");
        }
    }

    #[test]
    fn filters_are_all_of_any() {
        let mut params = Params::parse(
            "Filter.1.Name=status&Filter.1.Value.1=available&Filter.1.Value.2=in-use\
             &Filter.2.Name=tag:k&Filter.2.Value.1=v*&Filter.3.Name=tag-key&Filter.3.Value.1=k",
        )
        .expect("well formed");
        let filters = Filters::parse(&mut params, &["status", "tag-key"]).expect("known");
        assert_eq!(params.finish(), Ok(()));
        let pass = |status: &str, value: &str| {
            let tags = Tags::from([("k".to_owned(), value.to_owned())]);
            filters.pass(&tags, |_| vec![status.to_owned()])
        };
        assert!(pass("in-use", "v1"));
        assert!(!pass("pending", "v1"));
        assert!(!pass("in-use", "w"));
    }

    #[test]
    fn faults_of_filters_are_refused() {
        let many = (1..=201).map(|n| format!("&Filter.1.Value.{n}=x")).collect::<String>();
        for (form, code) in [
            ("Filter.1.Name=nonsense&Filter.1.Value.1=x", "InvalidParameterValue"),
            ("Filter.1.Name=tag:&Filter.1.Value.1=x", "InvalidParameterValue"),
            ("Filter.1.Name=status", "InvalidParameterValue"),
            ("Filter.1.Value.1=x", "MissingParameter"),
            (&format!("Filter.1.Name=status{many}"), "FilterLimitExceeded"),
        ] {
            let mut params = Params::parse(form).expect("well formed");
            let error = Filters::parse(&mut params, &["status"]).expect_err(form);
            assert_eq!(error.code, code, "{form}");
        }
    }
}
