//! A gateway's devices, from their settings.

use std::time::Duration;

use iotdm_agent::{Attached, Builder};
use iotdm_core::{
    Accepted, Action, ChildExit, ChildProcess, Context, Empty, Failure, Handler, Performed, Policy, Reboot,
    Recovery, Refusal,
};
use iotdm_handlers::Scripts;

use super::assemble::AssemblyError;
use super::config::{AttachedDevice, CommandLine};

/// Attaches every device of the configuration.
pub(super) fn with_attached(builder: Builder, devices: &[AttachedDevice]) -> Result<Builder, AssemblyError> {
    devices.iter().try_fold(builder, |builder, device| Ok(builder.attach(attached(device)?)))
}

fn attached(device: &AttachedDevice) -> Result<Attached, AssemblyError> {
    let (type_id, device_id) = &device.name;
    let scripts = device.scripts.iter().cloned().fold(Scripts::new(), Scripts::add);
    let mut attached = Attached::new(type_id, device_id)?.device_info(device.info.clone()).with(scripts);
    if let Some(lifetime) = device.lifetime {
        attached = attached.lifetime(lifetime);
    }
    if let Some(reboot) = &device.reboot {
        let (late, perform_budget) = (reboot.late, reboot.budget.saturating_add(CLOSING_MARGIN));
        let handler = RebootCommand { command: reboot.command.clone(), time_limit: reboot.budget };
        attached = attached
            .on::<Reboot>(handler)
            .policy(Reboot::ROUTE, move |policy| *policy = Policy { late, perform_budget, ..*policy });
    }
    Ok(attached)
}

/// Restarts an attached device with a command that ends when it is back.
struct RebootCommand {
    command: CommandLine,
    time_limit: Duration,
}

impl Handler<Reboot> for RebootCommand {
    async fn handle(&self, _: &Context, _: &Empty) -> Result<Accepted, Refusal> {
        Ok(Accepted)
    }

    async fn after_ack(&self, cx: &Context, _: &Empty) -> Result<Performed, Failure> {
        let child = ChildProcess {
            args: self.command.args.clone(),
            time_limit: self.time_limit,
            ..ChildProcess::new(&self.command.program)
        };
        let output = cx.system().run(child).await.map_err(|error| Failure::new(error.to_string()))?;
        match output.exit {
            ChildExit::Status(0) => Ok(Performed::Complete),
            exit => Err(Failure::new(format!("the command for it ended with {exit:?}"))),
        }
    }

    /// The gateway was interrupted, and nobody knows how far the command was: a device that is restarted twice is
    /// restarted.
    async fn recover(&self, _: &Context, _: &Empty) -> Recovery {
        Recovery::RunAgain
    }
}

/// How much longer than its command the action may take: the command's group gets 5 s between TERM and KILL.
const CLOSING_MARGIN: Duration = Duration::from_secs(15);
