//! Becoming and staying managed, and leaving it.

use std::time::Duration;

use iotdm_core::{Code, Incoming, UpRoute, attribute};
use serde_json::json;
use tracing::{error, info, warn};

use super::super::Engine;
use super::super::event::{Announcement, Effect, Timer};
use super::{Manage, Unmanage};

impl Engine {
    pub(in crate::engine) fn send_manage(&mut self) {
        let mut manage = self.settings.manage.clone();
        let typed = |value| serde_json::from_value(value).ok();
        manage.device_info = self.model.read(attribute::DEVICE_INFO).cloned().and_then(typed);
        manage.metadata = self.model.read(attribute::METADATA).cloned();
        if self.session.bundles_refused {
            manage.supports.bundles.clear();
        }
        let is_too_large = |manage: &iotdm_core::Manage| json!(manage).to_string().len() > MAX_MANAGE_BYTES;
        if is_too_large(&manage) {
            self.note(
                "manage larger than a message may be",
                "metadata is left out, and deviceInfo if need be",
            );
            manage.metadata = None;
        }
        if is_too_large(&manage) {
            manage.device_info = None;
        }
        let (topic, payload, req_id) = self.own_request(UpRoute::Manage, Some(json!(manage)));
        let req_id = req_id.expect("an own request has a reqId");
        if self.session.manage_ids.len() >= MAX_MANAGE_IDS {
            self.session.manage_ids.pop_front();
        }
        self.session.manage_ids.push_back(req_id);
        self.withheld.asked(self.now.monotonic);
        self.session.manage = Manage::Waiting;
        self.session.manage_attempts += 1;
        self.timers.set(Timer::Manage, self.now.monotonic + MANAGE_ANSWER_WITHIN);
        let id = self.outbox.publish_other();
        self.effect(Effect::Publish { id, topic, payload });
    }

    /// Takes a response to manage; false when it is none of this connection.
    pub(in crate::engine) fn manage_answered(&mut self, response: &Incoming) -> bool {
        let Some(place) = self.session.manage_ids.iter().position(|id| *id == response.req_id) else {
            return false;
        };
        // A second response to the same manage is one to nothing: it changes nothing, and its log lines are bounded.
        self.session.manage_ids.remove(place);
        // Whatever it says: it came through the same queue as everything the broker had kept for us.
        self.withheld.answered();
        self.lift_fence();
        let pause = match response.rc {
            rc if rc.is_success() => return self.managed(rc),
            Code::FORBIDDEN if !self.session.bundles_refused => {
                error!("the organization does not know every bundle of custom actions: {}", told(response));
                self.session.bundles_refused = true;
                Duration::ZERO
            }
            Code::BAD_REQUEST | Code::FORBIDDEN | Code::NOT_FOUND => {
                error!(rc = %response.rc, "the platform refuses to manage this device: {}", told(response));
                MANAGE_REFUSED_PAUSE
            }
            _ => {
                warn!(rc = %response.rc, "the platform could not manage this device yet: {}", told(response));
                MANAGE_PAUSE.saturating_mul(1 << self.session.manage_attempts.min(6))
            }
        };
        self.session.manage = Manage::Waiting;
        self.timers.set(Timer::Manage, self.now.monotonic + pause);
        true
    }

    fn managed(&mut self, rc: Code) -> bool {
        if rc != Code::OK {
            warn!(%rc, "manage was answered with an undocumented code; it is taken as success");
        }
        self.session.manage = Manage::Answered;
        self.session.manage_attempts = 0;
        self.timers.clear(&Timer::Manage);
        let lifetime = Duration::from_secs(self.settings.manage.lifetime.into());
        if !lifetime.is_zero() {
            let margin = (lifetime / 10).max(RENEW_MARGIN).min(lifetime / 2);
            self.timers.set(Timer::Manage, self.now.monotonic + lifetime - margin);
        }
        if !std::mem::replace(&mut self.session.managed, true) {
            self.effect(Effect::Announce(Announcement::Managed));
        }
        true
    }

    /// When manage is to be renewed, or was not answered.
    pub(in crate::engine) fn manage_due(&mut self) {
        if self.session.is_up() {
            self.session.manage = Manage::Due;
        }
    }

    /// Other bundles are claimed than before: the platform is to know, and it may know these.
    pub(in crate::engine) fn claim_anew(&mut self) {
        self.session.bundles_refused = false;
        self.manage_due();
    }

    /// The product changed its mind about being managed (`docs/protocol.md` §4.2). An unmanaged device answers what
    /// still comes; its own requests wait for the next manage once the connection is another one.
    pub(in crate::engine) fn want_managed(&mut self, wanted: bool) {
        let is_wanted = self.session.unmanage == Unmanage::No;
        if wanted && !is_wanted {
            self.session.unmanage = Unmanage::No;
            self.session.manage = Manage::Due;
        } else if !wanted && is_wanted {
            self.session.unmanage = Unmanage::Due;
            self.timers.clear(&Timer::Manage);
        }
    }

    pub(in crate::engine) fn send_unmanage(&mut self) {
        let (topic, payload, req_id) = self.own_request(UpRoute::Unmanage, None);
        self.session.unmanage = Unmanage::Sent(req_id.expect("an own request has a reqId"));
        let id = self.outbox.publish_other();
        self.effect(Effect::Publish { id, topic, payload });
    }

    /// Takes a response to unmanage; false when it is none.
    pub(in crate::engine) fn unmanage_answered(&mut self, response: &Incoming) -> bool {
        if self.session.unmanage != Unmanage::Sent(response.req_id.clone()) {
            return false;
        }
        if response.rc.is_success() {
            info!("no longer managed, as the product asked");
            self.effect(Effect::Announce(Announcement::Unmanaged));
        } else {
            warn!(rc = %response.rc, "the platform refused unmanage: {}", told(response));
        }
        // A refusal is final: the platform has no record of the device, or no use for the request.
        self.session.unmanage = Unmanage::Done;
        true
    }
}

fn told(response: &Incoming) -> String {
    let message = response.message.as_deref().unwrap_or("no reason was given");
    message.chars().take(200).collect::<String>().escape_debug().to_string()
}

/// How long the platform may take to answer manage.
const MANAGE_ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The pause after 409 or 5xx; it doubles with each attempt.
const MANAGE_PAUSE: Duration = Duration::from_secs(2);

/// The pause after an answer that another attempt alone will not change.
const MANAGE_REFUSED_PAUSE: Duration = Duration::from_secs(10 * 60);

/// How long before the end of its lifetime manage is renewed, at the least.
const RENEW_MARGIN: Duration = Duration::from_secs(120);

/// How many manage requests of a connection are remembered: the newest. One is made a minute at the most while the
/// platform is silent, so that an answer may be an hour late.
const MAX_MANAGE_IDS: usize = 64;

/// Largest body of manage, in bytes: it must fit a message beside its reqId.
const MAX_MANAGE_BYTES: usize = iotdm_core::MAX_PAYLOAD_BYTES - 1024;
