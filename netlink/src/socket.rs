//! A synchronous netlink socket: batches with acknowledgements, and dumps.
//!
//! A socket belongs to the network namespace it was opened in, for life.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_packet_core::{Emitable, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART};
use netlink_sys::{
    SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use crate::{
    Batch, Error,
    batch::{HEADER_LEN, Item, kind},
    wire::{align, attribute, read_string, read_u16, read_u32},
};

const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_RULE: u32 = 19;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The request's payload is left out of its acknowledgement.
const NLM_F_CAPPED: u16 = 0x100;
/// The acknowledgement carries attributes.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Messages sent before their acknowledgements are read: those of a longer
/// batch would not fit into the receive buffer (212,992 bytes, some 768 each).
const CHUNK: usize = 64;

/// How often an interrupted dump is begun again.
const DUMP_ATTEMPTS: u32 = 20;

/// The largest datagram that the kernel makes for a dump.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Time the kernel has for an answer unless the caller says otherwise. Almost
/// all of it is other processes' holding of RTNL.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// One message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type, `RTM_NEWLINK` for example.
    pub kind: u16,
    /// Its body, after the netlink header.
    pub body: Vec<u8>,
}

/// How a dump came.
enum Dump {
    /// The kernel said that objects changed meanwhile.
    Torn,
    /// In one datagram, filled without a pause.
    OnePiece(Vec<Message>),
    /// In several: objects may have changed in between.
    Pieces(Vec<Message>),
}

/// A netlink socket for requests.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    port: u32,
    /// Every dump that changes tore is marked.
    tells_torn: bool,
    /// Hears of changes that tear dumps without the kernel's saying so.
    ear: Option<netlink_sys::Socket>,
    sequence: u32,
    timeout: Duration,
    buffer: Vec<u8>,
}

impl Socket {
    /// A route socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Self::open_protocol(NETLINK_ROUTE)
    }

    /// A socket of another netlink protocol in the calling thread's network
    /// namespace.
    pub(crate) fn open_protocol(protocol: isize) -> Result<Self, Error> {
        let mut inner = netlink_sys::Socket::new(protocol).map_err(Error::io("open"))?;
        let port = inner.bind_auto().map_err(Error::io("bind"))?.port_number();
        inner.connect(&SocketAddr::new(0, 0)).map_err(Error::io("connect"))?;
        inner.set_ext_ack(true).map_err(Error::io("ask for extended ACKs"))?;
        inner.set_cap_ack(true).map_err(Error::io("ask for short ACKs"))?;
        if protocol == NETLINK_ROUTE {
            // The kernel then honours what a dump's header asks for, and
            // refuses what it does not know instead of ignoring it.
            inner.set_netlink_get_strict_chk(true).map_err(Error::io("ask for strict checks"))?;
        }
        let mut socket = Self {
            inner,
            port,
            tells_torn: protocol == NETLINK_NETFILTER,
            ear: None,
            sequence: 0,
            timeout: Duration::ZERO,
            buffer: Vec::new(),
        };
        socket.set_timeout(DEFAULT_TIMEOUT)?;
        Ok(socket)
    }

    /// A route socket in the network namespace `netns`. It is opened by a thread
    /// of its own, so that the caller's namespace never changes.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        crate::netns::run_in(netns, Self::open)?
    }

    /// Makes dumps of rules safe beside programs that change rules all the time.
    /// To be called where the socket was opened: in the same namespace.
    pub fn watch(mut self) -> Result<Self, Error> {
        let mut ear = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(Error::io("open"))?;
        ear.bind_auto().map_err(Error::io("bind"))?;
        for group in [RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE] {
            ear.add_membership(group).map_err(Error::io("join the group of rules"))?;
        }
        self.ear = Some(ear);
        Ok(self)
    }

    /// Bounds the wait for each answer.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), Error> {
        // Zero would mean "for ever".
        let timeout = timeout.max(Duration::from_millis(1));
        let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        setsockopt(&self.inner.as_fd(), sockopt::ReceiveTimeout, &TimeVal::milliseconds(millis))
            .map_err(|errno| Error::io("set its time-out")(errno.into()))?;
        self.timeout = timeout;
        Ok(())
    }

    /// Sends all requests and waits until each is answered. Answers that are not
    /// acknowledgements (echoes) are returned. The first error that is not
    /// tolerated is the result, after all requests were carried out.
    pub fn run(&mut self, batch: Batch) -> Result<Vec<Message>, Error> {
        let mut echoes = Vec::new();
        let mut failure = None;
        let Batch { mut bytes, items } = batch;
        for chunk in items.chunks(CHUNK) {
            let result = self.run_chunk(&mut bytes, chunk, &mut echoes);
            if let (Err(error), None) = (result, &failure) {
                failure = Some(error);
            }
        }
        failure.map_or(Ok(echoes), Err)
    }

    fn run_chunk(
        &mut self,
        bytes: &mut [u8],
        items: &[Item],
        echoes: &mut Vec<Message>,
    ) -> Result<(), Error> {
        let (Some(first), Some(last)) = (items.first(), items.last()) else {
            return Ok(());
        };
        let range = first.start..last.end;
        let base = self.number(bytes, items);
        self.send(&bytes[range])?;
        let what = first.what;
        let mut answered = vec![false; items.len()];
        let mut left = items.len();
        let mut failure = None;
        let deadline = Instant::now() + self.timeout;
        while left > 0 {
            self.receive(what, deadline, |message| {
                let index = usize::try_from(message.sequence.wrapping_sub(base)).unwrap_or(usize::MAX);
                let Some(item) = items.get(index) else { return };
                if message.kind != NLMSG_ERROR {
                    echoes.push(Message { kind: message.kind, body: message.body.to_vec() });
                    return;
                }
                if !std::mem::replace(&mut answered[index], true) {
                    left -= 1;
                }
                if let Some(errno) = message.errno()
                    && !item.tolerated.contains(&errno)
                    && failure.is_none()
                {
                    failure = Some(Error::Kernel { what: item.what, errno, message: message.text() });
                }
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Writes sequence numbers into the messages; returns the first.
    fn number(&mut self, bytes: &mut [u8], items: &[Item]) -> u32 {
        let base = self.sequence.wrapping_add(1);
        for item in items {
            self.sequence = self.sequence.wrapping_add(1);
            bytes[item.start + 8..item.start + 12].copy_from_slice(&self.sequence.to_ne_bytes());
        }
        base
    }

    /// The number that the kernel knows this socket by: in announcements of
    /// changes that were asked for on it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends all requests as one nftables transaction: all of them are carried
    /// out or none. Only errors are answered, and the last message's success.
    pub(crate) fn run_transaction(&mut self, batch: Batch, confirmed: usize) -> Result<(), Error> {
        let Batch { mut bytes, items } = batch;
        let base = self.number(&mut bytes, &items);
        let what = items.get(confirmed).map_or("change nftables", |item| item.what);
        self.send(&bytes)?;
        let deadline = Instant::now() + self.timeout;
        let mut confirmed_seen = false;
        let mut failure = None;
        while !confirmed_seen && failure.is_none() {
            self.receive(what, deadline, |message| {
                let index = usize::try_from(message.sequence.wrapping_sub(base)).unwrap_or(usize::MAX);
                let Some(item) = items.get(index) else { return };
                match message.errno() {
                    Some(errno) if failure.is_none() => {
                        failure = Some(Error::Kernel { what: item.what, errno, message: message.text() });
                    }
                    Some(_) => {}
                    None => confirmed_seen |= index == confirmed,
                }
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// All objects of a kind; `kind` is that of the request. A dump that was
    /// interrupted by changes is begun again: it may lack objects that were
    /// there all the time.
    ///
    /// For rules and neighbours the kernel does not say so: it goes on by number,
    /// and skips one object for each that was removed before it. What comes in
    /// one piece is whole; what does not is asked for until it comes twice the
    /// same, with no rule changed meanwhile ([`Self::watch`]). Of links and
    /// addresses it does say so, and of nftables, whose counters never come twice
    /// the same.
    pub fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        request: &impl Emitable,
    ) -> Result<Vec<Message>, Error> {
        let mut body = vec![0; request.buffer_len()];
        request.emit(&mut body);
        self.dump_raw(what, kind, &body)
    }

    /// The same for a request that is written by hand.
    pub(crate) fn dump_raw(
        &mut self,
        what: &'static str,
        kind: u16,
        body: &[u8],
    ) -> Result<Vec<Message>, Error> {
        let mut batch = Batch::new();
        batch.push_raw(what, kind, NLM_F_DUMP, body, &[]);
        let mut before: Option<Vec<Message>> = None;
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(what, batch.bytes.clone())? {
                Dump::Torn => {}
                Dump::OnePiece(messages) => return Ok(messages),
                Dump::Pieces(messages) if before.as_ref() == Some(&messages) => return Ok(messages),
                Dump::Pieces(messages) => before = Some(messages),
            }
        }
        Err(Error::Interrupted { what, attempts: DUMP_ATTEMPTS })
    }

    /// All objects of a kind that change all the time, as they come: one pass,
    /// whatever changes meanwhile. Bodies are handed out one by one.
    pub(crate) fn dump_each(
        &mut self,
        what: &'static str,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.push_raw(what, kind, NLM_F_DUMP, body, &[]);
        let sequence = self.number(&mut batch.bytes, &batch.items);
        self.send(&batch.bytes)?;
        let (mut done, mut failure) = (false, None);
        while !done {
            // Each datagram is progress: the table may be long.
            let deadline = Instant::now() + self.timeout;
            self.receive(what, deadline, |message| match message.kind {
                _ if message.sequence != sequence => {}
                NLMSG_DONE | NLMSG_ERROR => {
                    done = true;
                    failure =
                        message.errno().map(|errno| Error::Kernel { what, errno, message: message.text() });
                }
                _ => each(message.body),
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Whether a change was announced since the last time this was asked. Always
    /// no without [`Self::watch`].
    fn take_disturbance(&mut self) -> bool {
        let Some(ear) = &self.ear else {
            return false;
        };
        let mut heard = false;
        loop {
            self.buffer.clear();
            self.buffer.reserve(RECEIVE_BUFFER);
            match ear.recv(&mut self.buffer, nix::libc::MSG_DONTWAIT) {
                Ok(_) => heard = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return heard,
                // Announcements were lost: there were some.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => heard = true,
                Err(_) => return true,
            }
        }
    }

    fn dump_once(&mut self, what: &'static str, mut bytes: Vec<u8>) -> Result<Dump, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let tells_torn = self.tells_torn || matches!(kind, kind::GETLINK | kind::GETADDR);
        self.take_disturbance();
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.send(&bytes)?;
        let deadline = Instant::now() + self.timeout;
        let mut messages = Vec::new();
        let mut interrupted = false;
        let mut done = false;
        let mut failure = None;
        let mut pieces = 0;
        while !done {
            let before = messages.len();
            self.receive(what, deadline, |message| {
                if message.sequence != sequence {
                    return;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        done = true;
                        match message.errno() {
                            Some(Errno::EINTR) => interrupted = true,
                            Some(errno) => {
                                failure = Some(Error::Kernel { what, errno, message: message.text() });
                            }
                            None => {}
                        }
                    }
                    kind => {
                        messages.push(Message { kind, body: message.body.to_vec() });
                        done |= message.flags & NLM_F_MULTIPART == 0;
                    }
                }
            })?;
            pieces += usize::from(messages.len() > before);
        }
        match failure {
            Some(error) => Err(error),
            None if interrupted || (pieces > 1 && self.take_disturbance()) => Ok(Dump::Torn),
            None if pieces > 1 && !tells_torn => Ok(Dump::Pieces(messages)),
            None => Ok(Dump::OnePiece(messages)),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        loop {
            match self.inner.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Io { call: "send", source: error }),
            }
        }
    }

    /// Reads one datagram and hands each message in it to `handle`.
    fn receive(
        &mut self,
        what: &'static str,
        deadline: Instant,
        mut handle: impl FnMut(&Raw<'_>),
    ) -> Result<(), Error> {
        loop {
            if Instant::now() >= deadline {
                return Err(Error::Deadline { what });
            }
            self.buffer.clear();
            self.buffer.reserve(RECEIVE_BUFFER);
            match self.inner.recv(&mut self.buffer, 0) {
                Ok(_) => break,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(Error::Io { call: "receive", source: error }),
            }
        }
        for message in messages(&self.buffer) {
            handle(&message);
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        AsRawFd::as_raw_fd(&self.inner)
    }
}

/// A message in a received datagram.
pub(crate) struct Raw<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Who asked for what is announced; 0 for the kernel.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl Raw<'_> {
    /// The error number of an `NLMSG_ERROR` or `NLMSG_DONE`, none for success.
    fn errno(&self) -> Option<Errno> {
        let code = read_u32(self.body)?.cast_signed();
        (code < 0).then(|| Errno::from_raw(-code))
    }

    /// The kernel's words in an extended acknowledgement.
    fn text(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        // After the error number stands the header of the request, and its
        // payload too unless the acknowledgement is capped.
        let fixed = match self.kind {
            NLMSG_DONE => 4,
            _ if self.flags & NLM_F_CAPPED != 0 => 4 + HEADER_LEN,
            _ => 4 + align(read_u32(self.body.get(4..)?)? as usize),
        };
        attribute(self.body.get(fixed..)?, NLMSGERR_ATTR_MSG).map(read_string)
    }
}

/// The messages in a datagram; ends at the first malformed one.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = read_u32(rest)? as usize;
        let body = rest.get(HEADER_LEN..len)?;
        let message = Raw {
            kind: read_u16(rest.get(4..)?)?,
            flags: read_u16(rest.get(6..)?)?,
            sequence: read_u32(rest.get(8..)?)?,
            port: read_u32(rest.get(12..)?)?,
            body,
        };
        rest = rest.get(align(len)..).unwrap_or_default();
        Some(message)
    })
}
