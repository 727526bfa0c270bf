//! The semantics of NetworkPolicy v1 and of ClusterNetworkPolicy, line by line: each test
//! is one line of the specifications, asked of the tables and of the oracle.

mod closed;
mod external;
mod nodes;
mod ordered;
mod peers;
mod ports;
mod scene;
mod selection;
mod tiers;
mod traffic;
