//! Which policy decides about a cell, as the agents of both ends tell.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};

use super::agents::{Agent, Explanation};
use super::control::Pod;
use super::matrix::Cell;

/// What denies a cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Denial {
    /// `ingress` or `egress`.
    pub(crate) direction: String,
    /// The pod whose policies deny: the target of ingress, the source of egress.
    pub(crate) pod: String,
    /// The policy, where one rule or policy can be named.
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<String>,
}

/// Denied cells, each with its reason.
pub(crate) type Denials = BTreeMap<Cell, Denial>;

/// Asks the agent of the source and, where that one allows, the agent of the
/// target. `None` is allowed by both.
pub(crate) fn judge<'c>(
    agents: &[Agent],
    pods: &[Pod],
    cells: impl Iterator<Item = &'c Cell>,
) -> Result<BTreeMap<Cell, Option<Denial>>> {
    let node_of: BTreeMap<String, Option<&str>> =
        pods.iter().map(|pod| (pod.id(), pod.node.as_deref())).collect();
    let agent_of = |pod: &str| {
        let node = node_of.get(pod).copied().flatten();
        agents.iter().position(|agent| agent.is_on(node)).ok_or_else(|| anyhow!("{pod} is on no node"))
    };
    let mut judged: BTreeMap<Cell, Option<Denial>> = cells.map(|cell| (cell.clone(), None)).collect();
    for end in [End::Source, End::Target] {
        let mut questions: BTreeMap<usize, Vec<&Cell>> = BTreeMap::new();
        for (cell, denial) in &judged {
            if denial.is_none() {
                questions.entry(agent_of(end.pod(cell))?).or_default().push(cell);
            }
        }
        let mut found = Vec::new();
        for (agent, cells) in questions {
            let answers = agents[agent].explain(&cells)?;
            for (cell, answer) in cells.into_iter().zip(answers) {
                if !answer.allowed {
                    found.push((cell.clone(), denial(cell, answer, end)));
                }
            }
        }
        for (cell, denial) in found {
            judged.insert(cell, Some(denial));
        }
    }
    Ok(judged)
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
enum End {
    Source,
    Target,
}

impl End {
    fn pod(self, cell: &Cell) -> &str {
        match self {
            Self::Source => &cell.from,
            Self::Target => &cell.target.to,
        }
    }
}

fn denial(cell: &Cell, answer: Explanation, asked: End) -> Denial {
    // An agent that has both ends tells which one denies.
    let direction = answer.direction.unwrap_or_else(|| match asked {
        End::Source => "egress".to_owned(),
        End::Target => "ingress".to_owned(),
    });
    let pod = if direction == "egress" { &cell.from } else { &cell.target.to };
    Denial {
        pod: pod.clone(),
        direction,
        policy: answer.policy,
        rule: answer.rule.and_then(|rule| match rule {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }),
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let preposition = if self.direction == "egress" { "from" } else { "to" };
        write!(f, "{} {preposition} {}: ", self.direction, self.pod)?;
        match (&self.policy, &self.rule) {
            (Some(policy), Some(rule)) => write!(f, "{policy}, {rule}"),
            (Some(policy), None) => write!(f, "{policy}"),
            (None, Some(rule)) => write!(f, "{rule}"),
            (None, None) => write!(f, "isolated, and no rule allows it"),
        }
    }
}
