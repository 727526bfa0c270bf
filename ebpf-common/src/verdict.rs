//! The whole path of a packet, from the frame to the verdict.
//!
//! What an established packet needs is inlined, the rest is not; and what is
//! known of the packet lies in a [`Work`] that the caller gives: the kernel's
//! programs have 512 bytes of stack for all their calls together.

use crate::abi::{
    Addr, CLASS_NONE, CtKey, CtState, CtValue, Direction, Endpoint, EndpointFlags, Family, FragKey,
    FragValue, Origin, READ_ATTEMPTS, Reason,
};
use crate::conntrack::{self, Step, age, tick};
use crate::env::{Entry, Env, Table};
use crate::packet::Facts;
use crate::parse::{self, Inner, Ip, Kind, ether_type};
use crate::policy::{self, Answer, Question};

/// What is known of a packet while it is decided, and after.
///
/// Integers and enums for which zero is a value, so that zeroed memory is one;
/// nothing of an earlier packet is read.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Work {
    /// Whether policy was asked about this very packet.
    pub judged: bool,
    /// Whether `key` says anything.
    pub parsed: bool,
    /// The direction.
    pub dir: Direction,
    /// The rule that decided, 0 if none did.
    pub rule: u32,
    /// The other end's class, if it was looked up.
    pub class: u32,
    /// The endpoint's slot, 0 if none was found.
    pub slot: u32,
    /// The tick.
    pub now: u32,
    /// What the socket buffer says.
    pub facts: Facts,
    /// The flow: for an ICMP error the one that it belongs to.
    pub key: CtKey,
    ip: Ip,
    ep: Endpoint,
    value: CtValue,
    next: CtState,
    table: Table,
    purpose: Purpose,
    question: Question,
    answer: Answer,
    other: Endpoint,
    inner: Inner,
    fragment: FragKey,
}

impl Work {
    /// Before the first packet.
    pub const EMPTY: Self = Self {
        judged: false,
        parsed: false,
        dir: Direction::In,
        rule: 0,
        class: CLASS_NONE,
        slot: 0,
        now: 0,
        facts: Facts { len: 0, protocol: 0, vlan_present: false, ifindex: 0, ingress_ifindex: 0, slot: 0 },
        key: CtKey::NONE,
        ip: Ip::UNKNOWN,
        ep: Endpoint::EMPTY,
        value: CtValue::NONE,
        next: CtState(0),
        table: Table::Settled,
        purpose: Purpose::Open,
        question: Question::NONE,
        answer: Answer::plain(Reason::Established),
        other: Endpoint::EMPTY,
        inner: Inner::UNKNOWN,
        fragment: FragKey::NONE,
    };
}

/// Decides about a packet that crosses a pod's interface. It passes if the
/// reason does; `w` tells the rest.
#[inline(always)]
#[must_use]
pub fn decide<E: Env>(env: &E, dir: Direction, w: &mut Work) -> Reason {
    w.judged = false;
    w.parsed = false;
    w.dir = dir;
    w.rule = 0;
    w.class = CLASS_NONE;
    w.facts = env.facts();
    w.slot = w.facts.slot;
    let (Ok(reason) | Err(reason)) = cross(env, dir, w);
    reason
}

/// The frame: type, endpoint, and who may speak.
#[inline(always)]
fn cross<E: Env>(env: &E, dir: Direction, w: &mut Work) -> Result<Reason, Reason> {
    if w.facts.vlan_present {
        return Err(Reason::EtherType);
    }
    match w.facts.protocol {
        ether_type::IPV4 => parse::parse_ipv4(env, w.facts.len, &mut w.ip)?,
        ether_type::IPV6 => parse::parse_ipv6(env, w.facts.len, &mut w.ip)?,
        ether_type::ARP => {}
        _ => return Err(Reason::EtherType),
    }
    let named = w.slot != 0;
    if !named {
        w.slot = env.hint(w.facts.ifindex);
    }
    if let Err(reason) = policy::read_endpoint(env, w.slot, w.facts.ifindex, &mut w.ep) {
        if named {
            return Err(reason);
        }
        locate(env, w)?;
    }
    if matches!(dir, Direction::Out) {
        let mac = parse::source_mac(env).ok_or(Reason::Truncated)?;
        if mac != w.ep.mac_number() {
            return Err(Reason::Spoofed);
        }
    }
    if w.facts.protocol == ether_type::ARP {
        return Ok(parse::check_arp(env, dir, &w.ep));
    }
    if w.ip.kind.any(Kind::NEIGHBOR | Kind::LISTENER) {
        return Ok(parse::check_neighbor(env, dir, &w.ep, &w.ip, w.facts.ingress_ifindex));
    }
    let (pod, refusal) = match dir {
        Direction::In => (&w.ip.dst, Reason::NotOurs),
        Direction::Out => (&w.ip.src, Reason::Spoofed),
    };
    if !is_address_of(&w.ep, pod) {
        return Err(refusal);
    }
    w.now = tick(env.now_ns());
    if w.ip.kind.any(Kind::FIRST_FRAGMENT | Kind::LATER_FRAGMENT) {
        fragments(env, w)?;
    }
    let ip = &w.ip;
    w.key = match dir {
        Direction::In => CtKey::new(w.facts.ifindex, &ip.src, ip.dst_port, ip.src_port, ip.proto),
        Direction::Out => CtKey::new(w.facts.ifindex, &ip.dst, ip.src_port, ip.dst_port, ip.proto),
    };
    w.parsed = true;
    Ok(track(env, w))
}

/// An endpoint without an address of the family has none that matches: zero is
/// not an address that a packet may carry.
#[inline(always)]
fn is_address_of(ep: &Endpoint, addr: &Addr) -> bool {
    match addr.family {
        Family::V4 => {
            let own = u32::from_ne_bytes(ep.addr4);
            own != 0 && own == addr.word()
        }
        Family::V6 => {
            let own = Addr::v6(ep.addr6);
            !own.is_zero() && own == *addr
        }
    }
}

/// Keeps the ports of a first fragment, and gives them to the later ones.
#[inline(never)]
fn fragments<E: Env>(env: &E, w: &mut Work) -> Result<(), Reason> {
    let ip = &mut w.ip;
    w.fragment = FragKey {
        src: ip.src.bytes(),
        dst: ip.dst.bytes(),
        ifindex: w.ep.ifindex,
        id: ip.fragment_id,
        proto: ip.proto,
        family: ip.src.family.version(),
        direction: w.dir as u8,
        pad: 0,
    };
    let key = &w.fragment;
    if ip.kind.any(Kind::FIRST_FRAGMENT) {
        env.put_fragment(key, &FragValue::new(key, ip.src_port, ip.dst_port, w.now));
        return Ok(());
    }
    for _ in 0..READ_ATTEMPTS {
        let value = env.fragment(key).ok_or(Reason::Fragment)?;
        if value.verify(key) {
            if w.now.saturating_sub(value.seen) > age::FRAGMENT {
                return Err(Reason::Fragment);
            }
            ip.src_port = value.src_port;
            ip.dst_port = value.dst_port;
            return Ok(());
        }
    }
    Err(Reason::Torn)
}

/// What an answer of policy is for, beside the entry that is judged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Purpose {
    /// No entry, or one that a new connection may replace: `Work::table` gets one.
    Open = 0,
    /// An entry of another epoch: `Work::value` is a copy, `Work::table` where it
    /// stands, `Work::next` the state that it takes if allowed.
    Again = 1,
    /// An ICMP error of no known flow: nothing is written.
    Unrelated = 2,
}

/// Whether what policy denies passes, and is told.
#[inline(always)]
fn audits<E: Env>(env: &E, w: &Work) -> bool {
    w.ep.flags().has(EndpointFlags::AUDIT) || env.switches().audit
}

/// A flow's state; of another epoch if it was let in by a switch that is off by now, which moves none.
#[inline(always)]
fn in_force<E: Env>(env: &E, w: &Work, state: CtState) -> CtState {
    if state.has(CtState::TRUSTED) && !env.switches().trust_node_addresses {
        state.with_epoch(!w.ep.epoch)
    } else {
        state
    }
}

/// The endpoint of an interface whose filter has no class id, and of which no hint told the slot.
#[inline(never)]
fn locate<E: Env>(env: &E, w: &mut Work) -> Result<(), Reason> {
    let value = env.slot_of(w.facts.ifindex).ok_or(Reason::NoEndpoint)?;
    w.slot = value.slot_of(w.facts.ifindex).ok_or(Reason::Torn)?;
    policy::read_endpoint(env, w.slot, w.facts.ifindex, &mut w.ep)?;
    env.set_hint(w.facts.ifindex, w.slot);
    Ok(())
}

/// What an entry has to know of the answer beside that it allows.
#[inline(always)]
fn marks(w: &Work, audited: bool) -> u64 {
    if audited {
        CtState::AUDITED
    } else if matches!(w.answer.reason, Reason::LocalNode) && !matches!(w.question.origin, Origin::LocalNode)
    {
        CtState::TRUSTED
    } else {
        0
    }
}

/// The way of an established packet; all others leave it early.
#[inline(always)]
fn track<E: Env>(env: &E, w: &mut Work) -> Reason {
    if w.ip.kind.any(Kind::ERROR) {
        return error(env, w);
    }
    let Some(entry) = env.flow(Table::Settled, &w.key) else {
        return unsettled(env, w);
    };
    let (seen, state) = entry.glance();
    if conntrack::runs_on(state, &w.key, w.ip.kind, w.ep.epoch) && w.now == seen {
        return Reason::Established;
    }
    settled(env, w, entry)
}

/// A flow in `ct` for which more has to be thought of.
#[inline(never)]
fn settled<E: Env>(env: &E, w: &mut Work, entry: E::Entry) -> Reason {
    entry.load(&mut w.value);
    if w.value.state().tag() == w.key.tag() {
        resume(env, w, entry, Table::Settled)
    } else {
        unsettled(env, w)
    }
}

/// A flow that has no entry in `ct`, or one that became another flow's while it
/// was read.
#[inline(never)]
fn unsettled<E: Env>(env: &E, w: &mut Work) -> Reason {
    // A flow is written to `ct` before it leaves `ct_new`, so a second look at
    // `ct` finds one that moved since the first.
    let (entry, table) = match env.flow(Table::New, &w.key) {
        Some(entry) => (entry, Table::New),
        None => match env.flow(Table::Settled, &w.key) {
            Some(entry) => (entry, Table::Settled),
            None => return open(env, w, Table::New),
        },
    };
    entry.load(&mut w.value);
    if w.value.state().tag() == w.key.tag() { resume(env, w, entry, table) } else { Reason::Torn }
}

/// A packet that met its flow's entry, of which `w.value` is a copy.
#[inline(always)]
fn resume<E: Env>(env: &E, w: &mut Work, entry: E::Entry, table: Table) -> Reason {
    let old = w.value.state();
    if conntrack::expired(old, w.key.proto, w.value.last_seen, w.now) {
        // Written where it stands, so that it does not hide its successor.
        return open(env, w, table);
    }
    let first_of_tick = w.value.last_seen != w.now;
    if first_of_tick {
        entry.touch(w.now);
    }
    w.rule = w.value.rule;
    let known = in_force(env, w, old);
    match conntrack::step(known, w.ip.proto, w.ip.kind, w.dir, w.ep.epoch, audits(env, w)) {
        Step::Pass(next) => {
            settle(env, w, entry, table, next);
            Reason::Established
        }
        // What policy allows in addition has no epoch of its own.
        Step::Drop if first_of_tick => again(env, w, entry, table, old.without(CtState::DENIED)),
        Step::Drop => Reason::Revoked,
        Step::Open => open(env, w, table),
        Step::Again(next) => again(env, w, entry, table, next),
    }
}

/// Writes what a passing packet changed; moves a flow whose reply came.
#[inline(always)]
fn settle<E: Env>(env: &E, w: &mut Work, entry: E::Entry, table: Table, next: CtState) {
    if matches!(table, Table::New) && next.has(CtState::SEEN_REPLY) {
        w.value.state = next.0;
        w.value.last_seen = w.now;
        w.value.rule = w.rule;
        env.put_flow(Table::Settled, &w.key, &w.value);
        env.drop_flow(Table::New, &w.key);
    } else if next.0 != w.value.state {
        // Whoever changed it meanwhile knew as much; the next packet tells again.
        entry.exchange(w.value.state, next.0);
    }
}

/// An ICMP error passes if it belongs to a flow that may pass.
#[inline(never)]
fn error<E: Env>(env: &E, w: &mut Work) -> Reason {
    if !parse::inner_flow(env, &w.ip, &mut w.inner) {
        return unrelated(env, w);
    }
    let inner = &w.inner;
    let (pod, peer, pod_port, peer_port) = match w.dir {
        // What comes in quotes what the pod sent, and the other way round.
        Direction::In => (&inner.src, &inner.dst, inner.src_port, inner.dst_port),
        Direction::Out => (&inner.dst, &inner.src, inner.dst_port, inner.src_port),
    };
    if !is_address_of(&w.ep, pod) {
        return unrelated(env, w);
    }
    let own = w.key;
    w.key = CtKey::new(w.ep.ifindex, peer, pod_port, peer_port, inner.proto);
    for table in [Table::Settled, Table::New] {
        let Some(entry) = env.flow(table, &w.key) else {
            continue;
        };
        entry.load(&mut w.value);
        let old = w.value.state();
        if old.tag() != w.key.tag() || conntrack::expired(old, w.key.proto, w.value.last_seen, w.now) {
            break;
        }
        w.rule = w.value.rule;
        // It moves nothing in its flow and opens none.
        let known = in_force(env, w, old);
        return match conntrack::step(known, 0, Kind(0), old.direction(), w.ep.epoch, audits(env, w)) {
            Step::Pass(_) => Reason::Related,
            Step::Drop | Step::Open => Reason::Revoked,
            Step::Again(next) => match again(env, w, entry, table, next) {
                Reason::Reevaluated => Reason::Related,
                other => other,
            },
        };
    }
    w.key = own;
    unrelated(env, w)
}

#[inline(always)]
fn open<E: Env>(env: &E, w: &mut Work, table: Table) -> Reason {
    w.purpose = Purpose::Open;
    w.table = table;
    ask(env, w, None)
}

#[inline(always)]
fn again<E: Env>(env: &E, w: &mut Work, entry: E::Entry, table: Table, next: CtState) -> Reason {
    w.purpose = Purpose::Again;
    w.table = table;
    w.next = next;
    ask(env, w, Some(entry))
}

#[inline(always)]
fn unrelated<E: Env>(env: &E, w: &mut Work) -> Reason {
    w.purpose = Purpose::Unrelated;
    ask(env, w, None)
}

/// Asks policy, and writes the answer to the flow's entry.
#[inline(never)]
fn ask<E: Env>(env: &E, w: &mut Work, entry: Option<E::Entry>) -> Reason {
    w.question = Question {
        dir: w.dir,
        origin: Origin::Outside,
        origin_ifindex: 0,
        peer: w.key.peer_addr(),
        port: 0,
        proto: w.key.proto,
    };
    if entry.is_some() {
        let old = w.value.state();
        w.question.dir = old.direction();
        w.question.origin = old.origin();
        w.question.origin_ifindex = w.value.origin_ifindex;
    } else if matches!(w.dir, Direction::In)
        && let Err(reason) = identify(env, w)
    {
        return reason;
    }
    w.question.port = policy::policy_port(
        w.key.proto,
        match w.question.dir {
            Direction::In => w.key.pod_port,
            Direction::Out => w.key.peer_port,
        },
    );
    policy::judge(env, &w.ep, &mut w.question, &mut w.answer, &mut w.other);
    w.judged = true;
    w.rule = w.answer.rule;
    w.class = w.answer.class;
    let allowed = w.answer.reason.passes();
    // Where no policy stands yet there is none to audit: closed.
    let audited = !allowed && !matches!(w.answer.reason, Reason::NoRow) && audits(env, w);
    match entry {
        Some(entry) => conclude_again(env, w, entry, allowed, audited),
        None => conclude_new(env, w, allowed, audited),
    }
}

/// Who sent a packet that comes to the pod.
#[inline(always)]
fn identify<E: Env>(env: &E, w: &mut Work) -> Result<(), Reason> {
    let from = w.facts.ingress_ifindex;
    if from == 0 {
        // Fragments may lose the interface that they came by on their way
        // through the IPv6 stack, so they prove nothing.
        if !w.ip.kind.any(Kind::FRAGMENT_HEADER) {
            w.question.origin = Origin::LocalNode;
        }
    } else if from == w.ep.ifindex {
        w.question.origin = Origin::Hairpin;
    } else if let Some(value) = env.slot_of(from) {
        value.slot_of(from).ok_or(Reason::Torn)?;
        w.question.origin = Origin::Endpoint;
        w.question.origin_ifindex = from;
    }
    Ok(())
}

/// A flow that was judged again: its entry takes the answer.
#[inline(always)]
fn conclude_again<E: Env>(env: &E, w: &mut Work, entry: E::Entry, allowed: bool, audited: bool) -> Reason {
    entry.set_rule(w.rule);
    if allowed || audited {
        settle(env, w, entry, w.table, w.next.with(marks(w, audited)));
        if audited { Reason::Audited } else { Reason::Reevaluated }
    } else {
        // Never deleted: the peer's next packet would be a miss in the other
        // direction, and bring the flow back to life.
        entry.exchange(w.value.state, w.next.with(CtState::DENIED).0);
        Reason::Revoked
    }
}

/// A flow of its own: allowed, it gets an entry.
#[inline(always)]
fn conclude_new<E: Env>(env: &E, w: &mut Work, allowed: bool, audited: bool) -> Reason {
    let reason = if audited { Reason::Audited } else { w.answer.reason };
    if !(allowed || audited) || matches!(w.purpose, Purpose::Unrelated) {
        return reason;
    }
    // The node's own probes must not fail because others flood the pod.
    let ours = matches!(w.question.origin, Origin::LocalNode | Origin::Hairpin);
    if w.ep.budget != 0 && !ours && !env.spend(w.slot, w.now, w.ep.budget) {
        let isolated = EndpointFlags::ISOLATED_IN | EndpointFlags::ISOLATED_OUT;
        return if w.ep.flags & isolated == 0 { Reason::Unrecorded } else { Reason::Budget };
    }
    let state = CtState::new(w.key.tag(), w.ep.epoch, w.question.dir, w.question.origin);
    w.value = CtValue {
        state: state.with(marks(w, audited)).0,
        last_seen: w.now,
        rule: w.rule,
        origin_ifindex: w.question.origin_ifindex,
        pad: 0,
    };
    env.put_flow(w.table, &w.key, &w.value);
    reason
}

#[cfg(test)]
mod tests;
