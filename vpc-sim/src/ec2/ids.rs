//! Names of things in the cloud: one newtype per kind, so that a subnet's id
//! can never be passed where an interface's is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Takes a text as an id, unchecked: what does not exist is not found.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The id that the 68 low bits of `number` make: 17 hexadecimal digits,
            /// as EC2 has made them since 2016.
            pub(crate) fn from_number(number: u128) -> Self {
                Self(format!("{}{:017x}", $prefix, number & ((1 << 68) - 1)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether `text` has the shape of such an id: the prefix and 8 or 17
            /// hexadecimal digits.
            pub fn is_well_formed(text: &str) -> bool {
                text.strip_prefix($prefix).is_some_and(|digits| {
                    matches!(digits.len(), 8 | 17)
                        && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )+};
}

ids! {
    /// A network interface.
    EniId = "eni-";
    /// The attachment of an interface to an instance.
    AttachmentId = "eni-attach-";
    /// An instance.
    InstanceId = "i-";
    /// A subnet.
    SubnetId = "subnet-";
    /// A VPC.
    VpcId = "vpc-";
    /// A security group.
    GroupId = "sg-";
    /// The reservation an instance was started by.
    ReservationId = "r-";
    /// The association of a branch interface with its trunk.
    TrunkAssociationId = "trunk-assoc-";
}

/// A link-layer address, in the order in which it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_prefix_and_seventeen_digits() {
        let id = EniId::from_number(0xabc);
        assert_eq!(id.as_str(), "eni-00000000000000abc");
        assert!(EniId::is_well_formed(id.as_str()));
    }

    #[test]
    fn malformed_ids_are_told_apart() {
        for (text, expected) in [
            ("eni-0123456789abcdef0", true),
            ("eni-01234567", true),
            ("eni-0123456", false),
            ("eni-0123456789ABCDEF0", false),
            ("eni-", false),
            ("subnet-01234567", false),
            ("", false),
        ] {
            assert_eq!(EniId::is_well_formed(text), expected, "{text}");
        }
        assert!(!EniId::is_well_formed("eni-attach-01234567"));
    }

    #[test]
    fn a_mac_is_written_with_colons() {
        assert_eq!(Mac([2, 0, 0xab, 4, 5, 6]).to_string(), "02:00:ab:04:05:06");
    }
}
