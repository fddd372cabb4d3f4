//! The laws of what the platform hears: P1 to P5.

use std::time::Duration;

use bytes::Bytes;
use iotdm_core::ReqId;

use crate::engine::Ticket;

use super::super::Law;
use super::super::ask::Kind;
use super::attributes::level_in;
use super::starts::RESTART_WITHIN;
use super::{Laws, Message, Published};

impl Laws {
    pub(super) fn answer_published(&mut self, payload: &Bytes) -> Published {
        let Ok(message) = serde_json::from_slice::<Message>(payload) else { return Published::Other };
        let (Some(rc), Some(text)) = (message.rc, message.req_id.as_str()) else { return Published::Other };
        let req_id = ReqId::from_text(text);
        let level = (rc == 200).then(|| level_in(message.d.as_ref())).flatten();
        if self.tracks.contains_key(&req_id) {
            self.check_answer(&req_id, rc, &message.message, payload);
        }
        Published::Answer { req_id, rc, level }
    }

    fn check_answer(&mut self, req_id: &ReqId, rc: u16, message: &str, payload: &Bytes) {
        self.waiting.remove(req_id);
        let track = &self.tracks[req_id];
        if rc == 400 && message.contains("was used for another request") {
            if !track.is_reused() {
                let what = format!("{req_id} is taken for another request");
                self.broken(Law::NoReplayRuns, what);
            }
            self.tracks.get_mut(req_id).expect("it was there a moment ago").mismatch_told = true;
            return;
        }
        if !track.may_answer(rc) {
            let what = format!("{req_id} ({:?}) is answered {rc}", track.kinds);
            return self.broken(Law::EveryDeliveryIsAnswered, what);
        }
        let worked = track.kinds.iter().all(|kind| kind.is_work());
        if worked && matches!(rc, 200 | 202) && track.replied_in.is_none() {
            let what = format!("{req_id} is answered {rc} and its handler never said so");
            return self.broken(Law::AcceptedIsKept, what);
        }
        self.attributes.is_updated |= rc == 204 && track.kinds != [Kind::Place];
        if track.kinds.contains(&Kind::Cancel) {
            // Whoever observes anew is notified at once.
            self.attributes.notified_at = None;
        }
        let differs = track.answer.as_ref().is_some_and(|answer| answer != payload);
        if differs && track.has_one_answer() && !self.may_be_forgotten(req_id) {
            let what = format!("{req_id} is answered differently: {}", String::from_utf8_lossy(payload));
            return self.broken(Law::NoReplayRuns, what);
        }
        let order = self.newest_order(req_id);
        if rc < 300 || rc == 500 {
            // A start that was recorded counts, also when a crash kept it from happening.
            self.executed.extend(order);
        }
        let track = self.tracks.get_mut(req_id).expect("it was there a moment ago");
        track.may_be_forgotten &= !differs;
        track.is_refused = rc == 409;
        track.answer = Some(payload.clone());
    }

    pub(super) fn answer_received(&mut self, req_id: ReqId, rc: u16) {
        let (boot, now, received) = (self.boot, self.now, self.received);
        let Some(track) = self.tracks.get_mut(&req_id) else { return };
        track.answered_at = Some(received);
        if rc != 202 {
            return;
        }
        track.platform_has_202 = true;
        if track.kinds.iter().any(|kind| kind.holds_manage()) && track.promised.is_none() {
            track.promised = Some((track.replied_in.unwrap_or(boot), now));
            self.promised.insert(req_id);
        }
    }

    /// P5: the platform takes a manage for the end of every reboot and reset it was promised.
    pub(super) fn manage_received(&mut self) {
        for req_id in std::mem::take(&mut self.promised) {
            let track = &self.tracks[&req_id];
            let Some((boot, since)) = track.promised else { continue };
            let is_reset = track.kinds == [Kind::Reset];
            let restarted = if is_reset { track.restarts > 0 } else { boot != self.boot };
            let unjudged = track.judged_at.is_some_and(|judged_at| self.now >= judged_at + JUDGED_WITHIN);
            let ended_otherwise = track.released
                || track.cancelled
                || unjudged
                || track.deaths >= self.attempts
                || self.now >= since + RESTART_WITHIN;
            // With one reqId for several requests it is not known here which of them has the 202.
            if !restarted && !ended_otherwise && !track.is_reused() {
                let what = format!("manage tells the platform that {req_id} is done, and it is not");
                self.broken(Law::AnswerBeforeDisruption, what);
            }
        }
    }
}

/// Reports of the simulation carry their ticket in their text.
pub(super) fn ticket_in(payload: &[u8]) -> Option<Ticket> {
    let text = std::str::from_utf8(payload).ok()?;
    let (_, rest) = text.split_once("report number ")?;
    rest.split('"').next()?.parse().ok().map(Ticket)
}

/// How long a judgement may take: then the work is taken to have failed.
const JUDGED_WITHIN: Duration = Duration::from_secs(30);
