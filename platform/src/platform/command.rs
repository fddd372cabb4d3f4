//! What an application tells a device (`docs/connect/commands.md`).

use bytes::Bytes;
use iotdm_core::MAX_PAYLOAD_BYTES;
use rumqttc::QoS;

use super::{InitiateError, Platform};
use crate::client::Outbound;
use crate::space::DeviceName;

impl Platform {
    /// Sends a command as an application would, at QoS 1. Nothing answers it, and nothing is tracked. A broker that keeps
    /// no session for the device loses it.
    ///
    /// # Errors
    /// Too many messages wait to be sent, or the payload is above the service's limit.
    pub fn command(
        &self,
        device: &DeviceName,
        id: &str,
        format: &str,
        payload: impl Into<Bytes>,
    ) -> Result<(), InitiateError> {
        let payload = payload.into();
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(InitiateError::PayloadTooLarge(payload.len()));
        }
        let topic = self.shared.command_topic(device, id, format);
        let outbound = Outbound { topic, payload, qos: QoS::AtLeastOnce, retain: false };
        self.shared.send(device, &format!("cmd/{id}/fmt/{format}"), None, outbound)
    }
}
