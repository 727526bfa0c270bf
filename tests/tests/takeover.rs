//! A node of aws-node's becomes ours and becomes aws-node's again, while its pods run on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use kernel_test::{Need, Trial, trial};

#[path = "takeover/checkpoint.rs"]
mod checkpoint;
#[path = "takeover/flows.rs"]
mod flows;
#[path = "takeover/killed.rs"]
mod killed;
#[path = "takeover/presence.rs"]
mod presence;
#[path = "takeover/there_and_back.rs"]
mod there_and_back;

const NEEDS: &[Need] = &[
    Need::Root,
    Need::NetNs,
    Need::Mounts,
    Need::Bpf,
    Need::Tc,
    Need::Nft,
    Need::Tool("iptables-nft"),
    Need::Env("TIDEPOOL_BIN_DIR"),
];

type Body = fn() -> Result<()>;

fn main() {
    let tests: [(&str, Body); 9] = [
        ("a_node_of_aws_node_is_taken_over_with_its_pods", checkpoint::from_incumbent),
        ("nothing_is_touched_while_aws_node_is_alive", presence::refused),
        ("when_aws_node_comes_back_pods_run_on_and_none_is_added", presence::comes_back),
        ("a_node_goes_over_and_back_without_a_packet_lost", there_and_back::seamless),
        ("aws_node_resumes_after_an_uninstall_at_once", there_and_back::at_once),
        ("what_iptables_legacy_keeps_is_named_and_the_guide_removes_it", presence::legacy),
        ("lists_of_others_are_told_of_and_left_alone", presence::lists_of_others),
        ("a_take_over_and_an_uninstall_can_be_cut_off_anywhere", killed::anywhere),
        ("a_node_that_aws_node_had_meanwhile_is_looked_at_anew", there_and_back::had_meanwhile),
    ];
    let trials: Vec<Trial> = tests.into_iter().map(|(name, body)| trial(name, NEEDS, body)).collect();
    kernel_test::run(trials);
}

/// Says a word over an open connection to an echo and hears it.
fn echoes(stream: &mut TcpStream, patience: Duration) -> Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"tide")?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard)?;
    ensure!(&heard == b"tide", "heard {heard:?}");
    Ok(())
}
