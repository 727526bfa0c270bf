//! Tables as text, for people and for golden tests.

use std::fmt;

use ebpf_common::abi::{CIDR_SERVICE, PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, PortKey};

use crate::compile::Compiler;
use crate::ids::RuleId;
use crate::model::Protocol;

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.installed();
        writeln!(f, "endpoints")?;
        for (slot, one) in &tables.endpoints {
            let (sandbox, epoch) = (&one.sandbox, one.epoch);
            let (ingress, egress) = (one.ingress, one.egress);
            let audit = if one.audit { ", audited" } else { "" };
            writeln!(
                f,
                "  slot {slot} {sandbox}: ingress set {ingress}, egress set {egress}, epoch {epoch}{audit}"
            )?;
        }
        writeln!(f, "rows")?;
        for (key, row) in &tables.rows {
            let (set, class) = (key.set, key.class);
            let rule = self.name_of(row.rule);
            match row.profile {
                PROFILE_DENY_ALL => writeln!(f, "  set {set}, class {class}: denied, {rule}")?,
                PROFILE_ALLOW_ALL => writeln!(f, "  set {set}, class {class}: allowed, {rule}")?,
                profile => writeln!(f, "  set {set}, class {class}: profile {profile}")?,
            }
        }
        writeln!(f, "ports")?;
        for (key, value) in &tables.ports {
            let profile = u32::from_be_bytes(key.profile_be);
            let verdict = if value.allows() { "allowed" } else { "denied" };
            writeln!(f, "  profile {profile}, {}: {verdict}, {}", Port(key), self.name_of(value.rule))?;
        }
        writeln!(f, "addresses")?;
        for (prefix, value) in &tables.cidrs {
            let service = if value.flags & CIDR_SERVICE == 0 { "" } else { ", Services" };
            writeln!(f, "  {prefix}: class {}{service}", value.class)?;
        }
        for (address, value) in &tables.peers {
            let node = if value.is_local_node() { ", this node" } else { "" };
            writeln!(f, "  {address}: class {}{node}", value.class())?;
        }
        for (key, target) in &tables.vips {
            let (address, protocol, port) = (key.address, key.protocol, key.port);
            writeln!(f, "  {address} {protocol}/{port}: class {}, port {}", target.class, target.port)?;
        }
        for finding in self.findings().iter() {
            writeln!(f, "finding: {finding}")?;
        }
        Ok(())
    }
}

impl Compiler {
    fn name_of(&self, id: u32) -> String {
        match self.rule(RuleId(id)) {
            Some(name) => format!("rule {id}: {name}"),
            None => format!("rule {id}"),
        }
    }
}

struct Port<'a>(&'a PortKey);

impl fmt::Display for Port<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.0;
        let Some(bits) = key.prefix_len.checked_sub(48) else { return f.write_str("any packet") };
        match Protocol::from_number(key.proto) {
            Some(protocol) => write!(f, "{protocol}")?,
            None => write!(f, "protocol {}", key.proto)?,
        }
        let first = u16::from_be_bytes(key.port_be);
        let rest = u16::MAX.checked_shr(bits).unwrap_or(0);
        if rest == 0 { write!(f, "/{first}") } else { write!(f, "/{first}-{}", first | rest) }
    }
}
