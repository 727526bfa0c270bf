//! What each instance type takes: interfaces, addresses, network cards.

use std::sync::LazyLock;

/// The checked-in table; `instance-types/README.md` explains its columns.
const TABLE: &str = include_str!("../../../instance-types/instance-types.csv");

static TYPES: LazyLock<Vec<InstanceType>> =
    LazyLock::new(|| TABLE.lines().skip(1).filter_map(parse_line).collect());

/// The limits of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceType {
    /// For example `m5.large`.
    pub name: &'static str,
    /// Interfaces on all network cards together.
    pub max_enis: u32,
    /// IPv4 addresses of one interface, the primary included. A prefix counts as one.
    pub ipv4_per_eni: u32,
    /// IPv6 addresses of one interface; 0 where the type has no IPv6.
    pub ipv6_per_eni: u32,
    /// Default number of virtual CPUs.
    pub vcpus: u32,
    /// `nitro`, `xen`, or none on bare metal.
    pub hypervisor: Option<&'static str>,
    /// Whether the instance is the whole machine.
    pub bare_metal: bool,
    /// The card that takes an interface whose card is not named.
    pub default_card: u32,
    /// Interfaces that each network card takes.
    pub enis_per_card: Vec<u32>,
}

impl InstanceType {
    /// The type of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        let index = TYPES.binary_search_by(|known| known.name.cmp(name)).ok()?;
        TYPES.get(index)
    }

    /// Every type, by name.
    pub fn all() -> &'static [Self] {
        &TYPES
    }

    /// Whether interfaces can hold prefixes: on nitro and on bare metal.
    pub fn takes_prefixes(&self) -> bool {
        self.bare_metal || self.hypervisor == Some("nitro")
    }

    /// How many pods EKS lets run where each has a secondary address: the
    /// default card's interfaces, and two pods on the host's network.
    pub fn max_pods(&self) -> u32 {
        let enis = match self.enis_per_card.as_slice() {
            [] | [_] => self.max_enis,
            cards => cards.get(self.default_card as usize).copied().unwrap_or(self.max_enis),
        };
        enis * (self.ipv4_per_eni - 1) + 2
    }
}

/// One line of the table. The table is part of the program: a test holds that
/// every line of it parses.
fn parse_line(line: &'static str) -> Option<InstanceType> {
    let mut fields = line.split(',');
    let name = fields.next()?;
    let mut number = || fields.next()?.parse::<u32>().ok();
    let (max_enis, ipv4_per_eni, ipv6_per_eni, vcpus) = (number()?, number()?, number()?, number()?);
    let hypervisor = fields.next()?;
    let mut number = || fields.next()?.parse::<u32>().ok();
    let (bare_metal, default_card) = (number()?, number()?);
    let cards = fields.next()?;
    Some(InstanceType {
        name,
        max_enis,
        ipv4_per_eni,
        ipv6_per_eni,
        vcpus,
        hypervisor: (hypervisor != "none").then_some(hypervisor),
        bare_metal: bare_metal == 1,
        default_card,
        enis_per_card: cards.split('/').map(|n| n.parse().ok()).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood_and_in_order() {
        assert_eq!(InstanceType::all().len(), TABLE.lines().count() - 1);
        assert!(InstanceType::all().is_sorted_by(|a, b| a.name < b.name));
        assert!(InstanceType::all().iter().all(|t| t.ipv4_per_eni > 0 && t.max_enis > 0));
    }

    #[test]
    fn known_types_have_their_limits() {
        for (name, enis, addresses, max_pods, prefixes) in [
            ("m5.large", 3, 10, 29, true),
            ("t3.medium", 3, 6, 17, true),
            ("t3.micro", 2, 2, 4, true),
            ("m5.24xlarge", 15, 50, 737, true),
            ("m5.metal", 15, 50, 737, true),
            ("p5.48xlarge", 64, 50, 100, true),
            ("m4.large", 2, 10, 20, false),
        ] {
            let found = InstanceType::find(name).expect(name);
            let figures = (found.max_enis, found.ipv4_per_eni, found.max_pods(), found.takes_prefixes());
            assert_eq!(figures, (enis, addresses, max_pods, prefixes), "{name}");
        }
        assert_eq!(InstanceType::find("m5.huge"), None);
    }
}
