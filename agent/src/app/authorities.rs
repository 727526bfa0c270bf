//! Whom the agent trusts: without any certificate authority neither EC2 nor anybody else is reached by TLS.

use anyhow::bail;
use rustls_native_certs::CertificateResult;

/// Looks whether `load` finds any, before a client takes their absence for a fault of its own.
///
/// # Errors
///
/// Where there is none.
pub(super) fn check(load: impl FnOnce() -> CertificateResult) -> anyhow::Result<()> {
    let found = load();
    if !found.certs.is_empty() {
        return Ok(());
    }
    let whys: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    let why = if whys.is_empty() { String::new() } else { format!(" ({})", whys.join("; ")) };
    bail!(
        "no CA certificates at SSL_CERT_FILE, SSL_CERT_DIR or below /etc/ssl{why}: the image needs the package \
         ca-certificates"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_certificates_is_named() {
        let said = check(CertificateResult::default).expect_err("none").to_string();
        assert!(said.contains("no CA certificates at ") && said.contains("ca-certificates"), "{said}");
        if std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
            check(rustls_native_certs::load_native_certs).expect("there are some");
        }
    }
}
