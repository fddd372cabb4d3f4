//! From settings to an agent: what the configuration enables is registered, and nothing else.

mod install;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iotdm_agent::system::LinuxSystem;
use iotdm_agent::{Agent, BuildError, Builder};
use iotdm_core::{
    Action, Download, FactoryReset, IdentityError, Late, Policy, Reboot, Restart, Route, System, Update,
};
use iotdm_handlers::diagnostics::{
    FactsOptionsError, HttpUploader, LogUpload, SystemFacts, UploadOptionsError,
};
use iotdm_handlers::firmware::{Firmware, FirmwareOptions, FirmwareOptionsError, HttpFetcher, Verification};
use iotdm_handlers::http::{HttpClient, HttpClientError};
use iotdm_handlers::reboot::{FactoryResets, Logind, Reboots, RestartLimit, Rules, VetoCommand};
use iotdm_handlers::{Diagnostics, Scripts};

use super::attached::with_attached;
use super::config::{
    Actions, CommandLine, DiagnosticsAction, FactoryResetAction, FirmwareAction, HttpSettings, RebootAction,
    RebootMeans, ResetMeans, RestartRules, Settings, Verify,
};

/// An agent, and what runs beside it.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) agent: Agent,
    /// What the agent tells of itself, where the configuration wants that.
    pub(crate) diagnostics: Option<Diagnostics>,
    /// How the machine is, where the configuration wants that to be told.
    pub(crate) facts: Option<ToldFacts>,
}

/// How a machine is, and where that is told besides the answers to who asks.
#[derive(Debug)]
pub(crate) struct ToldFacts {
    pub(crate) facts: SystemFacts,
    pub(crate) system: Arc<dyn System>,
    /// In `metadata`.
    pub(crate) metadata: bool,
    /// As an event, each time this has passed.
    pub(crate) event_interval: Option<Duration>,
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
    if let Some(location) = &settings.location {
        builder = builder.location(location.clone());
    }
    builder = with_attached(builder, &settings.attached)?;
    for (name, threshold) in &settings.thresholds {
        builder = builder.threshold(name, threshold.clone());
    }
    if let Some(action) = &actions.reboot {
        builder = with_reboot(builder, action)?;
    }
    if let Some(action) = &actions.factory_reset {
        builder = with_factory_reset(builder, action, actions.reboot.as_ref())?;
    }
    if let Some(action) = &actions.firmware {
        builder = with_firmware(builder, action)?;
    }
    builder = builder.replaceable(scripts(actions));
    for command in &settings.commands {
        builder = builder.with(command.clone());
    }
    let diagnostics = actions.diagnostics.as_ref().map(|_| Diagnostics::new(system.clone()));
    let mut facts = None;
    if let (Some(action), Some(diagnostics)) = (&actions.diagnostics, &diagnostics) {
        builder = with_diagnostics(builder, action, diagnostics)?;
        if let Some(action) = &action.facts {
            let told = SystemFacts::new(action.options.clone())?;
            builder = builder.with(told.clone());
            let (metadata, event_interval) = (action.metadata, action.event_interval);
            facts = Some(ToldFacts { facts: told, system, metadata, event_interval });
        }
        for route in action.routes() {
            builder = with_late(builder, route, action.late);
        }
    }
    Ok(Assembly { agent: builder.build()?, diagnostics, facts })
}

/// Why settings make no agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssemblyError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("actions.firmware: {0}")]
    Firmware(#[from] FirmwareOptionsError),
    #[error("attached: {0}")]
    Attached(#[from] IdentityError),
    #[error("{section}: {error}")]
    Http { section: &'static str, error: HttpClientError },
    #[error("actions.diagnostics: {0}")]
    Upload(#[from] UploadOptionsError),
    #[error("actions.diagnostics.facts: {0}")]
    Facts(#[from] FactsOptionsError),
    #[error("{0:?} is no UTF-8 text: name programs by paths that are")]
    NotText(PathBuf),
}

fn system(actions: &Actions) -> Result<LinuxSystem, AssemblyError> {
    let mut system = LinuxSystem::new().map_err(BuildError::from)?;
    if let Some(action) = &actions.reboot {
        system =
            system.dry_run_of(Restart::Reboot, action.dry_run).restart_limit(Restart::Reboot, action.budget);
        system = match &action.means {
            RebootMeans::Logind => system.reboot_command(Logind::new().restart_command()),
            RebootMeans::Command(Some(command)) => system.reboot_command(words(command)?),
            RebootMeans::Command(None) => system,
        };
    }
    if let Some(action) = &actions.factory_reset {
        let kind = Restart::FactoryReset;
        system = system.dry_run_of(kind, action.dry_run).restart_limit(kind, action.budget);
        if let ResetMeans::Command(Some(command)) = &action.means {
            system = system.factory_reset_command(words(command)?);
        }
    }
    Ok(system)
}

fn with_reboot(builder: Builder, action: &RebootAction) -> Result<Builder, AssemblyError> {
    let rules = with_logind(rules(&action.rules), action);
    let builder = builder.on::<Reboot>(Reboots::new().under(rules));
    let budget = restart_budget(action.budget, &action.rules);
    let late = action.late;
    Ok(builder
        .policy(Reboot::ROUTE, move |policy| *policy = Policy { late, perform_budget: budget, ..*policy }))
}

fn with_factory_reset(
    builder: Builder,
    action: &FactoryResetAction,
    reboot: Option<&RebootAction>,
) -> Result<Builder, AssemblyError> {
    let mut rules = rules(&action.rules);
    let (handler, attempts) = match &action.means {
        ResetMeans::Command(_) => (FactoryResets::by_command(), FactoryReset::ATTEMPTS),
        ResetMeans::Staged { wipe, then } => {
            // Its restart is the reboot's.
            rules = reboot.into_iter().fold(rules, with_logind);
            let then = then.as_ref().map(words).transpose()?;
            let handler = match (wipe, then) {
                (Some(wipe), None) => FactoryResets::wiping(wipe.clone()),
                (Some(wipe), Some(then)) => FactoryResets::wiping(wipe.clone()).then(then, action.budget),
                (None, then) => FactoryResets::running(then.unwrap_or_default(), action.budget),
            };
            (handler.dry_run(action.dry_run), STAGED_RESET_ATTEMPTS)
        }
    };
    let late = action.late;
    let budget = restart_budget(action.budget, &action.rules);
    Ok(builder.on::<FactoryReset>(handler.under(rules)).policy(FactoryReset::ROUTE, move |policy| {
        *policy = Policy { late, perform_budget: budget, attempts, ..*policy };
    }))
}

fn rules(rules: &RestartRules) -> Rules {
    let mut made = Rules::new().max_delay(rules.max_delay);
    if let Some(windows) = &rules.windows {
        made = made.within(windows.clone());
    }
    if let Some((restarts, within)) = rules.limit {
        made = made.at_most(RestartLimit::new(restarts, within));
    }
    if let Some((command, time_limit)) = &rules.veto {
        let veto = VetoCommand::new(&command.program, command.args.clone());
        made = made.veto(veto.time_limit(*time_limit));
    }
    made
}

/// A dry run asks nobody whether the machine could be restarted.
fn with_logind(rules: Rules, reboot: &RebootAction) -> Rules {
    let asks = matches!(reboot.means, RebootMeans::Logind) && !reboot.dry_run;
    if asks { rules.logind(Logind::new()) } else { rules }
}

/// The rules are asked once more before the command has its time.
fn restart_budget(command: Duration, rules: &RestartRules) -> Duration {
    let delay = if rules.veto.is_some() { rules.max_delay } else { Duration::ZERO };
    command.saturating_add(delay).saturating_add(RULES_MARGIN).saturating_add(CLOSING_MARGIN)
}

fn with_firmware(builder: Builder, action: &FirmwareAction) -> Result<Builder, AssemblyError> {
    let http = http("actions.firmware", &action.http)?;
    let install = install::options(action)?;
    let options = FirmwareOptions {
        verification: match action.verify {
            Verify::Required => Verification::Required,
            Verify::IfGiven => Verification::IfGiven,
            Verify::Signature => Verification::Signed,
        },
        public_keys: action.public_keys.clone(),
        stall_limit: action.stall_limit,
        fruitless_attempts: action.fruitless_attempts,
        bytes_per_second: action.bytes_per_second,
        max_image_bytes: action.max_image_bytes,
        allow_file_uris: action.allow_file_uri,
        install: Some(install),
        ..FirmwareOptions::new(&action.staging_dir)
    };
    // Each start of the work has this long: for the installation, or for the judgement.
    let install = action.install_budget.max(action.managed_within.unwrap_or_default());
    let (late, download) = (action.late, action.download_budget);
    let builder = builder
        .with(Firmware::new(options, Arc::new(HttpFetcher::with_client(http)))?)
        .policy(Download::ROUTE, move |policy| *policy = Policy { late, perform_budget: download, ..*policy })
        .policy(Update::ROUTE, move |policy| {
            *policy = Policy { late, perform_budget: install.saturating_add(INSTALL_MARGIN), ..*policy };
        });
    Ok(builder)
}

fn http(section: &'static str, settings: &HttpSettings) -> Result<HttpClient, AssemblyError> {
    let wrong = |error| AssemblyError::Http { section, error };
    let mut client = HttpClient::new();
    if let Some(pem) = &settings.ca_pem {
        client = client.with_ca_pem(pem).map_err(wrong)?;
    }
    if let Some((chain, key)) = &settings.client_pem {
        client = client.with_client_pem(chain, key.expose().as_bytes()).map_err(wrong)?;
    }
    Ok(match &settings.proxy {
        Some(proxy) => client.with_proxy(proxy.clone()),
        None => client,
    })
}

fn with_diagnostics(
    builder: Builder,
    action: &DiagnosticsAction,
    diagnostics: &Diagnostics,
) -> Result<Builder, AssemblyError> {
    let builder = builder.with(diagnostics.clone());
    let Some(upload) = &action.upload else { return Ok(builder) };
    let http = http("actions.diagnostics.upload", &upload.http)?;
    let uploader = Arc::new(HttpUploader::with_client(http));
    let upload = LogUpload::new(diagnostics.clone(), upload.options.clone(), uploader)?;
    Ok(builder.with(upload))
}

fn with_late(builder: Builder, route: Route, late: Late) -> Builder {
    builder.policy(route, move |policy| policy.late = late)
}

/// The scripts of the configuration.
pub(crate) fn scripts(actions: &Actions) -> Scripts {
    actions.scripts.iter().cloned().fold(Scripts::new(), Scripts::add)
}

/// The program and its arguments in one list.
pub(super) fn words(command: &CommandLine) -> Result<Vec<String>, AssemblyError> {
    let program = command.program.to_str().ok_or_else(|| AssemblyError::NotText(command.program.clone()))?;
    Ok(std::iter::once(program.to_owned()).chain(command.args.iter().cloned()).collect())
}

/// How much longer than its command an action may take: the command's group gets 5 s between TERM and KILL, and a busy
/// machine a little more. Past this the engine would speak instead of the command's own time limit.
const CLOSING_MARGIN: Duration = Duration::from_secs(15);

/// How long logind and the application may take for an answer when a restart is to begin: two calls of 6 s and 10 s,
/// and the two calls once more after a delay.
const RULES_MARGIN: Duration = Duration::from_secs(37);

/// How often a reset in steps may be begun in all: it goes on where it was interrupted, and a half-wiped device is of no
/// use.
const STAGED_RESET_ATTEMPTS: u32 = 20;

/// How much longer than the install command, or the time to be managed, an update may take: proving the image once more,
/// the 30 s that the handler keeps back to report how the command ended, the 5 min that a roll-back may take, and
/// beginning the restart.
const INSTALL_MARGIN: Duration = Duration::from_secs(7 * 60);
