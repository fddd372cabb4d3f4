//! Observe, cancel and device/update: the agent's own model carries them out, at once and in one batch.
//!
//! Their bodies are types of ours alone, decoded within bounds; no product code runs before the record.

use bytes::Bytes;
use iotdm_core::{
    Cancel, Code, Declined, DeviceUpdate, FieldName, Location, MAX_PAYLOAD_BYTES, Observe, Refusal, ReqId,
    Response, Route, Table, attribute,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::journal::{Class, Write};

use super::Engine;
use super::accept::{bounded, too_large};
use super::answers::Body;
use super::event::{Effect, Ticket};
use super::key::KeyHash;
use super::request::Request;

impl Engine {
    /// Observe, cancel and device/update: the agent's own model carries them out, at once and in one batch.
    pub(super) fn carry_out(&mut self, key: KeyHash, request: &Request) {
        let d = request.d.as_deref();
        let result = match request.route {
            Route::DeviceUpdate => self.device_update(d).map(|()| self.stored(request, Code::CHANGED)),
            Route::Observe => {
                self.observe(d).map(|fields| Body::Observed { req_id: request.req_id.clone(), fields })
            }
            _ => self.cancel(d).map(|()| self.stored(request, Code::OK)),
        };
        match result {
            Ok(body) => {
                self.tell("carried out", &request.req_id, &request.route);
                self.keep(key, request, Class::Executed, body);
            }
            Err(refusal) => self.refuse_attributes(key, request, &refusal),
        }
    }

    /// A refused observe names its fields again; one that cannot be read has no value (`docs/protocol.md` §5.2).
    fn refuse_attributes(&mut self, key: KeyHash, request: &Request, refusal: &Refusal) {
        let named = Table::decode::<Observe>(request.d.as_deref()).ok();
        let fields = named.filter(|_| request.route == Route::Observe && refusal.rc() == Code::NOT_FOUND);
        let d = fields.and_then(|named| {
            let names: Vec<String> = named.fields.into_iter().map(|name| name.field).collect();
            self.values(&names)
        });
        self.refuse_unrecorded(key, request, refusal, d.as_deref());
    }

    fn stored(&self, request: &Request, rc: Code) -> Body {
        Body::Stored(Response::new(&request.req_id.to_raw(), rc).to_bytes().into())
    }

    pub(super) fn device_update(&mut self, d: Option<&RawValue>) -> Result<(), Refusal> {
        let update = Table::decode::<DeviceUpdate>(d)?;
        let changes = self.model.update(update.fields, self.firmware_is_busy())?;
        self.settings.attributes.check(&changes)?;
        if let Some((name, _)) = changes.iter().find(|(_, value)| is_too_large(value)) {
            return Err(Refusal::bad_request(format!("{name}: larger than {MAX_ATTRIBUTE_BYTES} bytes")));
        }
        self.moved_by_platform(&changes);
        self.change_attributes(changes);
        Ok(())
    }

    fn observe(&mut self, d: Option<&RawValue>) -> Result<Vec<String>, Refusal> {
        let fields = named(Table::decode::<Observe>(d)?.fields)?;
        let mut added: Vec<&String> = Vec::new();
        for field in &fields {
            let generation = self.sequence();
            let is_known = self.model.generation(field).is_some();
            if let Err(refusal) = self.model.observe(field, generation) {
                // All of it or nothing: what was begun is undone.
                for field in added {
                    self.model.cancel(field);
                }
                return Err(refusal);
            }
            if !is_known {
                added.push(field);
            }
        }
        for field in &fields {
            let generation = self.model.generation(field).expect("it has just been observed");
            self.out.writes.push(Write::Observe(field.clone(), generation));
            self.watch(field);
        }
        self.out.due = true;
        Ok(fields)
    }

    fn cancel(&mut self, d: Option<&RawValue>) -> Result<(), Refusal> {
        for field in named(Table::decode::<Cancel>(d)?.fields)? {
            self.stop_observing(&field);
        }
        Ok(())
    }

    pub(super) fn stop_observing(&mut self, field: &str) {
        if self.model.cancel(field) {
            self.out.writes.push(Write::Unobserve(field.to_owned()));
            self.out.due = true;
            self.watch_no_longer(field);
        }
        if let Some(place) = self.outbox.unsent_notify(field) {
            self.drop_from_outbox(place);
        }
    }

    /// The product sets attributes: all of them or, declined, none. Its location is reported, whichever way it is set.
    pub(super) fn set_attributes(&mut self, mut changes: Vec<(String, Value)>, ticket: Option<Ticket>) {
        let result = self.may_set(&changes).map(|()| {
            changes.iter_mut().for_each(as_the_protocol_has_it);
            let location = changes.iter().rev().find(|(name, _)| name == attribute::LOCATION).cloned();
            self.change_attributes(changes);
            if let Some((_, location)) = location {
                self.location_due(&location);
            }
        });
        self.settle_ticket(ticket, result);
    }

    fn may_set(&mut self, changes: &[(String, Value)]) -> Result<(), Declined> {
        let unkeepable = changes.iter().any(|(_, value)| is_too_large(value) || is_too_deep(value));
        if unkeepable || !self.model.has_room_for(changes.iter().map(|(name, _)| name)) {
            self.note("attributes beyond their bounds", "they are not set");
            return Err(Declined::OutOfBounds);
        }
        if let Err(refusal) = self.settings.attributes.check_own(changes) {
            self.note("attributes that do not fit", &format!("they are not set: {}", refusal.message()));
            return Err(Declined::Misfit);
        }
        Ok(())
    }

    pub(super) fn settle_ticket(&mut self, ticket: Option<Ticket>, result: Result<(), Declined>) {
        if let Some(ticket) = ticket {
            self.effect(match result {
                Ok(()) => Effect::Confirm(ticket),
                Err(declined) => Effect::Decline(ticket, declined),
            });
        }
    }

    pub(super) fn change_attributes(&mut self, changes: Vec<(String, Value)>) {
        for (name, value) in &changes {
            self.out.writes.push(Write::Attribute(name.clone(), value.clone()));
        }
        self.out.due = true;
        let changes: Vec<_> =
            changes.into_iter().map(|(name, value)| (name, as_it_comes_back(&value))).collect();
        self.effect(Effect::Attributes(changes.clone()));
        for field in self.model.set(changes) {
            self.notify_due(field);
        }
    }

    fn firmware_is_busy(&self) -> bool {
        let holder = self.lanes.get(&self.settings.subject).and_then(|lane| lane.holder);
        holder
            .and_then(|key| self.requests.get(&key))
            .is_some_and(|request| matches!(request.route, Route::FirmwareDownload | Route::FirmwareUpdate))
    }

    /// `None` when no message could hold them. That is found out on the way: a list may name a large attribute some
    /// thousand times, and what it asks for may be larger than the device's memory.
    fn values(&self, fields: &[String]) -> Option<Box<RawValue>> {
        #[derive(Serialize)]
        struct Element<'a> {
            field: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            value: Option<&'a Value>,
        }
        let mut elements = String::new();
        for field in fields {
            let element = Element { field, value: self.model.read(field) };
            elements.push_str(if elements.is_empty() { "" } else { "," });
            elements.push_str(&serde_json::to_string(&element).expect("attributes are JSON values"));
            if elements.len() > MAX_PAYLOAD_BYTES {
                return None;
            }
        }
        let d = format!("{{\"fields\":[{elements}]}}");
        Some(RawValue::from_string(d).expect("it is made of JSON values"))
    }

    /// The current values of observed attributes, as the answer to observe has them.
    pub(super) fn observed_response(&self, req_id: &ReqId, fields: &[String]) -> Bytes {
        let raw = req_id.to_raw();
        let Some(d) = self.values(fields) else { return too_large(&raw).into() };
        let response = Response::new(&raw, Code::OK).data(Some(&d)).to_bytes();
        bounded(&raw, response).into()
    }
}

fn named(fields: Vec<FieldName>) -> Result<Vec<String>, Refusal> {
    if fields.is_empty() {
        return Err(Refusal::bad_request("d.fields names no attribute"));
    }
    Ok(fields.into_iter().map(|name| name.field).collect())
}

/// Of a location the members that the protocol knows.
fn as_the_protocol_has_it((name, value): &mut (String, Value)) {
    if name == attribute::LOCATION
        && let Ok(location) = Location::deserialize(&*value)
    {
        *value = json!(location);
    }
}

/// As the journal gives it back: reading a number may change its last digit, and after a restart it would be another
/// value than before.
pub(super) fn as_it_comes_back(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or_else(|_| value.clone())
}

fn is_too_large(value: &Value) -> bool {
    value.to_string().len() > MAX_ATTRIBUTE_BYTES
}

/// Whether the journal could not read it back: that would count as damage, and cost the whole journal at the next start.
fn is_too_deep(value: &Value) -> bool {
    let as_stored = json!([value]).to_string();
    serde_json::from_str::<Value>(&as_stored).is_err()
}

/// Largest attribute, in bytes of JSON: it must fit a notification beside its envelope.
const MAX_ATTRIBUTE_BYTES: usize = 100 * 1024;
