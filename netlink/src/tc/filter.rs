//! bpf filters in direct-action mode.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_REPLACE};

use super::message::{Header, TCA_KIND, TCA_OPTIONS};
use crate::wire::{Attributes, attribute, read_string, read_u32};
use crate::{Batch, Error, MISSING, Message, Socket};

pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const TCA_BPF_CLASSID: u16 = 3;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;

/// The program's return value is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const ETH_P_ALL: u16 = 3;
const KIND: &str = "bpf";

/// One of clsact's two chains, as seen from the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// What the interface receives.
    Ingress,
    /// What the interface sends.
    Egress,
}

impl Hook {
    const fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }

    fn of_parent(parent: u32) -> Option<Self> {
        [Self::Ingress, Self::Egress].into_iter().find(|hook| hook.parent() == parent)
    }
}

/// A filter to be attached. Priority and handle name it: attaching another one
/// with the same replaces the program, without a packet in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfFilter<'a> {
    /// Interface index.
    pub ifindex: u32,
    /// The chain.
    pub hook: Hook,
    /// Filters run in the order of their priorities; 1 is first.
    pub priority: u16,
    /// Which filter of the priority.
    pub handle: u32,
    /// The program finds it in `__sk_buff::tc_classid`; the kernel keeps 16 bits.
    pub classid: u16,
    /// What listings show.
    pub name: &'a str,
}

/// A filter that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Interface index.
    pub ifindex: u32,
    /// The chain.
    pub hook: Hook,
    /// Its kind: "bpf", "u32", "matchall" and so on.
    pub kind: String,
    /// Filters run in the order of their priorities.
    pub priority: u16,
    /// Which filter of the priority.
    pub handle: u32,
    /// Of a bpf filter: what the program finds in `tc_classid`.
    pub classid: Option<u32>,
    /// Of a bpf filter: the name that it was given.
    pub name: Option<String>,
    /// Of a bpf filter: the program's id.
    pub program: Option<u32>,
    /// Of a bpf filter: whether the program's return value is the verdict.
    pub direct_action: bool,
}

/// Attaches a program, or replaces the one that stands there. Of one priority the
/// newest runs first; a replaced one keeps its place. What stands afterwards is
/// echoed: see [`echoed`].
pub fn add_filter(batch: &mut Batch, filter: &BpfFilter<'_>, program: BorrowedFd<'_>) {
    let options = Attributes::new()
        .bytes(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes())
        .string(TCA_BPF_NAME, filter.name)
        .bytes(TCA_BPF_CLASSID, &u32::from(filter.classid).to_ne_bytes())
        .bytes(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    let attributes = Attributes::new().string(TCA_KIND, KIND).nested(TCA_OPTIONS, &options);
    let header = header(filter.ifindex, filter.hook, filter.priority, filter.handle);
    let body = header.with(attributes.as_bytes());
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ECHO;
    batch.push_raw("attach a filter", RTM_NEWTFILTER, flags, &body, &[]);
}

/// The filters that a batch attached, as the kernel has them.
pub fn echoed(answers: &[Message]) -> Vec<Filter> {
    let filters = answers.iter().filter(|answer| answer.kind == RTM_NEWTFILTER);
    filters
        .filter_map(|answer| {
            let (header, _) = Header::parse(&answer.body)?;
            parse(&answer.body, Hook::of_parent(header.parent)?)
        })
        .collect()
}

/// Detaches a filter. One that is gone, with or without its interface, is fine.
pub fn delete_filter(batch: &mut Batch, ifindex: u32, hook: Hook, priority: u16, handle: u32) {
    let attributes = Attributes::new().string(TCA_KIND, KIND);
    let body = header(ifindex, hook, priority, handle).with(attributes.as_bytes());
    batch.push_raw("detach a filter", RTM_DELTFILTER, NLM_F_ACK, &body, DETACHED);
}

/// [`MISSING`], and what the kernel says where no qdisc has such a chain.
const DETACHED: &[nix::errno::Errno] =
    &[MISSING[0], MISSING[1], MISSING[2], MISSING[3], MISSING[4], nix::errno::Errno::EINVAL];

/// All filters of a chain in the order in which they run. None, if the
/// interface has no clsact.
///
/// # Errors
/// As any dump.
pub fn filters(socket: &mut Socket, ifindex: u32, hook: Hook) -> Result<Vec<Filter>, Error> {
    let body = Header { ifindex, parent: hook.parent(), ..Header::default() }.with(&[]);
    match socket.dump_raw("list filters", RTM_GETTFILTER, &body) {
        Ok(messages) => Ok(messages.iter().filter_map(|message| parse(&message.body, hook)).collect()),
        Err(error) if error.is_missing() || error.errno() == Some(nix::errno::Errno::EINVAL) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

const fn header(ifindex: u32, hook: Hook, priority: u16, handle: u32) -> Header {
    let info = (priority as u32) << 16 | ETH_P_ALL.to_be() as u32;
    Header { ifindex, handle, parent: hook.parent(), info }
}

fn parse(body: &[u8], hook: Hook) -> Option<Filter> {
    let (header, attributes) = Header::parse(body)?;
    let mut kind = String::new();
    let mut options: &[u8] = &[];
    for (number, value) in attributes {
        match number {
            TCA_KIND => kind = read_string(value),
            TCA_OPTIONS => options = value,
            _ => {}
        }
    }
    // A chain is also listed by a header of its own, without a handle.
    if header.handle == 0 {
        return None;
    }
    let number = |which| attribute(options, which).and_then(read_u32);
    let is_bpf = kind == KIND;
    Some(Filter {
        ifindex: header.ifindex,
        hook,
        priority: (header.info >> 16) as u16,
        handle: header.handle,
        classid: number(TCA_BPF_CLASSID).filter(|_| is_bpf),
        name: attribute(options, TCA_BPF_NAME).filter(|_| is_bpf).map(read_string),
        program: number(TCA_BPF_ID).filter(|_| is_bpf),
        direct_action: is_bpf
            && number(TCA_BPF_FLAGS).is_some_and(|flags| flags & TCA_BPF_FLAG_ACT_DIRECT != 0),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_filter_is_read_as_written() {
        let filter = BpfFilter {
            ifindex: 9,
            hook: Hook::Egress,
            priority: 1,
            handle: 0x7d,
            classid: 12,
            name: "to_pod",
        };
        let file = std::fs::File::open("/dev/null").expect("it is there");
        let mut batch = Batch::new();
        add_filter(&mut batch, &filter, file.as_fd());
        let body = &batch.bytes[crate::batch::HEADER_LEN..];
        let read = parse(body, Hook::Egress).expect("whole");
        assert_eq!(
            read,
            Filter {
                ifindex: 9,
                hook: Hook::Egress,
                kind: "bpf".into(),
                priority: 1,
                handle: 0x7d,
                classid: Some(12),
                name: Some("to_pod".into()),
                program: None,
                direct_action: true,
            }
        );
        let (header, _) = Header::parse(body).expect("whole");
        assert_eq!(header.parent, 0xffff_fff3);
        assert_eq!(header.info.to_ne_bytes()[..2], [0, 3], "all protocols, network order");
    }

    #[test]
    fn a_chain_without_filters_is_no_filter() {
        let body = header(9, Hook::Ingress, 1, 0).with(Attributes::new().string(TCA_KIND, "bpf").as_bytes());
        assert_eq!(parse(&body, Hook::Ingress), None);
    }
}
