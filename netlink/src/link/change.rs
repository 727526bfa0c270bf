//! Changing and deleting links.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use nix::errno::Errno;

use crate::{
    Batch,
    batch::{MISSING, kind},
    wire::Attributes,
};

const IFLA_INET_CONF: u16 = 1;

/// An IPv4 sysctl of one interface that can be set by netlink, where `/proc/sys`
/// is read-only. The values are the kernel's `IPV4_DEVCONF_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Ipv4Conf {
    /// `forwarding`: packets that arrive here are routed.
    Forwarding = 1,
    /// `rp_filter`: 0 no check of sources, 1 strict, 2 loose.
    RpFilter = 8,
}

/// What is to change about a link; what is not named stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkChange {
    /// The link.
    pub index: u32,
    /// Administratively up (true) or down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// The link makes itself no IPv6 link-local address when it comes up.
    pub no_link_local: bool,
    /// IPv4 sysctls.
    pub ipv4: Vec<(Ipv4Conf, u32)>,
}

impl LinkChange {
    /// No change of link `index`, to be filled by struct update.
    pub fn of(index: u32) -> Self {
        Self { index, up: None, mtu: None, no_link_local: false, ipv4: Vec::new() }
    }

    /// Brings link `index` up.
    pub fn up(index: u32) -> Self {
        Self { up: Some(true), ..Self::of(index) }
    }
}

/// Adds the messages that make a change to `batch`.
pub fn change(batch: &mut Batch, wanted: &LinkChange) {
    if wanted.no_link_local {
        let mut message = LinkMessage::default();
        message.header.index = wanted.index;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        // A kernel without IPv6, or with it off for this link's MTU: there is
        // nothing that could make an address.
        batch.push(
            "keep a link without IPv6 link-local address",
            kind::SETLINK,
            0,
            &message,
            &[Errno::EAFNOSUPPORT],
        );
    }
    if !wanted.ipv4.is_empty() {
        let values = wanted
            .ipv4
            .iter()
            .fold(Attributes::new(), |all, (conf, value)| all.bytes(*conf as u16, &value.to_ne_bytes()));
        let mut message = LinkMessage::default();
        message.header.index = wanted.index;
        let conf = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | 0x8000, values.as_bytes().to_vec()));
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![conf])]));
        batch.push("set a link's IPv4 sysctls", kind::SETLINK, 0, &message, &[]);
    }
    if wanted.up.is_some() || wanted.mtu.is_some() {
        let mut message = LinkMessage::default();
        message.header.index = wanted.index;
        if let Some(up) = wanted.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        message.attributes.extend(wanted.mtu.map(LinkAttribute::Mtu));
        batch.push("change a link", kind::SETLINK, 0, &message, &[]);
    }
}

/// Adds the renaming of link `index`, which must be down before kernel 6.3.
pub fn rename(batch: &mut Batch, index: u32, name: &str) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    batch.push("rename a link", kind::SETLINK, 0, &message, &[]);
}

/// Adds the deletion of link `index`; one that is gone is success. The kernel
/// takes 15 to 35 ms for a veth pair, waiting for its readers.
pub fn delete(batch: &mut Batch, index: u32) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    batch.push("delete a link", kind::DELLINK, 0, &message, MISSING);
}
