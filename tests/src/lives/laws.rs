//! What must hold of a life, judged from outside only: by what the broker and the handlers saw, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iotdm_core::Report;
use iotdm_platform::broker::Seen;
use serde_json::Value;

use super::chronicle::{Entry, Moment, What};
use super::hold;
use super::plan::{Ends, Event, Fate, Kind};
use super::product::REFUSE_AFTER;
use super::world::{LAST_REQ_IDS, Life, RESPONSES};

/// The laws, as they are told.
pub const LAWS: &[&str] = &[
    "P1: what a session took is acknowledged as often as it was sent, and nothing is left at the end",
    "P2: one request has one outcome; what answers in the 200s was done, and done before it was answered",
    "P2: what may not be repeated starts once; nothing starts after it was answered",
    "P2: another request with a reqId that is known is answered 400",
    "P3: every acknowledged delivery is followed by its answer, with a code that the request can have",
    "P4: a report that was confirmed reaches the platform",
    "P5: work after a 202 begins when the broker has it, and begins",
    "P5: what the machine was restarted for is not done again",
    "P5: no manage between the 202 of a restart and its end",
    "P6: nothing starts more often than its attempts",
    "P9: nothing starts when it is older than its refuse_after",
    "the end: managed, it serves, and a calm hour costs two manages and no connection",
];

/// What is broken, each with the law's name in front.
#[must_use]
pub fn broken(life: &Life) -> Vec<String> {
    let requests = Requests::of(&life.entries);
    let mut broken = life.at_the_end.clone();
    for (req_id, request) in &requests.0 {
        broken.extend(request.broken(&life.entries).into_iter().map(|law| format!("{law} ({req_id})")));
    }
    for req_id in LAST_REQ_IDS {
        let answers = requests.0.get(req_id).map(|request| &request.answers);
        if !answers.is_some_and(|answers| answers.iter().any(|(_, answer)| answer["rc"] == 200)) {
            broken.push(format!("the end: it does not serve: {answers:?}"));
        }
    }
    broken.extend(lost_reports(&life.entries));
    broken.extend(hold::broken(&life.entries));
    broken.extend(unquiet(&life.entries));
    broken
}

/// What was seen of one reqId; the numbers are places in the chronicle.
#[derive(Default)]
struct Request {
    kinds: Vec<Kind>,
    /// When the first copy was sent.
    first_sent: Option<usize>,
    /// When each copy was sent that a session took and did not lose.
    sent: Vec<usize>,
    acknowledged: Vec<usize>,
    /// The different requests that were acknowledged, by topic and payload.
    bodies: BTreeSet<(String, Vec<u8>)>,
    answers: Vec<(usize, Value)>,
    began: Vec<(usize, Moment)>,
    ended: Vec<(usize, Moment)>,
}

struct Requests(BTreeMap<String, Request>);

impl Requests {
    fn of(entries: &[Entry]) -> Self {
        let mut all: BTreeMap<String, Request> = BTreeMap::new();
        for (place, entry) in entries.iter().enumerate() {
            match &entry.what {
                What::Sent(ask) => {
                    let request = all.entry(ask.req_id.clone()).or_default();
                    if !request.kinds.contains(&ask.kind) {
                        request.kinds.push(ask.kind);
                    }
                    request.first_sent.get_or_insert(place);
                    request.sent.push(place);
                }
                What::Unreached(req_id) => {
                    all.entry(req_id.clone()).or_default().sent.pop();
                }
                What::Step(Event::SessionLost) => {
                    for request in all.values_mut() {
                        request.sent.truncate(request.acknowledged.len());
                    }
                }
                What::Handler { req_id, moment, ended, .. } => {
                    let request = all.entry(req_id.clone()).or_default();
                    (if *ended { &mut request.ended } else { &mut request.began }).push((place, *moment));
                }
                What::Wire(sighting) => see(&mut all, place, &sighting.what),
                _ => {}
            }
        }
        Self(all)
    }
}

fn see(all: &mut BTreeMap<String, Request>, place: usize, seen: &Seen) {
    match seen {
        Seen::Acknowledged { topic, payload, .. } if topic != "iotdm-1/response" => {
            if let Some(request) = req_id(payload).and_then(|req_id| all.get_mut(&req_id)) {
                request.acknowledged.push(place);
                request.bodies.insert((topic.clone(), payload.to_vec()));
            }
        }
        Seen::Published { topic, payload } if topic == RESPONSES => {
            if let Some(req_id) = req_id(payload) {
                let answer = serde_json::from_slice(payload).unwrap_or_default();
                all.entry(req_id).or_default().answers.push((place, answer));
            }
        }
        _ => {}
    }
}

fn req_id(payload: &[u8]) -> Option<String> {
    let message: Value = serde_json::from_slice(payload).ok()?;
    message.get("reqId").map(Value::to_string)
}

impl Request {
    fn broken(&self, entries: &[Entry]) -> Vec<String> {
        let mut broken = Vec::new();
        let mut law = |holds: bool, text: String| {
            if !holds {
                broken.push(text);
            }
        };
        let outcomes = self.outcomes();
        let (copies, acknowledged) = (self.sent.len(), self.acknowledged.len());
        law(acknowledged >= copies, format!("P1: {copies} copies, {acknowledged} acknowledged"));
        law(
            outcomes.len() <= 1 || self.kinds.iter().any(Kind::may_change),
            format!("P2: different outcomes {outcomes:?}"),
        );
        law(self.was_done_first(), "P2: answered as done before it was done".into());
        law(!self.starts_after_answer(), "P2: started after it was answered".into());
        law(
            self.acknowledged.last() < self.answers.last().map(|(place, _)| place)
                || self.acknowledged.is_empty(),
            "P3: a delivery was not answered".into(),
        );
        for answer in self.answers.iter().filter(|answer| !self.has_code(answer, entries)) {
            law(false, format!("P3: no answer to such a request: {}", answer.1));
        }
        law(self.performs_follow_promises(), "P5: work before the broker had the 202".into());
        law(self.promise_is_kept(entries), "P5: a 202, and nothing was done".into());
        for moment in [Moment::Handle, Moment::AfterAck] {
            let (starts, limit) = (self.starts(moment), self.attempts(moment));
            law(starts <= limit, format!("P2, P6: {moment:?} was started {starts} times, at most {limit}"));
        }
        law(!self.restarts_twice(entries), "P5: a restart was repeated after the restart".into());
        law(self.tells_reuse(), "P2: another request with its reqId was not answered as such".into());
        law(!self.starts_late(entries), "P9: started late".into());
        broken
    }

    /// The different answers that are kept.
    fn outcomes(&self) -> BTreeSet<String> {
        self.kept_answers().map(|(_, answer)| answer.to_string()).collect()
    }

    /// The answers, without those that say that the reqId was another request's, and without what may be the answer to
    /// a request that leaves no outcome: after that one, the reqId is free for the next request.
    fn kept_answers(&self) -> impl Iterator<Item = &(usize, Value)> {
        let passes = |answer: &Value| {
            let has_code = |kind: &Kind| kind.codes().iter().any(|code| answer["rc"] == *code);
            self.kinds.iter().any(|kind| !kind.outcome_is_kept() && has_code(kind))
        };
        self.answers.iter().filter(move |(_, answer)| !is_reuse(answer) && !passes(answer))
    }

    fn starts(&self, moment: Moment) -> usize {
        self.began.iter().filter(|(_, began)| *began == moment).count()
    }

    fn attempts(&self, moment: Moment) -> usize {
        let of = |kind: &Kind| match (kind, moment) {
            (Kind::Once(_) | Kind::Fresh(_), Moment::Handle) => 1,
            (Kind::Download, _) => 20,
            (Kind::Again(_) | Kind::After(_) | Kind::Reboot | Kind::FactoryReset, _) => 3,
            _ => 0,
        };
        self.kinds.iter().map(of).max().unwrap_or(0)
    }

    /// A 200 of a handler comes after its end, and a 202 after its decision.
    fn was_done_first(&self) -> bool {
        let has_handler = |kind: &Kind| kind.works() || kind.promises();
        if !self.kinds.iter().all(has_handler) {
            return true;
        }
        let done = self.ended.iter().find(|(_, moment)| *moment == Moment::Handle);
        let first =
            self.answers.iter().find(|(_, answer)| [200, 202].map(Value::from).contains(&answer["rc"]));
        first.is_none_or(|(answered, _)| done.is_some_and(|(ended, _)| ended < answered))
    }

    fn starts_after_answer(&self) -> bool {
        let answered = self.kept_answers().next().map(|(place, _)| *place);
        let last_start = self.began.iter().rfind(|(_, moment)| *moment == Moment::Handle);
        answered.zip(last_start).is_some_and(|(answered, (start, _))| *start > answered)
    }

    fn performs_follow_promises(&self) -> bool {
        let first = self.began.iter().find(|(_, moment)| *moment == Moment::AfterAck);
        first.is_none_or(|(began, _)| self.promised().is_some_and(|promised| promised < *began))
    }

    /// Where the broker got the first 202.
    fn promised(&self) -> Option<usize> {
        self.answers.iter().find(|(_, answer)| answer["rc"] == 202).map(|(place, _)| *place)
    }

    /// What was promised is begun; a restart of the machine is as good as the one that was promised.
    fn promise_is_kept(&self, entries: &[Entry]) -> bool {
        let Some(promised) = self.promised() else { return true };
        let restarted = || entries[promised..].iter().any(|entry| matches!(entry.what, What::Boot(_)));
        self.starts(Moment::AfterAck) > 0 || self.kinds.iter().any(Kind::restarts) && restarted()
    }

    /// What the machine has been restarted for since it began is judged, and not done again.
    fn restarts_twice(&self, entries: &[Entry]) -> bool {
        let began: Vec<usize> = self
            .began
            .iter()
            .filter(|(_, moment)| *moment == Moment::AfterAck)
            .map(|(place, _)| *place)
            .collect();
        let booted = |pair: &[usize]| {
            entries[pair[0]..pair[1]].iter().any(|entry| matches!(entry.what, What::Boot(_)))
        };
        self.kinds.iter().all(Kind::restarts) && began.windows(2).any(booted)
    }

    /// Of different requests with one reqId all but one are told that it is another's, where outcomes are kept.
    fn tells_reuse(&self) -> bool {
        let is_told = self.answers.iter().any(|(_, answer)| is_reuse(answer));
        self.bodies.len() < 2 || is_told || !self.kinds.iter().all(Kind::outcome_is_kept)
    }

    /// Counted from the oldest copy that was not lost with a session.
    fn starts_late(&self, entries: &[Entry]) -> bool {
        let [Kind::Fresh(_)] = self.kinds[..] else { return false };
        let places = self.sent.first().zip(self.began.first());
        places.is_some_and(|(sent, (start, _))| {
            entries[*start].at > entries[*sent].at + REFUSE_AFTER + ON_ITS_WAY
        })
    }

    fn has_code(&self, (place, answer): &(usize, Value), entries: &[Entry]) -> bool {
        if is_reuse(answer) {
            return self.kinds.len() > 1;
        }
        let rc = answer["rc"].as_u64().unwrap_or_default();
        let from = self.first_sent.unwrap_or(*place);
        let interruptions = interruptions(entries, from, *place);
        self.kinds
            .iter()
            .any(|kind| kind.codes().contains(&rc) || rc == 500 && interruptions >= kind.patience())
    }
}

/// How often something may have cut work short between these places: an end of the agent, or a restart that takes
/// running work with it.
fn interruptions(entries: &[Entry], from: usize, to: usize) -> usize {
    let end = entries[to].at + AT_THE_SAME_TIME;
    let until = entries[to..].iter().take_while(|entry| entry.at <= end).count() + to;
    let restarting = |entry: &&Entry| matches!(entry.what, What::Ended(_) | What::Restart(..));
    entries[from..until].iter().filter(restarting).count()
}

fn is_reuse(answer: &Value) -> bool {
    answer["rc"] == 400 && answer["message"].as_str().is_some_and(|text| text.contains("another request"))
}

impl Kind {
    /// Whether a handler works before it answers.
    const fn works(&self) -> bool {
        matches!(self, Self::Once(_) | Self::Again(_) | Self::Fresh(_))
    }

    /// Whether the answer is a promise.
    const fn promises(&self) -> bool {
        matches!(self, Self::After(_) | Self::Reboot | Self::FactoryReset | Self::Download)
    }

    /// Whether a later copy may get another answer: an observation has its current value, and what is refused without
    /// having run is not kept.
    const fn may_change(&self) -> bool {
        matches!(self, Self::Observe | Self::BadBody)
    }

    /// The codes it can be answered with.
    const fn codes(&self) -> &'static [u64] {
        match self {
            Self::Once(work) | Self::Again(work) => match work.ends {
                Ends::Well => &[200],
                Ends::Refused => &[409],
                Ends::Failed | Ends::Never => &[500],
            },
            Self::Fresh(work) => match work.ends {
                Ends::Well => &[200, 409],
                Ends::Refused => &[409],
                Ends::Failed | Ends::Never => &[500, 409],
            },
            Self::After(work) => match work.ends {
                Ends::Refused => &[409],
                _ => &[202],
            },
            Self::Reboot | Self::FactoryReset | Self::Download => &[202, 409],
            Self::Update(_) => &[204],
            Self::Observe | Self::Cancel => &[200],
            Self::UnknownTopic => &[404],
            Self::UnknownAction => &[501],
            Self::BadBody => &[400],
        }
    }

    /// How many interruptions make a 500 of it.
    const fn patience(&self) -> usize {
        match self {
            Self::Once(_) | Self::Fresh(_) | Self::BadBody => 1,
            Self::Again(_) | Self::After(_) | Self::Reboot | Self::FactoryReset => 3,
            Self::Download => 20,
            _ => usize::MAX,
        }
    }
}

fn lost_reports(entries: &[Entry]) -> Vec<String> {
    let published = |entry: &Entry| match &entry.what {
        What::Wire(sighting) => match &sighting.what {
            Seen::Published { topic, payload } if topic != RESPONSES => {
                let message: Value = serde_json::from_slice(payload).ok()?;
                Some((topic.ends_with("/location"), message["d"].to_string()))
            }
            _ => None,
        },
        _ => None,
    };
    let arrived: BTreeSet<String> = entries.iter().filter_map(published).map(|(_, d)| d).collect();
    let last_location = entries.iter().rposition(|entry| published(entry).is_some_and(|(is_one, _)| is_one));
    let confirmed = entries.iter().enumerate().filter_map(|(place, entry)| match &entry.what {
        // Locations that wait are one report, of the newest.
        What::Confirmed(Report::Location(_)) if last_location.is_some_and(|last| last > place) => None,
        What::Confirmed(report) => report.body(),
        _ => None,
    });
    confirmed
        .filter(|body| !arrived.contains(&body.to_string()))
        .map(|body| format!("P4: a report was confirmed and never arrived: {body}"))
        .collect()
}

/// What a calm hour may not hold.
fn unquiet(entries: &[Entry]) -> Vec<String> {
    let calm = entries.iter().skip_while(|entry| !matches!(entry.what, What::Quiet));
    let (mut published, mut connected) = (0, 0);
    for entry in calm {
        if let What::Wire(sighting) = &entry.what {
            published += usize::from(matches!(sighting.what, Seen::Published { .. }));
            connected += usize::from(matches!(sighting.what, Seen::Connected { .. }));
        }
    }
    let quiet = published <= MANAGES_AN_HOUR && connected == 0;
    let broken = || format!("the end: {published} messages and {connected} connections in a calm hour");
    (!quiet).then(broken).into_iter().collect()
}

impl Fate {
    /// Whether the machine said that it is about to go down.
    pub(super) const fn is_promised(self) -> bool {
        matches!(self, Self::Comes(_) | Self::NeverComes)
    }
}

/// How long a request may be on its way to a device that is online, beside its age: a delayed network, a broker whose
/// window is full, a dead connection that nobody has noticed yet.
const ON_ITS_WAY: Duration = Duration::from_secs(3 * 60);

/// How far apart what happens in one batch may be seen over a slow network.
const AT_THE_SAME_TIME: Duration = Duration::from_secs(1);

/// Manage is renewed twice in an hour at the most, with a lifetime of one.
const MANAGES_AN_HOUR: usize = 2;
