//! The journal: any bytes under any keys are read or called damaged, and what was read is written back as it was. Records
//! made of any content are read back as they were written.
#![no_main]

use arbitrary::Arbitrary;
use iotdm_agent::engine::{Age, KeyHash, Moment};
use iotdm_agent::journal::{
    AnswerRecord, Class, DoneRequest, EventRecord, Journal, JournalError, OpenRequest, Queued, StageRecord,
    Write,
};
use iotdm_agent::store::{Change, MAX_KEY_BYTES, MAX_VALUE_BYTES, MemoryDisk, StoreSource};
use iotdm_core::{LogEntry, Report, Severity};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Pairs of a store.
    Found(Vec<Pair<'a>>),
    /// Records of this program.
    Made(Vec<Record<'a>>),
}

#[derive(Arbitrary, Debug)]
struct Pair<'a> {
    space: u8,
    id: Id<'a>,
    chunk: u8,
    /// Whether header and checksum are as they should be, so that the body is looked at.
    sealed: bool,
    body: &'a str,
}

#[derive(Arbitrary, Debug)]
enum Id<'a> {
    None,
    Place(u64),
    Key([u8; 16]),
    Any(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Record<'a> {
    Open {
        key: u8,
        text: &'a str,
        number: u64,
        stage: u8,
        d: bool,
    },
    Done {
        key: u8,
        text: &'a str,
        number: u64,
        class: u8,
        observed: bool,
        failure: Option<&'a str>,
    },
    Forget(u8),
    Queue(u8, Sent<'a>),
    Unqueue(u8),
    Attribute(&'a str, &'a str),
    Observe(&'a str, u64),
    Unobserve(&'a str),
    Quarantine(bool),
    Mark(&'a str, u64, u64),
    Event(u8, &'a str, &'a [u8], bool),
    EventGone(u8),
    /// A body of several chunks.
    Long {
        key: u8,
        kibibytes: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum Sent<'a> {
    Answer([u8; 16]),
    Notify(&'a str, u64),
    Code(i32),
    Log(&'a str),
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Found(pairs) => found(&pairs),
        Input::Made(records) => made(&records),
    }
});

fn found(pairs: &[Pair<'_>]) {
    let mut disk = MemoryDisk::new();
    let changes: Vec<Change> = pairs.iter().map(change).collect();
    disk.open().expect("the disk works").commit(&changes).expect("the pairs are within bounds");
    let writes = match read(&mut disk) {
        Ok(writes) => writes,
        Err(error) => {
            let refused = matches!(error, JournalError::Identity { .. } | JournalError::NewerFormat { .. });
            return assert!(error.is_damage() || refused, "{error}");
        }
    };
    // Two names may not share a key, so what is read can differ in key from what is written: only once, though.
    let again = write_and_read(&writes);
    assert_eq!(shown(&write_and_read(&again)), shown(&again));
}

fn made(records: &[Record<'_>]) {
    let writes: Vec<Write> = records.iter().map(write).collect();
    let read = write_and_read(&writes);
    // The last of each stands.
    for (index, record) in writes.iter().enumerate() {
        let is_last = !writes[index + 1..].iter().any(|later| same_place(later, record));
        let takes_away = matches!(
            record,
            Write::Forget(_)
                | Write::Unqueue(_)
                | Write::Unobserve(_)
                | Write::Unset(_)
                | Write::EventGone(_)
        );
        if is_last && !takes_away {
            let text = format!("{record:?}");
            assert!(read.iter().any(|found| format!("{found:?}") == text), "lost: {text}");
        }
        if is_last && takes_away {
            assert!(!read.iter().any(|found| same_place(found, record)), "not gone: {record:?}");
        }
    }
}

fn same_place(one: &Write, other: &Write) -> bool {
    place(one) == place(other)
}

fn place(write: &Write) -> (u8, Vec<u8>) {
    match write {
        Write::Open(key, _) | Write::Done(key, _) | Write::Forget(key) => (0, key.0.to_vec()),
        Write::Queue(place, _) | Write::Unqueue(place) => (1, place.to_be_bytes().to_vec()),
        Write::Attribute(name, _) | Write::Unset(name) => (2, name.as_bytes().to_vec()),
        Write::Observe(name, _) | Write::Unobserve(name) => (3, name.as_bytes().to_vec()),
        Write::Quarantine(_) => (4, Vec::new()),
        Write::Mark(_) => (5, Vec::new()),
        Write::Event(place, _) | Write::EventGone(place) => (6, place.to_be_bytes().to_vec()),
    }
}

fn read(disk: &mut MemoryDisk) -> Result<Vec<Write>, JournalError> {
    let mut writes = Vec::new();
    Journal::open(disk.open()?, IDENTITY, |write| writes.push(write))?;
    Ok(writes)
}

/// What is found after these were written, in the order of the store.
fn write_and_read(writes: &[Write]) -> Vec<Write> {
    let mut disk = MemoryDisk::new();
    let store = disk.open().expect("the disk works");
    let (mut journal, _) = Journal::open(store, IDENTITY, |_| {}).expect("an empty disk is no damage");
    journal.commit(writes).expect("the disk works");
    read(&mut disk).expect("what was written is read")
}

fn shown(writes: &[Write]) -> Vec<String> {
    writes.iter().map(|write| format!("{write:?}")).collect()
}

fn change(pair: &Pair<'_>) -> Change {
    const SPACES: &[u8] = b"irqaocmd?";
    let mut key = vec![SPACES[usize::from(pair.space) % SPACES.len()]];
    match pair.id {
        Id::None => {}
        Id::Place(place) => key.extend(place.to_be_bytes()),
        Id::Key(id) => key.extend(id),
        Id::Any(id) => key.extend(&id[..id.len().min(MAX_KEY_BYTES - 3)]),
    }
    key.extend([0, pair.chunk % 3]);
    let mut value = pair.body.as_bytes().to_vec();
    if pair.sealed {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&[FORMAT]);
        hasher.update(&value);
        let header = [[FORMAT].as_slice(), &hasher.finalize().to_be_bytes()].concat();
        value.splice(0..0, header);
    }
    value.truncate(MAX_VALUE_BYTES);
    Change::Put { key, value }
}

fn write(record: &Record<'_>) -> Write {
    match *record {
        Record::Open { key, text, number, stage, d } => {
            Write::Open(KeyHash([key; 16]), Box::new(open(text, number, stage, d.then(|| raw(text)))))
        }
        Record::Done { key, text, number, class, observed, failure } => {
            let answer = match observed {
                true => AnswerRecord::Observed { req_id: raw(text), fields: vec![text.into(); 2] },
                false => AnswerRecord::Stored(raw(text)),
            };
            let record = DoneRequest {
                sequence: number,
                subject: text.into(),
                fingerprint: [key; 16],
                class: [Class::Executed, Class::Refused, Class::Passing][usize::from(class % 3)],
                answer,
                failure: failure.map(Into::into),
            };
            Write::Done(KeyHash([key; 16]), Box::new(record))
        }
        Record::Forget(key) => Write::Forget(KeyHash([key; 16])),
        Record::Queue(place, ref sent) => Write::Queue(place.into(), queued(sent)),
        Record::Unqueue(place) => Write::Unqueue(place.into()),
        Record::Attribute(name, value) => Write::Attribute(name.into(), value.into()),
        Record::Observe(field, generation) => Write::Observe(field.into(), generation),
        Record::Unobserve(field) => Write::Unobserve(field.into()),
        Record::Quarantine(on) => Write::Quarantine(on),
        Record::Mark(boot, uptime_ms, wall_ms) => {
            Write::Mark(Moment { boot: boot.into(), uptime_ms, wall_ms })
        }
        Record::Event(place, topic, payload, at_most_once) => {
            let payload = payload.to_vec().into();
            Write::Event(place.into(), Box::new(EventRecord { topic: topic.into(), payload, at_most_once }))
        }
        Record::EventGone(place) => Write::EventGone(place.into()),
        Record::Long { key, kibibytes } => {
            let text = "x".repeat(usize::from(kibibytes % 20) * 1024);
            Write::Open(KeyHash([key; 16]), Box::new(open("r", 1, 0, Some(raw(&text)))))
        }
    }
}

fn open(text: &str, number: u64, stage: u8, d: Option<Box<RawValue>>) -> OpenRequest {
    let (response, boot) = (raw(text), text.into());
    OpenRequest {
        sequence: number,
        subject: text.into(),
        req_id: raw(text),
        route: text.into(),
        d,
        fingerprint: number.to_be_bytes().repeat(2).try_into().expect("twice eight bytes"),
        attempt: u32::from(stage),
        arrived: Moment { boot: text.into(), uptime_ms: number, wall_ms: !number },
        age: if stage & 4 == 0 { Age::AtMostMs(number) } else { Age::Unknown },
        works: stage & 8 == 0,
        stage: match stage % 4 {
            0 => StageRecord::Recorded { started: stage & 16 == 0 },
            1 => StageRecord::Settled { response, boot },
            _ => StageRecord::Performing { response, boot },
        },
    }
}

fn queued(sent: &Sent<'_>) -> Queued {
    match *sent {
        Sent::Answer(key) => Queued::Answer(key),
        Sent::Notify(field, generation) => Queued::Notify { field: field.into(), generation },
        Sent::Code(code) => Queued::Report(Report::AddErrorCode(code)),
        Sent::Log(message) => Queued::Report(Report::AddLog(LogEntry {
            message: message.into(),
            timestamp: message.into(),
            data: message.is_empty().then(String::new),
            severity: Severity::Warning,
        })),
    }
}

/// A text that is JSON stands as it is, any other becomes a JSON string.
fn raw(text: &str) -> Box<RawValue> {
    let raw = RawValue::from_string(text.to_owned()).ok().filter(|raw| raw.get() != "null");
    raw.unwrap_or_else(|| serde_json::value::to_raw_value(text).expect("a text is JSON"))
}

const IDENTITY: &str = "d:org:type:id";

/// The format of records that the program writes.
const FORMAT: u8 = 1;
