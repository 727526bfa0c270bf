//! `tidepool-agent policy …`.

use std::fmt::Write;

use anyhow::bail;
use clap::Subcommand;
use serde_json::Value;

use super::Target;
use super::client::{ask, encoded};

/// Policies in force on this node, and what decides about a connection.
#[derive(Debug, Clone, clap::Args)]
pub struct Policy {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    question: PolicyQuestion,
}

/// Questions about policy.
#[derive(Debug, Clone, Subcommand)]
pub enum PolicyQuestion {
    /// Each pod of this node: what isolates it, and the rules in force for it.
    ///
    /// For each direction: the policies that isolate the pod there and their rules, in the order in which they are asked,
    /// as they stand in the kernel's maps now. «open» means that no policy speaks about that direction. Behind the pods:
    /// what of the cluster's objects could not be taken as written, and what was done instead.
    List {
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// Only this pod, or the pods of this namespace.
        #[arg(value_name = "NAMESPACE[/POD]")]
        of: Option<String>,
    },
    /// Which rule of which policy allows or denies a connection.
    ///
    /// Reads the policies as they stand in the API now, for a new connection, whatever node its ends are on. Where it is
    /// denied and no rule says so, the policies that isolate the pod are named: one of them would have to allow it.
    #[command(after_help = "Examples:
  tidepool-agent policy explain shop/web shop/db 5432/TCP
  tidepool-agent policy explain shop/web 10.100.0.17 80/TCP        a Service's address: each backend is explained
  tidepool-agent policy explain shop/web service/shop/db 5432      the same by its name
  tidepool-agent policy explain 10.0.3.7 shop/db 5432              who has the address is looked up
  tidepool-agent policy explain shop/web shop/db icmp")]
    Explain {
        /// Who begins it: namespace/pod, node/name, or an address.
        from: String,
        /// Whom to: namespace/pod, service/namespace/name, node/name, or an address.
        to: String,
        /// The destination port and protocol, such as 8080/TCP, 53/udp, 8080 (TCP), icmp or 0/47.
        #[arg(value_name = "PORT/PROTOCOL")]
        port: String,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl Policy {
    pub(super) fn ask(&self) -> anyhow::Result<()> {
        let address = self.target.address;
        match &self.question {
            PolicyQuestion::List { json, of } => {
                let mut value = ask(address, "/debug/policy")?.json()?;
                if let Some(of) = of {
                    keep(&mut value, of)?;
                }
                print(*json, &value, list)
            }
            PolicyQuestion::Explain { from, to, port, json } => {
                let [from, to, port] = [from, to, port].map(|text| encoded(text));
                let path = format!("/debug/explain?from={from}&to={to}&port={port}");
                print(*json, &ask(address, &path)?.json()?, |value| {
                    value["text"].as_str().unwrap_or_default().to_owned()
                })
            }
        }
    }
}

fn print(json: bool, value: &Value, words: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
    match json {
        true => println!("{value:#}"),
        false => print!("{}", words(value)),
    }
    Ok(())
}

/// Leaves only the pods that were asked for.
fn keep(value: &mut Value, of: &str) -> anyhow::Result<()> {
    let is_meant = |name: Option<&str>| {
        name.is_some_and(|name| name == of || name.split_once('/').is_some_and(|(space, _)| space == of))
    };
    if let Some(pods) = value["pods"].as_array_mut() {
        pods.retain(|pod| is_meant(pod["pod"].as_str()));
        if pods.is_empty() {
            bail!("no pod {of} is under policy on this node");
        }
    }
    Ok(())
}

fn list(value: &Value) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_list(&mut text, value);
    text
}

fn write_list(text: &mut String, value: &Value) -> std::fmt::Result {
    if let Some(error) = value["error"].as_str() {
        writeln!(text, "The newest policy is not in force: {error}\n")?;
    }
    if value["audit"] == true {
        writeln!(text, "Audit: nothing is denied by policy on this node (TIDEPOOL_POLICY_AUDIT)\n")?;
    }
    for pod in value["pods"].as_array().into_iter().flatten() {
        let name = pod["pod"].as_str().unwrap_or("a pod without a name");
        write!(text, "{name}  {}", joined(&pod["addresses"], " "))?;
        if let Some(epoch) = pod["epoch"].as_u64() {
            write!(text, "  epoch {epoch}")?;
        }
        writeln!(text, "{}", if pod["audited"] == true { "  AUDITED" } else { "" })?;
        if pod["epoch"].is_null() {
            writeln!(text, "  closed: its policy is not in force yet, nothing passes")?;
            continue;
        }
        for direction in ["ingress", "egress"] {
            let of = &pod[direction];
            if of.is_null() {
                writeln!(text, "  {direction:<7}  open")?;
                continue;
            }
            write!(text, "  {direction:<7}  set {}", of["set"])?;
            let isolation = joined(&of["isolated_by"], ", ");
            if of["rules"].is_null() {
                write!(text, ", left by a former agent")?;
            } else if !isolation.is_empty() {
                write!(text, ", isolated by {isolation}")?;
            }
            writeln!(text)?;
            for rule in of["rules"].as_array().into_iter().flatten() {
                writeln!(text, "             {}", rule.as_str().unwrap_or_default())?;
            }
        }
    }
    let findings = value["findings"].as_array().map_or(&[][..], Vec::as_slice);
    if !findings.is_empty() {
        writeln!(text, "\nNot taken as written:")?;
    }
    for finding in findings {
        let part = |name: &str| finding[name].as_str().unwrap_or_default();
        let path = if part("path").is_empty() { String::new() } else { format!(" at {}", part("path")) };
        writeln!(text, "  {} {}{path}: {}", part("kind"), part("object"), part("message"))?;
    }
    Ok(())
}

fn joined(values: &Value, with: &str) -> String {
    let texts = values.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.collect::<Vec<_>>().join(with)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{keep, list};

    #[test]
    fn the_list_is_read_by_people() {
        let mut value = json!({
            "error": null, "audit": false,
            "pods": [
                {"pod": "shop/db", "addresses": ["10.0.0.5"], "epoch": 7, "audited": true,
                 "ingress": {"set": 3, "isolated_by": ["shop/db"], "rules": ["shop/db ingress[0]"]},
                 "egress": null},
                {"pod": "shop/new", "addresses": ["10.0.0.6"], "epoch": null, "audited": false,
                 "ingress": null, "egress": null},
            ],
            "findings": [{"kind": "NetworkPolicy", "object": "shop/odd", "path": "spec.ingress[0]", "message": "no"}],
        });
        assert_eq!(
            list(&value),
            "shop/db  10.0.0.5  epoch 7  AUDITED\n\
             \x20 ingress  set 3, isolated by shop/db\n\
             \x20            shop/db ingress[0]\n\
             \x20 egress   open\n\
             shop/new  10.0.0.6\n\
             \x20 closed: its policy is not in force yet, nothing passes\n\
             \nNot taken as written:\n\
             \x20 NetworkPolicy shop/odd at spec.ingress[0]: no\n"
        );
        keep(&mut value, "shop/new").expect("it is there");
        assert_eq!(value["pods"].as_array().map(Vec::len), Some(1));
        keep(&mut value, "other").expect_err("no such namespace here");
    }
}
