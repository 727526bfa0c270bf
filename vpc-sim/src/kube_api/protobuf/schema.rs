//! Which field of which message is what: `messages.txt`, parsed once.

use std::collections::HashMap;
use std::sync::OnceLock;

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u64,
    /// Its name in JSON; empty if its content stands in the parent's object.
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) scalar: Scalar,
    /// A pointer in Go: a zero value was set on purpose.
    pub(super) may_be_zero: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    /// From strings.
    Map,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Text,
    Integer,
    Boolean,
    Double,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    Json,
    Message(&'static str),
}

/// The fields of a message, if it is known.
pub(super) fn message(name: &str) -> Option<&'static [Field]> {
    static MESSAGES: OnceLock<HashMap<&'static str, Vec<Field>>> = OnceLock::new();
    let messages = MESSAGES.get_or_init(|| parse(include_str!("messages.txt")));
    messages.get(name).map(Vec::as_slice)
}

fn parse(text: &'static str) -> HashMap<&'static str, Vec<Field>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            Some((name, words.filter_map(parse_field).collect()))
        })
        .collect()
}

/// `3=port:i`, `1=ports:[]ServicePort`, `2=labels:{}s`, `4=grace:?i`.
fn parse_field(word: &'static str) -> Option<Field> {
    let (number, rest) = word.split_once('=')?;
    let (name, kind) = rest.split_once(':')?;
    let (kind, may_be_zero) = kind.strip_prefix('?').map_or((kind, false), |kind| (kind, true));
    let (kind, shape) = match (kind.strip_prefix("[]"), kind.strip_prefix("{}")) {
        (Some(kind), _) => (kind, Shape::List),
        (_, Some(kind)) => (kind, Shape::Map),
        _ => (kind, Shape::One),
    };
    let scalar = match kind {
        "s" => Scalar::Text,
        "i" => Scalar::Integer,
        "t" => Scalar::Boolean,
        "f" => Scalar::Double,
        "b" => Scalar::Bytes,
        "T" => Scalar::Time,
        "U" => Scalar::MicroTime,
        "Q" => Scalar::Quantity,
        "X" => Scalar::IntOrString,
        "R" => Scalar::Json,
        message => Scalar::Message(message),
    };
    Some(Field { number: number.parse().ok()?, name, shape, scalar, may_be_zero })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_there_and_every_field_parses() {
        let text = include_str!("messages.txt");
        let messages = parse(text);
        let words =
            text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| line.split(' ').skip(1));
        let fields = messages.values().flatten();
        assert_eq!(words.filter(|word| !word.is_empty()).count(), fields.clone().count());
        for field in fields {
            if let Scalar::Message(name) = field.scalar {
                assert!(messages.contains_key(name), "{name}");
            }
        }
    }
}
