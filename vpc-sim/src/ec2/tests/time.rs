//! What comes by itself, and late.

use super::*;
use crate::ec2::Rate;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_interface_passes_through_its_states() {
    let settings = with_latencies(|latency| {
        latency.create = Delay::always(500);
        latency.device_attach = Delay::always(2000);
        latency.device_detach = Delay::always(3000);
    });
    let bench = Bench::with(settings, "10.0.1.0/24", "m5.large");
    let eni = bench.create("");
    assert_eq!(bench.status(&eni), "pending");
    bench.wait(SECOND);
    assert_eq!(bench.status(&eni), "available");
    let attachment = bench.attach(&eni, 1);
    assert_eq!(bench.describe(&eni).all("status"), ["attaching", "attaching"]);
    let detach = format!("Action=DetachNetworkInterface&AttachmentId={attachment}");
    assert_eq!(bench.call(&detach).code(), "IncorrectState");
    bench.wait(2 * SECOND);
    assert_eq!(bench.describe(&eni).all("status"), ["in-use", "attached"]);
    bench.ok(&detach);
    assert_eq!(bench.describe(&eni).all("status"), ["detaching", "detaching"]);
    bench.ok(&detach);
    // Until it is gone it holds its place.
    let next = bench.create("");
    assert_eq!(bench.call(&bench.attach_form(&next, 1)).code(), "InvalidParameterValue");
    let delete = format!("Action=DeleteNetworkInterface&NetworkInterfaceId={eni}");
    assert_eq!(bench.call(&delete).code(), "InvalidParameterValue");
    bench.wait(3 * SECOND);
    assert_eq!(bench.describe(&eni).all("status"), ["available"]);
    assert_eq!(bench.call(&detach).code(), "InvalidAttachmentID.NotFound");
    bench.ok(&delete);
    bench.attach(&next, 1);
}

#[test]
fn force_detaches_what_is_still_attaching() {
    let settings = with_latencies(|latency| latency.device_attach = Delay::always(2000));
    let bench = Bench::with(settings, "10.0.1.0/24", "m5.large");
    let eni = bench.create("");
    let attachment = bench.attach(&eni, 1);
    bench.ok(&format!("Action=DetachNetworkInterface&AttachmentId={attachment}&Force=true"));
    assert_eq!(bench.status(&eni), "detaching");
    bench.wait(2 * SECOND);
    assert_eq!(bench.status(&eni), "available");
}

#[test]
fn answers_take_their_time_and_a_seed_repeats_it() {
    let delays = |seed| {
        let settings = Settings { seed, ..Settings::default() };
        let bench = Bench::with(settings, "10.0.1.0/24", "m5.large");
        (0..5).map(|_| bench.ok("Action=DescribeSubnets").delay).collect::<Vec<_>>()
    };
    assert_eq!(delays(1), delays(1));
    assert_ne!(delays(1), delays(2));
    assert!(delays(1).iter().all(|delay| !delay.is_zero() && *delay <= 5 * SECOND));
    let calm = Bench::new("10.0.1.0/24");
    assert_eq!(calm.ok("Action=DescribeSubnets").delay, Duration::ZERO);
}

#[test]
fn what_was_just_made_is_not_found_yet() {
    let bench = Bench::with(with_consistency(1000, 0), "10.0.1.0/24", "m5.large");
    let eni = bench.create("");
    assert_eq!(bench.describe(&eni).code(), "InvalidNetworkInterfaceID.NotFound");
    assert_eq!(bench.call(&bench.attach_form(&eni, 1)).code(), "InvalidNetworkInterfaceID.NotFound");
    assert!(!bench.ok("Action=DescribeNetworkInterfaces").body.contains(&eni));
    bench.wait(SECOND);
    bench.attach(&eni, 1);
}

#[test]
fn describe_shows_what_was() {
    let bench = Bench::with(with_consistency(0, 2000), "10.0.1.0/24", "m5.large");
    let eni = bench.node.eni_id.to_string();
    let assign =
        format!("Action=AssignPrivateIpAddresses&NetworkInterfaceId={eni}&SecondaryPrivateIpAddressCount=9");
    bench.ok(&assign);
    assert_eq!(bench.addresses(&eni).len(), 1);
    // The limit counts what is.
    assert_eq!(bench.call(&assign).code(), "PrivateIpAddressLimitExceeded");
    bench.wait(2 * SECOND);
    assert_eq!(bench.addresses(&eni).len(), 10);
    let free = bench.create("");
    bench.ok(&format!("Action=DeleteNetworkInterface&NetworkInterfaceId={free}"));
    assert_eq!(bench.describe(&free).status, 200);
    bench.wait(2 * SECOND);
    assert_eq!(bench.describe(&free).code(), "InvalidNetworkInterfaceID.NotFound");
}

#[test]
fn a_bucket_refuses_and_refills() {
    let mut settings = Settings::calm();
    settings.throttling.enabled = true;
    let rate = Rate { capacity: 2.0, refill_per_s: 1.0, cost: 1.0 };
    settings.throttling.rates.insert("CreateNetworkInterface".to_owned(), rate);
    let bench = Bench::with(settings, "10.0.1.0/24", "m5.large");
    bench.create("");
    bench.create("");
    let form = format!("Action=CreateNetworkInterface&SubnetId={}", bench.subnet);
    let reply = bench.call(&form);
    assert_eq!((reply.status, reply.code().as_str()), (503, "RequestLimitExceeded"));
    assert_eq!(bench.cloud.enis().len(), 3);
    bench.wait(SECOND);
    bench.ok(&form);
    // Other actions have their own.
    bench.ok("Action=DescribeSubnets");
}

#[test]
fn a_client_token_makes_one_interface() {
    let bench = Bench::new("10.0.1.0/24");
    let form = format!("Action=CreateNetworkInterface&SubnetId={}&ClientToken=abc", bench.subnet);
    let (first, second) = (bench.ok(&form), bench.ok(&form));
    assert_eq!(first.one("networkInterfaceId"), second.one("networkInterfaceId"));
    assert_eq!(first.one("clientToken"), "abc");
    assert_eq!(bench.cloud.enis().len(), 2);
    let other = bench.call(&format!("{form}&SecondaryPrivateIpAddressCount=1"));
    assert_eq!((other.status, other.code().as_str()), (400, "IdempotentParameterMismatch"));
    let eni = first.one("networkInterfaceId");
    bench.attach(&eni, 1);
    assert_eq!(bench.ok(&form).one("status"), "in-use");
}

#[test]
fn termination_takes_what_is_marked() {
    let settings = with_latencies(|latency| latency.device_detach = Delay::always(2000));
    let bench = Bench::with(settings, "10.0.1.0/24", "m5.large");
    let (kept, gone) = (bench.create(""), bench.create(""));
    bench.attach(&kept, 1);
    let attachment = bench.attach(&gone, 2);
    bench.ok(&format!(
        "Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId={gone}\
         &Attachment.AttachmentId={attachment}&Attachment.DeleteOnTermination=true"
    ));
    bench.cloud.terminate_instance(&bench.node.instance_id).expect("it runs");
    let instance = format!("Action=DescribeInstances&InstanceId.1={}", bench.node.instance_id);
    assert_eq!(bench.ok(&instance).one("name"), "shutting-down");
    assert_eq!(bench.status(&kept), "in-use");
    bench.wait(2 * SECOND);
    assert_eq!(bench.ok(&instance).one("name"), "terminated");
    assert_eq!(bench.status(&kept), "available");
    for eni in [&gone, bench.node.eni_id.as_str()] {
        assert_eq!(bench.describe(eni).code(), "InvalidNetworkInterfaceID.NotFound");
    }
    assert_eq!(bench.free(), 250);
    assert_eq!(bench.call(&bench.attach_form(&kept, 1)).code(), "IncorrectState");
}
