//! Flows that go on while policy changes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::ask::{Ask, service};
use crate::scene::Scene;

/// Flows by name.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    open: BTreeMap<String, Ask>,
}

/// Packets of a flow, in their order, and whether each must pass.
pub(crate) struct Talk {
    pub(crate) packets: Vec<Ask>,
    pub(crate) passes: bool,
}

impl Flows {
    /// Reads a line of `flows`.
    pub(crate) fn read(&mut self, scene: &Scene, line: &str, round: u32) -> Result<Talk> {
        if let Some((name, rest)) = line.split_once(':') {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let (what, ipv4, from, to) = match words[..] {
                [what, from, to, "opens"] => (what, None, from, to),
                [what, "IPv6", from, to, "opens"] => (what, Some(false), from, to),
                _ => {
                    bail!("a flow opens by a protocol, perhaps a family, a source and a destination: {line}")
                }
            };
            let ends = (scene.party(from)?, scene.party(to)?);
            let mut ask = Ask::new(scene, ends, service(what)?, ipv4, round)?;
            // Apart from all single questions.
            ask.source_port = 61_000 + u16::try_from(self.open.len())?;
            self.open.insert(name.to_owned(), ask.clone());
            return Ok(Talk { packets: vec![ask.clone(), ask.back(), ask.later()], passes: true });
        }
        let (name, word) = line.split_once(' ').with_context(|| format!("no word: {line}"))?;
        let ask = self.open.get(name).with_context(|| format!("no flow {name}"))?;
        let passes = match word {
            "lives" => true,
            "dies" => false,
            _ => bail!("a flow lives or dies: {line}"),
        };
        // By name, as columns may have moved.
        Ok(Talk { packets: vec![ask.later(), ask.back(), ask.later()], passes })
    }
}
