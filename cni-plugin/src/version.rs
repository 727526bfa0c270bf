//! Versions of the CNI specification.

use crate::error::Error;

/// The versions that we speak. 0.4.0 is the first with CHECK, 1.1.0 with STATUS
/// and GC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Version {
    V0_4_0,
    /// What an error says that comes before the configuration is read.
    #[default]
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Self; 3] = [Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// `field` names where the text stands.
    pub(crate) fn parse(text: &str, field: &'static str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| Error::Version { field, given: text.to_owned() })
    }
}
