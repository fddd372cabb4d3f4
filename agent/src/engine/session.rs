//! Connect, subscribe, manage, renew; and the fence between what waited on the broker and what is live.

mod manage;
mod pause;

use std::collections::VecDeque;
use std::time::Duration;

use iotdm_core::ReqId;
use tracing::{debug, error, info, warn};

use crate::journal::Write;

use self::pause::{Ending, Endings};
use super::Engine;
use super::acknowledge::Withheld;
use super::event::{Announcement, Effect, Lost, Timer};
use super::request::{Stage, restarts};

/// The connection and what the platform knows of it.
#[derive(Debug, Default)]
pub(super) struct Session {
    state: State,
    epoch: u64,
    endings: Endings,
    connected_at: Duration,
    heard_at: Duration,
    /// Requests that arrive before the fence may have waited on the broker; what arrives after it is live.
    fence_lifted: bool,
    manage: Manage,
    /// Whether the platform answered manage with 200 on this connection; a renewal does not change it.
    managed: bool,
    /// The reqIds of the manage requests of this connection.
    manage_ids: VecDeque<ReqId>,
    manage_attempts: u32,
    /// Answers below this place of the queue were stored before this connection.
    answers_before: u64,
    /// The organization does not know one of our bundles.
    bundles_refused: bool,
    /// The credentials were refused, and have not been taken since: it has been said.
    credentials_refused: bool,
    unmanage: Unmanage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Down,
    Connecting,
    Subscribing,
    Up,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Manage {
    /// It is to be sent.
    #[default]
    Due,
    /// It was sent, or waits for its next attempt.
    Waiting,
    /// The platform answered 200; it is renewed before its lifetime ends.
    Answered,
}

/// Whether the product wants the device to be managed, and whether the platform knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Unmanage {
    /// It wants it.
    #[default]
    No,
    /// Unmanage is to be sent.
    Due,
    /// It was sent under this reqId, and not answered.
    Sent(ReqId),
    /// The platform knows.
    Done,
}

impl Session {
    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    pub(super) fn is_managed(&self) -> bool {
        self.is_up() && self.managed
    }

    /// Whether there is no connection, or none any more: what one still had to say is not heard.
    pub(super) fn is_down(&self) -> bool {
        self.state == State::Down
    }

    pub(super) fn manage_is_due(&self) -> bool {
        self.manage == Manage::Due && self.unmanage == Unmanage::No
    }

    pub(super) fn unmanage_is_due(&self) -> bool {
        self.unmanage == Unmanage::Due
    }

    /// Whether the broker has accepted the connection and the subscription is not answered yet.
    pub(super) fn is_subscribing(&self) -> bool {
        self.state == State::Subscribing
    }

    pub(super) fn fence_is_lifted(&self) -> bool {
        self.fence_lifted
    }

    /// Whether what waits at this place of the queue was stored before this connection.
    pub(super) fn is_older(&self, place: u64) -> bool {
        place < self.answers_before
    }

    /// How long the connection has existed.
    pub(super) fn connected_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.connected_at)
    }

    pub(super) fn heard(&mut self, now: Duration) {
        self.heard_at = now;
    }
}

impl Engine {
    /// Connects once nothing of before is left to judge.
    pub(super) fn open_session(&mut self) {
        let judging = self.requests.values().any(|request| matches!(request.stage, Stage::Judging { .. }));
        let leads = !self.settings.is_attached();
        if leads && self.session.state == State::Down && !judging && !self.timers.is_set(&Timer::Connect) {
            self.timers.set(Timer::Connect, self.now.monotonic);
        }
    }

    pub(super) fn connect(&mut self) {
        if self.session.state != State::Down || self.stopping {
            return;
        }
        self.session.state = State::Connecting;
        self.session.epoch += 1;
        self.timers.set(Timer::Establish, self.now.monotonic + ESTABLISH_WITHIN);
        self.effect(Effect::Connect { epoch: self.session.epoch });
    }

    pub(super) fn connected(&mut self, session_present: bool) {
        let expected = if self.settings.is_attached() { State::Down } else { State::Connecting };
        if self.session.state != expected {
            // Of a connection that has been given up in the same batch.
            return;
        }
        debug!(session_present, "connected");
        self.session.credentials_refused = false;
        self.session.state = State::Subscribing;
        self.session.connected_at = self.now.monotonic;
        self.session.heard_at = self.now.monotonic;
        self.session.manage = Manage::Due;
        self.session.managed = false;
        self.session.manage_ids.clear();
        self.session.manage_attempts = 0;
        if matches!(self.session.unmanage, Unmanage::Sent(_)) {
            self.session.unmanage = Unmanage::Due;
        }
        self.session.fence_lifted = false;
        if !session_present {
            // A broker without a session has nothing that waited.
            self.lift_fence();
        }
        if self.settings.is_attached() {
            return;
        }
        if self.settings.events_only {
            // There is nothing to subscribe to.
            return self.subscribed(true);
        }
        // What waited in a session comes before SUBACK.
        let within = if session_present { SUBACK_BEHIND_WITHIN } else { ESTABLISH_WITHIN };
        self.timers.set(Timer::Establish, self.now.monotonic + within);
        self.effect(Effect::Subscribe);
    }

    pub(super) fn subscribed(&mut self, granted: bool) {
        if self.session.state != State::Subscribing {
            return;
        }
        self.timers.clear(&Timer::Establish);
        if !granted {
            self.effect(Effect::Disconnect);
            return self.disconnected(Lost::Subscription);
        }
        self.session.state = State::Up;
        self.session.answers_before = self.outbox.next_place();
        self.events_connected();
        if !self.session.fence_lifted {
            self.timers.set(Timer::Fence, self.session.connected_at + FENCE_WITHIN);
        }
        if self.is_held() {
            info!("connected; manage waits for the restart that was promised");
        }
    }

    pub(super) fn establish_overran(&mut self) {
        let missing = if self.session.state == State::Connecting { "CONNECT" } else { "SUBSCRIBE" };
        warn!("the broker did not answer {missing} in time");
        self.effect(Effect::Disconnect);
        self.disconnected(Lost::Other);
    }

    pub(super) fn disconnected(&mut self, lost: Lost) {
        if self.session.state == State::Down {
            return;
        }
        let lasted =
            self.session.is_up().then(|| self.now.monotonic.saturating_sub(self.session.connected_at));
        let next = self.session.endings.after(Ending { lost, lasted }, &mut self.rng);
        self.session.state = State::Down;
        self.session.fence_lifted = false;
        self.session.manage = Manage::Due;
        self.deferred.clear();
        self.withheld = Withheld::default();
        self.forget_unstarted_commands();
        self.outbox.disconnected();
        self.events_disconnected();
        for place in self.outbox.superseded() {
            self.drop_from_outbox(place);
        }
        self.timers.clear_session();
        if self.settings.is_attached() {
            return self.effect(Effect::Announce(Announcement::Disconnected));
        }
        self.timers.set(Timer::Connect, self.now.monotonic + next.pause);
        if lost == Lost::Credentials {
            if std::mem::replace(&mut self.session.credentials_refused, true) {
                info!("the credentials are still refused; asking again in {}", spoken(next.pause));
            } else {
                error!(
                    "the broker refused the credentials of this device; an agent that was connected before asks again in {}",
                    spoken(next.pause)
                );
            }
            self.effect(Effect::Announce(Announcement::CredentialsRefused));
        } else {
            info!("trying again in {}", spoken(next.pause));
        }
        if next.contested {
            self.effect(Effect::Announce(Announcement::Contested));
        }
        self.effect(Effect::Announce(Announcement::Disconnected));
    }

    /// Whether manage must wait: the platform takes the next one as "reboot done" (`docs/protocol.md` §6.2).
    pub(super) fn is_held(&self) -> bool {
        let holder = self.lanes.get(&self.settings.subject).and_then(|lane| lane.holder);
        let promised = holder.and_then(|key| self.requests.get(&key));
        promised.is_some_and(|request| restarts(&request.route) && request.response().is_some())
    }

    pub(super) fn hold_ended(&mut self) {
        if self.session.is_up() {
            self.session.manage = Manage::Due;
        }
    }

    /// Requests may wait on the broker again: the next answer to manage, asked for once they are taken, is the fence.
    pub(super) fn lower_fence(&mut self) {
        self.session.fence_lifted = false;
        self.session.manage_ids.clear();
        self.withheld.forget_question();
        self.session.manage = Manage::Due;
        self.timers.clear(&Timer::Manage);
        self.timers.set(Timer::Fence, self.now.monotonic + FENCE_WITHIN);
    }

    fn lift_fence(&mut self) {
        if self.session.fence_lifted {
            return;
        }
        self.session.fence_lifted = true;
        self.timers.clear(&Timer::Fence);
        if self.quarantine {
            info!("nothing old waits on the broker any more: every request is taken again");
            self.quarantine = false;
            self.out.writes.push(Write::Quarantine(false));
            self.out.due = true;
        }
        if self.mark.is_none() {
            self.out.due = true;
        }
        self.timers.set(Timer::Mark, self.now.monotonic);
    }

    pub(super) fn fence_overran(&mut self) {
        let quiet = self.now.monotonic.saturating_sub(self.session.heard_at);
        let waits = self.is_held() || !self.deferred.is_empty() || self.withheld.closes_the_window();
        if waits || quiet < FENCE_QUIET {
            // What is waited for has no time of its own: a look now and then, for a restart may be hours away.
            let pause = if waits { FENCE_QUIET } else { FENCE_QUIET - quiet };
            return self.timers.set(Timer::Fence, self.now.monotonic + pause);
        }
        warn!(
            "manage was never answered; after {FENCE_WITHIN:?} and a quiet {FENCE_QUIET:?} requests count as live"
        );
        self.withheld.nothing_waited(self.now.monotonic);
        self.lift_fence();
    }
}

fn spoken(pause: Duration) -> String {
    format!("{:.1} s", pause.as_secs_f64())
}

/// How long connecting, and then subscribing, may take.
const ESTABLISH_WITHIN: Duration = Duration::from_secs(30);

/// How long subscribing may take behind what waited in the session: two of the largest messages at 1 kB/s. That the
/// connection is dead is told by its keep-alive.
const SUBACK_BEHIND_WITHIN: Duration = Duration::from_secs(5 * 60);

/// How long a connection lasts before the fence may be lifted without an answer to manage.
const FENCE_WITHIN: Duration = Duration::from_secs(10 * 60);

/// How long nothing may have arrived before the fence is lifted so.
const FENCE_QUIET: Duration = Duration::from_secs(30);
