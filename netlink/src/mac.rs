//! Ethernet addresses.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// An Ethernet address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

/// Text that is no Ethernet address.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not an Ethernet address like 02:00:5e:10:00:01")]
pub struct ParseMacError(String);

impl Mac {
    /// The address in `bytes`, if they are six.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts
                .next()
                .filter(|part| part.len() == 2)
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| ParseMacError(text.to_owned()))?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(ParseMacError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes() {
        let mac: Mac = "02:0a:ff:00:10:9e".parse().expect("valid");
        assert_eq!(mac.0, [2, 10, 255, 0, 16, 158]);
        assert_eq!(mac.to_string(), "02:0a:ff:00:10:9e");
        for bad in ["", "02:0a:ff:00:10", "02:0a:ff:00:10:9e:00", "2:a:ff:0:10:9e", "02-0a-ff-00-10-9e"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
