use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::engine::{Lost, PublishId};
use crate::link::{Connection, Link, LinkEvent};

use super::platform::Platform;

/// Connects an agent to a [`Platform`] in the same process.
#[derive(Debug)]
pub(super) struct MemoryLink {
    pub(super) platform: Platform,
}

impl Link for MemoryLink {
    fn open(&mut self) -> Box<dyn Connection> {
        let (id, events) = self.platform.connect();
        Box::new(MemoryConnection { id, events, platform: self.platform.clone() })
    }
}

#[derive(Debug)]
struct MemoryConnection {
    id: u64,
    events: mpsc::UnboundedReceiver<LinkEvent>,
    platform: Platform,
}

#[async_trait]
impl Connection for MemoryConnection {
    async fn next(&mut self) -> LinkEvent {
        let ended = || LinkEvent::Lost(Lost::Other, "the connection was cut".into());
        self.events.recv().await.unwrap_or_else(ended)
    }

    fn try_next(&mut self) -> Option<LinkEvent> {
        self.events.try_recv().ok()
    }

    fn subscribe(&mut self, _filters: &[String]) {
        self.platform.subscribed(self.id);
    }

    fn acknowledge(&mut self, packet: u16) {
        self.platform.acknowledged(self.id, packet);
    }

    fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.platform.published_by_device(self.id, id, &topic, &payload);
    }

    fn publish_once(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.platform.published_once_by_device(self.id, id, &topic, &payload);
    }

    fn disconnect(&mut self) {
        self.platform.disconnected(self.id);
    }
}

impl Drop for MemoryConnection {
    fn drop(&mut self) {
        self.platform.disconnected(self.id);
    }
}
