//! The report for people: what runs where, who may reach whom, and why not.

use std::io::{IsTerminal, Write};

use anyhow::Result;

use super::agents;
use super::control::Pod;
use super::document::Story;
use super::matrix::{Cell, Matrix};
use super::scene::Scene;
use super::simulation::INTERNET;
use super::verdicts::Denial;

/// Writes the whole report.
pub(crate) fn write(out: &mut (impl Write + IsTerminal), story: &Story) -> Result<()> {
    let ink = Ink { on: out.is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    let causes = causes(story);
    writeln!(out, "\n{}", ink.bold("Pods"))?;
    write!(out, "{}", pods(&story.pods))?;
    writeln!(out, "\n{}", ink.bold("Without policies"))?;
    write!(out, "{}", matrix(story, &story.before, &[], ink))?;
    writeln!(out, "\n{}", ink.bold("With the policies of examples/policies.yaml"))?;
    write!(out, "{}", matrix(story, &story.after, &causes, ink))?;
    writeln!(out, "  * changed   ✗n denied by n:")?;
    for (index, cause) in causes.iter().enumerate() {
        writeln!(out, "  {:>2}  {cause}", index + 1)?;
    }
    differences(out, story, ink)?;
    writeln!(out, "\n{}", ink.bold("Addresses"))?;
    write!(out, "{}", pools(story))?;
    writeln!(out, "\n{}", ink.bold("EC2 calls so far"))?;
    let calls: Vec<String> =
        story.ec2_calls().iter().map(|(operation, count)| format!("{operation} {count}")).collect();
    writeln!(out, "  {}", calls.join(" · "))?;
    writeln!(
        out,
        "\n{}\n  {} pods, p50 {:.1} ms, p99 {:.1} ms\n",
        ink.bold("CNI ADD"),
        story.add_ms.len(),
        story.add_percentile(50),
        story.add_percentile(99)
    )?;
    Ok(())
}

/// Says how to look around while it runs.
pub(crate) fn look_around(out: &mut impl Write, scene: &Scene<'_>) -> Result<()> {
    let up = &scene.up;
    writeln!(out, "It goes on running until Ctrl-C. To look around:")?;
    writeln!(out, "  export KUBECONFIG={}", up.kubeconfig.display())?;
    writeln!(out, "  kubectl get pods -A -o wide")?;
    writeln!(
        out,
        "  AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x AWS_DEFAULT_REGION=us-west-2 \
         aws ec2 describe-network-interfaces --endpoint-url {}",
        up.ec2
    )?;
    writeln!(out, "  curl -s {}/calls   # and /enis, /pods, /fabric", up.control.trim_end_matches('/'))?;
    for agent in &scene.agents {
        let node = &agent.node;
        writeln!(
            out,
            "  nsenter --net={} curl -s http://127.0.0.1:61680/metrics   # {} ({}), pid {}, log {}",
            node.netns.display(),
            node.name,
            node.instance_id,
            agent.service.pid(),
            agent.log.display()
        )?;
    }
    for pod in scene.control.pods()? {
        if let Some(netns) = &pod.netns {
            writeln!(out, "  {}  {}", agents::shell(netns, pod.ip), pod.id())?;
        }
    }
    writeln!(out, "  VPC {} ({}); a host on the internet: {INTERNET}", up.vpc.id, up.vpc.cidr)?;
    Ok(())
}

fn pods(pods: &[Pod]) -> String {
    let rows = pods.iter().map(|pod| {
        vec![
            pod.id(),
            pod.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            pod.eni.clone().unwrap_or_default(),
            pod.node.clone().unwrap_or_default(),
        ]
    });
    let header = ["pod", "address", "ENI", "node"].map(str::to_owned).to_vec();
    table(std::iter::once(header).chain(rows).collect())
}

fn pools(story: &Story) -> String {
    let mut rows = vec![["node", "ENI", "index", "for pods", "in use"].map(str::to_owned).to_vec()];
    for node in &story.up.nodes {
        for eni in story.enis_of(&node.name) {
            let used = story.pods.iter().filter(|pod| pod.eni.as_deref() == Some(eni.id.as_str())).count();
            rows.push(vec![
                format!("{} ({})", node.name, node.instance_type),
                eni.id.clone(),
                eni.device_index.map(|index| index.to_string()).unwrap_or_default(),
                // All but the ENI's own, which is the first.
                eni.addresses.len().saturating_sub(1).to_string(),
                used.to_string(),
            ]);
        }
    }
    table(rows)
}

/// What denied something, without repetition, in the order of the rows.
fn causes(story: &Story) -> Vec<Denial> {
    let mut causes: Vec<Denial> = story.denials.values().cloned().collect();
    causes.sort();
    causes.dedup();
    causes
}

fn matrix(story: &Story, cells: &Matrix, causes: &[Denial], ink: Ink) -> String {
    let mut rows = vec![
        std::iter::once("from \\ to".to_owned())
            .chain(story.targets.iter().map(|target| target.to.clone()))
            .collect::<Vec<_>>(),
        std::iter::once(String::new())
            .chain(story.targets.iter().map(|target| format!("{}/{}", target.port, target.protocol)))
            .collect(),
    ];
    for from in &story.sources {
        let mut row = vec![from.clone()];
        for target in &story.targets {
            let cell = Cell { from: from.clone(), target: target.clone() };
            row.push(match cells.get(&cell) {
                None => "·".to_owned(),
                Some(true) => format!("✓{}", mark(story, cells, &cell)),
                Some(false) => format!("✗{}{}", number(story, causes, &cell), mark(story, cells, &cell)),
            });
        }
        rows.push(row);
    }
    let text = table(rows);
    text.chars().map(|c| ink.cell(c)).collect()
}

/// `*` where the cell is not what it was without policies.
fn mark(story: &Story, cells: &Matrix, cell: &Cell) -> &'static str {
    if story.before.get(cell) == cells.get(cell) { "" } else { "*" }
}

fn number(story: &Story, causes: &[Denial], cell: &Cell) -> String {
    story
        .denials
        .get(cell)
        .and_then(|denial| causes.iter().position(|cause| cause == denial))
        .map(|index| (index + 1).to_string())
        .unwrap_or_default()
}

/// Cells that are not as they should be: the reason of exit code 1.
fn differences(out: &mut impl Write, story: &Story, ink: Ink) -> Result<()> {
    let word = |allowed: bool| if allowed { "allowed" } else { "denied" };
    for (cell, allowed) in &story.before {
        if !allowed {
            let text = format!("{} was denied without policies", name(cell));
            writeln!(out, "  {}", ink.red(&text))?;
        }
    }
    for (cell, expected) in &story.expected {
        let seen = story.after.get(cell).copied();
        if seen != Some(*expected) {
            let seen = seen.map_or("not probed", word);
            let text = format!("{} is {seen}, and should be {}", name(cell), word(*expected));
            writeln!(out, "  {}", ink.red(&text))?;
        }
    }
    Ok(())
}

fn name(cell: &Cell) -> String {
    format!("{} → {} {}/{}", cell.from, cell.target.to, cell.target.port, cell.target.protocol)
}

/// Columns as wide as their widest word, two spaces before each.
fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|word| word.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (word, width) in row.iter().zip(&widths) {
            line.push_str(&format!("  {word:<width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Colours, where the output is a terminal.
#[derive(Debug, Clone, Copy)]
struct Ink {
    on: bool,
}

impl Ink {
    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Only the marks of a matrix are coloured, after it was laid out.
    fn cell(self, c: char) -> String {
        match c {
            '✓' => self.paint("32", "✓"),
            '✗' => self.paint("31", "✗"),
            '*' => self.paint("33", "*"),
            other => other.to_string(),
        }
    }

    fn paint(self, style: &str, text: &str) -> String {
        if self.on { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows =
            vec![vec!["a".to_owned(), "✗12*".to_owned(), String::new()], vec!["bbb".into(), "✓".into()]];
        assert_eq!(table(rows), "  a    ✗12*\n  bbb  ✓\n");
    }

    #[test]
    fn marks_are_coloured_only_on_a_terminal() {
        assert_eq!(Ink { on: false }.cell('✗'), "✗");
        assert!(Ink { on: true }.cell('✗').contains("\x1b[31m"));
        assert_eq!(Ink { on: true }.cell('a'), "a");
    }
}
