//! The version of MQTT, and the keys that only MQTT 5 has.

use std::fmt;
use std::time::Duration;

use iotdm_agent::{Mqtt5, Protocol};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use super::broker::Broker;
use super::resolve::Resolver;
use super::values::{Range, Span};

/// How long a session outlives its connection.
#[derive(Debug)]
pub(super) struct SessionExpiry;

impl Range for SessionExpiry {
    const WHAT: &'static str = "a session expiry";
    const LEAST: u64 = 60;
    const MOST: u64 = 365 * 24 * 60 * 60;
}

/// How long a request is worth delivering. Below ten seconds the count of whole seconds says little.
#[derive(Debug)]
pub(super) struct RequestExpiry;

impl Range for RequestExpiry {
    const WHAT: &'static str = "a request expiry";
    const LEAST: u64 = 10;
    const MOST: u64 = 365 * 24 * 60 * 60;
}

/// A version of MQTT, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MqttVersion {
    V311,
    V5,
}

impl<'de> Deserialize<'de> for MqttVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Versions;

        impl Visitor<'_> for Versions {
            type Value = MqttVersion;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a version of MQTT, {VERSION_FORMS}")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<MqttVersion, E> {
                self.visit_str(&number.to_string()).map_err(|_: E| unknown(&number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<MqttVersion, E> {
                self.visit_str(&format!("{number:.1}")).map_err(|_: E| unknown(&number.to_string()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<MqttVersion, E> {
                match text {
                    // 4 is the protocol level of 3.1.1 on the wire, and what most tools call it.
                    "3" | "4" | "3.1.1" => Ok(MqttVersion::V311),
                    "5" | "5.0" => Ok(MqttVersion::V5),
                    _ => Err(unknown(&format!("{text:?}"))),
                }
            }
        }

        deserializer.deserialize_any(Versions)
    }
}

fn unknown<E: Error>(written: &str) -> E {
    E::custom(format_args!("{written} is no version of MQTT that the agent speaks; write {VERSION_FORMS}"))
}

impl Resolver<'_> {
    pub(super) fn protocol(&mut self, broker: &Broker) -> Protocol {
        let session_expiry = self.seconds("broker.session_expiry", broker.session_expiry.as_ref());
        let request_expiry = self.seconds("broker.request_expiry", broker.request_expiry.as_ref());
        let keys = [
            ("broker.session_expiry", session_expiry.is_some()),
            ("broker.request_expiry", request_expiry.is_some()),
        ];
        if broker.mqtt_version != Some(MqttVersion::V5) {
            for (key, _) in keys.into_iter().filter(|(_, given)| *given) {
                self.problem(key, "only MQTT 5 has that; write mqtt_version = 5, or remove it");
            }
            return Protocol::Mqtt311;
        }
        if broker.durable_session == Some(false) && session_expiry.is_some() {
            self.problem(
                "broker.session_expiry",
                "a session that is not durable ends with its connection; remove it, or set durable_session = true",
            );
        }
        if broker.host.is_none() {
            self.warnings.push(
                "broker.mqtt_version is 5: the service itself is known to speak 3.1.1 only; leave it out unless \
                 broker.host names another broker"
                    .into(),
            );
        }
        Protocol::Mqtt5(Mqtt5 { session_expiry, request_expiry })
    }

    /// MQTT counts both in whole seconds.
    fn seconds<R: Range>(&mut self, key: &str, span: Option<&Span<R>>) -> Option<Duration> {
        let span = span?.get();
        if span.subsec_nanos() > 0 {
            self.problem(key, "MQTT counts whole seconds; write it without parts of one");
        }
        Some(span)
    }
}

const VERSION_FORMS: &str = "4 for MQTT 3.1.1, or 5";
