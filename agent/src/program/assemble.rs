//! From settings to an agent: what the configuration enables is registered, and nothing else.

mod install;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::system::LinuxSystem;
use iotdm_agent::{Agent, BuildError, Builder};
use iotdm_core::{Action, Download, FactoryReset, Late, Policy, Reboot, Restart, Route, System, Update};
use iotdm_handlers::diagnostics::{ClearErrorCodes, ClearLog};
use iotdm_handlers::firmware::{
    Firmware, FirmwareOptions, FirmwareOptionsError, HttpFetcher, HttpFetcherError, Verification,
};
use iotdm_handlers::{Diagnostics, Restarts, ScriptSpec, Scripts};

use super::config::{
    Actions, CommandLine, DiagnosticsAction, FirmwareAction, RestartAction, ScriptAction, Settings, Verify,
};

/// An agent, and what runs beside it.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) agent: Agent,
    /// What the agent tells of itself, where the configuration wants that.
    pub(crate) diagnostics: Option<Diagnostics>,
}

/// Makes an agent of settings. Nothing is connected, opened or created.
///
/// # Errors
/// [`AssemblyError`] for what only the library can judge.
pub(crate) fn assemble(settings: &Settings) -> Result<Assembly, AssemblyError> {
    let actions = &settings.actions;
    let system: Arc<dyn System> = Arc::new(system(actions)?);
    let mut builder =
        Agent::builder(settings.config.clone()).journal(&settings.journal).system(system.clone());
    if let Some(action) = &actions.reboot {
        builder = with_restart::<Reboot>(builder.on::<Reboot>(Restarts), action);
    }
    if let Some(action) = &actions.factory_reset {
        builder = with_restart::<FactoryReset>(builder.on::<FactoryReset>(Restarts), action);
    }
    if let Some(action) = &actions.firmware {
        builder = with_firmware(builder, action)?;
    }
    let scripts = actions.scripts.iter().map(spec).fold(Scripts::new(), Scripts::add);
    builder = builder.with(scripts);
    let diagnostics = actions.diagnostics.as_ref().map(|_| Diagnostics::new(system));
    if let (Some(action), Some(diagnostics)) = (&actions.diagnostics, &diagnostics) {
        builder = with_diagnostics(builder, action, diagnostics);
    }
    Ok(Assembly { agent: builder.build()?, diagnostics })
}

/// Why settings make no agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssemblyError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("actions.firmware: {0}")]
    Firmware(#[from] FirmwareOptionsError),
    #[error("actions.firmware.ca_file: {0}")]
    Fetcher(#[from] HttpFetcherError),
    #[error("{0:?} is no UTF-8 text: name programs by paths that are")]
    NotText(PathBuf),
}

fn system(actions: &Actions) -> Result<LinuxSystem, AssemblyError> {
    let mut system = LinuxSystem::new().map_err(BuildError::from)?;
    let kinds = [(Restart::Reboot, &actions.reboot), (Restart::FactoryReset, &actions.factory_reset)];
    for (kind, action) in kinds {
        let Some(action) = action else { continue };
        system = system.dry_run_of(kind, action.dry_run).restart_limit(kind, action.budget);
        let Some(command) = &action.command else { continue };
        system = match kind {
            Restart::Reboot => system.reboot_command(words(command)?),
            Restart::FactoryReset => system.factory_reset_command(words(command)?),
        };
    }
    Ok(system)
}

fn with_restart<A: Action>(builder: Builder, action: &RestartAction) -> Builder {
    let (late, perform_budget) = (action.late, action.budget.saturating_add(CLOSING_MARGIN));
    builder.policy(A::ROUTE, move |policy| *policy = Policy { late, perform_budget, ..*policy })
}

fn with_firmware(builder: Builder, action: &FirmwareAction) -> Result<Builder, AssemblyError> {
    let fetcher = match &action.ca_pem {
        None => HttpFetcher::new(),
        Some(pem) => HttpFetcher::new().with_ca_pem(pem)?,
    };
    let install = install::options(action)?;
    let options = FirmwareOptions {
        verification: match action.verify {
            Verify::Required => Verification::Required,
            Verify::IfGiven => Verification::IfGiven,
        },
        max_image_bytes: action.max_image_bytes,
        allow_file_uris: action.allow_file_uri,
        install: Some(install),
        ..FirmwareOptions::new(&action.staging_dir)
    };
    // Each start of the work has this long: for the installation, or for the judgement.
    let install = action.install_budget.max(action.managed_within.unwrap_or_default());
    let (late, download) = (action.late, action.download_budget);
    let builder = builder
        .with(Firmware::new(options, Arc::new(fetcher))?)
        .policy(Download::ROUTE, move |policy| *policy = Policy { late, perform_budget: download, ..*policy })
        .policy(Update::ROUTE, move |policy| {
            *policy = Policy { late, perform_budget: install.saturating_add(INSTALL_MARGIN), ..*policy };
        });
    Ok(builder)
}

fn with_diagnostics(builder: Builder, action: &DiagnosticsAction, diagnostics: &Diagnostics) -> Builder {
    let builder = builder.with(diagnostics.clone());
    let builder = with_late(builder, ClearErrorCodes::ROUTE, action.late);
    with_late(builder, ClearLog::ROUTE, action.late)
}

fn with_late(builder: Builder, route: Route, late: Late) -> Builder {
    builder.policy(route, move |policy| policy.late = late)
}

fn spec(script: &ScriptAction) -> ScriptSpec {
    ScriptSpec {
        bundle: script.bundle.clone(),
        action: script.action.clone(),
        program: script.command.program.clone(),
        args: script.command.args.clone(),
        directory: script.directory.clone(),
        time_limit: script.time_limit,
        output_limit: script.output_limit,
        env: script.env.clone(),
        interrupted: script.interrupted,
        late: script.late,
    }
}

/// The program and its arguments in one list.
pub(super) fn words(command: &CommandLine) -> Result<Vec<String>, AssemblyError> {
    let program = command.program.to_str().ok_or_else(|| AssemblyError::NotText(command.program.clone()))?;
    Ok(std::iter::once(program.to_owned()).chain(command.args.iter().cloned()).collect())
}

/// How much longer than its command an action may take: the command's group gets 5 s between TERM and KILL, and a busy
/// machine a little more. Past this the engine would speak instead of the command's own time limit.
const CLOSING_MARGIN: Duration = Duration::from_secs(15);

/// How much longer than the install command an update may take: proving the image once more, the 30 s that the handler
/// keeps back to report how the command ended, and beginning the restart.
const INSTALL_MARGIN: Duration = Duration::from_secs(2 * 60);
