//! The open connections as the state sees them: what is to be written to each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{Packet, PubAck};
use tokio::sync::Notify;
use tracing::warn;

/// One connection; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(u64);

/// Every open connection, with the packets that wait for its socket.
#[derive(Debug, Default)]
pub(super) struct Links {
    open: BTreeMap<LinkId, Link>,
    last: u64,
}

/// What the writing side of a connection finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outbound {
    Ready,
    Empty,
    Closed,
}

#[derive(Debug)]
struct Link {
    client_id: String,
    outbound: VecDeque<Packet>,
    withheld: Vec<u16>,
    wake: Arc<Notify>,
}

impl Links {
    /// A connection for this client, and what wakes its writing side.
    pub(super) fn open(&mut self, client_id: &str) -> (LinkId, Arc<Notify>) {
        self.last += 1;
        let id = LinkId(self.last);
        let wake = Arc::new(Notify::new());
        let link = Link {
            client_id: client_id.to_owned(),
            outbound: VecDeque::new(),
            withheld: Vec::new(),
            wake: Arc::clone(&wake),
        };
        self.open.insert(id, link);
        (id, wake)
    }

    /// Ends a connection with everything not written yet; gives back whose it was.
    pub(super) fn close(&mut self, id: LinkId) -> Option<String> {
        let ended = self.open.remove(&id)?;
        ended.wake.notify_one();
        Some(ended.client_id)
    }

    pub(super) fn all(&self) -> Vec<LinkId> {
        self.open.keys().copied().collect()
    }

    pub(super) fn client_id(&self, id: LinkId) -> Option<&str> {
        self.open.get(&id).map(|link| link.client_id.as_str())
    }

    /// Queues a packet; nothing happens when the connection has ended.
    pub(super) fn send(&mut self, id: LinkId, packet: Packet) {
        if let Some(link) = self.open.get_mut(&id) {
            link.outbound.push_back(packet);
            link.wake.notify_one();
        }
    }

    /// Keeps a PUBACK back until [`release`](Self::release).
    pub(super) fn withhold(&mut self, id: LinkId, packet_id: u16) {
        if let Some(link) = self.open.get_mut(&id) {
            link.withheld.push(packet_id);
        }
    }

    /// Queues the PUBACKs kept back.
    pub(super) fn release(&mut self, id: LinkId) {
        let withheld = self.open.get_mut(&id).map(|link| std::mem::take(&mut link.withheld));
        for packet_id in withheld.unwrap_or_default() {
            self.send(id, Packet::PubAck(PubAck::new(packet_id)));
        }
    }

    pub(super) fn withheld(&self, id: LinkId) -> usize {
        self.open.get(&id).map_or(0, |link| link.withheld.len())
    }

    /// Whether more waits for the socket than a client that reads would leave there.
    pub(super) fn is_overfull(&self, id: LinkId) -> bool {
        self.open.get(&id).is_some_and(|link| {
            link.outbound.len() >= OUTBOUND_LIMIT || link.withheld.len() >= OUTBOUND_LIMIT
        })
    }

    /// Moves encoded packets into `bytes`, about `batch` bytes at a time.
    pub(super) fn take_outbound(&mut self, id: LinkId, bytes: &mut BytesMut, batch: usize) -> Outbound {
        let Some(link) = self.open.get_mut(&id) else { return Outbound::Closed };
        while bytes.len() < batch {
            let Some(packet) = link.outbound.pop_front() else { break };
            if let Err(error) = packet.write(bytes, usize::MAX) {
                // Topics and payloads were checked when they came in, so only a fault of ours gets here.
                warn!(client_id = link.client_id, %error, "a packet cannot be encoded and is left out");
            }
        }
        if bytes.is_empty() { Outbound::Empty } else { Outbound::Ready }
    }
}

/// Packets waiting to be written, or PUBACKs withheld, on one connection; past it the client does not read.
const OUTBOUND_LIMIT: usize = 20_000;
