//! A request's parameters: taken from the form one by one, typed and checked;
//! what nobody took is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::error::{ApiError, IdKind};

/// Parameters that belong to the protocol, not to an operation.
const OF_PROTOCOL: [&str; 10] = [
    "Action",
    "Version",
    "AWSAccessKeyId",
    "Signature",
    "SignatureMethod",
    "SignatureVersion",
    "Timestamp",
    "Expires",
    "SecurityToken",
    "AuthParams",
];

/// The form of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    given: BTreeMap<String, String>,
    taken: BTreeSet<String>,
}

impl Params {
    /// Decodes `application/x-www-form-urlencoded`.
    pub(crate) fn parse(form: &str) -> Result<Self, ApiError> {
        let mut given = BTreeMap::new();
        for pair in form.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if given.contains_key(&name) {
                return Err(ApiError::new(
                    "InvalidParameter",
                    format!("The parameter {name} is given more than once"),
                ));
            }
            given.insert(name, value);
        }
        Ok(Self { given, taken: BTreeSet::new() })
    }

    /// The operation's name; empty when there is none.
    pub(crate) fn action(&self) -> &str {
        self.given.get("Action").map_or("", String::as_str)
    }

    /// The version of the API that is asked for, if any is.
    pub(crate) fn version(&self) -> Option<&str> {
        self.given.get("Version").map(String::as_str)
    }

    /// A parameter, if it is there and not empty.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let value = self.given.get(name)?;
        self.taken.insert(name.to_owned());
        (!value.is_empty()).then(|| value.clone())
    }

    /// A parameter that must be there.
    pub(crate) fn required(&mut self, name: &str) -> Result<String, ApiError> {
        self.text(name).ok_or_else(|| ApiError::missing(name))
    }

    /// A parameter of another type than text.
    pub(crate) fn parsed<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name).map(|text| text.parse().map_err(|_| ApiError::invalid_value(name, &text))).transpose()
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name).as_deref() {
            None => Ok(None),
            Some("true" | "True" | "1") => Ok(Some(true)),
            Some("false" | "False" | "0") => Ok(Some(false)),
            Some(other) => Err(ApiError::invalid_value(name, other)),
        }
    }

    /// An id that must be there and have an id's shape.
    pub(crate) fn id<T: Id>(&mut self, name: &str) -> Result<T, ApiError> {
        let text = self.required(name)?;
        T::check(text)
    }

    /// The numbers N of all `name.N` and `name.N.…` that are given, in order.
    pub(crate) fn indices(&self, name: &str) -> Result<Vec<String>, ApiError> {
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        for key in self.given.keys() {
            let Some(rest) = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let index = rest.split('.').next().unwrap_or(rest);
            match index.parse::<u64>() {
                Ok(number) if number > 0 => {
                    found.insert(number, format!("{name}.{index}"));
                }
                // `Attachment.AttachmentId` is a structure, not a list.
                _ if index.parse::<u64>().is_err() => {}
                _ => return Err(ApiError::unknown_parameter(key)),
            }
        }
        Ok(found.into_values().collect())
    }

    /// `name.1`, `name.2`, …
    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let keys = self.indices(name)?;
        Ok(keys.iter().filter_map(|key| self.text(key)).collect())
    }

    /// `name.1`, `name.2`, …, of another type than text.
    pub(crate) fn list<T: FromStr>(&mut self, name: &str) -> Result<Vec<T>, ApiError> {
        let texts = self.texts(name)?;
        texts.iter().map(|text| text.parse().map_err(|_| ApiError::invalid_value(name, text))).collect()
    }

    /// `name.1`, `name.2`, …, ids.
    pub(crate) fn ids<T: Id>(&mut self, name: &str) -> Result<Vec<T>, ApiError> {
        self.texts(name)?.into_iter().map(T::check).collect()
    }

    /// Whether any parameter is called `name`, `name.…`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.given
            .keys()
            .any(|key| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(&self) -> Result<(), ApiError> {
        let unknown = self.given.keys().find(|key| {
            !self.taken.contains(*key) && !OF_PROTOCOL.contains(&key.as_str()) && !key.starts_with("X-Amz-")
        });
        unknown.map_or(Ok(()), |key| Err(ApiError::unknown_parameter(key)))
    }

    /// All that is asked, without what may differ between two tries of one
    /// request: the same text means the same request.
    pub(crate) fn fingerprint(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.given {
            let varies = OF_PROTOCOL.contains(&key.as_str())
                || key.starts_with("X-Amz-")
                || key == "ClientToken"
                || key == "DryRun";
            if !varies {
                text.extend([key.as_str(), "\u{0}", value.as_str(), "\u{0}"]);
            }
        }
        text
    }
}

/// Ids as parameters.
pub(crate) trait Id: Sized {
    /// The id, if `text` has its shape.
    fn check(text: String) -> Result<Self, ApiError>;
}

macro_rules! checked_ids {
    ($($name:ident => $kind:ident;)+) => {$(
        impl Id for super::ids::$name {
            fn check(text: String) -> Result<Self, ApiError> {
                if Self::is_well_formed(&text) {
                    Ok(Self::new(text))
                } else {
                    Err(ApiError::malformed(IdKind::$kind, &text))
                }
            }
        }
    )+};
}

checked_ids! {
    EniId => Interface;
    AttachmentId => Attachment;
    InstanceId => Instance;
    SubnetId => Subnet;
    VpcId => Vpc;
    GroupId => Group;
    TrunkAssociationId => TrunkAssociation;
}

fn decode(text: &str) -> Result<String, ApiError> {
    let malformed = || ApiError::new("MalformedQueryString", "The query string is malformed");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(malformed);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).map_err(|_| malformed())?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::super::ids::EniId;
    use super::*;

    #[test]
    fn a_form_is_decoded() {
        let mut params = Params::parse("A=a%20b%2B+c&B=%C3%A4&C=").expect("well formed");
        assert_eq!(params.text("A").as_deref(), Some("a b+ c"));
        assert_eq!(params.text("B").as_deref(), Some("ä"));
        assert_eq!(params.text("C"), None);
        assert_eq!(params.finish(), Ok(()));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (form, code) in [
            ("A=%zz", "MalformedQueryString"),
            ("A=%4", "MalformedQueryString"),
            ("A=%ff", "MalformedQueryString"),
            ("A=1&A=2", "InvalidParameter"),
        ] {
            assert_eq!(Params::parse(form).expect_err(form).code, code, "{form}");
        }
    }

    #[test]
    fn lists_are_read_in_the_order_of_their_numbers() {
        let mut params = Params::parse("X.10=c&X.2=b&X.1=a&X.Name=n&XY.1=z").expect("well formed");
        assert_eq!(params.texts("X").expect("a list"), ["a", "b", "c"]);
        assert!(params.has("X") && params.has("XY") && !params.has("Y"));
        assert_eq!(params.finish().expect_err("X.Name").code, "UnknownParameter");
        let mut params = Params::parse("X.0=a").expect("well formed");
        assert_eq!(params.texts("X").expect_err("numbers begin at 1").code, "UnknownParameter");
    }

    #[test]
    fn types_are_checked() {
        let mut params = Params::parse("N=x&F=maybe&I=eni-zz&L.1=1&L.2=y").expect("well formed");
        assert_eq!(params.parsed::<u32>("N").expect_err("N").code, "InvalidParameterValue");
        assert_eq!(params.flag("F").expect_err("F").code, "InvalidParameterValue");
        let code = params.id::<EniId>("I").expect_err("I").code;
        assert_eq!(code, "InvalidNetworkInterfaceId.Malformed");
        assert_eq!(params.list::<u32>("L").expect_err("L").code, "InvalidParameterValue");
        assert_eq!(params.required("Q").expect_err("Q").code, "MissingParameter");
    }

    #[test]
    fn a_fingerprint_leaves_out_what_varies() {
        let print = |form: &str| Params::parse(form).expect("well formed").fingerprint();
        assert_eq!(print("A=1&ClientToken=x"), print("ClientToken=y&A=1&DryRun=true"));
        assert_ne!(print("A=1"), print("A=2"));
    }
}
