//! What the tour has shown: each promise with the observation that bears it.

use std::time::Duration;

use iotdm_core::Code;

use super::super::screen::seconds;
use super::super::world::{CUT_AT_BYTE, IMAGE_BYTES};
use super::super::{SandboxError, device::SelfTest};
use super::Tour;
use crate::{Event, Happening, Outcome, RequestHandle};

/// What was observed along the way.
#[derive(Default)]
pub(super) struct Evidence {
    pub(super) reboot: Option<RequestHandle>,
    pub(super) reboot_took_boots: u64,
    pub(super) replay_took_boots: u64,
    pub(super) late: Option<RequestHandle>,
    pub(super) after_unreadable: Option<RequestHandle>,
    pub(super) refused: Vec<RequestHandle>,
    pub(super) own_refusal: Option<RequestHandle>,
    pub(super) overrun: Option<RequestHandle>,
    pub(super) overrun_took: Option<Duration>,
    /// When a request beside the overrunning one was answered, if it was still running then.
    pub(super) went_on_beside: Option<Duration>,
    /// The levels of `lamp` that were notified, in order.
    levels: Vec<String>,
}

impl Evidence {
    pub(super) fn note(&mut self, event: &Event) {
        if let Happening::Notified(fields) = &event.happening {
            let lamp = fields.iter().filter(|field| field.field == "lamp");
            self.levels.extend(lamp.map(|field| field.value["level"].to_string()));
            self.levels.truncate(LEVELS_LIMIT);
        }
    }
}

/// One promise.
struct Promise {
    text: &'static str,
    shown: bool,
    evidence: String,
}

impl Tour {
    /// Prints table and promises; the texts of those that were not shown.
    pub(in super::super) fn conclude(&mut self) -> Result<Vec<String>, SandboxError> {
        self.screen.chapter("What happened", "every request of the tour")?;
        self.table()?;
        self.screen.chapter("What was promised, and shown", "each with what was observed")?;
        let mut promises = self.about_restarts();
        promises.extend(self.about_firmware());
        promises.extend(self.about_refusals());
        promises.extend(self.about_answers());
        for promise in &promises {
            self.screen.promise(promise.shown, promise.text, &promise.evidence)?;
        }
        Ok(promises.iter().filter(|promise| !promise.shown).map(|promise| promise.text.into()).collect())
    }

    fn about_restarts(&self) -> Vec<Promise> {
        let view = self.world.platform.device(&self.world.device);
        let (manages, starts) = (view.map_or(0, |view| view.manages), self.world.system.starts());
        let runs = |handle: &RequestHandle| self.world.runs.of(handle.req_id());
        let reboot = self.evidence.reboot.as_ref();
        let tracked = reboot.map(RequestHandle::snapshot);
        let (answers, differing) = tracked.as_ref().map_or((0, 0), |t| (t.answers, t.differing_answers));
        let ran = reboot.map_or(0, runs);
        let complete = tracked.as_ref().and_then(crate::Tracked::outcome) == Some(Outcome::Complete);
        let (boots, more) = (self.evidence.reboot_took_boots, self.evidence.replay_took_boots);
        vec![
            Promise {
                text: "the device manages itself at every start",
                shown: starts > 0 && manages == starts,
                evidence: format!("{manages} manages for {starts} starts"),
            },
            Promise {
                text: "a reboot is complete only when the device is back",
                shown: complete && boots == 1,
                evidence: format!("202, {boots} boot, manage"),
            },
            Promise {
                text: "a replayed request is answered and not executed",
                shown: answers == 2 && ran == 1 && more == 0,
                evidence: format!("{answers} answers, {ran} run, {more} boots after the replay"),
            },
            Promise {
                text: "the replay gets the stored answer, byte for byte, also after restarts",
                shown: answers == 2 && differing == 0,
                evidence: format!("{differing} of {answers} answers differ"),
            },
        ]
    }

    fn about_firmware(&self) -> Vec<Promise> {
        let transfers = self.world.images.transfers();
        let resumed = transfers.get(1).map_or(0, |transfer| transfer.from);
        let sent: u64 = transfers.iter().map(|transfer| transfer.sent).sum();
        let installed = self.world.system.installed();
        let view = self.world.platform.device(&self.world.device);
        let version = view.and_then(|view| view.device_info?.fw_version).unwrap_or_default();
        let levels = self.evidence.levels.join(", ");
        vec![
            Promise {
                text: "a broken download goes on where it broke",
                shown: transfers.len() == 2 && resumed > 0 && resumed <= CUT_AT_BYTE,
                evidence: format!("resumed at byte {resumed}; {sent} bytes sent for {IMAGE_BYTES}"),
            },
            Promise {
                text: "exactly the image that the platform named is installed, once",
                shown: installed == [self.world.images.sha256()],
                evidence: format!("{} installation, {}", installed.len(), short(&installed)),
            },
            Promise {
                text: "the new version is told after the restart",
                shown: version == "2.0.0",
                evidence: format!("deviceInfo.fwVersion {version}"),
            },
            Promise {
                text: "an observed attribute is notified, and no longer after cancel",
                shown: levels == "80",
                evidence: format!("levels notified: {levels}"),
            },
        ]
    }

    fn about_refusals(&self) -> Vec<Promise> {
        let runs = |handle: &RequestHandle| self.world.runs.of(handle.req_id());
        let (late, late_runs) = self.evidence.late.as_ref().map_or((None, 0), |late| (rc(late), runs(late)));
        let codes: Vec<Option<Code>> = self.evidence.refused.iter().map(rc).collect();
        let expected = [400, 404, 501, 501].map(|code| Some(Code::from_u16(code)));
        let ran: u32 = self.evidence.refused.iter().map(runs).sum();
        let own = self.evidence.own_refusal.as_ref().and_then(|handle| handle.snapshot().answer);
        let (own_rc, own_message) = own.map_or((None, None), |own| (Some(own.rc), own.message));
        let after = self.evidence.after_unreadable.as_ref().and_then(rc);
        vec![
            Promise {
                text: "a request that arrives too late is refused and does not run",
                shown: late == Some(Code::CONFLICT) && late_runs == 0,
                evidence: format!("rc {}, {late_runs} runs", code(late)),
            },
            Promise {
                text: "malformed, unknown and unsupported requests get their reason and do not run",
                shown: codes == expected && ran == 0,
                evidence: format!(
                    "rc {}, {ran} runs",
                    codes.iter().map(|rc| code(*rc)).collect::<Vec<_>>().join(" ")
                ),
            },
            Promise {
                text: "a handler's own refusal reaches the platform with its reason",
                shown: own_rc == Some(Code::BAD_REQUEST) && own_message.is_some(),
                evidence: format!("rc {}, {}", code(own_rc), own_message.unwrap_or_default()),
            },
            Promise {
                text: "bytes that cannot be read stop nothing",
                shown: after == Some(Code::OK),
                evidence: format!("the request behind them: rc {}", code(after)),
            },
        ]
    }

    fn about_answers(&self) -> Vec<Promise> {
        let overrun = self.evidence.overrun.as_ref().and_then(rc);
        let took = self.evidence.overrun_took.unwrap_or_default();
        let budget = <SelfTest as iotdm_core::Action>::BUDGET;
        let answered = self.rows.iter().filter(|row| row.rc.is_some()).count();
        vec![
            Promise {
                text: "a handler that overruns its budget is ended and answered",
                shown: overrun == Some(Code::FAILED) && took >= budget && took < budget + OVERRUN_MARGIN,
                evidence: format!("rc {} after {}", code(overrun), seconds(took)),
            },
            Promise {
                text: "meanwhile other requests are carried out",
                shown: self.evidence.went_on_beside.is_some(),
                evidence: self.evidence.went_on_beside.map_or("none was".into(), |time| {
                    format!("one was answered after {}, while the self test ran", seconds(time))
                }),
            },
            Promise {
                text: "every request with a reqId is answered",
                shown: answered > 0 && answered == self.rows.len(),
                evidence: format!("{answered} of {}", self.rows.len()),
            },
        ]
    }
}

fn rc(handle: &RequestHandle) -> Option<Code> {
    handle.snapshot().answer.map(|answer| answer.rc)
}

fn code(rc: Option<Code>) -> String {
    rc.map_or("none".into(), |rc| rc.to_string())
}

fn short(digests: &[String]) -> &str {
    digests.first().map_or("none", |digest| &digest[.."sha256:".len() + 12])
}

/// What an answer may take beyond the budget: a cancelled handler has 2 s to end by itself, and machines are busy.
const OVERRUN_MARGIN: Duration = Duration::from_secs(5);

/// Notified levels that are kept.
const LEVELS_LIMIT: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::super::screen::{Look, Screen};
    use super::super::super::world::World;
    use super::*;

    #[tokio::test]
    async fn a_tour_that_showed_nothing_claims_nothing() {
        let (world, sources) = World::start().await.unwrap();
        let screen = Screen::new(Box::new(std::io::sink()), Look::Plain);
        let mut tour = Tour::new(world, sources, screen);
        let about =
            [tour.about_restarts(), tour.about_firmware(), tour.about_refusals(), tour.about_answers()];
        let promises: Vec<Promise> = about.into_iter().flatten().collect();
        let claimed: Vec<&str> = promises.iter().filter(|promise| promise.shown).map(|p| p.text).collect();
        assert!(claimed.is_empty(), "{claimed:?}");
        assert_eq!(tour.conclude().unwrap().len(), promises.len());
        assert!(tour.end().await.1, "nothing is left");
    }
}
