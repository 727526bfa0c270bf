//! Class → row → port → verdict, for a flow in its original direction.

use crate::abi::{
    Addr, CIDR_SERVICE, CLASS_NONE, Direction, Endpoint, EndpointFlags, Family, Origin, PROFILE_ALLOW_ALL,
    PROFILE_DENY_ALL, PeerValue, PortAction, PortValue, READ_ATTEMPTS, Reason, RowKey, RowValue, VipKey,
    proto, shadow_of,
};
use crate::env::Env;

/// A flow about which a verdict is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The direction of its first packet.
    pub dir: Direction,
    /// Who began it.
    pub origin: Origin,
    /// The interface of the pod that began it, for [`Origin::Endpoint`].
    pub origin_ifindex: u32,
    /// The other end.
    pub peer: Addr,
    /// The port that the beginner asked for; 0 for protocols without ports.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`Reason::New`], [`Reason::ToNode`], [`Reason::LocalNode`] or [`Reason::Hairpin`] if allowed.
    pub reason: Reason,
    /// The rule that decided; 0 if none did.
    pub rule: u32,
    /// The other end's class, if it was asked for.
    pub class: u32,
}

impl Question {
    /// No question yet.
    pub const NONE: Self = Self {
        dir: Direction::In,
        origin: Origin::Outside,
        origin_ifindex: 0,
        peer: Addr::v4([0; 4]),
        port: 0,
        proto: 0,
    };
}

impl Answer {
    /// An answer that no rule gave.
    #[inline(always)]
    #[must_use]
    pub const fn plain(reason: Reason) -> Self {
        Self { reason, rule: 0, class: CLASS_NONE }
    }
}

/// Judges a flow. `other` is room for another endpoint.
#[inline(never)]
pub fn judge<E: Env>(env: &E, ep: &Endpoint, q: &mut Question, answer: &mut Answer, other: &mut Endpoint) {
    answer.rule = 0;
    answer.class = CLASS_NONE;
    let (Ok(reason) | Err(reason)) = judged(env, ep, q, answer, other);
    answer.reason = reason;
}

#[inline(always)]
fn judged<E: Env>(
    env: &E,
    ep: &Endpoint,
    q: &mut Question,
    answer: &mut Answer,
    other: &mut Endpoint,
) -> Result<Reason, Reason> {
    match q.origin {
        Origin::LocalNode => return Ok(Reason::LocalNode),
        Origin::Hairpin => return Ok(Reason::Hairpin),
        Origin::Outside | Origin::Endpoint => {}
    }
    let (isolated, set) = match q.dir {
        Direction::In => (ep.flags().has(EndpointFlags::ISOLATED_IN), ep.set_in),
        Direction::Out => (ep.flags().has(EndpointFlags::ISOLATED_OUT), ep.set_out),
    };
    if !isolated {
        return Ok(Reason::New);
    }
    match q.dir {
        Direction::Out => outgoing(env, set, q, answer)?,
        Direction::In => incoming(env, q, answer, other)?,
    }
    look_up(env, set, q, answer)
}

/// Whom a rule would have to name, when a pod asks for something: its class and
/// port. What it asks for stands before the node's translation of Services, and
/// this is the one place that knows it.
#[inline(always)]
fn outgoing<E: Env>(env: &E, set: u32, q: &mut Question, answer: &mut Answer) -> Result<(), Reason> {
    let key = VipKey::of(&q.peer, q.port, q.proto);
    // As in `who_is`.
    let mut misses = 0_u32;
    for _ in 0..READ_ATTEMPTS {
        match env.vip(&key) {
            Some(value) if value.verify(&key) => {
                answer.class = value.class;
                q.port = value.target_port;
                return Ok(());
            }
            Some(_) => {}
            None => {
                misses += 1;
                if misses == READ_ATTEMPTS {
                    return not_a_service(env, set, q, answer);
                }
            }
        }
    }
    Err(Reason::Torn)
}

#[inline(always)]
fn not_a_service<E: Env>(env: &E, set: u32, q: &Question, answer: &mut Answer) -> Result<(), Reason> {
    let mut who = Who::NOBODY;
    who_is(env, &q.peer, &mut who)?;
    answer.class = who.class;
    if who.local_node {
        Err(to_node(env, set, q, answer))
    } else if who.service {
        Err(Reason::NoService)
    } else {
        Ok(())
    }
}

/// The pod's own node is open to it but for what a row of this very class says:
/// what holds for everybody else does not hold for it.
#[inline(always)]
fn to_node<E: Env>(env: &E, set: u32, q: &Question, answer: &mut Answer) -> Reason {
    if answer.class == CLASS_NONE {
        return Reason::ToNode;
    }
    let Some(row) = env.row(&RowKey { set, class: answer.class }) else {
        return Reason::ToNode;
    };
    match by_row(env, row, q, answer) {
        Ok(_) => Reason::ToNode,
        Err(refusal) => refusal,
    }
}

/// Whom a rule would have to name, when somebody asks for the pod.
#[inline(always)]
fn incoming<E: Env>(
    env: &E,
    q: &mut Question,
    answer: &mut Answer,
    other: &mut Endpoint,
) -> Result<(), Reason> {
    let mut who = Who::NOBODY;
    if env.switches().trust_node_addresses {
        who_is(env, &q.peer, &mut who)?;
        if who.local_node {
            return Err(Reason::LocalNode);
        }
    }
    if matches!(q.origin, Origin::Endpoint) {
        // A pod of this node is known by its address, whatever it sent from.
        let value = env.slot_of(q.origin_ifindex).ok_or(Reason::NoEndpoint)?;
        let slot = value.slot_of(q.origin_ifindex).ok_or(Reason::Torn)?;
        read_endpoint(env, slot, q.origin_ifindex, other)?;
        q.peer = match q.peer.family {
            Family::V4 => Addr::v4(other.addr4),
            Family::V6 => Addr::v6(other.addr6),
        };
    }
    who_is(env, &q.peer, &mut who)?;
    answer.class = who.class;
    Ok(())
}

/// Copies the endpoint in a slot, whole and of this interface.
///
/// # Errors
/// [`Reason::NoEndpoint`] or [`Reason::Torn`].
#[inline(always)]
pub fn read_endpoint<E: Env>(env: &E, slot: u32, ifindex: u32, ep: &mut Endpoint) -> Result<(), Reason> {
    env.endpoint(slot, ep)?;
    if !ep.verify(slot) {
        read_again(env, slot, ep)?;
    }
    let live = ep.ifindex == ifindex && ep.flags().has(EndpointFlags::ACTIVE);
    if live { Ok(()) } else { Err(Reason::NoEndpoint) }
}

/// After a torn read, or of a slot that was never written.
#[inline(never)]
fn read_again<E: Env>(env: &E, slot: u32, ep: &mut Endpoint) -> Result<(), Reason> {
    // The shadow first: it is whole while the slot is not.
    let mut from = shadow_of(slot);
    for _ in 0..READ_ATTEMPTS {
        if ep.check == 0 && ep.flags == 0 {
            return Err(Reason::NoEndpoint);
        }
        env.endpoint(from, ep)?;
        if ep.verify(slot) {
            return Ok(());
        }
        from = if from == slot { shadow_of(slot) } else { slot };
    }
    Err(Reason::Torn)
}

#[derive(Clone, Copy)]
struct Who {
    class: u32,
    local_node: bool,
    service: bool,
}

impl Who {
    const NOBODY: Self = Self { class: CLASS_NONE, local_node: false, service: false };
}

/// The class of an address. While an entry is overwritten a look-up may miss
/// it, and the next one too: seen once in ten million packets beside a million
/// overwrites per second. So only a miss at each attempt is believed.
#[inline(never)]
fn who_is<E: Env>(env: &E, addr: &Addr, who: &mut Who) -> Result<(), Reason> {
    let mut misses = 0_u32;
    for _ in 0..READ_ATTEMPTS {
        match env.peer(addr) {
            Some(value) if verify(value, addr) => {
                who.class = value.class();
                who.local_node = value.is_local_node();
                return Ok(());
            }
            Some(_) => {}
            None => {
                misses += 1;
                if misses == READ_ATTEMPTS {
                    if let Some(found) = env.cidr(addr) {
                        who.class = found.class;
                        who.service = found.flags & CIDR_SERVICE != 0;
                    }
                    return Ok(());
                }
            }
        }
    }
    Err(Reason::Torn)
}

#[inline(always)]
fn verify(value: PeerValue, addr: &Addr) -> bool {
    match addr.family {
        Family::V4 => value.verify4(addr.head()),
        Family::V6 => value.verify6(&addr.bytes()),
    }
}

#[inline(always)]
fn look_up<E: Env>(env: &E, set: u32, q: &Question, answer: &mut Answer) -> Result<Reason, Reason> {
    let class = answer.class;
    let row = match env.row(&RowKey { set, class }) {
        Some(row) => row,
        None => env.row(&RowKey { set, class: CLASS_NONE }).ok_or(Reason::NoRow)?,
    };
    by_row(env, row, q, answer)
}

#[inline(always)]
fn by_row<E: Env>(env: &E, row: RowValue, q: &Question, answer: &mut Answer) -> Result<Reason, Reason> {
    answer.rule = row.rule;
    match row.profile {
        PROFILE_DENY_ALL => Err(Reason::Policy),
        PROFILE_ALLOW_ALL => Ok(Reason::New),
        profile => {
            let mut said = PortValue::new(PortAction::Deny, 0);
            by_port(env, profile, q, &mut said);
            answer.rule = said.rule;
            if said.allows() { Ok(Reason::New) } else { Err(Reason::Policy) }
        }
    }
}

/// What a profile says; where it says nothing, `said` stays.
#[inline(never)]
fn by_port<E: Env>(env: &E, profile: u32, q: &Question, said: &mut PortValue) {
    if let Some(found) = PortValue::find(profile, q.proto, q.port, |key| env.port(key)) {
        *said = found;
    }
}

/// The port that policy is asked about: protocols without ports have none.
#[inline(always)]
#[must_use]
pub const fn policy_port(number: u8, port: u16) -> u16 {
    if matches!(number, proto::TCP | proto::UDP | proto::SCTP) { port } else { 0 }
}
