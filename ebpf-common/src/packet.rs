//! Where the packet and its facts come from.

/// A packet that begins with its Ethernet header.
pub trait Packet {
    /// What the socket buffer says of it.
    fn facts(&self) -> Facts;

    /// `N` bytes at a constant offset; `None` beyond the end. In the kernel this
    /// is direct packet access, the fast way.
    fn head<const OFF: usize, const N: usize>(&self) -> Option<[u8; N]>;

    /// `N` times four bytes at a constant offset, as they stand in memory; `None`
    /// beyond the end. Direct packet access, too, and in larger pieces.
    #[inline(always)]
    fn words<const OFF: usize, const N: usize>(&self) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            *word = u32::from_ne_bytes(self.load::<4>((OFF + 4 * i) as u32)?);
        }
        Some(words)
    }

    /// The same, eight bytes at a time.
    #[inline(always)]
    fn long_words<const OFF: usize, const N: usize>(&self) -> Option<[u64; N]> {
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            *word = u64::from_ne_bytes(self.load::<8>((OFF + 8 * i) as u32)?);
        }
        Some(words)
    }

    /// `N` bytes at any offset; `None` beyond the end. In the kernel a helper
    /// call, for what stands behind options and extension headers.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// What the socket buffer says beside the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Length with the Ethernet header.
    pub len: u32,
    /// `skb->protocol`, host order. The kernel delivers by it, so it decides
    /// the family, not the bytes of the header.
    pub protocol: u16,
    /// Whether a VLAN tag was taken off the bytes and kept beside them.
    pub vlan_present: bool,
    /// The interface whose filter runs.
    pub ifindex: u32,
    /// The interface that the packet entered the node by; 0 if made by the node.
    pub ingress_ifindex: u32,
    /// The filter's class id, which is the endpoint's slot; 0 if it has none.
    pub slot: u32,
}
