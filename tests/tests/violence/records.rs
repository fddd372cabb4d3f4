//! Numbered commits: from the number of the last one follows, byte for byte, what stands in the journal.

use std::collections::BTreeSet;
use std::time::Duration;

use iotdm_agent::engine::{Age, KeyHash, Moment, Now};
use iotdm_agent::journal::{
    AnswerRecord, Class, DoneRequest, Journal, JournalError, OpenRequest, Queued, StageRecord, Write,
};
use iotdm_agent::store::{StoreError, StoreSource};
use iotdm_core::BootId;
use serde_json::value::RawValue;

/// What was found in a journal.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Exactly what this commit and the ones before it leave.
    Intact(u64),
    /// It says itself that it is damaged.
    Damaged(JournalError),
    /// It cannot be used, and is not damaged.
    Refused(JournalError),
    /// It is something else, and says nothing.
    Wrong(String),
}

impl Verdict {
    /// One line, for a process that tells another.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Intact(commits) => format!("intact {commits}"),
            Self::Damaged(reason) => format!("damaged: {reason}"),
            Self::Refused(reason) => format!("refused: {reason}"),
            Self::Wrong(what) => format!("wrong: {what}"),
        }
    }
}

/// Opens the journal as an agent does when it starts, and compares it with what must stand in it.
pub(crate) fn read(source: &mut dyn StoreSource) -> Verdict {
    match open(source) {
        Ok((_, content)) => judge(&content),
        Err(reason) if reason.is_damage() => Verdict::Damaged(reason),
        Err(reason) => Verdict::Refused(reason),
    }
}

/// Opens the journal and returns the number of its last commit with it.
pub(crate) fn resume(source: &mut dyn StoreSource) -> Result<(Journal, u64), JournalError> {
    let (journal, content) = open(source)?;
    match judge(&content) {
        Verdict::Intact(commits) => Ok((journal, commits)),
        other => panic!("{}", other.line()),
    }
}

/// Makes the commits after `done`, up to and including `last`.
pub(crate) fn commit_to(journal: &mut Journal, done: u64, last: u64) -> Result<(), StoreError> {
    (done + 1..=last).try_for_each(|number| journal.commit(&batch(number)))
}

/// The commit of this number, from 1 on: requests of all stages, with bodies of up to several store values, come and
/// go, and so do answers that wait.
pub(crate) fn batch(number: u64) -> Vec<Write> {
    let mut writes = vec![request(number), waiting(number), attribute(number), mark(number)];
    if number > WAITING {
        writes.push(Write::Unqueue(number - WAITING));
    }
    writes
}

/// An own form of an entry, since records cannot be compared.
type Content = BTreeSet<String>;

fn open(source: &mut dyn StoreSource) -> Result<(Journal, Content), JournalError> {
    let mut content = Content::new();
    let store = source.open()?;
    let (journal, _) = Journal::open(store, IDENTITY, |entry| {
        let entry = format!("{entry:?}");
        assert!(content.insert(entry.clone()), "read twice: {entry:.200}");
    })?;
    Ok((journal, content))
}

fn judge(content: &Content) -> Verdict {
    let number = (content.iter())
        .find_map(|entry| {
            entry.strip_prefix("Attribute(\"commits\", Number(")?.split(')').next()?.parse().ok()
        })
        .unwrap_or(0);
    let expected = expected(number);
    match expected.symmetric_difference(content).next() {
        None => Verdict::Intact(number),
        Some(difference) => {
            let found = if content.contains(difference) { "there is" } else { "there is no" };
            Verdict::Wrong(format!("after commit {number} {found} {difference:.200}"))
        }
    }
}

fn expected(number: u64) -> Content {
    let recent = |count: u64| number.saturating_sub(count - 1).max(1)..=number;
    let requests = recent(REQUESTS).map(request).filter(|write| !matches!(write, Write::Forget(_)));
    let mut writes: Vec<Write> = requests.chain(recent(WAITING).map(waiting)).collect();
    writes.push(Write::Quarantine(true));
    if number > 0 {
        writes.extend([attribute(number), mark(number)]);
    }
    writes.iter().map(|write| format!("{write:?}")).collect()
}

fn request(number: u64) -> Write {
    let key = KeyHash([(number % REQUESTS) as u8; 16]);
    let body = body(number);
    let open = |stage| {
        Box::new(OpenRequest {
            sequence: number,
            subject: String::new(),
            req_id: raw(format!("\"{number}\"")),
            route: "mgmt/initiate/device/reboot".into(),
            d: Some(body.clone()),
            fingerprint: [number as u8; 16],
            attempt: 1,
            arrived: moment(number),
            age: Age::AtMostMs(number),
            works: false,
            stage,
        })
    };
    match number / REQUESTS % 4 {
        0 => Write::Open(key, open(StageRecord::Recorded { started: number.is_multiple_of(2) })),
        1 => Write::Open(key, open(StageRecord::Settled { response: body.clone(), boot: "boot".into() })),
        2 => Write::Done(
            key,
            Box::new(DoneRequest {
                sequence: number,
                subject: String::new(),
                fingerprint: [number as u8; 16],
                class: Class::Executed,
                answer: AnswerRecord::Stored(body),
                failure: None,
            }),
        ),
        _ => Write::Forget(key),
    }
}

fn waiting(number: u64) -> Write {
    let queued = match number % 2 {
        0 => Queued::Answer([number as u8; 16]),
        _ => Queued::Notify { field: format!("field {number}"), generation: number },
    };
    Write::Queue(number, queued)
}

fn attribute(number: u64) -> Write {
    Write::Attribute("commits".into(), number.into())
}

fn mark(number: u64) -> Write {
    Write::Mark(moment(number))
}

fn moment(number: u64) -> Moment {
    let now = Now {
        monotonic: Duration::ZERO,
        uptime: Duration::from_millis(number),
        wall: Duration::from_secs(1_794_182_400 + number),
    };
    Moment::at(now, &BootId("boot".into()))
}

/// Mostly short; each eighth is up to six values of the store long.
fn body(number: u64) -> Box<RawValue> {
    let mut random = fastrand::Rng::with_seed(number);
    let length = if number.is_multiple_of(8) { random.usize(4000..24_000) } else { random.usize(..600) };
    let text: String = (0..length).map(|_| random.alphanumeric()).collect();
    raw(format!("\"{text}\""))
}

fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).expect("it is a quoted word")
}

/// Whose journal it is.
const IDENTITY: &str = "d:org001:lamp:lamp1";

/// Requests that the journal knows at a time; each is written again after as many commits.
const REQUESTS: u64 = 24;

/// Places of the queue that are taken at a time.
const WAITING: u64 = 16;
