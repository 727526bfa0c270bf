//! Label selectors: operators by name, values where the operator takes them.

use super::raw::RawSelector;
use crate::model::{Name, Requirement, Selector};

/// What is wrong with a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SelectorFault {
    #[error("operator {0:?} is not known, only In, NotIn, Exists and DoesNotExist are")]
    Operator(String),
    #[error("operator {operator} on {key:?} needs values")]
    NoValues { operator: String, key: String },
    #[error("operator {operator} on {key:?} takes no values")]
    Values { operator: String, key: String },
    #[error("a requirement has no key")]
    NoKey,
}

pub(super) fn parse_selector(raw: &RawSelector) -> Result<Selector, SelectorFault> {
    let mut list = Vec::with_capacity(raw.match_labels.len() + raw.match_expressions.len());
    for (key, value) in &raw.match_labels {
        list.push(Requirement::In(key.as_str().into(), vec![value.as_str().into()]));
    }
    for expression in &raw.match_expressions {
        if expression.key.is_empty() {
            return Err(SelectorFault::NoKey);
        }
        let key = || Name::from(expression.key.as_str());
        let values = || -> Result<Vec<Name>, SelectorFault> {
            if expression.values.is_empty() {
                return Err(SelectorFault::NoValues {
                    operator: expression.operator.clone(),
                    key: expression.key.clone(),
                });
            }
            Ok(expression.values.iter().map(|value| value.as_str().into()).collect())
        };
        let without = |requirement: Requirement| {
            if expression.values.is_empty() {
                Ok(requirement)
            } else {
                Err(SelectorFault::Values {
                    operator: expression.operator.clone(),
                    key: expression.key.clone(),
                })
            }
        };
        list.push(match expression.operator.as_str() {
            "In" => Requirement::In(key(), values()?),
            "NotIn" => Requirement::NotIn(key(), values()?),
            "Exists" => without(Requirement::Exists(key()))?,
            "DoesNotExist" => without(Requirement::DoesNotExist(key()))?,
            other => return Err(SelectorFault::Operator(other.to_owned())),
        });
    }
    Ok(Selector::new(list))
}
