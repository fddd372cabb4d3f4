use std::borrow::Cow;
use std::fmt;

use crate::command;
use crate::identity::Name;

/// Longest bundle or action id of a custom action, in characters (`docs/protocol.md` §5.6).
const MAX_CUSTOM_ID_CHARS: usize = 255;

/// Whose request a topic carries.
///
/// A device leaves itself out of its topics; a gateway names the device it speaks for, itself included
/// (`docs/protocol.md` §3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The connected device: topics without `type/…/id/…/`.
    Connected,
    /// The device named in the topic.
    Named {
        /// Its type.
        type_id: Name,
        /// Its id.
        device_id: Name,
    },
}

impl fmt::Display for Subject {
    /// The part of a topic between its first level and its suffix: empty, or `type/T/id/D/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => Ok(()),
            Self::Named { type_id, device_id } => write!(f, "type/{type_id}/id/{device_id}/"),
        }
    }
}

/// What a message from the platform is for: the suffix of an `iotdm-1/` topic (`docs/protocol.md` §3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// The platform's answer to a request of the device.
    Response,
    /// Set attributes.
    DeviceUpdate,
    /// Start observing attributes.
    Observe,
    /// Stop observing attributes.
    Cancel,
    /// Restart the device.
    Reboot,
    /// Return the device to its delivery state, then restart it.
    FactoryReset,
    /// Fetch the image that `mgmt.firmware` describes.
    FirmwareDownload,
    /// Install the image that was fetched.
    FirmwareUpdate,
    /// A custom action of an extension bundle.
    Custom {
        /// The bundle, 1 to 255 of `a-z A-Z 0-9 - _ .`.
        bundle: Cow<'static, str>,
        /// The action in it, same grammar.
        action: Cow<'static, str>,
    },
    /// A command of an application, below `iot-2/`. Where one is declared, `+` stands for any id or any format.
    Command {
        /// What is commanded.
        id: Cow<'static, str>,
        /// The format of the payload.
        format: Cow<'static, str>,
    },
    /// A topic the protocol does not have. It is a value, not an error: it is answered 404.
    Unknown(Box<str>),
}

impl Route {
    /// A custom action's route, for `const ROUTE` declarations.
    ///
    /// # Panics
    /// When an id is outside the grammar; in a constant that is an error of the compiler. Ids that are known only at run
    /// time go into [`Route::Custom`], and [`Table`](crate::Table) checks them.
    pub const fn custom(bundle: &'static str, action: &'static str) -> Self {
        assert!(
            is_custom_id(bundle) && is_custom_id(action),
            "write both ids of a custom action with 1 to 255 characters of a-z A-Z 0-9 - _ . as in Route::custom(\"lamp\", \"setColour\")"
        );
        Self::Custom { bundle: Cow::Borrowed(bundle), action: Cow::Borrowed(action) }
    }

    /// Whether both ids of a custom action, or of a command, keep the grammar; true for every other route but `Unknown`.
    pub fn is_well_formed(&self) -> bool {
        match self {
            Self::Custom { bundle, action } => is_custom_id(bundle) && is_custom_id(action),
            Self::Command { id, format } => command::is_declarable(id) && command::is_declarable(format),
            Self::Unknown(_) => false,
            _ => true,
        }
    }

    fn from_suffix(suffix: &str) -> Self {
        if let Some((_, route)) = FIXED_ROUTES.iter().find(|(text, _)| *text == suffix) {
            return route.clone();
        }
        let custom = suffix.strip_prefix(CUSTOM).and_then(|ids| ids.split_once('/'));
        match custom {
            Some((bundle, action)) if is_custom_id(bundle) && is_custom_id(action) => {
                Self::Custom { bundle: Cow::Owned(bundle.into()), action: Cow::Owned(action.into()) }
            }
            _ => Self::Unknown(suffix.into()),
        }
    }
}

impl fmt::Display for Route {
    /// The topic's suffix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Custom { bundle, action } => write!(f, "{CUSTOM}{bundle}/{action}"),
            Self::Command { id, format } => command::write_suffix(id, format, f),
            Self::Unknown(suffix) => f.write_str(suffix),
            fixed => {
                let entry = FIXED_ROUTES.iter().find(|(_, route)| route == fixed);
                f.write_str(entry.expect("every route without data stands in FIXED_ROUTES").0)
            }
        }
    }
}

/// What a message of the device is for: the suffix of an `iotdevice-1/` topic (`docs/protocol.md` §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpRoute {
    /// The answer to a request of the platform.
    Response,
    /// Become or stay managed.
    Manage,
    /// Stop being managed.
    Unmanage,
    /// Where the device is.
    Location,
    /// Add one error code.
    AddErrorCode,
    /// Forget all error codes.
    ClearErrorCodes,
    /// Add one log entry.
    AddLog,
    /// Forget the log.
    ClearLog,
    /// An observed attribute changed.
    Notify,
}

impl fmt::Display for UpRoute {
    /// The topic's suffix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = UP_ROUTES.iter().find(|(_, route)| route == self);
        f.write_str(entry.expect("every up route stands in UP_ROUTES").0)
    }
}

/// One direction of the protocol: its first topic level and its suffixes.
pub trait Direction: Sized + fmt::Display {
    /// The first level, with its slash.
    const ROOT: &'static str;
    /// The first level of this route's topics: [`ROOT`](Self::ROOT), but for a command.
    fn root(&self) -> &'static str {
        Self::ROOT
    }
    /// The meaning of a suffix below the tree of applications; `None` where the direction has none there.
    fn from_application_suffix(_suffix: &str) -> Option<Self> {
        None
    }
    /// The meaning of a suffix; `None` where the direction has no value for the unknown.
    fn from_suffix(suffix: &str) -> Option<Self>;
}

impl Direction for Route {
    const ROOT: &'static str = "iotdm-1/";

    fn root(&self) -> &'static str {
        if matches!(self, Self::Command { .. }) { APPLICATIONS } else { Self::ROOT }
    }

    fn from_application_suffix(suffix: &str) -> Option<Self> {
        Self::command_from_suffix(suffix)
    }

    fn from_suffix(suffix: &str) -> Option<Self> {
        Some(Self::from_suffix(suffix))
    }
}

impl Direction for UpRoute {
    const ROOT: &'static str = "iotdevice-1/";

    fn from_suffix(suffix: &str) -> Option<Self> {
        UP_ROUTES.iter().find(|(text, _)| *text == suffix).map(|(_, route)| *route)
    }
}

/// A topic of one direction, parsed: whose, and what for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic<R> {
    /// The device spoken of.
    pub subject: Subject,
    /// What the message is for.
    pub route: R,
}

impl<R: Direction> Topic<R> {
    /// A topic of the connected device.
    pub fn own(route: R) -> Self {
        Self { subject: Subject::Connected, route }
    }

    /// Parses a topic name; `None` when it is not one of this direction.
    pub fn parse(topic: &str) -> Option<Self> {
        let (rest, meaning): (&str, fn(&str) -> Option<R>) = match topic.strip_prefix(APPLICATIONS) {
            Some(rest) => (rest, R::from_application_suffix),
            None => (topic.strip_prefix(R::ROOT)?, R::from_suffix),
        };
        if let Some((subject, suffix)) = named_subject(rest) {
            return Some(Self { subject, route: meaning(suffix)? });
        }
        Some(Self::own(meaning(rest)?))
    }
}

impl<R: Direction> fmt::Display for Topic<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.route.root(), self.subject, self.route)
    }
}

pub(crate) fn named_subject(rest: &str) -> Option<(Subject, &str)> {
    let (type_id, rest) = rest.strip_prefix("type/")?.split_once('/')?;
    let (device_id, suffix) = rest.strip_prefix("id/")?.split_once('/')?;
    let subject = Subject::Named { type_id: type_id.parse().ok()?, device_id: device_id.parse().ok()? };
    Some((subject, suffix))
}

/// Also the grammar of parameter names (`docs/protocol.md` §5.6). A loop, because a constant is evaluated with it.
pub(crate) const fn is_custom_id(id: &str) -> bool {
    let bytes = id.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !(bytes[at].is_ascii_alphanumeric() || matches!(bytes[at], b'-' | b'_' | b'.')) {
            return false;
        }
        at += 1;
    }
    1 <= at && at <= MAX_CUSTOM_ID_CHARS
}

const CUSTOM: &str = "mgmt/custom/";

/// The first level of what applications and devices exchange.
const APPLICATIONS: &str = "iot-2/";

const FIXED_ROUTES: [(&str, Route); 8] = [
    ("response", Route::Response),
    ("device/update", Route::DeviceUpdate),
    ("observe", Route::Observe),
    ("cancel", Route::Cancel),
    ("mgmt/initiate/device/reboot", Route::Reboot),
    ("mgmt/initiate/device/factory_reset", Route::FactoryReset),
    ("mgmt/initiate/firmware/download", Route::FirmwareDownload),
    ("mgmt/initiate/firmware/update", Route::FirmwareUpdate),
];

const UP_ROUTES: [(&str, UpRoute); 9] = [
    ("response", UpRoute::Response),
    ("mgmt/manage", UpRoute::Manage),
    ("mgmt/unmanage", UpRoute::Unmanage),
    ("device/update/location", UpRoute::Location),
    ("add/diag/errorCodes", UpRoute::AddErrorCode),
    ("clear/diag/errorCodes", UpRoute::ClearErrorCodes),
    ("add/diag/log", UpRoute::AddLog),
    ("clear/diag/log", UpRoute::ClearLog),
    ("notify", UpRoute::Notify),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_down(topic: &str, subject: &Subject, route: &Route) {
        let parsed = Topic::<Route>::parse(topic).unwrap();
        assert_eq!((&parsed.subject, &parsed.route), (subject, route), "{topic}");
        assert_eq!(parsed.to_string(), topic);
    }

    fn gateway() -> Subject {
        Subject::Named { type_id: "T-1".parse().unwrap(), device_id: "d.2".parse().unwrap() }
    }

    #[test]
    fn every_down_topic_is_parsed_and_built_in_both_forms() {
        let custom = ("mgmt/custom/b.1/a_2", Route::custom("b.1", "a_2"));
        for (suffix, route) in FIXED_ROUTES.iter().chain([&custom]) {
            check_down(&format!("iotdm-1/{suffix}"), &Subject::Connected, route);
            check_down(&format!("iotdm-1/type/T-1/id/d.2/{suffix}"), &gateway(), route);
        }
    }

    #[test]
    fn every_up_topic_is_parsed_and_built_in_both_forms() {
        for (suffix, route) in UP_ROUTES {
            for (topic, subject) in [
                (format!("iotdevice-1/{suffix}"), Subject::Connected),
                (format!("iotdevice-1/type/T-1/id/d.2/{suffix}"), gateway()),
            ] {
                let parsed = Topic::<UpRoute>::parse(&topic).unwrap();
                assert_eq!((&parsed.subject, parsed.route), (&subject, route));
                assert_eq!(parsed.to_string(), topic);
            }
        }
    }

    #[test]
    fn an_unknown_topic_is_a_value_that_keeps_its_text() {
        for suffix in [
            "",
            "nonsense",
            "/observe",
            "observe/",
            "mgmt//initiate/device/reboot",
            "mgmt/custom/onlybundle",
            "mgmt/custom/a/b/c",
            "mgmt/custom//b",
            "mgmt/custom/a b/c",
            "type/T/id/",
            "type/T 1/id/d/observe",
            "mgmt/initiate/device/factoryReset",
        ] {
            check_down(&format!("iotdm-1/{suffix}"), &Subject::Connected, &Route::Unknown(suffix.into()));
        }
        check_down("iotdm-1/type/T-1/id/d.2/", &gateway(), &Route::Unknown("".into()));
    }

    #[test]
    fn a_topic_of_another_tree_is_none() {
        for topic in ["iotdm-1", "iotdevice-1/response", "iot-2/evt/x/fmt/json", "", "Iotdm-1/observe"] {
            assert_eq!(Topic::<Route>::parse(topic), None, "{topic}");
        }
        assert_eq!(Topic::<UpRoute>::parse("iotdevice-1/nonsense"), None);
    }

    #[test]
    fn a_custom_id_of_255_characters_is_known_and_of_256_is_not() {
        let route = |n: usize| Route::from_suffix(&format!("mgmt/custom/{}/a", "x".repeat(n)));
        assert!(matches!(route(255), Route::Custom { .. }));
        assert!(matches!(route(256), Route::Unknown(_)));
    }

    /// Everything with data in it; the rest stands in the tables.
    fn topics() -> impl Strategy<Value = (Subject, Route)> {
        let name = "[A-Za-z0-9_.-]{1,36}";
        let named = (name, name).prop_map(|(type_id, device_id)| Subject::Named {
            type_id: type_id.parse().unwrap(),
            device_id: device_id.parse().unwrap(),
        });
        let id = "[A-Za-z0-9_.-]{1,255}";
        let custom = (id, id)
            .prop_map(|(bundle, action)| Route::Custom { bundle: bundle.into(), action: action.into() });
        let fixed = prop::sample::select(FIXED_ROUTES.map(|(_, route)| route).to_vec());
        (prop_oneof![Just(Subject::Connected), named], prop_oneof![custom, fixed])
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_built_is_parsed_to_the_same((subject, route) in topics()) {
            let topic = Topic { subject, route };
            prop_assert_eq!(Topic::<Route>::parse(&topic.to_string()), Some(topic));
        }

        #[test]
        fn what_is_parsed_is_built_to_the_same(
            topic in r"(iotdm|iotdevice)-1/(type/[a-z. ]{0,3}/id/[a-z ]{0,3}/)?(mgmt/custom/)?[ -~é]{0,12}(/[a-z/]{0,5})?"
        ) {
            let down = Topic::<Route>::parse(&topic);
            prop_assert_eq!(down.is_some(), topic.starts_with("iotdm-1/"));
            prop_assert!(down.is_none_or(|parsed| parsed.to_string() == topic));
            let up = Topic::<UpRoute>::parse(&topic);
            prop_assert!(up.is_none_or(|parsed| parsed.to_string() == topic));
        }
    }
}
