//! The addresses that a request asks for: by name or by number, IPv4 and IPv6,
//! all of them or none.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use rand_chacha::ChaCha8Rng;

use super::address_space::{AddressSpace, Refused};
use super::address_space6::AddressSpace6;
use super::error::ApiError;
use super::model::Subnet;
use super::settings::Placement;

/// IPv4 addresses and prefixes that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted4 {
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) count: u32,
    pub(crate) prefixes: Vec<Ipv4Network>,
    pub(crate) prefix_count: u32,
}

impl Wanted4 {
    /// How many places they take on an interface.
    pub(crate) fn places(&self) -> u32 {
        let named = self.addresses.len() + self.prefixes.len();
        u32::try_from(named).unwrap_or(u32::MAX).saturating_add(self.count).saturating_add(self.prefix_count)
    }

    /// Whether any prefix is wanted.
    pub(crate) fn has_prefixes(&self) -> bool {
        self.prefix_count > 0 || !self.prefixes.is_empty()
    }

    /// Refuses what EC2 does not take together: each of addresses, their
    /// number, prefixes and their number goes alone.
    pub(crate) fn check_combination(&self) -> Result<(), ApiError> {
        let given = [
            (!self.addresses.is_empty(), "private IP addresses"),
            (self.count > 0, "a count of secondary private IP addresses"),
            (!self.prefixes.is_empty(), "IPv4 prefixes"),
            (self.prefix_count > 0, "a count of IPv4 prefixes"),
        ];
        check_alone(&given)
    }

    /// Takes them all from the subnet, or none. The addresses, then the prefixes.
    pub(crate) fn take(
        &self,
        subnet: &mut Subnet,
        placement: Placement,
        rng: &mut ChaCha8Rng,
    ) -> Result<(Vec<Ipv4Addr>, Vec<Ipv4Network>), ApiError> {
        let mut space = subnet.space.clone();
        let mut addresses = self.addresses.clone();
        for address in &addresses {
            take_named(&mut space, *address)?;
        }
        let mut prefixes = self.prefixes.clone();
        for prefix in &prefixes {
            space.take_block(*prefix).map_err(|refused| named_refusal(refused, prefix))?;
        }
        let blocks = space.take_any_blocks(self.prefix_count, placement, rng);
        prefixes.extend(blocks.map_err(|refused| match refused {
            Refused::Fragmented => ApiError::no_block_in_subnet(&subnet.id),
            _ => ApiError::invalid("There aren't sufficient free Ipv4 addresses or prefixes"),
        })?);
        let singles = space.take_any(self.count, placement, rng);
        addresses.extend(singles.map_err(|_| ApiError::subnet_is_full(&subnet.id))?);
        subnet.space = space;
        Ok((addresses, prefixes))
    }
}

/// Takes one address that is asked for by name.
pub(crate) fn take_named(space: &mut AddressSpace, address: Ipv4Addr) -> Result<(), ApiError> {
    space.take(address).map_err(|refused| named_refusal(refused, address))
}

/// IPv6 addresses and prefixes that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted6 {
    pub(crate) addresses: Vec<Ipv6Addr>,
    pub(crate) count: u32,
    pub(crate) prefixes: Vec<Ipv6Network>,
    pub(crate) prefix_count: u32,
}

impl Wanted6 {
    /// How many places they take on an interface.
    pub(crate) fn places(&self) -> u32 {
        let named = self.addresses.len() + self.prefixes.len();
        u32::try_from(named).unwrap_or(u32::MAX).saturating_add(self.count).saturating_add(self.prefix_count)
    }

    /// Whether any prefix is wanted.
    pub(crate) fn has_prefixes(&self) -> bool {
        self.prefix_count > 0 || !self.prefixes.is_empty()
    }

    /// As [`Wanted4::check_combination`].
    pub(crate) fn check_combination(&self) -> Result<(), ApiError> {
        check_alone(&[
            (!self.addresses.is_empty(), "IPv6 addresses"),
            (self.count > 0, "a count of IPv6 addresses"),
            (!self.prefixes.is_empty(), "IPv6 prefixes"),
            (self.prefix_count > 0, "a count of IPv6 prefixes"),
        ])
    }

    /// Takes them all from the subnet, or none. The addresses, then the prefixes.
    pub(crate) fn take(
        &self,
        subnet: &mut Subnet,
        rng: &mut ChaCha8Rng,
    ) -> Result<(Vec<Ipv6Addr>, Vec<Ipv6Network>), ApiError> {
        if self.places() == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        let Some(mut space) = subnet.space6.clone() else {
            return Err(ApiError::invalid(format!(
                "The subnet '{}' does not have an IPv6 CIDR block associated",
                subnet.id
            )));
        };
        let taken = self.take_from(&mut space, rng)?;
        subnet.space6 = Some(space);
        Ok(taken)
    }

    fn take_from(
        &self,
        space: &mut AddressSpace6,
        rng: &mut ChaCha8Rng,
    ) -> Result<(Vec<Ipv6Addr>, Vec<Ipv6Network>), ApiError> {
        let mut addresses = self.addresses.clone();
        for address in &addresses {
            space.take(*address).map_err(|refused| named_refusal(refused, address))?;
        }
        let mut prefixes = self.prefixes.clone();
        for prefix in &prefixes {
            space.take_block(*prefix).map_err(|refused| named_refusal(refused, prefix))?;
        }
        for _ in 0..self.prefix_count {
            let block = space.take_any_block(rng);
            prefixes.push(
                block.map_err(|_| {
                    ApiError::invalid("There aren't sufficient free Ipv6 addresses or prefixes")
                })?,
            );
        }
        addresses.extend((0..self.count).map(|_| space.take_any(rng)));
        Ok((addresses, prefixes))
    }
}

fn check_alone(given: &[(bool, &str)]) -> Result<(), ApiError> {
    let given: Vec<&str> = given.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
    match given.as_slice() {
        [] | [_] => Ok(()),
        [first, second, ..] => {
            Err(ApiError::combination(format!("You may not specify both {first} and {second}")))
        }
    }
}

fn named_refusal(refused: Refused, what: impl std::fmt::Display) -> ApiError {
    match refused {
        Refused::InUse => ApiError::new("InvalidIPAddress.InUse", format!("Address {what} is in use.")),
        Refused::Outside => {
            ApiError::invalid(format!("Address {what} does not fall within the subnet's address range"))
        }
        Refused::Reserved => {
            ApiError::invalid(format!("Address {what} is in subnet's reserved address range"))
        }
        Refused::NoBlock | Refused::Full | Refused::Fragmented => {
            ApiError::invalid(format!("{what} is not a valid prefix"))
        }
    }
}
