use std::sync::Arc;
use std::time::Duration;

use super::super::FirmwareOptionsError;
use super::installer::{Installer, has_program};

/// How an image is installed, and how it is judged afterwards.
#[derive(Clone, Debug)]
pub struct InstallOptions {
    /// What installs it.
    pub installer: Arc<dyn Installer>,
    /// Asked once what was installed is in use, after the restart where there is one: exit status 0 says that it is
    /// healthy. It has 20 seconds. `{version}` and `{before}` are replaced as in the command of
    /// [`CommandInstaller`](super::CommandInstaller).
    pub health_check: Option<Vec<String>>,
    /// How soon the platform has to have answered manage once what was installed is in use (`docs/protocol.md` §6.1);
    /// counted from the first judgement, on a clock that goes on while the agent restarts.
    pub managed_within: Option<Duration>,
    /// How long the installation may take; the action's own budget bounds it too.
    pub time_limit: Duration,
    /// Whether installing is only logged, and the device not restarted.
    pub dry_run: bool,
}

impl InstallOptions {
    /// With this installer, and no health check: what was installed counts as healthy once it is in use.
    pub fn new(installer: impl Installer) -> Self {
        Self {
            installer: Arc::new(installer),
            health_check: None,
            managed_within: None,
            time_limit: DEFAULT_INSTALL_LIMIT,
            dry_run: false,
        }
    }

    pub(in crate::firmware) fn check(&self) -> Result<(), FirmwareOptionsError> {
        if self.health_check.as_deref().is_some_and(|command| !has_program(command)) {
            return Err(FirmwareOptionsError::Program("health check"));
        }
        if self.managed_within.is_some_and(|within| within.is_zero()) {
            return Err(FirmwareOptionsError::Zero("managed_within"));
        }
        self.installer.check()
    }
}

/// Writing an image to slow flash takes minutes; the action has half an hour in all.
const DEFAULT_INSTALL_LIMIT: Duration = Duration::from_secs(25 * 60);
