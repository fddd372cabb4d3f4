//! Which topics belong to which device.

use std::fmt;
use std::str::FromStr;

use iotdm_core::{Direction, Identity, Name, NameError, Route, Subject, Topic, UpRoute};

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
    levels: Vec<Level>,
    /// Who speaks where neither prefix nor topic names a device.
    only: Option<DeviceName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Text(String),
    TypeId,
    DeviceId,
}

/// Why a text is no topic space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// Every prefix is a row of whole levels.
    #[error("a topic prefix is empty or ends in `/`")]
    NoSlash,
    /// A wildcard, or a placeholder that is not a level of its own.
    #[error("a level of a topic prefix is `{{type}}`, `{{id}}` or text without `+`, `#`, `{{` and `}}`")]
    Level,
    /// Without both, two devices would share their topics.
    #[error("the topic prefix needs the levels `{{type}}` and `{{id}}`, each once")]
    Placeholders,
}

impl Space {
    /// Every device below `devices/TYPE/ID/`: the mount points of [`Broker`](crate::broker::Broker).
    #[must_use]
    pub fn mounted() -> Self {
        let levels = vec![Level::Text("devices".into()), Level::TypeId, Level::DeviceId];
        Self { levels, only: None }
    }

    /// Every device below a prefix of its own, for brokers without mount points: `template` has the levels `{type}`
    /// and `{id}`, such as `site-4/{type}/{id}/`.
    ///
    /// # Errors
    /// The template is not a row of levels with both placeholders.
    pub fn template(template: &str) -> Result<Self, SpaceError> {
        let levels = levels(template)?;
        let count = |wanted: &Level| levels.iter().filter(|level| *level == wanted).count();
        if count(&Level::TypeId) != 1 || count(&Level::DeviceId) != 1 {
            return Err(SpaceError::Placeholders);
        }
        Ok(Self { levels, only: None })
    }

    /// One device, or one gateway with its devices, on a broker of its own: `prefix` is a fixed one, often empty.
    ///
    /// # Errors
    /// The prefix is not a row of levels without placeholders.
    pub fn single(prefix: &str, device: DeviceName) -> Result<Self, SpaceError> {
        let levels = levels(prefix)?;
        if levels.iter().any(|level| !matches!(level, Level::Text(_))) {
            return Err(SpaceError::Placeholders);
        }
        Ok(Self { levels, only: Some(device) })
    }

    /// The filters that see everything devices send.
    pub(crate) fn filters(&self) -> Vec<String> {
        let mut filter = String::new();
        for level in &self.levels {
            filter.push_str(match level {
                Level::Text(text) => text,
                Level::TypeId | Level::DeviceId => "+",
            });
            filter.push('/');
        }
        filter.push_str(UpRoute::ROOT);
        filter.push('#');
        let mut filters = vec![filter];
        // A gateway has no mount of its own on such a broker: its devices are named in its topics.
        if self.only.is_none() {
            filters.push(format!("{}type/+/id/+/#", UpRoute::ROOT));
        }
        filters
    }

    /// Who sent this, and what for; `None` when the topic belongs to no device or is none of the protocol's.
    pub(crate) fn parse(&self, topic: &str) -> Option<Heard> {
        let (prefix, mounted, rest) = match self.split(topic) {
            Some((device, rest)) => (&topic[..topic.len() - rest.len()], device, rest),
            None if self.only.is_none() => ("", None, topic),
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
        let mut prefix = String::new();
        for level in &self.levels {
            prefix.push_str(match level {
                Level::Text(text) => text,
                Level::TypeId => device.type_id.as_str(),
                Level::DeviceId => device.device_id.as_str(),
            });
            prefix.push('/');
        }
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
        let (mut type_id, mut device_id, mut rest) = (None, None, topic);
        for level in &self.levels {
            let (text, after) = rest.split_once('/')?;
            match level {
                Level::Text(wanted) if wanted == text => {}
                Level::Text(_) => return None,
                Level::TypeId => type_id = Some(text.parse().ok()?),
                Level::DeviceId => device_id = Some(text.parse().ok()?),
            }
            rest = after;
        }
        let device = type_id.zip(device_id).map(|(type_id, device_id)| DeviceName { type_id, device_id });
        Some((device, rest))
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

fn levels(prefix: &str) -> Result<Vec<Level>, SpaceError> {
    if prefix.is_empty() {
        return Ok(Vec::new());
    }
    let Some(prefix) = prefix.strip_suffix('/') else { return Err(SpaceError::NoSlash) };
    prefix
        .split('/')
        .map(|level| match level {
            "{type}" => Ok(Level::TypeId),
            "{id}" => Ok(Level::DeviceId),
            text if text.contains(['+', '#', '{', '}', '\0']) => Err(SpaceError::Level),
            text => Ok(Level::Text(text.into())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
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
        assert_eq!(Space::template("site/{type}/"), Err(SpaceError::Placeholders));
        assert_eq!(Space::template("site/{type}-{id}/"), Err(SpaceError::Level));
        assert_eq!(Space::template("{type}/{id}"), Err(SpaceError::NoSlash));
        assert_eq!(Space::template("+/{type}/{id}/"), Err(SpaceError::Level));
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
