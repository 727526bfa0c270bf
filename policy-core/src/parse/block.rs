//! Address blocks in canonical form.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::raw::RawBlock;
use crate::model::IpBlock;

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockFault {
    #[error("{0:?} is not a CIDR, which is an address, a slash and a prefix length")]
    Cidr(String),
    #[error("except {except:?} is of another address family than {cidr:?}")]
    Family { cidr: String, except: String },
}

pub(super) fn parse_block(raw: &RawBlock) -> Result<IpBlock, BlockFault> {
    let cidr = parse_cidr(&raw.cidr)?;
    let mut except = raw
        .except
        .iter()
        .map(|text| {
            let hole = parse_cidr(text)?;
            if hole.is_ipv4() == cidr.is_ipv4() {
                Ok(hole)
            } else {
                // What was meant to be taken out is not known: nothing may pass by it.
                Err(BlockFault::Family { cidr: raw.cidr.clone(), except: text.clone() })
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    except.sort();
    except.dedup();
    Ok(IpBlock { cidr, except })
}

/// Old objects may carry host bits, and IPv4 may be written as `::ffff:a.b.c.d`.
pub(super) fn parse_cidr(text: &str) -> Result<IpNetwork, BlockFault> {
    let fault = || BlockFault::Cidr(text.to_owned());
    // Without a prefix length ipnetwork would take a bare address.
    if !text.contains('/') {
        return Err(fault());
    }
    let network: IpNetwork = text.parse().map_err(|_| fault())?;
    let canonical = match (network.ip(), network.prefix()) {
        (IpAddr::V4(address), bits) => v4(address, bits),
        (IpAddr::V6(address), bits) => match (address.to_ipv4_mapped(), bits.checked_sub(96)) {
            (Some(mapped), Some(bits)) => v4(mapped, bits),
            _ => Ipv6Network::new(address, bits)
                .and_then(|network| Ipv6Network::new(network.network(), bits))
                .map(IpNetwork::V6),
        },
    };
    canonical.map_err(|_| fault())
}

fn v4(address: std::net::Ipv4Addr, bits: u8) -> Result<IpNetwork, ipnetwork::IpNetworkError> {
    Ipv4Network::new(address, bits)
        .and_then(|network| Ipv4Network::new(network.network(), bits))
        .map(IpNetwork::V4)
}
