//! What the agent must not forget, and how it stands on the store's bytes.
//!
//! A record is a version byte, a CRC-32 and JSON; a body above the store's value limit is cut into chunks that are
//! written in the same commit. Keys are one letter for the space, the identity in it, and the number of the chunk.
//!
//! # Guarantees
//! * [`Journal::commit`] writes all of its changes or none, and returns only when they are durable.
//! * What was committed is read back, or [`JournalError::Damaged`] says that it is not: nothing is skipped in silence.
//!
//! # Assumptions
//! * The store below keeps the same two promises for bytes.
//!
//! # Errors
//! A journal of another device, or of a newer program, is refused by name and left as it is.

mod key;
mod partition;
mod record;

use std::collections::BTreeMap;

use iotdm_core::Subject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::{KeyHash, Moment};
use crate::store::{Change, MAX_VALUE_BYTES, Store, StoreError};

use self::key::{keyed, named, numbered, space};

pub use partition::{MAX_PARTITIONS, Partition};
pub(crate) use record::shared;
pub use record::{AnswerRecord, Class, DoneRequest, EventRecord, OpenRequest, Queued, StageRecord, Write};

/// The journal of one device, or of a gateway and the devices that it speaks for.
#[derive(Debug)]
pub struct Journal {
    store: Box<dyn Store>,
    /// How many chunks a record has, where it is more than one: the rest must go when it shrinks.
    chunks: BTreeMap<Vec<u8>, u16>,
    /// Which attached devices have records here, by name.
    devices: BTreeMap<Partition, String>,
    /// Whose records are being written.
    of: Partition,
}

/// Whether there was a journal before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There was none.
    Nothing,
    /// There was this device's.
    Journal,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The store below failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not what was written.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
    /// It belongs to another device.
    #[error(
        "the journal belongs to {found}, this device is {expected}: give each device a journal of its own"
    )]
    Identity {
        /// Whose it is.
        found: String,
        /// Who asks.
        expected: String,
    },
    /// It has the records of as many attached devices as it may have.
    #[error("the journal has the records of {MAX_PARTITIONS} devices: forget one that does not come back")]
    Full,
    /// A newer program wrote it.
    #[error(
        "the journal has format {found}, this program knows formats up to {FORMAT}: \
         run the newer program, or start with an empty journal"
    )]
    NewerFormat {
        /// Its format.
        found: u8,
    },
}

impl JournalError {
    /// Whether setting the journal aside and starting empty helps.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Store(StoreError::Damaged { .. }))
    }
}

impl Journal {
    /// Reads a journal back, entry by entry, and proves with a first commit that it can be written.
    ///
    /// Entries come in no useful order, those of attached devices among them. An absent journal comes into being in
    /// quarantine, and so do the records of a device that is not known here.
    pub fn open_shared(
        store: Box<dyn Store>,
        identity: &str,
        attached: &[Subject],
        mut restore: impl FnMut(Partition, Write),
    ) -> Result<(Self, Found), JournalError> {
        let (chunks, devices) = (BTreeMap::new(), BTreeMap::new());
        let mut journal = Self { store, chunks, devices, of: Partition::OWNER };
        let owner = journal.read(&mut restore)?;
        let found = match owner {
            Some(owner) if owner.identity != identity => {
                return Err(JournalError::Identity { found: owner.identity, expected: identity.into() });
            }
            Some(_) => Found::Journal,
            None => Found::Nothing,
        };
        let mut changes = Vec::new();
        journal.put(&mut changes, vec![space::OWNER], &Owner { identity: identity.into() });
        if found == Found::Nothing {
            journal.write(&mut changes, &Write::Quarantine(true));
            restore(Partition::OWNER, Write::Quarantine(true));
        }
        journal.begin_partitions(&mut changes, attached, &mut restore)?;
        journal.store.commit(&changes)?;
        Ok((journal, found))
    }

    /// The key in the store of the record, open or done, of a request.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn place_of_request(key: KeyHash) -> Vec<u8> {
        numbered(&keyed(space::OPEN_OR_DONE, &key.0), 0)
    }

    fn read(&mut self, restore: &mut impl FnMut(Partition, Write)) -> Result<Option<Owner>, JournalError> {
        let mut assembly = Assembly::default();
        let mut owner = None;
        let mut failure = None;
        let mut take = |key: &[u8], count: u16, value: &[u8]| -> Result<(), JournalError> {
            if count > 1 {
                self.chunks.insert(key.to_vec(), count);
            }
            let damaged = || JournalError::Damaged("a key of no known kind".into());
            let (of, key) = Partition::split(key).ok_or_else(damaged)?;
            match decode(key, value)? {
                Entry::Owner(found) if of == Partition::OWNER => owner = Some(found),
                Entry::Owner(device) => drop(self.devices.insert(of, device.identity)),
                Entry::Write(write) => restore(of, write),
            }
            Ok(())
        };
        self.store.scan(&mut |key, value| {
            if failure.is_none() {
                failure = assembly.add(key, value, &mut take).err();
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        assembly.finish(&mut take)?;
        Ok(owner)
    }

    fn write(&mut self, changes: &mut Vec<Change>, write: &Write) {
        match write {
            Write::Open(key, request) => {
                self.put(changes, keyed(space::OPEN_OR_DONE, &key.0), &Request::Open(request))
            }
            Write::Done(key, request) => {
                self.put(changes, keyed(space::OPEN_OR_DONE, &key.0), &Request::Done(request))
            }
            Write::Forget(key) => self.remove(changes, keyed(space::OPEN_OR_DONE, &key.0)),
            Write::Queue(place, queued) => {
                self.put(changes, keyed(space::QUEUE, &place.to_be_bytes()), queued)
            }
            Write::Unqueue(place) => self.remove(changes, keyed(space::QUEUE, &place.to_be_bytes())),
            Write::Attribute(name, value) => {
                self.put(changes, named(space::ATTRIBUTE, name), &(name, value));
            }
            Write::Unset(name) => self.remove(changes, named(space::ATTRIBUTE, name)),
            Write::Observe(field, generation) => {
                self.put(changes, named(space::OBSERVATION, field), &(field, generation));
            }
            Write::Unobserve(field) => self.remove(changes, named(space::OBSERVATION, field)),
            Write::Event(place, record) => {
                let name = event_name(*place);
                self.put(changes, named(space::ATTRIBUTE, &name), &(&name, record));
            }
            Write::EventGone(place) => self.remove(changes, named(space::ATTRIBUTE, &event_name(*place))),
            Write::Quarantine(on) => self.put(changes, vec![space::QUARANTINE], on),
            Write::Mark(moment) => self.put(changes, vec![space::MARK], moment),
        }
    }

    fn put(&mut self, changes: &mut Vec<Change>, key: Vec<u8>, record: &impl Serialize) {
        let (key, bytes) = (self.of.key(key), encode(record));
        let mut count: u16 = 0;
        for chunk in bytes.chunks(MAX_VALUE_BYTES) {
            changes.push(Change::Put { key: numbered(&key, count), value: chunk.to_vec() });
            count += 1;
        }
        let before =
            if count > 1 { self.chunks.insert(key.clone(), count) } else { self.chunks.remove(&key) };
        for surplus in count..before.unwrap_or(0) {
            changes.push(Change::Remove { key: numbered(&key, surplus) });
        }
    }

    fn remove(&mut self, changes: &mut Vec<Change>, key: Vec<u8>) {
        let key = self.of.key(key);
        for chunk in 0..self.chunks.remove(&key).unwrap_or(1) {
            changes.push(Change::Remove { key: numbered(&key, chunk) });
        }
    }
}

/// Puts the chunks of each record together again; they follow each other in key order.
#[derive(Default)]
struct Assembly {
    key: Vec<u8>,
    count: u16,
    value: Vec<u8>,
}

impl Assembly {
    fn add(
        &mut self,
        numbered_key: &[u8],
        value: &[u8],
        take: &mut impl FnMut(&[u8], u16, &[u8]) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let Some((key, number)) = numbered_key.split_last_chunk::<2>() else {
            return Err(JournalError::Damaged(format!("a key of {} bytes", numbered_key.len())));
        };
        if u16::from_be_bytes(*number) == 0 {
            self.finish(take)?;
            self.key = key.to_vec();
        } else if self.key != key || u16::from_be_bytes(*number) != self.count {
            return Err(JournalError::Damaged("a part of a record is missing".into()));
        }
        self.count += 1;
        self.value.extend_from_slice(value);
        Ok(())
    }

    fn finish(
        &mut self,
        take: &mut impl FnMut(&[u8], u16, &[u8]) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        if self.count == 0 {
            return Ok(());
        }
        let count = std::mem::take(&mut self.count);
        let result = take(&self.key, count, &self.value);
        self.value.clear();
        result
    }
}

enum Entry {
    Owner(Owner),
    Write(Write),
}

#[derive(Serialize, Deserialize)]
struct Owner {
    identity: String,
}

/// How an entry of the request space is written; externally tagged, so that raw JSON inside stays raw.
#[derive(Serialize)]
enum Request<'a> {
    #[serde(rename = "o")]
    Open(&'a OpenRequest),
    #[serde(rename = "d")]
    Done(&'a DoneRequest),
}

#[derive(Deserialize)]
enum ReadRequest {
    #[serde(rename = "o")]
    Open(Box<OpenRequest>),
    #[serde(rename = "d")]
    Done(Box<DoneRequest>),
}

fn decode(key: &[u8], value: &[u8]) -> Result<Entry, JournalError> {
    let damaged = || JournalError::Damaged("a key of no known kind".into());
    let (space, id) = key.split_first().ok_or_else(damaged)?;
    let body = checked(value)?;
    let write = match *space {
        space::OWNER => return Ok(Entry::Owner(parsed(body)?)),
        space::OPEN_OR_DONE => {
            let key = KeyHash(id.try_into().map_err(|_| damaged())?);
            match parsed(body)? {
                ReadRequest::Open(request) => Write::Open(key, request),
                ReadRequest::Done(request) => Write::Done(key, request),
            }
        }
        space::QUEUE => {
            let place = u64::from_be_bytes(id.try_into().map_err(|_| damaged())?);
            Write::Queue(place, parsed(body)?)
        }
        space::ATTRIBUTE => {
            let (name, value) = parsed::<(String, Value)>(body)?;
            attribute_or_event(name, value)
        }
        space::OBSERVATION => {
            let (field, generation) = parsed::<(String, u64)>(body)?;
            Write::Observe(field, generation)
        }
        space::QUARANTINE => Write::Quarantine(parsed(body)?),
        space::MARK => Write::Mark(parsed::<Moment>(body)?),
        _ => return Err(damaged()),
    };
    Ok(Entry::Write(write))
}

/// An event stands among the attributes, under a name that no product has: a program that knows no events takes it for
/// one of those and leaves it alone, so that a firmware that is rolled back still reads the journal.
fn attribute_or_event(name: String, value: Value) -> Write {
    let place = name.strip_prefix(EVENT).and_then(|place| place.parse().ok());
    match place.map(|place| (place, EventRecord::deserialize(&value))) {
        Some((place, Ok(record))) => Write::Event(place, Box::new(record)),
        _ => Write::Attribute(name, value),
    }
}

fn event_name(place: u64) -> String {
    format!("{EVENT}{place}")
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![FORMAT, 0, 0, 0, 0];
    serde_json::to_writer(&mut bytes, record).expect("records hold only text, numbers and raw JSON");
    let checksum = checksum(&bytes);
    bytes[1..HEADER_BYTES].copy_from_slice(&checksum);
    bytes
}

fn checked(value: &[u8]) -> Result<&[u8], JournalError> {
    let Some((header, body)) = value.split_first_chunk::<HEADER_BYTES>() else {
        return Err(JournalError::Damaged("a record is shorter than its header".into()));
    };
    // The header is the same in every format, so that damage is told from a newer program.
    if header[1..] != checksum(value) {
        return Err(JournalError::Damaged("the checksum of a record is wrong".into()));
    }
    if header[0] > FORMAT {
        return Err(JournalError::NewerFormat { found: header[0] });
    }
    Ok(body)
}

/// Of the version byte and the body.
fn checksum(record: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..1]);
    hasher.update(&record[HEADER_BYTES..]);
    hasher.finalize().to_be_bytes()
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, JournalError> {
    serde_json::from_slice(body).map_err(|error| JournalError::Damaged(error.to_string()))
}

/// Before the place of an event: the name of its attribute.
const EVENT: &str = "agent.event/";

/// The format of records that this program writes; it reads this one and every older one.
const FORMAT: u8 = 1;

/// Version byte and CRC-32.
const HEADER_BYTES: usize = 5;

#[cfg(test)]
mod tests;
