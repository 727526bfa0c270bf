//! The steps of a flow: what a packet that meets an entry does to it. Pure.

use crate::abi::{CtKey, CtState, Direction, Origin, proto};
use crate::parse::Kind;

/// Nanoseconds of a tick are two to this power: about 1.07 s. Ages need no
/// more, and a shift is cheaper than a division.
pub const TICK_SHIFT: u32 = 30;

/// The tick of a time in nanoseconds.
#[inline(always)]
#[must_use]
pub const fn tick(now_ns: u64) -> u32 {
    (now_ns >> TICK_SHIFT) as u32
}

/// Ticks in a number of seconds, rounded down.
#[must_use]
pub const fn ticks(seconds: u64) -> u32 {
    ((seconds * 1_000_000_000) >> TICK_SHIFT) as u32
}

/// How long an entry lives without a packet.
pub mod age {
    use super::ticks;

    /// TCP after the handshake: 24 h.
    pub const ESTABLISHED: u32 = ticks(24 * 60 * 60);
    /// TCP before, and after a FIN or RST: 120 s.
    pub const HANDSHAKE: u32 = ticks(120);
    /// UDP and everything that is not named: 180 s.
    pub const DATAGRAM: u32 = ticks(180);
    /// ICMP: 30 s.
    pub const ICMP: u32 = ticks(30);
    /// The time in which fragments of one packet must come: 30 s, as long as
    /// the stack waits for them.
    pub const FRAGMENT: u32 = ticks(30);
}

/// Whether an entry is too old. A clock that seems to go backwards, as another
/// CPU's coarse time may by one tick, never makes it so.
#[inline(always)]
#[must_use]
pub fn expired(state: CtState, number: u8, last_seen: u32, now: u32) -> bool {
    let silent = now.saturating_sub(last_seen);
    // The shortest of all, which hardly any entry that is asked for has reached.
    if silent <= age::ICMP {
        return false;
    }
    let limit = match number {
        proto::TCP if state.has(CtState::CLOSING) => age::HANDSHAKE,
        proto::TCP if state.has(CtState::ESTABLISHED) => age::ESTABLISHED,
        proto::TCP => age::HANDSHAKE,
        proto::ICMP | proto::ICMPV6 => age::ICMP,
        _ => age::DATAGRAM,
    };
    silent > limit
}

/// What a packet that met an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It passes, and the entry takes this state, which may be the old one.
    Pass(CtState),
    /// It is dropped: the flow was denied in this epoch, and is asked about once a tick.
    Drop,
    /// It opens a connection of its own: judged in its own direction; allowed,
    /// it takes the entry's place; denied, the entry stays.
    Open,
    /// The flow is judged again in its original direction; allowed, the entry
    /// takes this state; denied, it is marked.
    Again(CtState),
}

/// The step of a packet that crosses in `dir` and meets `state`, for an
/// endpoint of the given epoch, audited or not.
#[inline(always)]
#[must_use]
pub fn step(state: CtState, number: u8, kind: Kind, dir: Direction, epoch: u32, audit: bool) -> Step {
    let reply = dir as u8 != state.direction() as u8;
    let denied = state.has(CtState::DENIED);
    if kind.any(Kind::CONNECT | Kind::ECHO) {
        let reused =
            kind.any(Kind::CONNECT) && (state.has(CtState::SEEN_REPLY) || state.has(CtState::CLOSING));
        if reply || denied || reused {
            return Step::Open;
        }
    }
    let next = advance(state, number, kind, reply);
    if state.epoch() != epoch || audit_changed(state, audit) {
        let ours = matches!(state.origin(), Origin::LocalNode | Origin::Hairpin);
        if ours && !denied {
            return Step::Pass(next.with_epoch(epoch));
        }
        return Step::Again(
            next.with_epoch(epoch).without(CtState::DENIED | CtState::AUDITED | CtState::TRUSTED),
        );
    }
    if denied { Step::Drop } else { Step::Pass(next) }
}

/// Whether a packet of a flow seen both ways passes and changes nothing, by one
/// comparison of all that could speak against it: [`step`] would say the same.
#[inline(always)]
#[must_use]
pub fn runs_on(state: CtState, key: &CtKey, kind: Kind, epoch: u32) -> bool {
    let seen = if key.proto == proto::TCP {
        CtState::SEEN_REPLY | CtState::ESTABLISHED
    } else {
        CtState::SEEN_REPLY
    };
    let decides = CtState::EPOCH_AND_TAG
        | CtState::DENIED
        | CtState::AUDITED
        | CtState::TRUSTED
        | CtState::CLOSING
        | CtState::SEEN_REPLY
        | CtState::ESTABLISHED;
    state.0 & decides == u64::from(epoch) | u64::from(key.tag()) << CtState::TAG_SHIFT | seen
        && !kind.any(Kind::CONNECT | Kind::ECHO | Kind::CLOSE | Kind::ERROR)
}

/// Whether an answer would be another one since audit began or ended, which moves
/// no epoch where it is the node's.
#[inline(always)]
fn audit_changed(state: CtState, audit: bool) -> bool {
    state.0 & (CtState::DENIED | CtState::AUDITED) != 0
        && if audit { state.has(CtState::DENIED) } else { state.has(CtState::AUDITED) }
}

/// What the packet tells about the flow.
#[inline(always)]
fn advance(state: CtState, number: u8, kind: Kind, reply: bool) -> CtState {
    let mut next = state;
    if reply {
        next = next.with(CtState::SEEN_REPLY);
    } else if number == proto::TCP && state.has(CtState::SEEN_REPLY) && !kind.any(Kind::CONNECT) {
        next = next.with(CtState::ESTABLISHED);
    }
    if kind.any(Kind::CLOSE) {
        next = next.with(CtState::CLOSING);
    }
    next
}

#[cfg(test)]
mod tests;
