//! The reference agent: one TOML file in, an exit code out. Everything a device does is the library's.

mod assemble;
mod attached;
mod check;
mod cli;
mod config;
mod exit;
#[cfg(fuzzing)]
pub mod fuzzing;
mod logging;
mod package;
mod protect;
mod reload;
mod run;
mod signals;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use iotdm_agent::Agent;

use cli::{Cli, Command, Parsed};
use config::{Settings, Surroundings};
use exit::Exit;
use run::RunError;

/// Reads the command line and the configuration, and does what was asked for.
pub(crate) fn main() -> ExitCode {
    protect::protect();
    match Cli::parse_args(std::env::args_os()) {
        Parsed::Cli(cli) => perform(&cli),
        Parsed::Answered(text) => {
            say(&text);
            Exit::Stopped
        }
        Parsed::Misused(text) => {
            complain(&text);
            Exit::Usage
        }
    }
    .into()
}

fn perform(cli: &Cli) -> Exit {
    let mut settings = match Settings::load(cli.command.config(), &Surroundings::of_process()) {
        Ok(settings) => settings,
        Err(error) => {
            complain(&format!("{error}\n"));
            return Exit::Configuration;
        }
    };
    settings.log = cli.log_settings(settings.log);
    match &cli.command {
        Command::Check { config } => {
            with_agent(config, &settings, |_| Ok(check::describe(config, &settings)))
        }
        Command::ExtensionPackage { config, bundle } => with_agent(config, &settings, |agent| {
            package::print(&agent.extension_packages(), bundle.as_deref())
        }),
        Command::Run { config } => {
            logging::start(settings.log);
            for warning in &settings.warnings {
                tracing::warn!("{warning}");
            }
            match run::run(config, &settings) {
                Ok(()) => Exit::Stopped,
                Err(error) => {
                    let exit = Exit::of(&error);
                    tracing::error!(exit_code = exit.code(), "{error}");
                    exit
                }
            }
        }
    }
}

/// Prints what there is to say of an agent with these settings; it is not started.
fn with_agent(
    config: &Path,
    settings: &Settings,
    text: impl FnOnce(&Agent) -> Result<String, String>,
) -> Exit {
    let assembly = match assemble::assemble(settings).map_err(RunError::from) {
        Ok(assembly) => assembly,
        Err(error) => {
            complain(&format!("{}: {error}\n", config.display()));
            return Exit::of(&error);
        }
    };
    match text(&assembly.agent) {
        Ok(text) => {
            say(&text);
            Exit::Stopped
        }
        Err(reason) => {
            complain(&format!("{reason}\n"));
            Exit::Usage
        }
    }
}

/// Prints a result. A reader that has gone, such as `| head`, is no reason to fail.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Prints what keeps the program from running, before there is a log.
fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
