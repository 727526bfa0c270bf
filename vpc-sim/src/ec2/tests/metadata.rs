//! The metadata follows EC2, late.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What the metadata shows: interfaces and the number of addresses on each.
fn shown(bench: &Bench) -> Vec<(String, usize)> {
    bench.cloud.with_state(|state, now| {
        let instance = state.instances.get(&bench.node.instance_id).expect("the node");
        let shown = instance.metadata.shown(now);
        shown.map(|eni| (eni.id.to_string(), 1 + eni.secondaries.len())).collect()
    })
}

#[test]
fn changes_appear_after_the_lag() {
    let mut settings = with_latencies(|latency| {
        latency.device_attach = Delay::always(2000);
        latency.device_detach = Delay::always(1000);
    });
    settings.imds_lag = Delay::always(3000);
    let bench = Bench::with(settings, "10.0.1.0/24", "m5.large");
    let primary = bench.node.eni_id.to_string();
    assert_eq!(shown(&bench), [(primary.clone(), 1)]);
    let assign = |eni: &str| {
        bench.ok(&format!(
            "Action=AssignPrivateIpAddresses&NetworkInterfaceId={eni}&SecondaryPrivateIpAddressCount=1"
        ));
    };
    assign(&primary);
    assert_eq!(shown(&bench), [(primary.clone(), 1)]);
    bench.wait(3 * SECOND);
    assert_eq!(shown(&bench), [(primary.clone(), 2)]);

    let eni = bench.create("&SecondaryPrivateIpAddressCount=2");
    let attachment = bench.attach(&eni, 1);
    bench.wait(4 * SECOND);
    assert_eq!(shown(&bench), [(primary.clone(), 2)], "2 s to appear and 3 s of lag");
    bench.wait(SECOND);
    assert_eq!(shown(&bench), [(primary.clone(), 2), (eni.clone(), 3)]);
    assign(&eni);
    bench.wait(3 * SECOND);
    assert_eq!(shown(&bench), [(primary.clone(), 2), (eni.clone(), 4)]);

    bench.ok(&format!("Action=DetachNetworkInterface&AttachmentId={attachment}"));
    bench.wait(3 * SECOND);
    assert_eq!(shown(&bench).len(), 2);
    bench.wait(SECOND);
    assert_eq!(shown(&bench), [(primary, 2)]);
}
