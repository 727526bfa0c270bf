//! What policy comes to allow without a new epoch.

use super::*;

#[test]
fn a_denied_flow_is_asked_about_once_a_tick() {
    let mut host = world(ISOLATED);
    open_from_remote(&host);
    let on = tcp(remote(), 5000, a4(), 80, ACK);
    put_peer(&mut host, remote(), PeerValue::new(remote(), 0));
    bump(&mut host, 2, ISOLATED);
    assert_eq!(into(&host, ETH0, &on), Reason::Revoked);
    // The peer becomes of a class that is allowed: nothing is taken from anybody, so the epoch stays.
    put_peer(&mut host, remote(), PeerValue::new(remote(), 5));
    assert_eq!(into(&host, ETH0, &on), Reason::Revoked, "not asked about again in this tick");
    host.now += 1;
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, ACK)), Reason::Reevaluated, "in its own direction");
    assert_eq!(into(&host, ETH0, &on), Reason::Established);
    put_peer(&mut host, remote(), PeerValue::new(remote(), 0));
    bump(&mut host, 3, ISOLATED);
    for _ in 0..3 {
        assert_eq!(into(&host, ETH0, &on), Reason::Revoked);
        assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, ACK)), Reason::Revoked, "not revived");
        host.now += 1;
    }
}
