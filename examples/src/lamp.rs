//! A lamp, for examples that need something to act upon.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The driver of the lamp, here without a lamp.
#[derive(Debug, Default)]
pub struct Lamp {
    calibrating: AtomicBool,
    level: AtomicU8,
}

/// A brightness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Percent {
    /// 0 is dark, 100 is full.
    pub level: Level,
}

/// 0 to 100. The platform's parameters are texts (`docs/protocol.md` §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Level(u8);

impl TryFrom<String> for Level {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let level = text.parse().ok().filter(|level| *level <= 100);
        level.map(Self).ok_or("expected a number from 0 to 100")
    }
}

impl From<Level> for String {
    fn from(level: Level) -> Self {
        level.0.to_string()
    }
}

impl Lamp {
    /// While it calibrates, a restart would leave it with wrong values.
    pub fn is_calibrating(&self) -> bool {
        self.calibrating.load(Ordering::Relaxed)
    }

    /// Fades to dark, so that a restart is not seen as a flash.
    pub async fn park(&self) {
        tokio::time::sleep(FADE).await;
        self.level.store(0, Ordering::Relaxed);
    }

    /// Shines this bright from here on.
    pub fn dim(&self, to: Percent) -> Percent {
        self.level.store(to.level.0, Ordering::Relaxed);
        to
    }

    /// Begins or ends a calibration.
    pub fn calibrate(&self, calibrating: bool) {
        self.calibrating.store(calibrating, Ordering::Relaxed);
    }

    /// How bright it is, in percent.
    pub fn level(&self) -> u8 {
        self.level.load(Ordering::Relaxed)
    }
}

/// How long a fade takes.
const FADE: Duration = Duration::from_secs(2);
