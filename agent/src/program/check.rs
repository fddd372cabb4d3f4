use std::path::Path;
use std::time::Duration;

use iotdm_core::{Action, Interrupted, Late, Route};
use iotdm_handlers::diagnostics::{ClearErrorCodes, ClearLog};

use super::config::{Actions, FirmwareAction, FirmwareInstaller, RestartAction, Settings, Verify, plain};
use super::logging::{Level, LogFormat};

/// What `run` would do with these settings, in words. No secret is in it.
pub(crate) fn describe(file: &Path, settings: &Settings) -> String {
    let mut lines = vec![format!("{} is good. `iotdm-agent run` would", file.display())];
    let config = &settings.config;
    let broker = &config.broker;
    let security = match &broker.tls {
        None => "without TLS".into(),
        Some(tls) => {
            let authorities =
                if tls.ca_pem.is_some() { "broker.ca_file" } else { "the system's authorities" };
            let certificate = if tls.client_pem.is_some() { ", with a client certificate" } else { "" };
            format!("TLS verified by {authorities}{certificate}")
        }
    };
    let token = if config.token.is_some() { "with a token" } else { "without a token" };
    let session = if broker.durable_session { "durable session" } else { "clean session" };
    let mut line = |what: &str, text: String| lines.push(format!("  {what:<9} {text}"));
    line(
        "connect",
        format!("to {}:{} as {}, {security}, {token}", broker.host, broker.port, config.identity),
    );
    line("keep", format!("a {session}, alive every {}", plain(broker.keep_alive)));
    line(
        "manage",
        match config.lifetime {
            Duration::ZERO => "for ever".into(),
            lifetime => format!("for {} at a time", plain(lifetime)),
        },
    );
    line("record", format!("in {}", settings.journal.display()));
    line(
        "log",
        format!("{} lines, {} and above", format_name(settings.log.format), level_name(settings.log.level)),
    );
    actions(&settings.actions, &mut line);
    for warning in &settings.warnings {
        lines.push(format!("warning: {warning}"));
    }
    lines.join("\n") + "\n"
}

fn actions(actions: &Actions, line: &mut dyn FnMut(&str, String)) {
    let mut refused = Vec::new();
    for (name, action) in [("reboot", &actions.reboot), ("factory reset", &actions.factory_reset)] {
        match action {
            Some(action) => line("serve", format!("{name}: {}", restart(action))),
            None => refused.push(name),
        }
    }
    match &actions.firmware {
        Some(firmware) => line(
            "serve",
            format!(
                "firmware: download {} to {} within {}, install with {} within {}{}{}",
                image(firmware),
                firmware.staging_dir.display(),
                plain(firmware.download_budget),
                installer(firmware),
                plain(firmware.install_budget),
                if firmware.restart_after_install { ", then restart" } else { "" },
                late(firmware.late)
            ),
        ),
        None => refused.push("firmware"),
    }
    if let Some(diagnostics) = &actions.diagnostics {
        line(
            "serve",
            format!(
                "{} and {}, and report each start of the agent{}",
                custom(&ClearErrorCodes::ROUTE),
                custom(&ClearLog::ROUTE),
                late(diagnostics.late)
            ),
        );
    }
    for script in &actions.scripts {
        let directory =
            script.directory.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default();
        let interrupted = match script.interrupted {
            Interrupted::Refuse => "",
            Interrupted::RunAgain => ", run again when interrupted",
        };
        line(
            "serve",
            format!(
                "{}/{}: {}{directory} within {}, {} bytes of each output{interrupted}{}",
                script.bundle,
                script.action,
                script.command,
                plain(script.time_limit),
                script.output_limit,
                late(script.late)
            ),
        );
    }
    if !refused.is_empty() {
        line("refuse", format!("{} with 501: not enabled", refused.join(", ")));
    }
}

fn custom(route: &Route) -> String {
    match route {
        Route::Custom { bundle, action } => format!("{bundle}/{action}"),
        fixed => fixed.to_string(),
    }
}

fn image(firmware: &FirmwareAction) -> String {
    let verify = match firmware.verify {
        Verify::Required => "a checksum required",
        Verify::IfGiven => "a checksum checked if given",
    };
    let files = if firmware.allow_file_uri { ", also from file:// addresses" } else { "" };
    let authorities =
        if firmware.ca_pem.is_some() { ", TLS verified by actions.firmware.ca_file" } else { "" };
    format!("at most {} bytes ({verify}{files}{authorities})", firmware.max_image_bytes)
}

fn restart(action: &RestartAction) -> String {
    let mut text = match (&action.command, action.dry_run) {
        (Some(command), true) => format!("would run {command}, but this is a dry run"),
        (Some(command), false) => format!("{command}, within {}", plain(action.budget)),
        (None, _) => "nothing, this is a dry run".into(),
    };
    text.push_str(&late(action.late));
    text
}

fn late(late: Late) -> String {
    match late {
        Late::Run => String::new(),
        Late::RefuseAfter(age) => format!(", refused when older than {}", plain(age)),
    }
}

fn format_name(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn installer(firmware: &FirmwareAction) -> String {
    match &firmware.installer {
        FirmwareInstaller::Command { install, .. } => install.to_string(),
        FirmwareInstaller::Rauc { program } | FirmwareInstaller::Swupdate { program, .. } => {
            format!("`{}`", program.display())
        }
        FirmwareInstaller::MenderModule { module, .. } => format!("the update module `{}`", module.display()),
        FirmwareInstaller::File { target, .. } => format!("a swap of `{}`", target.display()),
    }
}
