//! The prober tells what a firewall lets through, neither more nor less.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, trial};
use system_tests::probe::wiring::Wired;
use system_tests::probe::{Patience, Probe, Prober, Protocol, expect};

const NEEDS: &[Need] = &[Need::Root, Need::NetNs, Need::Nft];
const ALL: [Protocol; 4] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];

fn main() {
    kernel_test::run(vec![
        trial("probes_arrive_unless_they_are_dropped", NEEDS, arrive_unless_dropped),
        trial("answers_and_refusals_are_told", NEEDS, answers_are_told),
        trial("a_translated_probe_is_found_at_its_backend", NEEDS, translated),
    ]);
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| text.to_owned())
}

fn world(count: u8) -> Result<(Wired, Prober)> {
    let ends: Vec<(String, Vec<IpAddr>)> = (1..=count)
        .map(|last| {
            Ok((format!("p{last}"), vec![ip(&format!("10.0.0.{last}"))?, ip(&format!("fd00::{last}"))?]))
        })
        .collect::<Result<_>>()?;
    let node = [ip("10.0.0.100")?, ip("fd00::100")?];
    let wired = Wired::new(&node, &ends)?;
    let prober = wired.prober(&node)?;
    Ok((wired, prober))
}

fn firewall(wired: &Wired, rules: &str) -> Result<()> {
    wired.node.input("nft", &["-f", "-"], rules).map(drop)
}

/// Everything between four pods and the node, of both families.
fn arrive_unless_dropped() -> Result<()> {
    let (wired, mut prober) = world(4)?;
    firewall(
        &wired,
        "table inet probe { chain forward { type filter hook forward priority 0
            ct state invalid drop
            ip saddr 10.0.0.1 tcp dport 81 drop
            ip6 daddr fd00::2 udp dport 80-81 drop
            ip daddr 10.0.0.3 meta l4proto sctp drop
            icmpv6 type echo-request ip6 saddr fd00::4 drop
        }
        }",
    )?;
    let (mut probes, mut expected) = (Vec::new(), Vec::new());
    for from in 0..4 {
        for to in (0..4).filter(|to| *to != from) {
            for protocol in ALL {
                for port in [80, 81] {
                    for (family, address) in
                        [(4, format!("10.0.0.{}", to + 1)), (6, format!("fd00::{}", to + 1))]
                    {
                        probes.push(Probe::new(from, ip(&address)?, protocol, port));
                        let dropped = match (family, protocol) {
                            (4, Protocol::Tcp) => from == 0 && port == 81,
                            (6, Protocol::Udp) => to == 1,
                            (4, Protocol::Sctp) => to == 2,
                            (6, Protocol::Icmp) => from == 3,
                            _ => false,
                        };
                        expected.push(!dropped);
                    }
                }
            }
        }
    }
    let begun = Instant::now();
    for _ in 0..3 {
        let outcomes = prober.probe(&probes, Patience::NODE)?;
        expect(prober.sites(), &probes, &outcomes, &expected)?;
        for (probe, outcome) in probes.iter().zip(&outcomes) {
            let there = outcome.arrived.is_none_or(|at| prober.sites()[at].addresses.contains(&probe.to));
            ensure!(there, "{probe:?} arrived somewhere else: {outcome:?}");
        }
    }
    println!("{} probes in {:?}", 3 * probes.len(), begun.elapsed());
    // And the other way round: a table that is wrong is found to be.
    let outcomes = prober.probe(&probes, Patience::NODE)?;
    expected.iter_mut().for_each(|arrives| *arrives = !*arrives);
    ensure!(expect(prober.sites(), &probes, &outcomes, &expected).is_err());
    Ok(())
}

fn answers_are_told() -> Result<()> {
    let (wired, mut prober) = world(2)?;
    firewall(
        &wired,
        "table inet probe { chain forward { type filter hook forward priority 0
            tcp dport 82 reject with tcp reset
            udp dport 82 reject
            meta l4proto sctp reject
            tcp dport 83 drop
        }
        }",
    )?;
    let listener = wired.ends[1].netns.run(|| TcpListener::bind("10.0.0.2:80"))?;
    let echo = wired.ends[1].netns.run(|| UdpSocket::bind("10.0.0.2:80"))?;
    let b = ip("10.0.0.2")?;
    let tcp = |port| Probe::new(0, b, Protocol::Tcp, port);
    let udp = |port| Probe::new(0, b, Protocol::Udp, port);
    // The last one is lost, so that answers are waited for.
    let probes = [tcp(80), tcp(81), tcp(82), udp(81), udp(82), Probe::new(0, b, Protocol::Sctp, 80), tcp(83)];
    let outcomes = prober.probe(&probes, Patience::NODE)?;
    let told: Vec<(bool, bool)> =
        outcomes.iter().map(|outcome| (outcome.arrived.is_some(), outcome.answered)).collect();
    let expected = [
        (true, true),
        (true, true),
        (false, true),
        (true, true),
        (false, true),
        (false, true),
        (false, false),
    ];
    ensure!(told == expected, "{told:?}");
    ensure!(
        expect(prober.sites(), &probes[2..3], &outcomes[2..3], &[false]).is_err(),
        "a refusal is no silence"
    );
    expect(prober.sites(), &probes[6..], &outcomes[6..], &[false])?;

    // A flow by hand: a datagram, what the other side sends back, a segment of its middle.
    let there = udp(80).from_port(5000);
    ensure!(prober.probe(&[there], Patience::NODE)?[0].arrived == Some(1));
    let mut buffer = [0; 64];
    let (_, from) = echo.recv_from(&mut buffer)?;
    ensure!(from.port() == 5000);
    let back = Probe::new(1, ip("10.0.0.1")?, Protocol::Udp, 5000).from_port(80);
    ensure!(prober.probe(&[back], Patience::NODE)?[0].arrived == Some(0));
    ensure!(prober.probe(&[tcp(80).from_port(5001).later()], Patience::NODE)?[0].arrived == Some(1));
    drop(listener);
    Ok(())
}

fn translated() -> Result<()> {
    let (wired, mut prober) = world(3)?;
    firewall(
        &wired,
        "table inet probe {
            chain towards { type nat hook prerouting priority dstnat
                ip daddr 10.100.0.1 tcp dport 8000 dnat ip to 10.0.0.2:80
                ip daddr 10.100.0.1 udp dport 8000 dnat ip to 10.0.0.3:80
            }
            chain back { type nat hook postrouting priority srcnat
                ip daddr 10.0.0.3 masquerade
            }
            }",
    )?;
    let vip = ip("10.100.0.1")?;
    let probes = [Probe::new(0, vip, Protocol::Tcp, 8000), Probe::new(0, vip, Protocol::Udp, 8000)];
    let outcomes = prober.probe(&probes, Patience::NODE)?;
    ensure!(outcomes[0].arrived == Some(1) && outcomes[1].arrived == Some(2), "{outcomes:?}");
    Ok(())
}
