//! Which topics belong to which device.

use std::fmt;
use std::str::FromStr;

use iotdm_core::{
    Direction, Identity, Name, NameError, Route, Subject, Topic, TopicPrefix, TopicPrefixError, UpRoute,
};

/// A device as the platform names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    /// Its type.
    pub type_id: Name,
    /// Its id, unique within the type.
    pub device_id: Name,
}

impl DeviceName {
    /// The device of this type and id.
    ///
    /// # Errors
    /// A part is outside the grammar of `docs/protocol.md` §1.3.
    pub fn new(type_id: &str, device_id: &str) -> Result<Self, NameError> {
        Ok(Self { type_id: type_id.parse()?, device_id: device_id.parse()? })
    }
}

impl From<&Identity> for DeviceName {
    fn from(identity: &Identity) -> Self {
        Self { type_id: identity.type_id.clone(), device_id: identity.device_id.clone() }
    }
}

impl fmt::Display for DeviceName {
    /// `TYPE/ID`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.type_id, self.device_id)
    }
}

impl FromStr for DeviceName {
    type Err = NameError;

    /// Reads `TYPE/ID`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (type_id, device_id) = text.split_once('/').ok_or(NameError::Empty)?;
        Self::new(type_id, device_id)
    }
}

/// How the topics of devices lie in the broker's topic tree.
///
/// A topic that names its device (`type/T/id/D/`, as gateways send) always speaks for that device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// None for topics that begin the broker's tree.
    prefix: Option<TopicPrefix>,
    /// Who speaks where neither prefix nor topic names a device.
    only: Option<DeviceName>,
    /// Whether gateways speak at the root of the tree: the broker mounts devices alone.
    root_gateways: bool,
}

/// Why a text is no topic space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// The text is no topic prefix.
    #[error("the topic prefix {0}")]
    Prefix(#[from] TopicPrefixError),
    /// Without both, two devices would share their topics.
    #[error("the topic prefix of several devices needs the levels `{{type}}` and `{{id}}`")]
    Several,
    /// There is nobody for them to name.
    #[error("the topic prefix of one device has no placeholders")]
    Single,
}

impl Space {
    /// Every device below `devices/TYPE/ID/`: the mount points of [`Broker`](crate::broker::Broker).
    #[must_use]
    pub fn mounted() -> Self {
        let devices = Self::template(MOUNTED).expect("the template of mounts is one");
        Self { root_gateways: true, ..devices }
    }

    /// Every device below a prefix of its own, for brokers without mount points: the template that the devices'
    /// `broker.topic_prefix` has, with the levels `{type}` and `{id}`, such as `site-4/{type}/{id}/`.
    ///
    /// # Errors
    /// The template is not a row of levels with both placeholders.
    pub fn template(template: &str) -> Result<Self, SpaceError> {
        let prefix: TopicPrefix = template.parse()?;
        if !prefix.names_device() {
            return Err(SpaceError::Several);
        }
        Ok(Self { prefix: Some(prefix), only: None, root_gateways: false })
    }

    /// One device, or one gateway with its devices, on a broker of its own: `prefix` is a fixed one, often empty.
    ///
    /// # Errors
    /// The prefix is not a row of levels without placeholders.
    pub fn single(prefix: &str, device: DeviceName) -> Result<Self, SpaceError> {
        let prefix: Option<TopicPrefix> = if prefix.is_empty() { None } else { Some(prefix.parse()?) };
        if prefix.as_ref().is_some_and(TopicPrefix::names_device) {
            return Err(SpaceError::Single);
        }
        Ok(Self { prefix, only: Some(device), root_gateways: false })
    }

    /// The filters that see everything devices send.
    pub(crate) fn filters(&self) -> Vec<String> {
        let mut filter = self.prefix.as_ref().map_or_else(String::new, TopicPrefix::filter);
        filter.push_str(UpRoute::ROOT);
        filter.push('#');
        let mut filters = vec![filter];
        // Its devices are named in its topics.
        if self.root_gateways {
            filters.push(format!("{}type/+/id/+/#", UpRoute::ROOT));
        }
        filters
    }

    /// Who sent this, and what for; `None` when the topic belongs to no device or is none of the protocol's.
    pub(crate) fn parse(&self, topic: &str) -> Option<Heard> {
        let (prefix, mounted, rest) = match self.split(topic) {
            Some((device, rest)) => (&topic[..topic.len() - rest.len()], device, rest),
            None if self.root_gateways => ("", None, topic),
            None => return None,
        };
        let Topic { subject, route } = Topic::<UpRoute>::parse(rest)?;
        let device = match &subject {
            Subject::Named { type_id, device_id } => {
                DeviceName { type_id: type_id.clone(), device_id: device_id.clone() }
            }
            Subject::Connected => mounted.or_else(|| self.only.clone())?,
        };
        Some(Heard { device, address: Address { prefix: prefix.into(), subject }, route })
    }

    /// Where a device is reached that has not been heard yet.
    pub(crate) fn address(&self, device: &DeviceName) -> Address {
        let of_device = |prefix: &TopicPrefix| prefix.of(&device.type_id, &device.device_id);
        let prefix = self.prefix.as_ref().map_or_else(String::new, of_device);
        let subject = match &self.only {
            Some(only) if only != device => {
                Subject::Named { type_id: device.type_id.clone(), device_id: device.device_id.clone() }
            }
            _ => Subject::Connected,
        };
        Address { prefix, subject }
    }

    /// Takes the prefix off; the device it names, where it does.
    fn split<'t>(&self, topic: &'t str) -> Option<(Option<DeviceName>, &'t str)> {
        let Some(prefix) = &self.prefix else { return Some((None, topic)) };
        let (names, rest) = prefix.split(topic)?;
        Some((names.map(|(type_id, device_id)| DeviceName { type_id, device_id }), rest))
    }
}

/// A topic of a device, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) device: DeviceName,
    pub(crate) address: Address,
    pub(crate) route: UpRoute,
}

/// Where a device is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    prefix: String,
    subject: Subject,
}

impl Address {
    /// The full topic of a command.
    pub(crate) fn command(&self, id: &str, format: &str) -> String {
        let topic = Topic { subject: self.subject.clone(), route: Route::command(id, format) };
        format!("{}{topic}", self.prefix)
    }

    /// The full topic for a suffix of `docs/protocol.md` §3, or for any other text.
    pub(crate) fn topic(&self, suffix: &str) -> String {
        format!("{}{}{}{suffix}", self.prefix, Route::ROOT, self.subject)
    }
}

/// Where [`Broker`](crate::broker::Broker) mounts devices.
const MOUNTED: &str = "devices/{type}/{id}/";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn device(text: &str) -> DeviceName {
        text.parse().unwrap()
    }

    #[test]
    fn a_mounted_device_is_known_by_its_prefix() {
        let space = Space::mounted();
        let heard = space.parse("devices/pump/p-1/iotdevice-1/mgmt/manage").unwrap();
        assert_eq!((&heard.device, heard.route), (&device("pump/p-1"), UpRoute::Manage));
        assert_eq!(heard.address.topic("observe"), "devices/pump/p-1/iotdm-1/observe");
        assert_eq!(space.address(&device("pump/p-1")), heard.address);
        assert_eq!(space.filters()[0], "devices/+/+/iotdevice-1/#");
    }

    #[test]
    fn a_gateway_speaks_for_the_devices_its_topics_name() {
        let heard = Space::mounted().parse("iotdevice-1/type/pump/id/p-9/notify").unwrap();
        assert_eq!(heard.device, device("pump/p-9"));
        assert_eq!(heard.address.topic("response"), "iotdm-1/type/pump/id/p-9/response");
    }

    /// On a broker where many share the tree a gateway has a prefix like everybody, and nobody speaks outside of one.
    #[test]
    fn below_a_template_a_gateway_speaks_below_its_own_prefix() {
        let space = Space::template("site/{type}/{id}/").unwrap();
        let heard = space.parse("site/gateway/g-1/iotdevice-1/type/pump/id/p-9/notify").unwrap();
        assert_eq!(heard.device, device("pump/p-9"));
        assert_eq!(heard.address.topic("response"), "site/gateway/g-1/iotdm-1/type/pump/id/p-9/response");
        assert_eq!(space.parse("iotdevice-1/type/pump/id/p-9/notify"), None);
        assert_eq!(space.filters(), ["site/+/+/iotdevice-1/#"]);
    }

    #[test]
    fn a_single_device_has_no_name_in_its_topics() {
        let space = Space::single("", device("lamp/1")).unwrap();
        let heard = space.parse("iotdevice-1/response").unwrap();
        assert_eq!(heard.device, device("lamp/1"));
        assert_eq!(space.filters(), ["iotdevice-1/#"]);
        assert_eq!(space.address(&device("lamp/1")).topic("cancel"), "iotdm-1/cancel");
        assert_eq!(space.address(&device("lamp/2")).topic("cancel"), "iotdm-1/type/lamp/id/2/cancel");
    }

    #[test]
    fn a_template_needs_both_placeholders_as_whole_levels() {
        let space = Space::template("site/{type}/x/{id}/").unwrap();
        assert_eq!(space.filters()[0], "site/+/x/+/iotdevice-1/#");
        assert_eq!(space.address(&device("a/b")).topic("t"), "site/a/x/b/iotdm-1/t");
        assert_eq!(Space::template("site/"), Err(SpaceError::Several));
        let error = Space::template("site/{type}/").unwrap_err().to_string();
        assert!(error.starts_with("the topic prefix has `{type}` 1 times and `{id}` 0 times"), "{error}");
        assert_eq!(Space::single("{type}/{id}/", device("a/b")), Err(SpaceError::Single));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Both sides are given the same template; each reaches the other, and nobody else.
        #[test]
        fn what_a_device_publishes_and_listens_to_is_what_the_platform_hears_and_writes_to(
            text in "[a-z0-9.]{1,8}",
            own in "[A-Za-z0-9_.-]{1,36}/[A-Za-z0-9_.-]{1,36}",
            route in prop::sample::select(vec!["notify", "mgmt/manage", "response"]),
        ) {
            for template in [format!("{text}/{{type}}/{{id}}/"), format!("{{id}}/{text}/{{type}}/x/")] {
                let (space, lamp) = (Space::template(&template).unwrap(), device(&own));
                let prefix: TopicPrefix = template.parse().unwrap();
                let of_device = prefix.of(&lamp.type_id, &lamp.device_id);
                let heard = space.parse(&format!("{of_device}iotdevice-1/{route}")).unwrap();
                prop_assert_eq!((&heard.device, &heard.address), (&lamp, &space.address(&lamp)));
                let request = heard.address.topic("observe");
                prop_assert_eq!(request.strip_prefix(&of_device), Some("iotdm-1/observe"));
            }
        }
    }

    #[test]
    fn what_lies_elsewhere_is_nobodys() {
        for topic in [
            "devices/pump/iotdevice-1/notify",
            "x/pump/p/iotdevice-1/notify",
            "devices/pump/p/iotdm-1/observe",
        ] {
            assert_eq!(Space::mounted().parse(topic), None, "{topic}");
        }
    }
}
