//! VERSION.

use serde_json::{Value, json};

use crate::{error::Error, version::Version};

/// Says which versions we speak, in the version that was asked in. Input is
/// optional here.
pub(crate) fn report(input: &str) -> Result<String, Error> {
    let asked = if input.trim().is_empty() {
        None
    } else {
        let conf: Value = serde_json::from_str(input).map_err(Error::Json)?;
        conf.get("cniVersion").and_then(Value::as_str).map(str::to_owned)
    };
    let supported: Vec<&str> = Version::ALL.into_iter().map(Version::as_str).collect();
    let version = asked.unwrap_or_else(|| Version::V1_1_0.as_str().to_owned());
    Ok(json!({"cniVersion": version, "supportedVersions": supported}).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_and_without_input() {
        let all = r#""supportedVersions":["0.4.0","1.0.0","1.1.0"]"#;
        assert_eq!(report("").expect("valid"), format!(r#"{{"cniVersion":"1.1.0",{all}}}"#));
        assert_eq!(
            report(r#"{"cniVersion":"0.4.0"}"#).expect("valid"),
            format!(r#"{{"cniVersion":"0.4.0",{all}}}"#)
        );
        assert!(report("{").is_err());
    }
}
