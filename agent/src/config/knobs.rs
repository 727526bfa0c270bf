//! Variables of aws-node that have no effect here, each with what an operator should know.

use super::Environment;

/// Name, the values that change nothing, and the reason.
const WITHOUT_EFFECT: &[(&str, &[&str], &str)] = &[
    ("CLUSTER_ENDPOINT", &[""], "the Kubernetes API is found by KUBECONFIG or the service account"),
    ("ENABLE_NFTABLES", &["", "false", "true"], "translation is always by nftables, without a binary"),
    ("ENABLE_V4_EGRESS", &["", "true", "false"], "it matters only to IPv6 clusters"),
    ("ENABLE_V6_EGRESS", &["", "false"], "pods have no IPv6 address"),
    ("HOST_CNI_BIN_PATH", &[""], "use TIDEPOOL_CNI_BIN_DIR"),
    ("HOST_CNI_CONFDIR_PATH", &[""], "use TIDEPOOL_CNI_CONF_DIR"),
    ("ENABLE_IPv4", &["", "true"], "IPv4 is always on"),
    (
        "ENABLE_IPv6",
        &["", "false"],
        "IPv6 address management is not supported yet; the datapath filters both families",
    ),
    ("ENABLE_POD_ENI", &["", "false"], "security groups for pods are not supported"),
    ("POD_SECURITY_GROUP_ENFORCING_MODE", &["", "strict"], "security groups for pods are not supported"),
    ("DISABLE_TCP_EARLY_DEMUX", &["", "false"], "it matters only to security groups for pods"),
    (
        "ENABLE_MULTI_NIC",
        &["", "false"],
        "ENIs on other network cards than the first are counted and never touched",
    ),
    (
        "ENABLE_IMDS_ONLY_MODE",
        &["", "false"],
        "an address is leased only when EC2 has confirmed it, and the metadata service may lag; \
         DISABLE_NETWORK_RESOURCE_PROVISIONING=true makes no change of EC2",
    ),
    ("ANNOTATE_POD_IP", &["", "false"], "pods are not annotated"),
    (
        "NETWORK_POLICY_ENFORCING_MODE",
        &["", "standard"],
        "policy is in force before a pod starts; there are no modes",
    ),
    ("ENABLE_BANDWIDTH_PLUGIN", &["", "false"], "the bandwidth plugin is not chained yet"),
    ("DISABLE_POD_V6", &["", "false"], "pods have no IPv6 address"),
    ("AWS_EC2_ENDPOINT", &[""], "use AWS_ENDPOINT_URL_EC2"),
    ("HTTP_TIMEOUT", &["", "10"], "each EC2 call has its own deadline"),
    ("AWS_VPC_K8S_CNI_LOG_FILE", &["", "stdout", "stderr"], "logs go to standard error"),
    (
        "AWS_VPC_K8S_PLUGIN_LOG_FILE",
        &["", "stderr"],
        "the plugin reports through its result and the agent's log",
    ),
    ("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", &[""], "the plugin reports through its result and the agent's log"),
    ("DISABLE_INTROSPECTION", &["", "false"], "introspection is part of TIDEPOOL_METRICS_ADDR, on loopback"),
    ("INTROSPECTION_BIND_ADDRESS", &[""], "use TIDEPOOL_METRICS_ADDR"),
    ("DISABLE_METRICS", &["", "false"], "metrics are served on loopback"),
    (
        "AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER",
        &["", "false", "true"],
        "reverse path filtering is always set as needed",
    ),
];

/// A sentence for each variable that is set to something and changes nothing.
pub(super) fn warnings(environment: &dyn Environment) -> Vec<String> {
    WITHOUT_EFFECT
        .iter()
        .filter_map(|(name, harmless, reason)| {
            let value = environment.get(name)?;
            (!harmless.contains(&value.trim())).then(|| format!("{name}={value} has no effect: {reason}"))
        })
        .collect()
}
