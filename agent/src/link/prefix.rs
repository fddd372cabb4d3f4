use async_trait::async_trait;
use bytes::Bytes;
use tracing::warn;

use crate::config::Config;
use crate::engine::PublishId;

use super::{Connection, Link, LinkEvent};

/// A link whose topics lie below a prefix of the device's own, on a broker whose tree many share.
///
/// Architecture invariant: the prefix is put before a topic and taken off here and nowhere else; nobody above knows
/// that there is one.
#[derive(Debug)]
pub(crate) struct PrefixedLink {
    link: Box<dyn Link>,
    prefix: Box<str>,
}

impl PrefixedLink {
    /// This link, below the prefix that the configuration has for its device; as it is where there is none.
    pub(crate) fn around(link: Box<dyn Link>, config: &Config) -> Box<dyn Link> {
        let identity = &config.identity;
        match &config.broker.topic_prefix {
            Some(template) => {
                let prefix = template.of(&identity.type_id, &identity.device_id).into();
                Box::new(Self { link, prefix })
            }
            None => link,
        }
    }
}

impl Link for PrefixedLink {
    fn open(&mut self) -> Box<dyn Connection> {
        Box::new(PrefixedConnection { connection: self.link.open(), prefix: self.prefix.clone(), outside: 0 })
    }
}

#[derive(Debug)]
struct PrefixedConnection {
    connection: Box<dyn Connection>,
    prefix: Box<str>,
    /// How many messages came from outside of the prefix.
    outside: u64,
}

impl PrefixedConnection {
    /// A message from outside is nobody's: handed on without topic and content, the engine counts it, drops it, and
    /// acknowledges it in its turn. Acknowledged here it would overtake those before it.
    fn strip(&mut self, event: LinkEvent) -> LinkEvent {
        let LinkEvent::Message { packet, topic, payload, retained, waited } = event else { return event };
        if let Some(rest) = topic.strip_prefix(&*self.prefix) {
            return LinkEvent::Message { packet, topic: rest.into(), payload, retained, waited };
        }
        self.outside += 1;
        if self.outside == 1 {
            // One line for each connection, whatever the broker sends.
            let topic: String = topic.chars().take(SHOWN_TOPIC_CHARS).collect();
            warn!(
                topic,
                prefix = &*self.prefix,
                "a message from outside of the topic prefix is dropped; the broker may still hold an earlier \
                 subscription of this client id"
            );
        }
        LinkEvent::Message { packet, topic: String::new(), payload: Bytes::new(), retained, waited }
    }
}

#[async_trait]
impl Connection for PrefixedConnection {
    async fn next(&mut self) -> LinkEvent {
        let event = self.connection.next().await;
        self.strip(event)
    }

    fn try_next(&mut self) -> Option<LinkEvent> {
        let event = self.connection.try_next()?;
        Some(self.strip(event))
    }

    fn subscribe(&mut self, filters: &[String]) {
        let below = |filter: &String| format!("{}{filter}", self.prefix);
        let filters: Vec<String> = filters.iter().map(below).collect();
        self.connection.subscribe(&filters);
    }

    fn acknowledge(&mut self, packet: u16) {
        self.connection.acknowledge(packet);
    }

    fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.connection.publish(id, format!("{}{topic}", self.prefix), payload);
    }

    fn publish_once(&mut self, id: PublishId, topic: String, payload: Bytes) {
        self.connection.publish_once(id, format!("{}{topic}", self.prefix), payload);
    }

    fn disconnect(&mut self) {
        self.connection.disconnect();
    }
}

/// How much of a foreign topic is told: one of MQTT may have 65 535 bytes.
const SHOWN_TOPIC_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::testing::config;

    /// What was asked of the link below, in order, and what it is going to report.
    #[derive(Clone, Debug, Default)]
    struct Below {
        asked: Arc<Mutex<Vec<String>>>,
        events: Arc<Mutex<VecDeque<LinkEvent>>>,
    }

    impl Below {
        fn note(&self, what: String) {
            self.asked.lock().unwrap().push(what);
        }
    }

    impl Link for Below {
        fn open(&mut self) -> Box<dyn Connection> {
            Box::new(self.clone())
        }
    }

    #[async_trait]
    impl Connection for Below {
        async fn next(&mut self) -> LinkEvent {
            self.try_next().unwrap()
        }

        fn try_next(&mut self) -> Option<LinkEvent> {
            self.events.lock().unwrap().pop_front()
        }

        fn subscribe(&mut self, filters: &[String]) {
            self.note(format!("subscribe {}", filters.join(" ")));
        }

        fn acknowledge(&mut self, packet: u16) {
            self.note(format!("acknowledge {packet}"));
        }

        fn publish(&mut self, id: PublishId, topic: String, payload: Bytes) {
            self.note(format!("publish {} {topic} {}", id.0, payload.len()));
        }

        fn publish_once(&mut self, id: PublishId, topic: String, payload: Bytes) {
            self.note(format!("publish once {} {topic} {}", id.0, payload.len()));
        }

        fn disconnect(&mut self) {
            self.note("disconnect".into());
        }
    }

    /// A connection of `d:org001:lamp:lamp1` below `site/TYPE/ID/`.
    fn connection() -> (Box<dyn Connection>, Below) {
        let (below, mut config) = (Below::default(), config());
        config.broker.topic_prefix = Some("site/{type}/{id}/".parse().unwrap());
        (PrefixedLink::around(Box::new(below.clone()), &config).open(), below)
    }

    fn message(packet: u16, topic: &str) -> LinkEvent {
        let payload = Bytes::from_static(b"{}");
        LinkEvent::Message {
            packet: Some(packet),
            topic: topic.into(),
            payload,
            retained: false,
            waited: None,
        }
    }

    #[test]
    fn the_prefix_is_put_before_filters_and_topics() {
        let (mut connection, below) = connection();
        connection.subscribe(&["iotdm-1/#".into(), "iot-2/cmd/+/fmt/+".into()]);
        connection.publish(PublishId(7), "iotdevice-1/response".into(), Bytes::from_static(b"{}"));
        connection.publish_once(PublishId(8), "iot-2/evt/e/fmt/json".into(), Bytes::new());
        connection.acknowledge(3);
        connection.disconnect();
        let asked = below.asked.lock().unwrap();
        assert_eq!(
            *asked,
            [
                "subscribe site/lamp/lamp1/iotdm-1/# site/lamp/lamp1/iot-2/cmd/+/fmt/+",
                "publish 7 site/lamp/lamp1/iotdevice-1/response 2",
                "publish once 8 site/lamp/lamp1/iot-2/evt/e/fmt/json 0",
                "acknowledge 3",
                "disconnect",
            ]
        );
    }

    #[tokio::test]
    async fn the_prefix_is_taken_off_what_arrives() {
        let (mut connection, below) = connection();
        below.events.lock().unwrap().extend([
            LinkEvent::Connected { session_present: true },
            message(1, "site/lamp/lamp1/iotdm-1/observe"),
            message(2, "site/lamp/lamp1/iotdm-1/cancel"),
        ]);
        assert!(matches!(connection.next().await, LinkEvent::Connected { session_present: true }));
        let LinkEvent::Message { packet: Some(1), topic, .. } = connection.next().await else { panic!() };
        assert_eq!(topic, "iotdm-1/observe");
        let Some(LinkEvent::Message { packet: Some(2), topic, .. }) = connection.try_next() else { panic!() };
        assert_eq!(topic, "iotdm-1/cancel");
    }

    #[test]
    fn a_message_from_outside_is_handed_on_without_topic_and_content() {
        for elsewhere in ["iotdm-1/observe", "site/lamp/lamp2/iotdm-1/observe", "site/lamp/lamp1", ""] {
            let (mut connection, below) = connection();
            below.events.lock().unwrap().push_back(message(9, elsewhere));
            let Some(LinkEvent::Message { packet, topic, payload, .. }) = connection.try_next() else {
                panic!()
            };
            assert_eq!((packet, &*topic, payload.len()), (Some(9), "", 0), "{elsewhere}");
        }
    }

    #[test]
    fn without_a_prefix_the_link_is_left_as_it_is() {
        let below = Below::default();
        let mut link = PrefixedLink::around(Box::new(below.clone()), &config());
        link.open().subscribe(&["iotdm-1/#".into()]);
        assert_eq!(*below.asked.lock().unwrap(), ["subscribe iotdm-1/#"]);
    }
}
