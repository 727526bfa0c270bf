//! Reads single variables; faults are collected, not returned one by one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipam_core::AccountLimits;
use ipnetwork::Ipv4Network;

use super::{ConfigError, Fault, PolicyAudit, Snat};

/// Where variables come from: the process in production, a map in tests.
pub trait Environment {
    /// The value of `name`, where it is set.
    fn get(&self, name: &str) -> Option<String>;
    /// All names that are set.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

/// Tag keys with these parts belong to AWS or to us.
const RESERVED_TAG_PARTS: [&str; 3] = ["k8s.amazonaws.com", "eks:eni:owner", "tidepool.dev/"];

pub(super) struct Reader<'a> {
    environment: &'a dyn Environment,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(environment: &'a dyn Environment) -> Self {
        Self { environment, faults: Vec::new(), warnings: Vec::new(), asked: RefCell::default() }
    }

    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.faults.is_empty() { Ok(()) } else { Err(ConfigError(self.faults)) }
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// What was left out of values that were taken.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// A sentence for each `TIDEPOOL_…` variable that nothing asked for: most likely a slip of the pen.
    pub(super) fn unknown(&self) -> Vec<String> {
        let asked = self.asked.borrow();
        let ours = self.environment.names().into_iter().filter(|name| name.starts_with("TIDEPOOL_"));
        ours.filter(|name| !asked.contains(name))
            .map(|name| format!("{name} is no knob of this version"))
            .collect()
    }

    fn fault(&mut self, name: &'static str, message: impl Into<String>) {
        self.faults.push(Fault { name, message: message.into() });
    }

    /// The value, trimmed; an empty one counts as unset, as in aws-node.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.asked.borrow_mut().insert(name.to_owned());
        self.environment.get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
    }

    pub(super) fn required(&mut self, name: &'static str, remedy: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.fault(name, format!("is not set; {remedy}"));
            String::new()
        })
    }

    pub(super) fn optional_number(&mut self, name: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let text = self.text(name)?;
        // aws-node writes "-1" and "0" for «no such target».
        if text == "-1" || (text == "0" && *range.start() > 0) {
            return None;
        }
        match text.parse::<u32>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.fault(
                    name,
                    format!("«{text}» is not a whole number from {} to {}", range.start(), range.end()),
                );
                None
            }
        }
    }

    pub(super) fn number(&mut self, name: &'static str, range: RangeInclusive<u32>, default: u32) -> u32 {
        self.optional_number(name, range).unwrap_or(default)
    }

    /// A finite number; fractions are allowed.
    pub(super) fn decimal(&mut self, name: &'static str, range: RangeInclusive<f64>, default: f64) -> f64 {
        let Some(text) = self.text(name) else { return default };
        match text.parse::<f64>() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.fault(
                    name,
                    format!("«{text}» is not a number from {} to {}", range.start(), range.end()),
                );
                default
            }
        }
    }

    /// Seconds; fractions are allowed.
    pub(super) fn seconds(
        &mut self,
        name: &'static str,
        range: RangeInclusive<f64>,
        default: Duration,
    ) -> Duration {
        Duration::from_secs_f64(self.decimal(name, range, default.as_secs_f64()))
    }

    /// A share of EC2's published request rates.
    pub(super) fn share(&mut self, name: &'static str) -> AccountLimits {
        let Some(text) = self.text(name) else { return AccountLimits::default() };
        let Ok(share) = text.parse::<f64>() else {
            self.fault(name, format!("«{text}» is not a number, such as 0.5 for half of them"));
            return AccountLimits::default();
        };
        AccountLimits::scaled(share).unwrap_or_else(|error| {
            self.fault(name, error.to_string());
            AccountLimits::default()
        })
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        match self.text(name).as_deref() {
            None => default,
            Some("true" | "1" | "True" | "TRUE") => true,
            Some("false" | "0" | "False" | "FALSE") => false,
            Some(other) => {
                let message = format!("«{other}» is neither true nor false");
                self.fault(name, message);
                default
            }
        }
    }

    /// A single bit, decimal or with 0x.
    pub(super) fn mark(&mut self, name: &'static str, default: u32) -> u32 {
        let Some(text) = self.text(name) else { return default };
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        match parsed {
            Ok(mark) if mark.is_power_of_two() => mark,
            _ => {
                self.fault(name, format!("«{text}» is not a single bit, such as 0x80"));
                default
            }
        }
    }

    pub(super) fn path(&mut self, name: &'static str, default: &str) -> PathBuf {
        let path = PathBuf::from(self.text(name).unwrap_or_else(|| default.to_owned()));
        if !path.is_absolute() {
            self.fault(name, format!("«{}» is not an absolute path", path.display()));
        }
        path
    }

    pub(super) fn address(&mut self, name: &'static str, default: &'static str) -> SocketAddr {
        let text = self.text(name).unwrap_or_else(|| default.to_owned());
        text.parse().unwrap_or_else(|_| {
            self.fault(name, format!("«{text}» is not an address with a port, such as {default}"));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    pub(super) fn cidrs(&mut self, name: &'static str) -> Vec<Ipv4Network> {
        let Some(text) = self.text(name) else { return Vec::new() };
        let mut networks = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            match part.parse::<Ipv4Network>() {
                Ok(network) => networks.push(network),
                Err(_) => {
                    self.fault(name, format!("«{part}» is not an IPv4 CIDR; separate several by commas"))
                }
            }
        }
        networks
    }

    pub(super) fn tags(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let Some(text) = self.text(name) else { return BTreeMap::new() };
        match serde_json::from_str::<BTreeMap<String, String>>(&text) {
            Ok(mut tags) => {
                let warnings = &mut self.warnings;
                tags.retain(|key, _| {
                    let reserved = RESERVED_TAG_PARTS.iter().any(|part| key.contains(part));
                    if reserved {
                        warnings.push(format!("{name}: the reserved key «{key}» is left out"));
                    }
                    !reserved
                });
                tags
            }
            Err(error) => {
                self.fault(name, format!("is not a JSON object of strings: {error}"));
                BTreeMap::new()
            }
        }
    }

    /// The key of a label or an annotation: `[prefix/]name`, as Kubernetes takes it.
    pub(super) fn label_key(&mut self, name: &'static str, default: &str) -> String {
        let key = self.text(name).unwrap_or_else(|| default.to_owned());
        let (prefix, word) = key.rsplit_once('/').unwrap_or(("", &key));
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        let sane = !word.is_empty() && word.len() <= 63 && prefix.len() <= 253 && !key.starts_with('/');
        if !sane || !word.chars().all(is_word) || !prefix.chars().all(is_host) {
            self.fault(name, format!("«{key}» is no key of a label, such as {default}"));
        }
        key
    }

    pub(super) fn veth_prefix(&mut self, name: &'static str) -> String {
        let prefix = self.text(name).unwrap_or_else(|| "eni".to_owned());
        if prefix.len() > 4 || !prefix.chars().all(|c| c.is_ascii_alphanumeric()) {
            self.fault(name, format!("«{prefix}» must be one to four letters or digits"));
        } else if ["eth", "vlan", "lo"].contains(&prefix.as_str()) {
            self.fault(name, format!("«{prefix}» is taken by other interfaces; choose another"));
        }
        prefix
    }

    pub(super) fn snat(&mut self) -> Snat {
        if self.flag("AWS_VPC_K8S_CNI_EXTERNALSNAT", false) {
            return Snat::External;
        }
        const NAME: &str = "AWS_VPC_K8S_CNI_RANDOMIZESNAT";
        match self.text(NAME).as_deref() {
            None | Some("prng") => Snat::RandomPorts,
            Some("hashrandom") => Snat::HashedPorts,
            Some("none") => Snat::KeepPorts,
            Some(other) => {
                let message = format!("«{other}» is none of prng, hashrandom, none");
                self.fault(NAME, message);
                Snat::RandomPorts
            }
        }
    }

    pub(super) fn policy_audit(&mut self) -> PolicyAudit {
        const NAME: &str = "TIDEPOOL_POLICY_AUDIT";
        if self.text(NAME).is_some_and(|text| text.eq_ignore_ascii_case("annotated")) {
            return PolicyAudit::Annotated;
        }
        match self.text(NAME).as_deref() {
            None | Some("false" | "0" | "False" | "FALSE") => PolicyAudit::Nobody,
            Some("true" | "1" | "True" | "TRUE") => PolicyAudit::Everybody,
            Some(other) => {
                let message = format!("«{other}» is none of false, annotated, true");
                self.fault(NAME, message);
                PolicyAudit::Nobody
            }
        }
    }

    pub(super) fn log_filter(&mut self) -> String {
        const LEVEL: &str = "AWS_VPC_K8S_CNI_LOGLEVEL";
        if let Some(filter) = self.text("TIDEPOOL_LOG") {
            if filter.parse::<tracing_subscriber::EnvFilter>().is_err() {
                self.fault(
                    "TIDEPOOL_LOG",
                    format!("«{filter}» is not a tracing filter, such as info or ipam=debug"),
                );
            }
            return filter;
        }
        match self.text(LEVEL).map(|level| level.to_ascii_lowercase()).as_deref() {
            None => "info".to_owned(),
            Some(level @ ("trace" | "debug" | "info" | "warn" | "error")) => level.to_owned(),
            Some("fatal") => "error".to_owned(),
            Some(other) => {
                let message = format!("«{other}» is none of debug, info, warn, error");
                self.fault(LEVEL, message);
                "info".to_owned()
            }
        }
    }
}
