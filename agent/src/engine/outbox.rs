mod window;

pub(crate) use window::{EVENTS_WINDOW, WINDOW};

use std::collections::{BTreeMap, BTreeSet};

use iotdm_core::{Report, ReqId};

use super::event::PublishId;
use super::key::KeyHash;

/// What waits to be sent, in order, and what is on its way.
///
/// Answers and notifications leave through this one queue, so that a notification cannot overtake the answer to its
/// observe. It is the only place that knows what must still be sent; the link below forgets.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    entries: BTreeMap<u64, Entry>,
    next_place: u64,
    answers: BTreeMap<KeyHash, u64>,
    /// How large those answers are, in all.
    answer_bytes: usize,
    /// The unsent notification of each attribute, which a further change moves to the end.
    notifies: BTreeMap<String, u64>,
    unsent_answers: BTreeSet<u64>,
    unsent_own: BTreeSet<u64>,
    own: usize,
    in_flight: BTreeMap<PublishId, Option<u64>>,
    awaiting: BTreeMap<ReqId, u64>,
    next_publish: u64,
    /// How many publishes may be on their way; zero stands for [`WINDOW`].
    window: u64,
}

/// One place of the queue.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) item: Item,
    state: State,
    /// How often an own request was sent without a final response, since the agent started.
    pub(super) attempts: u32,
    /// How often the broker refused it, since the agent started.
    pub(super) refusals: u32,
    /// The reqId of the last attempt of an own request.
    req_id: Option<ReqId>,
    /// How large an answer is, in bytes.
    bytes: usize,
}

impl Entry {
    /// Whether the platform has it, and has not answered it as far as is known here.
    pub(super) fn is_awaiting(&self) -> bool {
        self.state == State::Awaiting
    }
}

/// What stands there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Answer(KeyHash),
    Notify { field: String, generation: u64 },
    Report(Report),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unsent,
    /// On its way; an answer that became due meanwhile goes once more.
    Sent {
        again: bool,
    },
    /// An own request that the broker has and the platform has not answered.
    Awaiting,
    /// An own request, or an answer that the broker refused, that waits for its next attempt.
    Backoff,
}

/// What an acknowledgement of the broker ends.
#[derive(Debug, PartialEq)]
pub(super) enum Sent {
    /// This answer, at this place, has arrived.
    Answer(KeyHash, u64),
    /// An own request has arrived and is to be answered by the platform.
    Own(u64),
    /// Nothing that is kept here.
    Other,
}

/// What the broker refused.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) place: u64,
    /// How often it was refused, since the agent started.
    pub(super) refusals: u32,
    /// How often an own request was sent without a final response, since the agent started.
    pub(super) attempts: u32,
}

impl Outbox {
    pub(super) fn restore(&mut self, place: u64, item: Item) {
        self.next_place = self.next_place.max(place + 1);
        self.insert(place, item);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many answers wait or are on their way.
    pub(super) fn answers(&self) -> usize {
        self.answers.len()
    }

    /// Whose answers those are.
    pub(super) fn answer_keys(&self) -> Vec<KeyHash> {
        self.answers.keys().copied().collect()
    }

    /// How many bytes those answers have.
    pub(super) fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Says how large a queued answer is.
    pub(super) fn weigh(&mut self, key: &KeyHash, bytes: usize) {
        if let Some(entry) = self.answers.get(key).and_then(|place| self.entries.get_mut(place)) {
            self.answer_bytes = self.answer_bytes - entry.bytes + bytes;
            entry.bytes = bytes;
        }
    }

    /// Makes an answer due; the place it got, or none where it already waits.
    pub(super) fn answer_due(&mut self, key: KeyHash) -> Option<u64> {
        if let Some(place) = self.answers.get(&key) {
            let entry = self.entries.get_mut(place).expect("the index names entries");
            if let State::Sent { again } = &mut entry.state {
                *again = true;
            }
            return None;
        }
        Some(self.push(Item::Answer(key)))
    }

    /// Makes a notification due: its place, and the ones that are needless with that: all of this attribute but one
    /// that is on its way to the broker.
    pub(super) fn notify_due(&mut self, field: String, generation: u64) -> (u64, Vec<u64>) {
        let is_needless = |entry: &Entry| {
            let is_same = matches!(&entry.item, Item::Notify { field: other, .. } if *other == field);
            is_same && !matches!(entry.state, State::Sent { .. })
        };
        let left =
            self.entries.iter().filter(|(_, entry)| is_needless(entry)).map(|(place, _)| *place).collect();
        (self.push(Item::Notify { field, generation }), left)
    }

    pub(super) fn push(&mut self, item: Item) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        self.insert(place, item);
        place
    }

    fn insert(&mut self, place: u64, item: Item) {
        match &item {
            Item::Answer(key) => {
                self.answers.insert(*key, place);
                self.unsent_answers.insert(place);
            }
            Item::Notify { field, .. } => {
                self.notifies.insert(field.clone(), place);
                self.unsent_own.insert(place);
                self.own += 1;
            }
            Item::Report(_) => {
                self.unsent_own.insert(place);
                self.own += 1;
            }
        }
        let entry = Entry { item, state: State::Unsent, attempts: 0, refusals: 0, req_id: None, bytes: 0 };
        self.entries.insert(place, entry);
    }

    pub(super) fn remove(&mut self, place: u64) -> Option<Item> {
        let entry = self.entries.remove(&place)?;
        self.unsent_answers.remove(&place);
        self.unsent_own.remove(&place);
        match &entry.item {
            Item::Answer(key) => {
                self.answers.remove(key);
                self.answer_bytes -= entry.bytes;
            }
            Item::Notify { field, .. } => {
                if self.notifies.get(field) == Some(&place) {
                    self.notifies.remove(field);
                }
                self.own -= 1;
            }
            Item::Report(_) => self.own -= 1,
        }
        if let Some(req_id) = &entry.req_id {
            self.awaiting.remove(req_id);
        }
        Some(entry.item)
    }

    pub(super) fn entry(&self, place: u64) -> Option<&Entry> {
        self.entries.get(&place)
    }

    /// Whether this request's answer is queued or on its way.
    pub(super) fn holds_answer(&self, key: &KeyHash) -> bool {
        self.answers.contains_key(key)
    }

    /// How many own requests wait, and the report that can be missed first: the oldest unsent one, or else the oldest.
    pub(super) fn own(&self) -> (usize, Option<u64>) {
        let is_report = |place: &&u64| matches!(self.entries[*place].item, Item::Report(_));
        let report = self.unsent_own.iter().find(is_report).or_else(|| self.entries.keys().find(is_report));
        (self.own, report.copied())
    }

    /// The place that the next item gets.
    pub(super) fn next_place(&self) -> u64 {
        self.next_place
    }

    pub(super) fn first_unsent_answer(&self) -> Option<u64> {
        self.unsent_answers.first().copied()
    }

    /// The next item to send; own requests only where `own` says so.
    pub(super) fn next_unsent(&self, own: bool) -> Option<u64> {
        let answer = self.unsent_answers.first().copied();
        let own = self.unsent_own.first().copied().filter(|_| own);
        [answer, own].into_iter().flatten().min()
    }

    /// Gives a publish that is not kept here, such as manage, its number.
    pub(super) fn publish_other(&mut self) -> PublishId {
        self.publish(None)
    }

    pub(super) fn mark_sent(&mut self, place: u64, req_id: Option<ReqId>) -> PublishId {
        let entry = self.entries.get_mut(&place).expect("only what stands in the queue is sent");
        entry.state = State::Sent { again: false };
        if let Some(req_id) = req_id {
            entry.attempts += 1;
            if let Some(before) = entry.req_id.replace(req_id.clone()) {
                self.awaiting.remove(&before);
            }
            self.awaiting.insert(req_id, place);
        }
        if let Item::Notify { field, .. } = &entry.item {
            // A further change queues a notification of its own; this one is on its way.
            self.notifies.remove(field);
        }
        self.unsent_answers.remove(&place);
        self.unsent_own.remove(&place);
        self.publish(Some(place))
    }

    fn publish(&mut self, place: Option<u64>) -> PublishId {
        let id = PublishId(self.next_publish);
        self.next_publish += 1;
        self.in_flight.insert(id, place);
        id
    }

    /// The broker has a publish.
    pub(super) fn acknowledged(&mut self, id: PublishId) -> Sent {
        let Some(Some(place)) = self.in_flight.remove(&id) else { return Sent::Other };
        let Some(entry) = self.entries.get_mut(&place) else { return Sent::Other };
        match (&entry.item, entry.state) {
            (Item::Answer(_), State::Sent { again: true }) => {
                entry.state = State::Unsent;
                self.unsent_answers.insert(place);
                Sent::Other
            }
            (Item::Answer(key), _) => Sent::Answer(*key, place),
            (_, State::Sent { .. }) => {
                entry.state = State::Awaiting;
                Sent::Own(place)
            }
            // The platform's response overtook the broker's acknowledgement.
            _ => Sent::Other,
        }
    }

    /// The broker refused a publish, which waits here from then on; none of what is not kept here.
    pub(super) fn refused(&mut self, id: PublishId) -> Option<Refused> {
        let place = self.in_flight.remove(&id)??;
        let entry = self.entries.get_mut(&place)?;
        if !matches!(entry.state, State::Sent { .. }) {
            return None;
        }
        entry.state = State::Backoff;
        entry.refusals += 1;
        Some(Refused { place, refusals: entry.refusals, attempts: entry.attempts })
    }

    /// Which own request the platform answers.
    pub(super) fn answered(&mut self, req_id: &ReqId) -> Option<u64> {
        self.awaiting.remove(req_id)
    }

    pub(super) fn back_off(&mut self, place: u64) {
        if let Some(entry) = self.entries.get_mut(&place) {
            entry.state = State::Backoff;
        }
    }

    /// Puts an own request, or a refused answer, back for its next attempt.
    pub(super) fn retry(&mut self, place: u64) {
        if let Some(entry) = self.entries.get_mut(&place)
            && matches!(entry.state, State::Backoff | State::Awaiting)
        {
            entry.state = State::Unsent;
            if matches!(entry.item, Item::Answer(_)) {
                self.unsent_answers.insert(place);
            } else {
                self.unsent_own.insert(place);
            }
        }
    }

    /// The connection is gone: whatever is not known to have arrived is unsent.
    pub(super) fn disconnected(&mut self) {
        self.in_flight.clear();
        self.awaiting.clear();
        for (place, entry) in &mut self.entries {
            entry.state = State::Unsent;
            entry.req_id = None;
            if matches!(entry.item, Item::Answer(_)) {
                self.unsent_answers.insert(*place);
            } else {
                self.unsent_own.insert(*place);
            }
        }
        self.merge_notifies();
    }

    /// Two notifications of one attribute, one of which was on its way, become the later one.
    pub(super) fn merge_notifies(&mut self) {
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for (place, entry) in &self.entries {
            if let Item::Notify { field, .. } = &entry.item {
                newest.insert(field.clone(), *place);
            }
        }
        self.notifies = newest;
    }

    /// Location reports: all of them, and those that a newer one makes needless, which are all but one that is on its
    /// way to the broker.
    pub(super) fn locations(&self) -> (usize, Vec<u64>) {
        let all = || {
            self.entries.iter().filter(|(_, entry)| matches!(entry.item, Item::Report(Report::Location(_))))
        };
        let needless = all().filter(|(_, entry)| !matches!(entry.state, State::Sent { .. }));
        (all().count(), needless.map(|(place, _)| *place).collect())
    }

    /// Notifications and locations that a later one of the same attribute has made needless, after a lost connection.
    pub(super) fn superseded(&self) -> Vec<u64> {
        let (_, mut locations) = self.locations();
        locations.pop();
        let superseded = |(place, entry): (&u64, &Entry)| match &entry.item {
            Item::Notify { field, .. } if self.notifies.get(field) != Some(place) => Some(*place),
            Item::Report(_) if locations.contains(place) => Some(*place),
            _ => None,
        };
        self.entries.iter().filter_map(superseded).collect()
    }

    /// The unsent notification of an attribute.
    pub(super) fn unsent_notify(&self, field: &str) -> Option<u64> {
        self.notifies.get(field).copied()
    }
}

#[cfg(test)]
mod tests;
