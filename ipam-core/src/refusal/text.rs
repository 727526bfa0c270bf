//! A refusal in words, for whoever reads `kubectl describe pod`.

use std::fmt;
use std::time::Duration;

use super::Refusal;
use crate::eni::ForeignReason;
use crate::{EniId, SubnetId};

impl Refusal {
    /// What an operator can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Starting => "wait for the agent to read EC2",
            Self::Ec2Unreachable { .. } => "check the node's way to the EC2 endpoint, and AWS's health page",
            Self::MaxPods { .. } => "schedule on another node, or raise the kubelet's max-pods",
            Self::SubnetFull { .. } => "free addresses in the subnet, or offer another one to pods",
            Self::Fragmented { .. } => {
                "reserve space for prefixes in the subnet (a CIDR reservation), or offer another one to pods"
            }
            Self::EniLimit { capped: true, .. } => "raise MAX_ENI, or schedule on another node",
            Self::EniLimit { .. } => {
                "schedule on another node, set ENABLE_PREFIX_DELEGATION, or use a larger instance type"
            }
            Self::AllCooling { .. } => "wait, or lower IP_COOLDOWN_PERIOD",
            Self::Throttled { .. } => "wait, or have the account's EC2 request limits raised",
            Self::Queued { .. } => "wait for this node's turn, or raise TIDEPOOL_EC2_RATE_SCALE",
            Self::PermissionDenied { .. } => "attach the agent's IAM policy (iam-policy.json) to its role",
            Self::Configuration { .. } => "correct the subnet or security group that EC2 names",
            Self::NoEniConfig { .. } => {
                "create the ENIConfig, or have the Node name another one (/readyz of the agent says how)"
            }
            Self::ProvisioningOff => {
                "give the node addresses, or unset DISABLE_NETWORK_RESOURCE_PROVISIONING"
            }
            Self::Terminating => "none: the pod runs on another node",
            Self::LinkMissing { .. } => {
                "look for the interface on the node (ip link) and in the kernel's log"
            }
            Self::CallFails { .. } => "see the agent's log for what EC2 answered",
            Self::StillGrowing => "wait; the runtime tries again",
        }
    }

    /// The refusal with the time of the next attempt and the remedy, as the
    /// pod's reader sees it. `said` is what EC2 answered, `unix` the time now
    /// since 1970 UTC.
    pub fn explain(&self, said: Option<&str>, unix: Duration) -> String {
        let mut text = self.to_string();
        if let Some(said) = said.map(str::trim).filter(|said| !said.is_empty()) {
            text.push_str(" («");
            text.push_str(&shortened(said));
            text.push_str("»)");
        }
        if let Some(wait) = self.wait() {
            let next = match self {
                Self::AllCooling { .. } => "the first is free",
                Self::Queued { .. } => "its turn comes",
                _ => "tried again",
            };
            text.push_str(&format!("; {next} {}", Moment { wait, unix }));
        }
        format!("{text}; remedy: {}", self.remedy())
    }
}

/// EC2's messages carry encoded parts of hundreds of characters behind their
/// first sentence.
fn shortened(said: &str) -> String {
    const LONGEST: usize = 200;
    let first = said.split(" Encoded authorization failure message").next().unwrap_or(said);
    match first.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &first[..end]),
        None => first.to_owned(),
    }
}

/// `in 12.5 s, at 17:03:12 UTC`
struct Moment {
    wait: Duration,
    unix: Duration,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wait.is_zero() {
            return f.write_str("now");
        }
        // The second by whose end it has been done.
        let at = self.unix + self.wait;
        let of_day = (at.as_secs() + u64::from(at.subsec_nanos() > 0)) % 86_400;
        let (hour, minute, second) = (of_day / 3600, of_day % 3600 / 60, of_day % 60);
        write!(f, "in {:.1} s, at {hour:02}:{minute:02}:{second:02} UTC", self.wait.as_secs_f64())
    }
}

/// `a, b and c`
struct List<'a>(&'a [SubnetId]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, subnet) in self.0.iter().enumerate() {
            let joint = match index {
                0 => "",
                _ if index + 1 == self.0.len() => " and ",
                _ => ", ",
            };
            write!(f, "{joint}{subnet}")?;
        }
        Ok(())
    }
}

/// ` (not ours: eni-1, trunk)`, or nothing.
struct Foreign<'a>(&'a [(EniId, ForeignReason)]);

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str(" (not the pool's: ")?;
        for (index, (eni, reason)) in self.0.iter().enumerate() {
            let joint = if index == 0 { "" } else { "; " };
            write!(f, "{joint}{eni}, {}", reason.as_str())?;
        }
        f.write_str(")")
    }
}

impl ForeignReason {
    /// The reason in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trunk => "a trunk",
            Self::Efa => "an EFA",
            Self::NoManage => "tagged no_manage",
            Self::Untagged => "made by others",
            Self::Managed => "managed by AWS",
            Self::OtherCard => "on another network card",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the agent has not read the node's ENIs from EC2 yet"),
            Self::Ec2Unreachable { operation, .. } => {
                write!(f, "EC2 cannot be reached or fails: {operation} has no result")
            }
            Self::MaxPods { limit } => write!(f, "the node holds {limit} pods, as many as it accepts"),
            Self::SubnetFull { subnets, .. } => match subnets.as_slice() {
                [subnet] => write!(f, "subnet {subnet} has no free address"),
                several => write!(f, "none of the subnets {} has a free address", List(several)),
            },
            Self::Fragmented { subnets, .. } => match subnets.as_slice() {
                [subnet] => write!(f, "subnet {subnet} has no free /28 and no single free address"),
                several => {
                    write!(f, "none of the subnets {} has a free /28 or a single free address", List(several))
                }
            },
            Self::EniLimit { used, limit, capped, foreign } => {
                let by = if *capped { "MAX_ENI" } else { "the instance type" };
                write!(
                    f,
                    "{used} of the {limit} ENIs that {by} allows are attached{}, and every address is in use",
                    Foreign(foreign)
                )
            }
            Self::AllCooling { .. } => f.write_str("all addresses that are left cool down after other pods"),
            Self::Throttled { operation, .. } => write!(f, "EC2 throttles {operation}"),
            Self::Queued { ahead: 0, wait } if wait.is_zero() => {
                f.write_str("this node's turn at EC2's request limits has only just come")
            }
            Self::Queued { ahead, .. } => {
                write!(f, "{ahead} nodes wait before this one for EC2's request limits")
            }
            Self::PermissionDenied { operation } => {
                write!(f, "the agent's credentials do not allow ec2:{operation}")
            }
            Self::Configuration { operation } => {
                write!(f, "EC2 refuses {operation} for what it was told to use")
            }
            Self::NoEniConfig { name } => {
                write!(f, "custom networking is on, and there is no ENIConfig {name}")
            }
            Self::ProvisioningOff => f.write_str("every address is in use, and the pool may not ask EC2"),
            Self::Terminating => f.write_str("the node is going away"),
            Self::LinkMissing { eni } => write!(f, "{eni} is attached, but the node shows no link for it"),
            Self::CallFails { operation, class, .. } => write!(f, "{operation} fails ({})", class.as_str()),
            Self::StillGrowing => f.write_str("EC2 has not finished in time"),
        }
    }
}
