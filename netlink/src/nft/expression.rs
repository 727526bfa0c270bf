//! Expressions of a rule, and their bytes.

use std::net::IpAddr;

use crate::wire::Attributes;

/// The 16-byte register that all expressions here load and use.
const REGISTER_1: u32 = 1;
/// The register that takes verdicts.
const REGISTER_VERDICT: u32 = 0;

const NF_NAT_RANGE_MAP_IPS: u32 = 1;
const NFT_RETURN: i32 = -5;
const NF_ACCEPT: i32 = 1;

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// They are equal.
    Equal,
    /// They differ.
    Different,
}

/// Where a mark stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MarkSource {
    /// On the packet.
    Packet,
    /// On its connection.
    Connection,
}

/// Whose address type [`Expression::FibDestinationType`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// An address of any interface of this host.
    OfHost,
    /// An address of the interface that the packet came in by.
    OfArrival,
}

/// How a port is chosen when a source is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatFlags {
    /// The packet's own port where it is free, else the next one.
    None,
    /// Chosen by a hash of the packet.
    Random,
    /// Chosen by the kernel's random numbers.
    FullyRandom,
}

impl NatFlags {
    const fn bits(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Random => 1 << 2,
            Self::FullyRandom => 1 << 4,
        }
    }
}

/// One step of a rule. Those that compare end the rule when the answer is no.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    /// Loads `len` bytes of the network header from `offset` into register 1.
    LoadNetworkHeader {
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
    },
    /// Loads the name of the interface that the packet came in by.
    LoadInputName,
    /// Loads the name of the interface that it goes out by.
    LoadOutputName,
    /// Loads a mark, host order.
    LoadMark(MarkSource),
    /// Stores register 1 as a mark.
    StoreMark(MarkSource),
    /// Loads the connection's state bits, host order.
    LoadState,
    /// Loads the packet's direction: one byte, 0 for that of the first packet.
    LoadDirection,
    /// Loads the type of the destination address (`RTN_*`), host order.
    LoadDestinationType(AddressType),
    /// `register 1 = (register 1 & mask) ^ xor`, on four bytes in host order.
    Bitwise {
        /// Bits that stay.
        mask: u32,
        /// Bits that are flipped then.
        xor: u32,
    },
    /// Compares the first bytes of register 1 with `data`.
    Compare {
        /// How.
        compare: Compare,
        /// With what.
        data: Vec<u8>,
    },
    /// Goes on if register 1 is in the set (or not, if `absent`).
    Lookup {
        /// Name of a set of the same table.
        set: String,
        /// Goes on if it is not in the set.
        absent: bool,
    },
    /// Counts packets and bytes.
    Counter,
    /// Translates the source.
    SourceNat {
        /// To this address.
        to: IpAddr,
        /// With which port.
        flags: NatFlags,
    },
    /// Translates the source to the address of the interface that the packet
    /// leaves by.
    Masquerade {
        /// With which port.
        flags: NatFlags,
    },
    /// Leaves this chain.
    Return,
    /// Lets the packet pass this chain.
    Accept,
}

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(NFTA_DATA_VALUE, bytes)
}

fn verdict(code: i32) -> (&'static str, Attributes) {
    let code = Attributes::new().be32(NFTA_VERDICT_CODE, code.cast_unsigned());
    let data = Attributes::new().nested(NFTA_DATA_VERDICT, &code);
    ("immediate", Attributes::new().be32(1, REGISTER_VERDICT).nested(2, &data))
}

impl Expression {
    /// Goes on if the packet's mark or connection's has any bit of `mask`.
    pub fn has_mark(source: MarkSource, mask: u32) -> [Self; 3] {
        [
            Self::LoadMark(source),
            Self::Bitwise { mask, xor: 0 },
            Self::Compare { compare: Compare::Different, data: vec![0; 4] },
        ]
    }

    /// Sets the bits of `mask` in a mark and leaves all others as they are.
    pub fn set_mark(source: MarkSource, mask: u32) -> [Self; 3] {
        [Self::LoadMark(source), Self::Bitwise { mask: !mask, xor: mask }, Self::StoreMark(source)]
    }

    /// Goes on if the packet came in by the interface `name`.
    pub fn input_is(name: &str) -> [Self; 2] {
        [Self::LoadInputName, Self::Compare { compare: Compare::Equal, data: name_bytes(name) }]
    }

    /// Goes on if the packet came in by an interface whose name begins so.
    pub fn input_begins(prefix: &str) -> [Self; 2] {
        [Self::LoadInputName, Self::Compare { compare: Compare::Equal, data: prefix.as_bytes().to_vec() }]
    }

    /// Goes on if the packet leaves by the interface `name`.
    pub fn output_is(name: &str) -> [Self; 2] {
        [Self::LoadOutputName, Self::Compare { compare: Compare::Equal, data: name_bytes(name) }]
    }

    /// Goes on if the type of the destination address is (or is not) local.
    pub fn destination_local(of: AddressType, compare: Compare) -> [Self; 2] {
        const RTN_LOCAL: u32 = 2;
        [Self::LoadDestinationType(of), Self::Compare { compare, data: RTN_LOCAL.to_ne_bytes().to_vec() }]
    }

    /// The attributes of one element of a rule's list.
    pub(super) fn encode(&self) -> Attributes {
        let (name, data) = self.parts();
        Attributes::new().string(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, &data)
    }

    fn parts(&self) -> (&'static str, Attributes) {
        let new = Attributes::new;
        let register = REGISTER_1;
        match self {
            // NFTA_PAYLOAD_DREG, BASE (1 is the network header), OFFSET, LEN.
            Self::LoadNetworkHeader { offset, len } => {
                ("payload", new().be32(1, register).be32(2, 1).be32(3, *offset).be32(4, *len))
            }
            // NFTA_META_KEY is 2, DREG 1, SREG 3; keys: MARK 3, IIFNAME 6, OIFNAME 7.
            Self::LoadInputName => ("meta", new().be32(2, 6).be32(1, register)),
            Self::LoadOutputName => ("meta", new().be32(2, 7).be32(1, register)),
            Self::LoadMark(MarkSource::Packet) => ("meta", new().be32(2, 3).be32(1, register)),
            Self::StoreMark(MarkSource::Packet) => ("meta", new().be32(2, 3).be32(3, register)),
            // NFTA_CT_KEY is 2, DREG 1, SREG 4; keys: STATE 0, DIRECTION 1, MARK 3.
            Self::LoadMark(MarkSource::Connection) => ("ct", new().be32(2, 3).be32(1, register)),
            Self::StoreMark(MarkSource::Connection) => ("ct", new().be32(2, 3).be32(4, register)),
            Self::LoadState => ("ct", new().be32(2, 0).be32(1, register)),
            Self::LoadDirection => ("ct", new().be32(2, 1).be32(1, register)),
            // NFTA_FIB_DREG, RESULT (3 is the address type), FLAGS (daddr 2, iif 8).
            Self::LoadDestinationType(of) => {
                let flags = match of {
                    AddressType::OfHost => 2,
                    AddressType::OfArrival => 2 | 8,
                };
                ("fib", new().be32(1, register).be32(2, 3).be32(3, flags))
            }
            // NFTA_BITWISE_SREG, DREG, LEN, MASK, XOR.
            Self::Bitwise { mask, xor } => (
                "bitwise",
                new()
                    .be32(1, register)
                    .be32(2, register)
                    .be32(3, 4)
                    .nested(4, &value(&mask.to_ne_bytes()))
                    .nested(5, &value(&xor.to_ne_bytes())),
            ),
            // NFTA_CMP_SREG, OP, DATA.
            Self::Compare { compare, data } => {
                let op = match compare {
                    Compare::Equal => 0,
                    Compare::Different => 1,
                };
                ("cmp", new().be32(1, register).be32(2, op).nested(3, &value(data)))
            }
            // NFTA_LOOKUP_SET, SREG, FLAGS (NFT_LOOKUP_F_INV).
            Self::Lookup { set, absent } => {
                ("lookup", new().string(1, set).be32(2, register).be32(5, u32::from(*absent)))
            }
            Self::Counter => ("counter", new().bytes(1, &[0; 8]).bytes(2, &[0; 8])),
            // NFTA_NAT_TYPE (0 is the source), FAMILY, REG_ADDR_MIN, FLAGS.
            Self::SourceNat { to, flags } => {
                let family = if to.is_ipv4() { 2 } else { 10 };
                // The kernel sets the bit for an address by itself, and shows it.
                let flags = NF_NAT_RANGE_MAP_IPS | flags.bits();
                ("nat", new().be32(1, 0).be32(2, family).be32(3, register).be32(7, flags))
            }
            Self::Masquerade { flags } => ("masq", with_flags(new(), 1, *flags)),
            Self::Return => verdict(NFT_RETURN),
            Self::Accept => verdict(NF_ACCEPT),
        }
    }

    /// What has to be loaded into register 1 before this expression.
    pub(super) fn operand(&self) -> Option<Attributes> {
        let Self::SourceNat { to, .. } = self else { return None };
        let octets = match to {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        // NFTA_IMMEDIATE_DREG, DATA.
        let data = Attributes::new().be32(1, REGISTER_1).nested(2, &value(&octets));
        Some(Attributes::new().string(NFTA_EXPR_NAME, "immediate").nested(NFTA_EXPR_DATA, &data))
    }
}

/// No attribute at all says "no flags".
fn with_flags(attributes: Attributes, kind: u16, flags: NatFlags) -> Attributes {
    if flags == NatFlags::None { attributes } else { attributes.be32(kind, flags.bits()) }
}

/// An interface name as the kernel keeps it: 16 bytes, filled with zeros.
fn name_bytes(name: &str) -> Vec<u8> {
    const IFNAMSIZ: usize = 16;
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}
