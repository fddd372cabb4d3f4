use std::fmt;
use std::str::FromStr;

use crate::topic::Subject;

/// Longest organization, type or device identifier, in characters (`docs/protocol.md` §1.3).
const MAX_NAME_CHARS: usize = 36;

/// An organization, device type or device identifier: 1 to 36 of `a-z A-Z 0-9 - _ .` (`docs/protocol.md` §1.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The identifier as it stands in topics and client ids.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some((position, found)) = text.chars().enumerate().find(|(_, c)| !is_name_char(*c)) {
            return Err(NameError::Character { text: text.into(), position: position + 1, found });
        }
        // All characters are ASCII from here on, so bytes are characters.
        if text.len() > MAX_NAME_CHARS {
            return Err(NameError::TooLong { length: text.len() });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no identifier; each message points at what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is no text.
    #[error("is empty; 1 to {MAX_NAME_CHARS} characters of a-z A-Z 0-9 - _ . are needed")]
    Empty,
    /// There are more than 36 characters.
    #[error("has {length} characters; at most {MAX_NAME_CHARS} are allowed")]
    TooLong {
        /// How many characters there are.
        length: usize,
    },
    /// A character is outside the grammar.
    #[error("`{}` has {found:?} as character {position}; only a-z A-Z 0-9 - _ . are allowed", text.escape_debug())]
    Character {
        /// The whole text.
        text: String,
        /// Where the character stands, from 1.
        position: usize,
        /// The character.
        found: char,
    },
}

/// Whether a client speaks for itself or also for attached devices: the first letter of its client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientKind {
    /// `d:`, a device.
    Device,
    /// `g:`, a gateway.
    Gateway,
}

/// Who this client is to the broker (`docs/protocol.md` §1.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Device or gateway.
    pub kind: ClientKind,
    /// The organization, or Maximo's workspace.
    pub org: Name,
    /// The device type.
    pub type_id: Name,
    /// The device.
    pub device_id: Name,
}

impl Identity {
    /// A device's identity from its three parts.
    pub fn device(org: &str, type_id: &str, device_id: &str) -> Result<Self, IdentityError> {
        let part = |part, text: &str| text.parse().map_err(|reason| IdentityError::Part { part, reason });
        Ok(Self {
            kind: ClientKind::Device,
            org: part("org", org)?,
            type_id: part("type", type_id)?,
            device_id: part("id", device_id)?,
        })
    }

    /// Whether this is the organization that anybody may use without registering: events at QoS 0 and nothing else.
    pub fn is_quickstart(&self) -> bool {
        self.org.as_str() == "quickstart"
    }

    /// A gateway's identity from its three parts.
    pub fn gateway(org: &str, type_id: &str, device_id: &str) -> Result<Self, IdentityError> {
        Ok(Self { kind: ClientKind::Gateway, ..Self::device(org, type_id, device_id)? })
    }

    /// How topics name this client itself: a device is left out of its own, a gateway is named (`docs/protocol.md` §3).
    pub fn subject(&self) -> Subject {
        match self.kind {
            ClientKind::Device => Subject::Connected,
            ClientKind::Gateway => {
                Subject::Named { type_id: self.type_id.clone(), device_id: self.device_id.clone() }
            }
        }
    }

    /// The MQTT client id, `d:org:type:id`. It may exceed 23 characters, which MQTT 3.1.1 permits a server to accept.
    pub fn client_id(&self) -> String {
        let kind = match self.kind {
            ClientKind::Device => 'd',
            ClientKind::Gateway => 'g',
        };
        format!("{kind}:{}:{}:{}", self.org, self.type_id, self.device_id)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.client_id())
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let mut parts = text.split(':');
        let (Some(kind), Some(org), Some(type_id), Some(device_id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdentityError::Form);
        };
        let kind = match kind {
            "d" => ClientKind::Device,
            "g" => ClientKind::Gateway,
            _ => return Err(IdentityError::Form),
        };
        Ok(Self { kind, ..Self::device(org, type_id, device_id)? })
    }
}

/// Why a text is no client identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not four parts, or another first letter.
    #[error("a client id reads d:<org>:<type>:<id> for a device, g:<org>:<type>:<id> for a gateway")]
    Form,
    /// One part is outside the grammar.
    #[error("{part} {reason}")]
    Part {
        /// `org`, `type` or `id`.
        part: &'static str,
        /// What is wrong with it.
        reason: NameError,
    },
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_the_client_id_both_ways() {
        for text in ["d:org001:bench:dev1", "g:a.b_c-d:T:x"] {
            assert_eq!(text.parse::<Identity>().unwrap().client_id(), text);
        }
    }

    #[test]
    fn thirty_six_characters_are_allowed_and_thirty_seven_are_not() {
        assert!("a".repeat(36).parse::<Name>().is_ok());
        assert_eq!("a".repeat(37).parse::<Name>(), Err(NameError::TooLong { length: 37 }));
    }

    #[test]
    fn letters_digits_dash_underscore_and_dot_are_allowed_and_nothing_else() {
        let documented =
            ('a'..='z').chain('A'..='Z').chain('0'..='9').chain("-_.".chars()).collect::<Vec<char>>();
        for c in (0..=0x24f).filter_map(char::from_u32) {
            assert_eq!(c.to_string().parse::<Name>().is_ok(), documented.contains(&c), "{c:?}");
        }
    }

    #[test]
    fn an_error_points_at_the_character() {
        let error = Identity::device("org001", "street light", "1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "type `street light` has ' ' as character 7; only a-z A-Z 0-9 - _ . are allowed"
        );
    }

    #[test]
    fn a_client_id_of_another_form_is_refused() {
        for text in ["", "d", "a:org:app", "d:org:type:id:more", "x:o:t:i"] {
            assert_eq!(text.parse::<Identity>(), Err(IdentityError::Form), "{text}");
        }
    }
}
