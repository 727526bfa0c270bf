//! The options of `vpc-sim up`.

use std::path::PathBuf;

use crate::kubelet::DEFAULT_CNI_BIN;

/// Starts a VPC with nodes, prints where everything is, and runs until SIGINT
/// or SIGTERM.
#[derive(Debug, Clone, clap::Args)]
pub struct UpArgs {
    /// How many nodes, spread over two subnets in turn.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub nodes: usize,

    /// The nodes' EC2 instance type, which sets their limits.
    #[arg(long, default_value = "m5.large", value_name = "TYPE")]
    pub instance_type: String,

    /// No latency, no throttling, no lag.
    #[arg(long)]
    pub calm: bool,

    /// What every id, address and latency follows from. Unlike the rest of the
    /// settings, which `POST /settings` changes, it is fixed at the start.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,

    /// Only the APIs: no namespaces, no root needed. The nodes' URLs answer on
    /// the host's loopback.
    #[arg(long, conflicts_with = "kubelet")]
    pub api_only: bool,

    /// Use the Kubernetes API of this kubeconfig instead of a simulated one. The
    /// Node objects are made there, and deleted at the end.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Bind pods and run them: a network namespace each, attached by the node's
    /// CNI plugins, with servers at the ports they declare.
    #[arg(long)]
    pub kubelet: bool,

    /// Where the kubelet looks for CNI plugins on the nodes.
    #[arg(
        long,
        value_name = "DIR[:DIR…]",
        default_value = DEFAULT_CNI_BIN,
        value_delimiter = ':',
        requires = "kubelet"
    )]
    pub cni_bin: Vec<PathBuf>,

    /// What the nodes' names begin with; a number follows.
    #[arg(long, default_value = "node-", value_name = "PREFIX")]
    pub node_prefix: String,
}
