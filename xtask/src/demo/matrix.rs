//! Who may reach whom: the cells that are probed, and those that are expected.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

/// A destination: a pod and a port that it listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Target {
    /// `namespace/name`.
    pub(crate) to: String,
    /// `TCP` or `UDP`.
    pub(crate) protocol: String,
    pub(crate) port: u16,
}

/// One cell: a source pod and a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Cell {
    /// `namespace/name`.
    pub(crate) from: String,
    #[serde(flatten)]
    pub(crate) target: Target,
}

/// Whether each cell is allowed.
pub(crate) type Matrix = BTreeMap<Cell, bool>;

/// A table of cells as it stands in a file: rows are sources, columns targets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Sources, in the order of their rows.
    pub(crate) sources: Vec<String>,
    /// Targets, in the order of their columns.
    pub(crate) targets: Vec<Target>,
    pub(crate) cells: Matrix,
}

impl Table {
    /// Reads a table: two header lines with pods and ports, then a line for
    /// each source with `yes`, `no`, or `.` for itself. `#` begins a comment.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.split('#').next().unwrap_or_default()))
            .map(|(number, line)| (number, line.split_whitespace().collect::<Vec<_>>()))
            .filter(|(_, words)| !words.is_empty());
        let (_, pods) = lines.next().context("the table is empty")?;
        let (number, ports) = lines.next().context("the table has no ports")?;
        ensure!(pods.len() == ports.len(), "line {number}: {} ports for {} pods", ports.len(), pods.len());
        let targets = pods
            .iter()
            .zip(&ports)
            .map(|(pod, port)| target(pod, port).with_context(|| format!("line {number}")))
            .collect::<Result<Vec<_>>>()?;

        let mut sources = Vec::new();
        let mut cells = Matrix::new();
        for (number, words) in lines {
            let Some((from, answers)) = words.split_first() else {
                continue;
            };
            ensure!(
                answers.len() == targets.len(),
                "line {number}: {} cells for {} columns",
                answers.len(),
                targets.len()
            );
            for (target, answer) in targets.iter().zip(answers) {
                let allowed = match *answer {
                    "yes" => true,
                    "no" => false,
                    "." if target.to == *from => continue,
                    other => bail!("line {number}: {other} is neither yes nor no"),
                };
                let cell = Cell { from: (*from).to_owned(), target: target.clone() };
                cells.insert(cell, allowed);
            }
            sources.push((*from).to_owned());
        }
        Ok(Self { sources, targets, cells })
    }
}

/// `shop/web` and `8080/TCP`.
fn target(pod: &str, port: &str) -> Result<Target> {
    let (number, protocol) = port.split_once('/').with_context(|| format!("{port} is not like 8080/TCP"))?;
    Ok(Target {
        to: pod.to_owned(),
        protocol: protocol.to_owned(),
        port: number.parse().with_context(|| format!("{number} is not a port"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_cell_by_cell() {
        let table = Table::parse(
            "# by hand\n         a/x       b/y\n         80/TCP    53/UDP\na/x      .         yes\n\n\
             b/y      no        .    # itself\n",
        )
        .expect("the table is right");
        assert_eq!(table.sources, ["a/x", "b/y"]);
        assert_eq!(table.targets.len(), 2);
        let cells: Vec<_> = table
            .cells
            .iter()
            .map(|(cell, allowed)| (cell.from.as_str(), cell.target.port, *allowed))
            .collect();
        assert_eq!(cells, [("a/x", 53, true), ("b/y", 80, false)]);
    }

    #[test]
    fn a_wrong_table_names_its_line() {
        for (text, word) in [
            ("", "empty"),
            ("a/x\n", "no ports"),
            ("a/x\n80\n", "line 2"),
            ("a/x\n80/TCP 81/TCP\n", "line 2"),
            ("a/x\n80/TCP\nb/y maybe\n", "line 3"),
            ("a/x\n80/TCP\nb/y .\n", "line 3"),
            ("a/x\n80/TCP\nb/y yes no\n", "line 3"),
        ] {
            let error = Table::parse(text).expect_err(text);
            assert!(format!("{error:#}").contains(word), "{text:?}: {error:#}");
        }
    }
}
