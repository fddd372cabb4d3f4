use std::fmt;
use std::str::FromStr;

use crate::identity::Name;

/// Where the topics of each device lie in a tree that many share, such as `devices/{type}/{id}/`.
///
/// On the service `iotdm-1/#` is the connected device's own. A plain broker has one tree for everybody, so both sides
/// put the same prefix before each topic, made of one template: `{type}` and `{id}` stand for the device's names, and
/// the rest is text. A template without them is one device's own prefix.
///
/// ```
/// use iotdm_core::TopicPrefix;
///
/// let template: TopicPrefix = "site-4/{type}/{id}/".parse()?;
/// assert_eq!(template.of(&"lamp".parse()?, &"17".parse()?), "site-4/lamp/17/");
/// assert_eq!(template.filter(), "site-4/+/+/");
/// let (device, topic) = template.split("site-4/lamp/17/iotdm-1/observe").expect("it lies below the prefix");
/// assert_eq!((device, topic), (Some(("lamp".parse()?, "17".parse()?)), "iotdm-1/observe"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPrefix {
    levels: Box<[Level]>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Level {
    Text(Box<str>),
    TypeId,
    DeviceId,
}

impl TopicPrefix {
    /// Whether it differs from device to device: it has `{type}` and `{id}`.
    pub fn names_device(&self) -> bool {
        self.levels.contains(&Level::TypeId)
    }

    /// The prefix of one device; it ends in `/`.
    pub fn of(&self, type_id: &Name, device_id: &Name) -> String {
        self.text(type_id.as_str(), device_id.as_str())
    }

    /// The begin of a filter for the topics of all devices; it ends in `/`.
    pub fn filter(&self) -> String {
        self.text("+", "+")
    }

    /// Takes the prefix off a topic: the type and the id of the device it names, where it does, and what follows.
    /// `None` for a topic that lies elsewhere.
    pub fn split<'t>(&self, topic: &'t str) -> Option<(Option<(Name, Name)>, &'t str)> {
        let (mut type_id, mut device_id, mut rest) = (None, None, topic);
        for level in &self.levels {
            let (text, after) = rest.split_once('/')?;
            match level {
                Level::Text(wanted) if **wanted == *text => {}
                Level::Text(_) => return None,
                Level::TypeId => type_id = Some(text.parse().ok()?),
                Level::DeviceId => device_id = Some(text.parse().ok()?),
            }
            rest = after;
        }
        Some((type_id.zip(device_id), rest))
    }

    fn text(&self, type_id: &str, device_id: &str) -> String {
        let mut prefix = String::new();
        for level in &self.levels {
            prefix.push_str(match level {
                Level::Text(text) => text,
                Level::TypeId => type_id,
                Level::DeviceId => device_id,
            });
            prefix.push('/');
        }
        prefix
    }
}

impl FromStr for TopicPrefix {
    type Err = TopicPrefixError;

    fn from_str(text: &str) -> Result<Self, TopicPrefixError> {
        if text.is_empty() {
            return Err(TopicPrefixError::Empty);
        }
        if text.len() > MAX_PREFIX_BYTES {
            return Err(TopicPrefixError::TooLong { bytes: text.len() });
        }
        if text.starts_with('$') {
            return Err(TopicPrefixError::Reserved);
        }
        let Some(inner) = text.strip_suffix('/') else { return Err(TopicPrefixError::NoSlash(text.into())) };
        let levels: Box<[Level]> = inner.split('/').map(level).collect::<Result<_, _>>()?;
        let count = |wanted: &Level| levels.iter().filter(|level| *level == wanted).count();
        match (count(&Level::TypeId), count(&Level::DeviceId)) {
            (1, 1) | (0, 0) => Ok(Self { levels }),
            (types, ids) => Err(TopicPrefixError::Placeholders { types, ids }),
        }
    }
}

impl fmt::Display for TopicPrefix {
    /// The template.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(TYPE, ID))
    }
}

/// Why a text is no topic prefix; each message says what would be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicPrefixError {
    /// There is no text.
    #[error("is empty; a topic prefix is a row of levels, such as `devices/{{type}}/{{id}}/`")]
    Empty,
    /// It does not end a level.
    #[error("`{}` does not end in `/`; write `{}/`", .0.escape_debug(), .0.escape_debug())]
    NoSlash(String),
    /// It would leave no room for a topic.
    #[error("has {bytes} bytes; at most {MAX_PREFIX_BYTES} are allowed")]
    TooLong {
        /// How many bytes there are.
        bytes: usize,
    },
    /// Topics that begin with `$` are the broker's own.
    #[error("begins with `$`; such topics are the broker's own, and wildcards do not see them")]
    Reserved,
    /// A level is no text that a topic may have.
    #[error(
        "has `{}` as a level, with {found:?} in it; a level is `{{type}}`, `{{id}}`, or text without `+`, `#`, `{{`, `}}` \
         and control characters",
        level.escape_debug()
    )]
    Level {
        /// The level.
        level: String,
        /// The first character that has no place there.
        found: char,
    },
    /// Without both, two devices would share their topics.
    #[error(
        "has `{{type}}` {types} times and `{{id}}` {ids} times; write each once, or neither for a prefix of one device alone"
    )]
    Placeholders {
        /// How often the type is named.
        types: usize,
        /// How often the id is named.
        ids: usize,
    },
}

fn level(text: &str) -> Result<Level, TopicPrefixError> {
    match text {
        TYPE => Ok(Level::TypeId),
        ID => Ok(Level::DeviceId),
        text => {
            let is_out_of_place = |c: &char| matches!(c, '+' | '#' | '{' | '}') || c.is_control();
            match text.chars().find(is_out_of_place) {
                Some(found) => Err(TopicPrefixError::Level { level: text.into(), found }),
                None => Ok(Level::Text(text.into())),
            }
        }
    }
}

const TYPE: &str = "{type}";

const ID: &str = "{id}";

/// Longest template, in bytes. MQTT ends a topic at 65 535, and brokers end theirs earlier: RabbitMQ at 255.
const MAX_PREFIX_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_template_gives_each_device_a_prefix_of_its_own() {
        let template: TopicPrefix = "site-4/{type}/x/{id}/".parse().unwrap();
        assert!(template.names_device());
        assert_eq!(template.of(&name("lamp"), &name("17")), "site-4/lamp/x/17/");
        assert_eq!(template.filter(), "site-4/+/x/+/");
        assert_eq!(template.to_string(), "site-4/{type}/x/{id}/");
    }

    #[test]
    fn a_prefix_without_placeholders_is_one_devices_own() {
        let prefix: TopicPrefix = "/hall/lamp-17/".parse().unwrap();
        assert!(!prefix.names_device());
        assert_eq!(prefix.of(&name("lamp"), &name("17")), "/hall/lamp-17/");
        assert_eq!(prefix.split("/hall/lamp-17/iotdm-1/x"), Some((None, "iotdm-1/x")));
    }

    #[test]
    fn an_error_says_what_would_be_right() {
        for (text, said) in [
            ("", "is empty; a topic prefix is a row of levels, such as `devices/{type}/{id}/`"),
            ("{type}/{id}", "`{type}/{id}` does not end in `/`; write `{type}/{id}/`"),
            (
                "$share/{type}/{id}/",
                "begins with `$`; such topics are the broker's own, and wildcards do not see them",
            ),
            (
                "+/{type}/{id}/",
                "has `+` as a level, with '+' in it; a level is `{type}`, `{id}`, or text without `+`, `#`, `{`, `}` and \
                 control characters",
            ),
            (
                "{type}-{id}/",
                "has `{type}-{id}` as a level, with '{' in it; a level is `{type}`, `{id}`, or text without `+`, `#`, `{`, \
                 `}` and control characters",
            ),
            (
                "{org}/{type}/{id}/",
                "has `{org}` as a level, with '{' in it; a level is `{type}`, `{id}`, or text without `+`, `#`, `{`, `}` \
                 and control characters",
            ),
            (
                "devices/{id}/",
                "has `{type}` 0 times and `{id}` 1 times; write each once, or neither for a prefix of one device alone",
            ),
            (
                "{type}/{id}/{id}/",
                "has `{type}` 1 times and `{id}` 2 times; write each once, or neither for a prefix of one device alone",
            ),
        ] {
            assert_eq!(text.parse::<TopicPrefix>().unwrap_err().to_string(), said, "{text}");
        }
        let long = format!("{}/", "x".repeat(1024));
        let said = "has 1025 bytes; at most 1024 are allowed";
        assert_eq!(long.parse::<TopicPrefix>().unwrap_err().to_string(), said);
        assert!(matches!(
            "a\u{0}/".parse::<TopicPrefix>(),
            Err(TopicPrefixError::Level { found: '\u{0}', .. })
        ));
    }

    #[test]
    fn what_lies_elsewhere_has_no_such_prefix() {
        let template: TopicPrefix = "devices/{type}/{id}/".parse().unwrap();
        for topic in
            ["iotdm-1/observe", "devices/lamp", "devices/lamp/17", "devices//17/x", "Devices/lamp/17/x"]
        {
            assert_eq!(template.split(topic), None, "{topic}");
        }
    }

    fn templates() -> impl Strategy<Value = String> {
        let text = || prop::collection::vec("[a-zA-Z0-9 ._-]{0,5}", 0..3);
        let placeholders = prop_oneof![
            Just(vec![]),
            text().prop_map(|between| [vec![TYPE.into()], between, vec![ID.into()]].concat()),
            text().prop_map(|between| [vec![ID.into()], between, vec![TYPE.into()]].concat()),
        ];
        let levels = (text(), placeholders, text()).prop_map(|(before, middle, after)| {
            let levels: Vec<String> = [before, middle, after].concat();
            levels.iter().map(|level| format!("{level}/")).collect::<String>()
        });
        levels.prop_filter("a prefix has a level", |template| !template.is_empty())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_one_device_is_given_is_split_to_that_device_and_to_no_other(
            template in templates(),
            lamp in ("[A-Za-z0-9_.-]{1,36}", "[A-Za-z0-9_.-]{1,36}"),
            other in ("[A-Za-z0-9_.-]{1,36}", "[A-Za-z0-9_.-]{1,36}"),
            topic in "[a-z/]{0,12}",
        ) {
            let prefix: TopicPrefix = template.parse().unwrap();
            prop_assert_eq!(prefix.to_string(), template);
            let (type_id, device_id) = (name(&lamp.0), name(&lamp.1));
            let own = prefix.of(&type_id, &device_id);
            let full = format!("{own}{topic}");
            let named = prefix.names_device().then_some((type_id, device_id));
            prop_assert_eq!(prefix.split(&full), Some((named, topic.as_str())));
            if prefix.names_device() && lamp != other {
                let others = prefix.of(&name(&other.0), &name(&other.1));
                prop_assert!(!full.starts_with(&others), "{} {}", full, others);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,20}", topic in "\\PC{0,20}") {
            if let Ok(prefix) = text.parse::<TopicPrefix>() {
                prefix.split(&topic);
            }
        }
    }
}
