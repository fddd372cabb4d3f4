//! From a seed to what happens.

use std::time::Duration;

use fastrand::Rng;
use iotdm_platform::proxy::Direction;

use super::plan::{Ask, Ends, Event, Fate, Kind, Mood, Step, Work};

/// Makes the steps of a life; how often each kind of thing happens is decided here.
pub(super) struct Maker {
    rng: Rng,
    asked: Vec<Ask>,
    numbers: u32,
}

impl Maker {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), asked: Vec::new(), numbers: 0 }
    }

    pub(super) fn steps(mut self) -> Vec<Step> {
        (0..self.rng.usize(STEPS)).map(|_| self.step()).collect()
    }

    fn step(&mut self) -> Step {
        Step { after: self.pause(), event: self.event() }
    }

    /// Much happens at once or shortly after; some of it after hours.
    fn pause(&mut self) -> Duration {
        let (least, most) = match self.rng.u32(0..100) {
            0..=19 => (0, 0),
            20..=44 => (1, 200),
            45..=64 => (200, 5_000),
            65..=84 => (5_000, 5 * MINUTE),
            85..=95 => (5 * MINUTE, 60 * MINUTE),
            _ => (60 * MINUTE, 12 * 60 * MINUTE),
        };
        Duration::from_millis(self.rng.u64(least..=most))
    }

    fn event(&mut self) -> Event {
        match self.rng.u32(0..100) {
            0..=29 => self.ask(),
            30..=37 => self.replay(),
            38..=39 => self.reuse(),
            40 => self.rng.choice([Event::AskWithoutReqId, Event::Garbage]).expect("there are two"),
            41..=44 => Event::Report(self.number()),
            45..=47 => Event::SetAttribute(self.number()),
            48..=52 => Event::Crash(self.away()),
            53 => Event::Leave(self.away()),
            54..=79 => self.network(),
            80..=93 => self.broker(),
            94..=95 => Event::Mood(
                self.rng.choice([Mood::Answers, Mood::Busy, Mood::Silent]).expect("there are three"),
            ),
            96..=98 => Event::Fate(self.fate()),
            _ => Event::ClockLost(self.rng.bool()),
        }
    }

    fn network(&mut self) -> Event {
        let direction = if self.rng.bool() { Direction::Up } else { Direction::Down };
        match self.rng.u32(0..26) {
            0..=4 => Event::Cut,
            5..=9 => Event::CutAfter(direction, self.rng.u64(1..600)),
            10..=12 => Event::Delay(Duration::from_millis(self.rng.u64(0..3_000))),
            13..=14 => Event::BlackHole,
            15..=16 => Event::HalfOpen(direction),
            17..=18 => Event::Refuse,
            _ => Event::Heal,
        }
    }

    fn broker(&mut self) -> Event {
        match self.rng.u32(0..14) {
            0 => Event::BrokerRestart,
            1 => Event::SessionLost,
            2..=3 => Event::Takeover,
            4..=5 => Event::HoldPubacks(true),
            6..=7 => Event::HoldPubacks(false),
            8..=9 => Event::Redeliver,
            10 => Event::Duplicate(self.rng.bool()),
            11 => Event::DupFlag(self.rng.bool()),
            12 => Event::Renumber(self.rng.bool()),
            _ => Event::Unavailable(self.rng.u32(0..3) == 0),
        }
    }

    fn fate(&mut self) -> Fate {
        match self.rng.u32(0..6) {
            0 => Fate::NeverComes,
            1 => Fate::Fails,
            2 => Fate::DryRun,
            _ => Fate::Comes(Duration::from_millis(self.rng.u64(0..100_000))),
        }
    }

    fn ask(&mut self) -> Event {
        let number = self.number();
        let req_id = if number.is_multiple_of(7) { number.to_string() } else { format!("\"r{number}\"") };
        let ask = Ask { req_id, kind: self.kind() };
        self.asked.push(ask.clone());
        Event::Ask(ask)
    }

    fn replay(&mut self) -> Event {
        match self.rng.choice(&self.asked).cloned() {
            Some(ask) => Event::Ask(ask),
            None => self.ask(),
        }
    }

    /// Only the reqId of what leaves an outcome is used again: a 404 is forgotten once the broker has it.
    fn reuse(&mut self) -> Event {
        let kept = self.asked.iter().filter(|ask| ask.kind.outcome_is_kept());
        let Some(req_id) = self.rng.choice(kept.collect::<Vec<_>>()).map(|ask| ask.req_id.clone()) else {
            return self.ask();
        };
        Event::Ask(Ask { req_id, kind: self.kind() })
    }

    fn kind(&mut self) -> Kind {
        match self.rng.u32(0..20) {
            0..=4 => Kind::Once(self.work()),
            5..=7 => Kind::Again(self.work()),
            8..=9 => Kind::Fresh(self.work()),
            10..=11 => Kind::After(self.work()),
            12..=13 => Kind::Reboot,
            14 => {
                if self.rng.bool() {
                    Kind::FactoryReset
                } else {
                    Kind::Download
                }
            }
            15 => Kind::Update(self.number()),
            16 => Kind::Observe,
            17 => Kind::Cancel,
            18 => {
                if self.rng.bool() {
                    Kind::UnknownTopic
                } else {
                    Kind::UnknownAction
                }
            }
            _ => Kind::BadBody,
        }
    }

    fn work(&mut self) -> Work {
        let takes = match self.rng.u32(0..6) {
            0..=2 => 0,
            3 => self.rng.u64(1..200),
            _ => self.rng.u64(200..20_000),
        };
        let ends = match self.rng.u32(0..16) {
            0 => Ends::Refused,
            1 => Ends::Failed,
            2 => Ends::Never,
            _ => Ends::Well,
        };
        Work { takes: Duration::from_millis(takes), ends }
    }

    /// How long an agent is away: mostly a moment, sometimes long.
    fn away(&mut self) -> Duration {
        let most = if self.rng.u32(0..8) == 0 { 4 * 60 * MINUTE } else { 5_000 };
        Duration::from_millis(self.rng.u64(0..most))
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }
}

/// How many steps a life has.
const STEPS: std::ops::RangeInclusive<usize> = 20..=100;

/// Milliseconds in a minute.
const MINUTE: u64 = 60_000;
