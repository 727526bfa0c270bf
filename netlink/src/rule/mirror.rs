//! All rules of a family, kept by what the kernel announces instead of asking
//! for them again and again.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::{Rule, list, parse};
use crate::{
    Error, Family, Socket,
    batch::kind::{DELRULE, NEWRULE},
    socket::messages,
};

const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_RULE: u32 = 19;
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How often the rules are listed anew while others change them meanwhile.
const ATTEMPTS: u32 = 20;

/// The rules of one family in the network namespace that it was opened in. As the
/// kernel announces a change before whoever asked for it hears of its success,
/// it is never behind a change that is known to be made.
///
/// It may be ahead: since 6.10 rules are listed beside changes, and one that is
/// listed may be announced afterwards. As rules may also stand there twice (whoever
/// adds one without `NLM_F_EXCL`), a rule that is announced and known already makes
/// it list them anew. What that does not find out, [`Self::refresh`] does.
#[derive(Debug)]
pub struct Mirror {
    family: Family,
    ear: netlink_sys::Socket,
    /// None before they were listed, and after announcements were lost.
    rules: Option<Vec<Rule>>,
    buffer: Vec<u8>,
}

impl Mirror {
    /// Listens in the calling thread's network namespace.
    pub fn open(family: Family) -> Result<Self, Error> {
        let mut ear = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(Error::io("open"))?;
        ear.bind_auto().map_err(Error::io("bind"))?;
        let group = match family {
            Family::V4 => RTNLGRP_IPV4_RULE,
            Family::V6 => RTNLGRP_IPV6_RULE,
        };
        ear.add_membership(group).map_err(Error::io("join the group of rules"))?;
        Ok(Self { family, ear, rules: None, buffer: Vec::new() })
    }

    /// All rules as they stand now. Listed by `socket`, of the same namespace, the
    /// first time and where announcements were lost; otherwise this costs a system
    /// call for each change since the last time.
    pub fn rules(&mut self, socket: &mut Socket) -> Result<&[Rule], Error> {
        const WHAT: &str = "keep up with rules";
        self.hear();
        for _ in 0..ATTEMPTS {
            if self.rules.is_some() {
                break;
            }
            let listed = list(socket, self.family)?;
            // A change that was announced meanwhile may be in the list or not.
            if !self.hear() {
                self.rules = Some(listed);
            }
        }
        self.rules.as_deref().ok_or(Error::Interrupted { what: WHAT, attempts: ATTEMPTS })
    }

    /// The same, listed in any case: in the order in which the kernel asks them.
    pub fn refresh(&mut self, socket: &mut Socket) -> Result<&[Rule], Error> {
        self.rules = None;
        self.rules(socket)
    }

    /// Takes in all that was announced; whether there was anything.
    fn hear(&mut self) -> bool {
        let mut heard = false;
        loop {
            self.buffer.clear();
            self.buffer.reserve(RECEIVE_BUFFER);
            match self.ear.recv(&mut self.buffer, nix::libc::MSG_DONTWAIT) {
                Ok(_) => self.take_in(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return heard,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.rules = None;
                    // Lost announcements are told once, and others may follow.
                    if error.raw_os_error() != Some(Errno::ENOBUFS as i32) {
                        return true;
                    }
                }
            }
            heard = true;
        }
    }

    fn take_in(&mut self) {
        for message in messages(&self.buffer) {
            let Some(rules) = &mut self.rules else { return };
            let Some(rule) = parse(message.body) else { continue };
            match message.kind {
                NEWRULE if rules.contains(&rule) => self.rules = None,
                NEWRULE => rules.push(rule),
                DELRULE => {
                    if let Some(place) = rules.iter().position(|one| *one == rule) {
                        rules.swap_remove(place);
                    }
                }
                _ => {}
            }
        }
    }
}
