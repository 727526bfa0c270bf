//! How many ENIs and addresses an instance type can have.

use serde::{Deserialize, Serialize};

/// The table that ships with the product: a row per instance type, generated
/// by the script beside it from a public data set.
const BUILT_IN: &str = include_str!("../../instance-types/instance-types.csv");

/// One network card.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CardLimit {
    /// Its index.
    pub index: u32,
    /// ENIs that it can carry, the primary one included.
    pub max_enis: u32,
}

/// The limits of one instance type.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceLimits {
    /// The type's name.
    pub instance_type: String,
    /// IPv4 addresses per ENI, its primary one included.
    pub ipv4_per_eni: u32,
    /// IPv6 addresses per ENI.
    pub ipv6_per_eni: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Whether /28 prefixes are possible (Nitro or bare metal).
    pub prefixes: bool,
    /// The card that carries the primary ENI.
    pub default_card: u32,
    /// Every network card.
    pub cards: Vec<CardLimit>,
}

impl InstanceLimits {
    /// Slots per ENI for pods: every address but the primary one.
    pub fn slots_per_eni(&self) -> u32 {
        self.ipv4_per_eni.saturating_sub(1)
    }

    /// ENIs that the default network card can carry; the only card that pods
    /// use.
    pub fn enis(&self) -> u32 {
        self.cards.iter().find(|card| card.index == self.default_card).map_or(0, |card| card.max_enis)
    }

    /// The usual `max-pods` where the Node object does not say it: a slot (or
    /// sixteen) for each pod and two for host-network pods; with prefixes the
    /// recommended 110, or 250 from 31 virtual CPUs.
    pub fn max_pods(&self, prefixes: bool) -> u32 {
        self.max_pods_on(self.enis(), prefixes)
    }

    /// The same where pods have no addresses of the primary ENI (custom
    /// networking): one ENI less.
    pub fn max_pods_without_primary(&self, prefixes: bool) -> u32 {
        self.max_pods_on(self.enis().saturating_sub(1), prefixes)
    }

    fn max_pods_on(&self, enis: u32, prefixes: bool) -> u32 {
        let slots = enis * self.slots_per_eni();
        if prefixes && self.prefixes {
            let recommended = if self.vcpus <= 30 { 110 } else { 250 };
            (slots * 16 + 2).min(recommended)
        } else {
            slots + 2
        }
    }
}

/// A table of instance types that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instance type table, line {line}: {what}")]
pub struct TableError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// The limits of many instance types, in the text form in which they ship.
#[derive(Clone, Copy, Debug)]
pub struct InstanceTable<'a> {
    csv: &'a str,
}

impl Default for InstanceTable<'static> {
    fn default() -> Self {
        Self { csv: BUILT_IN }
    }
}

impl<'a> InstanceTable<'a> {
    /// Reads from `csv`, whose first line names the columns.
    pub const fn new(csv: &'a str) -> Self {
        Self { csv }
    }

    /// The limits of `instance_type`; `None` when the table lacks it.
    pub fn find(&self, instance_type: &str) -> Result<Option<InstanceLimits>, TableError> {
        for (number, line) in self.rows() {
            if line.split(',').next() == Some(instance_type) {
                return parse_row(number, line).map(Some);
            }
        }
        Ok(None)
    }

    /// Every row; the first that is wrong ends it.
    pub fn all(&self) -> Result<Vec<InstanceLimits>, TableError> {
        self.rows().map(|(number, line)| parse_row(number, line)).collect()
    }

    fn rows(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.csv
            .lines()
            .enumerate()
            .skip(1)
            .map(|(index, line)| (index + 1, line))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }
}

fn parse_row(line: usize, row: &str) -> Result<InstanceLimits, TableError> {
    let wrong = |what: String| TableError { line, what };
    let fields: Vec<&str> = row.split(',').collect();
    let &[name, enis, ipv4, ipv6, vcpus, hypervisor, metal, default_card, per_card] = fields.as_slice()
    else {
        return Err(wrong(format!("{} columns, not 9", fields.len())));
    };
    let number = |column: &str, text: &str| {
        text.parse::<u32>().map_err(|_| wrong(format!("{column} is {text:?}, not a number")))
    };
    let default_card = number("default_card", default_card)?;
    let mut cards = Vec::new();
    for (index, text) in (0..).zip(per_card.split('/')) {
        cards.push(CardLimit { index, max_enis: number("enis_per_card", text)? });
    }
    let limits = InstanceLimits {
        instance_type: name.to_owned(),
        ipv4_per_eni: number("ipv4_per_eni", ipv4)?,
        ipv6_per_eni: number("ipv6_per_eni", ipv6)?,
        vcpus: number("vcpus", vcpus)?,
        prefixes: hypervisor == "nitro" || metal == "1",
        default_card,
        cards,
    };
    let total = number("max_enis", enis)?;
    if limits.enis() == 0 || limits.enis() > total {
        return Err(wrong(format!("card {default_card} carries no ENI, or more than {total}")));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::{InstanceTable, TableError};

    #[test]
    fn every_built_in_row_is_sound() {
        let rows = InstanceTable::default().all().expect("the table that ships");
        assert!(rows.len() > 1000, "{}", rows.len());
        for row in rows {
            assert!(row.enis() > 0 && row.ipv4_per_eni > 1, "{row:?}");
        }
    }

    #[test]
    fn documented_max_pods() {
        let table = InstanceTable::default();
        let max_pods = |name: &str, prefixes| {
            let limits = table.find(name).expect("readable").expect("known");
            limits.max_pods(prefixes)
        };
        assert_eq!(max_pods("m5.large", false), 29);
        assert_eq!(max_pods("t3.medium", false), 17);
        assert_eq!(max_pods("t3.micro", false), 4);
        assert_eq!(max_pods("m5.24xlarge", false), 737);
        assert_eq!(max_pods("p5.48xlarge", false), 100);
        assert_eq!(max_pods("m5.large", true), 110);
        assert_eq!(max_pods("m5.24xlarge", true), 250);
        let m5_large = table.find("m5.large").expect("readable").expect("known");
        assert_eq!(m5_large.max_pods_without_primary(false), 20);
        assert_eq!(m5_large.max_pods_without_primary(true), 110);
    }

    #[test]
    fn unknown_and_broken_rows() {
        let table =
            InstanceTable::new("header\nx9.large,3,10,10,2,nitro,0,0,3\nx9.bad,3,ten,10,2,nitro,0,0,3\n");
        assert_eq!(table.find("x9.none"), Ok(None));
        assert!(table.find("x9.large").expect("sound").is_some());
        assert!(matches!(table.find("x9.bad"), Err(TableError { line: 3, .. })));
    }
}
