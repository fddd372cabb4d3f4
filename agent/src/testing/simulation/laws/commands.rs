//! The laws of commands, and of the order of acknowledgements.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use iotdm_core::{CommandMessage, Route, Subject};

use crate::engine::{Delivery, KeyHash, Task};
use crate::journal::{Journal, Write};
use crate::store::MemoryDisk;

use super::super::Law;
use super::super::ask::Kind;
use super::super::world::World;
use super::Laws;

/// What the laws remember of commands. Each has a number in its payload, for the wire has nothing to tell them by.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    by_number: BTreeMap<u64, Sent>,
    /// Which command a message of the broker is.
    messages: BTreeMap<u64, u64>,
    /// What was written under each key, and whether it was taken away again.
    records: BTreeMap<KeyHash, Record>,
    running: BTreeMap<KeyHash, (u64, u64)>,
    /// Deliveries of this connection that were not acknowledged, in their order.
    outstanding: VecDeque<Delivery>,
    /// How many commands the agent has said to have dropped.
    pub(crate) dropped: u64,
    /// Whether bounds are small enough to be met.
    pub(crate) may_be_full: bool,
    /// Whether a journal was empty at any time.
    may_be_quarantined: bool,
}

#[derive(Debug)]
struct Sent {
    kind: Kind,
    sent_at: Duration,
    /// Which delivery of it is the newest, but for repetitions of one that is not acknowledged.
    delivery: u64,
    dropped_before: u64,
    /// How often it was started for the first time.
    starts: u64,
    /// Since the newest delivery.
    has_ended: bool,
    acked: bool,
}

#[derive(Debug)]
struct Record {
    number: u64,
    starts: u32,
    has_ended: bool,
    /// It was in a journal that was lost.
    lost: bool,
}

impl Commands {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// A command was sent: as which message of the broker, and with which number.
    pub(crate) fn sent(&mut self, message: u64, number: u64, kind: Kind, at: Duration) {
        self.messages.insert(message, number);
        let sent = Sent {
            kind,
            sent_at: at,
            delivery: 0,
            dropped_before: 0,
            starts: 0,
            has_ended: false,
            acked: false,
        };
        self.by_number.insert(number, sent);
    }

    pub(super) fn lost(&mut self, messages: &[u64]) {
        for message in messages {
            self.messages.remove(message).map(|number| self.by_number.remove(&number));
        }
    }

    /// False for what this connection has delivered before, and has not had acknowledged: that is not taken twice.
    pub(super) fn delivered(&mut self, message: u64, delivery: Option<Delivery>) -> bool {
        if delivery.is_some_and(|delivery| self.outstanding.contains(&delivery)) {
            return false;
        }
        self.outstanding.extend(delivery);
        let number = self.messages.get(&message);
        if let Some(sent) = number.and_then(|number| self.by_number.get_mut(number)) {
            sent.delivery += 1;
            sent.has_ended = false;
            sent.dropped_before = self.dropped;
        }
        true
    }

    pub(super) fn acknowledged(&mut self, message: u64) {
        let number = self.messages.get(&message);
        number
            .and_then(|number| self.by_number.get_mut(number))
            .into_iter()
            .for_each(|sent| sent.acked = true);
    }

    pub(super) fn disconnected(&mut self) {
        self.outstanding.clear();
    }

    pub(super) fn agent_died(&mut self) {
        self.running.clear();
        self.disconnected();
        self.dropped = 0;
    }

    pub(super) fn journal_is_empty(&mut self) {
        self.may_be_quarantined = true;
        self.records.values_mut().for_each(|record| record.lost = true);
    }

    /// The handler of this task has returned, or its time is over.
    pub(super) fn ended(&mut self, key: KeyHash) {
        if let Some((number, delivery)) = self.running.remove(&key)
            && let Some(sent) = self.by_number.get_mut(&number)
        {
            sent.has_ended |= sent.delivery == delivery;
        }
    }
}

impl Laws {
    /// These writes are about to be committed, or are durable.
    pub(crate) fn wrote(&mut self, writes: &[Write], durable: bool) {
        for write in writes {
            match write {
                Write::Open(key, record) if !self.commands.records.contains_key(key) => {
                    if let Some(number) = record.d.as_deref().and_then(number_in) {
                        let record = Record { number, starts: 0, has_ended: false, lost: false };
                        self.commands.records.insert(*key, record);
                        self.check_recorded(number);
                    }
                }
                Write::Forget(key) | Write::Open(key, _) if durable => {
                    let ends = matches!(write, Write::Forget(_));
                    let Some(record) = self.commands.records.get_mut(key) else { continue };
                    let ended_before = record.has_ended;
                    record.has_ended |= ends;
                    let number = record.number;
                    if ended_before {
                        self.broken(Law::CommandsEndOnce, format!("command {number} ends twice"));
                    }
                }
                _ => {}
            }
        }
    }

    /// One record for each delivery, and none of what is acknowledged when it was handled.
    fn check_recorded(&mut self, number: u64) {
        let Some(sent) = self.commands.by_number.get(&number) else { return };
        let records = self.commands.records.values().filter(|record| record.number == number).count() as u64;
        if sent.kind == Kind::CommandHeld {
            self.broken(Law::CommandsEndOnce, format!("command {number} is recorded, and its broker has it"));
        } else if records > sent.delivery {
            self.broken(Law::CommandsEndOnce, format!("command {number} is recorded {records} times"));
        }
    }

    pub(super) fn command_started(&mut self, task: &Task) {
        let Some(number) = task.d.as_deref().and_then(number_in) else { return };
        let Some(sent) = self.commands.by_number.get_mut(&number) else { return };
        let (kind, sent_at) = (sent.kind, sent.sent_at);
        sent.starts += u64::from(task.attempt == 1);
        let too_often = kind == Kind::CommandHeld && sent.starts > sent.delivery;
        self.commands.running.insert(task.key, (number, sent.delivery));
        if let Some(limit) = kind.refused_after().filter(|_| self.ordered) {
            let age = self.now.saturating_sub(sent_at);
            if age > limit + self.unnoticed {
                self.broken(
                    Law::LateIsADecision,
                    format!("command {number} starts {age:?} after it was sent"),
                );
            }
        }
        if too_often {
            self.broken(Law::CommandsEndOnce, format!("command {number} starts more often than it came"));
        }
        if kind == Kind::CommandHeld {
            return;
        }
        let Some(record) = self.commands.records.get_mut(&task.key) else {
            return self.broken(Law::AcceptedIsKept, format!("command {number} starts unrecorded"));
        };
        record.starts += 1;
        let (starts, has_ended) = (record.starts, record.has_ended);
        let most = if kind.may_run_again() { self.attempts } else { 1 };
        if has_ended || starts > most {
            self.broken(
                Law::CommandsEndOnce,
                format!("command {number} starts {starts} times from one record"),
            );
        }
    }

    /// MQTT 3.1.1 §4.6, and P1.
    pub(super) fn acknowledging(&mut self, delivery: Delivery, message: Option<u64>, disk: &MemoryDisk) {
        let outstanding = &mut self.commands.outstanding;
        if outstanding.front() == Some(&delivery) {
            outstanding.pop_front();
        } else if outstanding.contains(&delivery) {
            let what = format!("packet {} is acknowledged before one that came earlier", delivery.packet);
            self.broken(Law::AcknowledgedInOrder, what);
        }
        let Some(message) = message else { return };
        match self.commands.messages.get(&message).copied() {
            Some(number) => self.acknowledging_command(number, disk),
            None => self.acknowledging_request(message, disk),
        }
    }

    /// P1: a PUBACK leaves only when the request, or its answer, is on the disk.
    fn acknowledging_request(&mut self, number: u64, disk: &MemoryDisk) {
        let Some(copy) = self.copies.get(&number) else { return };
        let track = &self.tracks[&copy.req_id];
        if track.answered_at > copy.delivered_at {
            // Behind a command that is not acknowledged, an answer may have come first, and be forgotten.
            return;
        }
        let request = KeyHash::of_request(&Subject::Connected, &copy.req_id);
        let passing =
            KeyHash::of_passing_answer(&Subject::Connected, &copy.req_id.to_raw(), copy.fingerprint);
        let is_kept = |key| disk.contains(&Journal::place_of_request(key));
        if !is_kept(request) && !is_kept(passing) {
            let req_id = copy.req_id.clone();
            self.broken(Law::AcceptedIsKept, format!("{req_id} is acknowledged before it is durable"));
        }
    }

    fn acknowledging_command(&mut self, number: u64, disk: &MemoryDisk) {
        let Some(sent) = self.commands.by_number.get(&number) else { return };
        let may_be_dropped = sent.kind == Kind::CommandFresh
            || sent.kind == Kind::CommandHeld
            || self.commands.may_be_full
            || self.commands.may_be_quarantined;
        let is_dropped = may_be_dropped && self.commands.dropped > sent.dropped_before;
        if sent.kind == Kind::CommandHeld {
            if !sent.has_ended && !is_dropped {
                let what = format!("command {number} is acknowledged before its handler has ended");
                self.broken(Law::CommandsEndOnce, what);
            }
            return;
        }
        let is_kept = self.commands.records.iter().any(|(key, record)| {
            let is_durable = || disk.contains(&Journal::place_of_request(*key));
            record.number == number && (record.has_ended || record.lost || is_durable())
        });
        if !is_kept && !is_dropped {
            let what =
                format!("command {number} is acknowledged, and neither durable nor counted as dropped");
            self.broken(Law::AcceptedIsKept, what);
        }
    }

    pub(super) fn judge_commands(&mut self, disk: &MemoryDisk) {
        let unacknowledged = self.commands.by_number.iter().find(|(_, sent)| !sent.acked);
        if let Some((number, _)) = unacknowledged {
            let what = format!("command {number} is not acknowledged");
            return self.broken(Law::AcceptedIsKept, what);
        }
        let on_disk: BTreeSet<u64> = self
            .commands
            .records
            .iter()
            .filter(|(key, _)| disk.contains(&Journal::place_of_request(**key)))
            .map(|(_, record)| record.number)
            .collect();
        if let Some(number) = on_disk.first() {
            self.broken(Law::CommandsEndOnce, format!("command {number} never comes to an end"));
        }
    }
}

impl World {
    /// What the agent says to have dropped is excused.
    pub(in super::super) fn count_dropped(&mut self) {
        if let Some(agent) = self.agent.as_ref().filter(|_| !self.laws.commands.is_empty()) {
            let dropped = agent.engine.counters().get("command dropped").copied();
            self.laws.commands.dropped = dropped.unwrap_or_default();
        }
    }
}

/// The number in a command's payload.
fn number_in(d: &serde_json::value::RawValue) -> Option<u64> {
    String::from_utf8(CommandMessage::from_raw(d)?.payload).ok()?.parse().ok()
}

/// The topic of a kind of command.
pub(crate) fn topic_of(kind: Kind) -> String {
    let id = match kind {
        Kind::CommandOnce => "once",
        Kind::CommandAgain => "again",
        Kind::CommandFresh => "fresh",
        _ => "held",
    };
    iotdm_core::Topic::own(Route::command(id, "json")).to_string()
}
