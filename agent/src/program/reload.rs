//! Other scripts without a restart, on SIGHUP.

use std::path::PathBuf;
use std::sync::Arc;

use iotdm_agent::Device;
use tokio::sync::Notify;

use super::assemble::scripts;
use super::config::{Settings, Surroundings};

/// Reads the configuration again each time it is asked to, and puts its scripts in the place of those that serve. What
/// cannot be used changes nothing and is logged as `check` would tell it.
pub(super) async fn reload(config: PathBuf, device: Device, asked: Arc<Notify>) {
    loop {
        asked.notified().await;
        let path = config.clone();
        let read = tokio::task::spawn_blocking(move || Settings::load(&path, &Surroundings::of_process()));
        let settings = match read.await {
            Ok(Ok(settings)) => settings,
            Ok(Err(error)) => {
                for problem in error.to_string().lines() {
                    tracing::error!("{problem}");
                }
                tracing::error!("the configuration cannot be used; the scripts stay as they are");
                continue;
            }
            Err(error) => {
                tracing::error!("the configuration was not read: {error}; the scripts stay as they are");
                continue;
            }
        };
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let count = settings.actions.scripts.len();
        match device.replace(scripts(&settings.actions)).await {
            Ok(()) => tracing::info!(
                "scripts were reloaded, {count} serve; whatever else has changed in the configuration counts from the \
                 next start on"
            ),
            Err(error) => tracing::error!("{error}; the scripts stay as they are"),
        }
    }
}
