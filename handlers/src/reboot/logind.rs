use std::fmt::Write;
use std::time::Duration;

use iotdm_core::{ChildExit, ChildProcess, Context, Refusal};
use serde::Deserialize;

/// Restarts through systemd-logind, and asks it first.
///
/// It is spoken to over D-Bus by `busctl`, which comes with logind itself (systemd 240 or later): a D-Bus library would
/// be several hundred KiB of the agent for three calls. [`restart_command`](Self::restart_command) is for
/// [`System::restart`](iotdm_core::System::restart), so that a dry run and a firmware update's restart go the same way;
/// [`check`](Self::check) is for the decision, with [`Rules::logind`](super::Rules::logind).
///
/// ```
/// use iotdm_handlers::reboot::{Logind, Reboots, Rules};
///
/// let logind = Logind::new();
/// let command = logind.restart_command(); // LinuxSystem::reboot_command(command)
/// assert_eq!(command.first().map(String::as_str), Some("busctl"));
/// let handler = Reboots::new().under(Rules::new().logind(logind));
/// # let _ = handler;
/// ```
///
/// # Assumptions
/// The agent runs as root, or polkit allows its user `org.freedesktop.login1.reboot`.
///
/// # Caveats
/// Between the check and the restart an inhibitor may come; logind then refuses the agent's user, unless that is root.
#[derive(Clone, Debug)]
pub struct Logind {
    bus: String,
}

impl Default for Logind {
    fn default() -> Self {
        Self::new()
    }
}

impl Logind {
    /// logind on the system bus.
    #[must_use]
    pub fn new() -> Self {
        Self { bus: "--system".into() }
    }

    /// logind on another bus, for a test that has its own.
    #[must_use]
    pub fn at(address: &str) -> Self {
        Self { bus: format!("--address={address}") }
    }

    /// The command that has logind restart the machine. Nobody is asked for a password.
    #[must_use]
    pub fn restart_command(&self) -> Vec<String> {
        let mut words = vec![BUSCTL.to_owned()];
        words.extend(self.arguments("Reboot", &["b", "false"]));
        words
    }

    /// Whether logind would restart the machine now.
    ///
    /// # Errors
    /// 409 when somebody blocks a shutdown, with who and why; 501 when this machine cannot be restarted by logind; 500
    /// when logind does not allow it to this agent, or cannot be asked.
    pub async fn check(&self, cx: &Context) -> Result<(), Refusal> {
        let (inhibitors,): (Vec<Inhibitor>,) = self.ask(cx, "ListInhibitors").await?;
        let blocking: Vec<&Inhibitor> = inhibitors.iter().filter(|inhibitor| inhibitor.blocks()).collect();
        if !blocking.is_empty() {
            return Err(Refusal::busy(told(&blocking)));
        }
        let (can,): (String,) = self.ask(cx, "CanReboot").await?;
        match can.as_str() {
            "yes" => Ok(()),
            "na" => Err(Refusal::unsupported("logind cannot restart this machine")),
            // One that came between the two questions.
            "inhibited" | "inhibitor-blocked" | "challenge-inhibitor-blocked" => {
                Err(Refusal::busy("a shutdown is blocked; ask again later"))
            }
            other => Err(Refusal::failed("logind does not allow the agent to restart this machine").log(
                format!("CanReboot gives {:?}; polkit rules on org.freedesktop.login1.reboot", quoted(other)),
            )),
        }
    }

    /// A call without parameters.
    async fn ask<T: for<'de> Deserialize<'de>>(&self, cx: &Context, method: &str) -> Result<T, Refusal> {
        #[derive(Deserialize)]
        struct Answer<T> {
            data: T,
        }
        let failed = |log: String| Refusal::failed("logind cannot be asked").log(format!("{method}: {log}"));
        let child = ChildProcess {
            args: self.arguments(method, &[]),
            time_limit: CALL_LIMIT,
            output_limit: OUTPUT_LIMIT_BYTES,
            ..ChildProcess::new(BUSCTL)
        };
        let output = cx.system().run(child).await.map_err(|error| failed(error.to_string()))?;
        if output.exit != ChildExit::Status(0) {
            return Err(failed(format!("busctl ended with {}", output.reason())));
        }
        if output.truncated {
            return Err(failed(format!("the answer has more than {OUTPUT_LIMIT_BYTES} bytes")));
        }
        let answer: Result<Answer<T>, _> = serde_json::from_slice(&output.stdout);
        answer
            .map(|answer| answer.data)
            .map_err(|error| failed(format!("the answer cannot be read: {error}")))
    }

    fn arguments(&self, method: &str, parameters: &[&str]) -> Vec<String> {
        let timeout = format!("--timeout={}", BUS_LIMIT.as_secs());
        let fixed = [self.bus.as_str(), "--json=short", &timeout, "call", SERVICE, OBJECT, INTERFACE, method];
        fixed.iter().chain(parameters).map(ToString::to_string).collect()
    }
}

/// What somebody does not want to happen at present: what, who, why, mode, user id, process id.
#[derive(Deserialize)]
struct Inhibitor(String, String, String, String, #[expect(dead_code)] u32, #[expect(dead_code)] u32);

impl Inhibitor {
    /// Whether it keeps the machine from being shut down. Others only delay that by some seconds, or, as
    /// `block-weak`, do not mean whoever may restart the machine.
    fn blocks(&self) -> bool {
        let Self(what, _, _, mode, ..) = self;
        mode == "block" && what.split(':').any(|what| what == "shutdown")
    }
}

/// Who blocks, and why. The texts are anybody's: they are bounded, and control characters are escaped.
fn told(blocking: &[&Inhibitor]) -> String {
    let mut text = String::from("a shutdown is blocked by ");
    for (index, Inhibitor(_, who, why, ..)) in blocking.iter().take(MAX_NAMED).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(text, "{separator}{} ({})", quoted(who), quoted(why)).expect("a text takes everything");
    }
    if blocking.len() > MAX_NAMED {
        write!(text, " and {} more", blocking.len() - MAX_NAMED).expect("a text takes everything");
    }
    text
}

fn quoted(text: &str) -> String {
    text.chars().take(MAX_QUOTED_CHARS).flat_map(char::escape_debug).collect()
}

const BUSCTL: &str = "busctl";
const SERVICE: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const INTERFACE: &str = "org.freedesktop.login1.Manager";

/// How long logind may take for an answer; it needs milliseconds, and a machine under load a second.
const BUS_LIMIT: Duration = Duration::from_secs(4);

/// How long `busctl` may take. Both questions and a veto fit into the 30 s of a decision.
const CALL_LIMIT: Duration = Duration::from_secs(6);

/// How much of an answer is read, in bytes: a hundred inhibitors and more.
const OUTPUT_LIMIT_BYTES: usize = 64 * 1024;

/// How many of those who block are named.
const MAX_NAMED: usize = 3;

/// How much of a text of somebody else's is repeated, in characters.
const MAX_QUOTED_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use iotdm_core::ChildError;

    use super::*;
    use crate::fake::{FakeServices, FakeSystem, context, output};

    const NOBODY: &str = r#"{"type":"a(ssssuu)","data":[[]]}"#;

    /// What is decided when logind lists these inhibitors and then says this.
    async fn check(inhibitors: &str, can: &str) -> Result<(), Refusal> {
        let system = FakeSystem::new();
        system.next_run(Ok(output(0, inhibitors, "")));
        system.next_run(Ok(output(0, &format!(r#"{{"type":"s","data":[{can:?}]}}"#), "")));
        Logind::new().check(&context(&system, &FakeServices::new())).await
    }

    async fn refused(inhibitors: &str, can: &str) -> (u16, String) {
        let refusal = check(inhibitors, can).await.unwrap_err();
        (refusal.rc().as_u16(), refusal.message().to_owned())
    }

    fn inhibitors(all: &[(&str, &str, &str, &str)]) -> String {
        let all: Vec<_> = all.iter().map(|(what, who, why, mode)| (what, who, why, mode, 1000, 17)).collect();
        serde_json::json!({"type": "a(ssssuu)", "data": [all]}).to_string()
    }

    #[tokio::test]
    async fn a_machine_that_may_be_restarted_passes() {
        assert_eq!(check(NOBODY, "yes").await, Ok(()));
    }

    #[tokio::test]
    async fn each_answer_of_logind_has_a_refusal_of_its_own() {
        for (can, rc) in
            [("na", 501), ("no", 500), ("challenge", 500), ("inhibitor-blocked", 409), ("soon", 500)]
        {
            assert_eq!(refused(NOBODY, can).await.0, rc, "{can}");
        }
    }

    #[tokio::test]
    async fn whoever_blocks_a_shutdown_is_named() {
        let blocked = inhibitors(&[
            ("sleep", "lid", "closed", "block"),
            ("shutdown", "NetworkManager", "delays", "delay"),
            ("shutdown", "weak", "for users", "block-weak"),
            ("sleep:shutdown", "apt", "upgrade\u{7}", "block"),
        ]);
        assert_eq!(
            refused(&blocked, "yes").await,
            (409, "a shutdown is blocked by apt (upgrade\\u{7})".into())
        );
        let harmless =
            inhibitors(&[("sleep:idle", "lid", "closed", "block"), ("shutdown", "n", "w", "delay")]);
        assert_eq!(check(&harmless, "yes").await, Ok(()));
    }

    #[tokio::test]
    async fn a_crowd_of_inhibitors_makes_a_short_message() {
        let long = "x".repeat(1000);
        let crowd = inhibitors(&[("shutdown", long.as_str(), long.as_str(), "block"); 20]);
        let (rc, message) = refused(&crowd, "yes").await;
        assert_eq!(rc, 409);
        assert!(message.len() < 500 && message.ends_with("and 17 more"), "{message}");
    }

    #[tokio::test]
    async fn a_logind_that_cannot_be_asked_restarts_nothing() {
        let missing = ChildError::NotStarted { program: "busctl".into(), reason: "not found".into() };
        let stuck = ChildError::TimedOut { program: "busctl".into(), limit: CALL_LIMIT };
        let cut = iotdm_core::ChildOutput { truncated: true, ..output(0, NOBODY, "") };
        for result in [
            Err(missing),
            Err(stuck),
            Ok(output(1, "", "Failed to connect to bus: /run/secret")),
            Ok(output(0, "no JSON", "")),
            Ok(output(0, r#"{"type":"s","data":["x"]}"#, "")),
            Ok(cut),
        ] {
            let system = FakeSystem::new();
            system.next_run(result.clone());
            let refusal = Logind::new().check(&context(&system, &FakeServices::new())).await.unwrap_err();
            assert_eq!(
                (refusal.rc().as_u16(), refusal.message()),
                (500, "logind cannot be asked"),
                "{result:?}"
            );
            assert!(refusal.log_message().is_some_and(|log| log.starts_with("ListInhibitors: ")));
        }
    }

    #[test]
    fn the_restart_is_a_call_that_asks_nobody_for_a_password() {
        let command = Logind::at("unix:path=/tmp/bus").restart_command();
        assert_eq!(command[..2], ["busctl", "--address=unix:path=/tmp/bus"]);
        assert_eq!(command[command.len() - 3..], ["Reboot", "b", "false"]);
    }
}
