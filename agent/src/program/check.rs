use std::path::Path;
use std::time::Duration;

use iotdm_agent::link::another_device;
use iotdm_agent::{Broker, DropPolicy, Mqtt5, Protocol, Transport};
use iotdm_core::{Action, Interrupted, Late, Route};
use iotdm_handlers::diagnostics::{ClearErrorCodes, ClearLog, ReadFacts, UploadLog};
use iotdm_handlers::reboot::Wipe;
use iotdm_handlers::{CommandScript, ScriptSpec};

use super::config::{
    Actions, AttachedDevice, CommandLine, FactoryResetAction, FactsAction, FirmwareAction, FirmwareInstaller,
    HttpSettings, RebootAction, RebootMeans, ResetMeans, RestartRules, Settings, UploadAction, Verify, plain,
};
use super::logging::{Level, LogFormat};

/// What `run` would do with these settings, in words. No secret is in it.
pub(crate) fn describe(file: &Path, settings: &Settings) -> String {
    let mut lines = vec![format!("{} is good. `iotdm-agent run` would", file.display())];
    let config = &settings.config;
    let broker = &config.broker;
    let security = security(broker);
    let token = if config.token.is_some() { "with a token" } else { "without a token" };
    let session = if broker.durable_session { "durable session" } else { "clean session" };
    let mut line = |what: &str, text: String| lines.push(format!("  {what:<9} {text}"));
    line(
        "connect",
        format!(
            "to {}:{}{} as {}, {security}, {token}",
            broker.host,
            broker.port,
            way(broker),
            config.identity
        ),
    );
    if let Some(user) = &broker.user_name {
        line("log in", format!("as {user}"));
    }
    if let Some(prefix) = &broker.topic_prefix {
        let identity = &config.identity;
        line("speak", format!("below {}", prefix.of(&identity.type_id, &identity.device_id)));
    }
    line("keep", format!("a {session}, alive every {}", plain(broker.keep_alive)));
    if let Protocol::Mqtt5(options) = broker.protocol {
        line("speak", mqtt5(&options, broker.durable_session));
    }
    line(
        "manage",
        match config.lifetime {
            Duration::ZERO => "for ever".into(),
            lifetime => format!("for {} at a time", plain(lifetime)),
        },
    );
    line("record", format!("in {}", settings.journal.display()));
    let events = &config.limits.events;
    let gives_way = if events.policy == DropPolicy::Oldest { "oldest" } else { "newest" };
    line("store", format!("{} events of {} bytes; the {gives_way} gives way", events.count, events.bytes));
    line(
        "log",
        format!("{} lines, {} and above", format_name(settings.log.format), level_name(settings.log.level)),
    );
    if let Some(place) = &settings.location {
        line("be", format!("at latitude {}, longitude {}", place.latitude, place.longitude));
    }
    for (name, threshold) in &settings.thresholds {
        line("notify", format!("{name}: {threshold}"));
    }
    actions(&settings.actions, &mut line);
    for device in &settings.attached {
        line("speak for", attached(device));
    }
    for command in &settings.commands {
        line("take", self::command(command));
    }
    let pem = broker.tls.as_ref().and_then(|tls| tls.client_pem.as_ref());
    if let Some(other) = pem.and_then(|(chain, _)| another_device(chain, &config.identity)) {
        // The link says so when the agent starts.
        lines.push(format!(
            "warning: broker.client_certificate is that of {other}, which the service refuses here"
        ));
    }
    for warning in &settings.warnings {
        lines.push(format!("warning: {warning}"));
    }
    lines.join("\n") + "\n"
}

/// What lies between, unless it is TCP alone.
fn way(broker: &Broker) -> String {
    let transport = match &broker.transport {
        Transport::Tcp => String::new(),
        Transport::WebSocket { path } => format!(" by WebSocket at {path}"),
    };
    let proxy = broker.proxy.as_ref();
    transport
        + &proxy.map_or_else(String::new, |proxy| format!(" through the proxy {}:{}", proxy.host, proxy.port))
}

fn security(broker: &Broker) -> String {
    let Some(tls) = &broker.tls else { return "without TLS".into() };
    let certificate = if tls.client_pem.is_some() { ", with a client certificate" } else { "" };
    let pins = if tls.pins.is_empty() { "" } else { " and broker.pins" };
    let verified = match &tls.ca_pem {
        _ if tls.insecure_skip_verify => return format!("TLS verified by nobody{certificate}"),
        Some(_) => "broker.ca_file",
        None => "the system's authorities",
    };
    format!("TLS verified by {verified}{pins}{certificate}")
}

fn mqtt5(options: &Mqtt5, durable_session: bool) -> String {
    let session = match options.session_expiry {
        _ if !durable_session => String::new(),
        None => "; the broker keeps the session for ever".into(),
        Some(expiry) => format!("; the broker keeps the session for {} of absence", plain(expiry)),
    };
    let requests = match options.request_expiry {
        None => "ages are told by the order of requests alone".into(),
        Some(expiry) => format!("every request expires after {}, which tells its age", plain(expiry)),
    };
    format!("MQTT 5{session}; {requests}")
}

fn actions(actions: &Actions, line: &mut dyn FnMut(&str, String)) {
    let mut refused = Vec::new();
    match &actions.reboot {
        Some(action) => line("serve", format!("reboot: {}", reboot(action))),
        None => refused.push("reboot"),
    }
    match &actions.factory_reset {
        Some(action) => line("serve", format!("factory reset: {}", factory_reset(action))),
        None => refused.push("factory reset"),
    }
    match &actions.firmware {
        Some(firmware) => line(
            "serve",
            format!(
                "firmware: download {} to {} within {}, install with {} within {}{}{}{}",
                image(firmware),
                firmware.staging_dir.display(),
                plain(firmware.download_budget),
                installer(firmware),
                plain(firmware.install_budget),
                if firmware.restart_after_install { ", then restart" } else { "" },
                judgement(firmware),
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
        if let Some(upload) = &diagnostics.upload {
            line("serve", logs(upload));
        }
        if let Some(facts) = &diagnostics.facts {
            line("serve", machine(facts));
        }
    }
    for spec in &actions.scripts {
        line("serve", format!("{}/{}: {}", spec.bundle, spec.action, script(spec)));
    }
    if !refused.is_empty() {
        line("refuse", format!("{} with 501: not enabled", refused.join(", ")));
    }
}

/// An attached device, and what may be done to it.
fn attached(device: &AttachedDevice) -> String {
    let reboot = device.reboot.as_ref().map(|reboot| {
        format!("reboot: {}, within {}{}", reboot.command, plain(reboot.budget), late(reboot.late))
    });
    let scripts =
        device.scripts.iter().map(|spec| format!("{}/{}: {}", spec.bundle, spec.action, script(spec)));
    let serves: Vec<String> = reboot.into_iter().chain(scripts).collect();
    let (type_id, device_id) = &device.name;
    match serves.is_empty() {
        true => format!("{type_id}/{device_id}: no actions"),
        false => format!("{type_id}/{device_id}: {}", serves.join("; ")),
    }
}

fn command(script: &CommandScript) -> String {
    let command = CommandLine { program: script.program.clone(), args: script.args.clone() };
    let within = plain(script.time_limit);
    format!("command {} in format {}: {command} within {within}", script.id, script.format)
}

fn script(spec: &ScriptSpec) -> String {
    let command = CommandLine { program: spec.program.clone(), args: spec.args.clone() };
    let directory = spec.directory.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default();
    let user = spec.user.map(|user| format!(" as user {}:{}", user.uid, user.gid)).unwrap_or_default();
    let parameters = match spec.parameters.as_deref() {
        None => String::new(),
        Some([]) => ", without parameters".into(),
        Some(declared) => {
            let names: Vec<&str> = declared.iter().map(|parameter| parameter.name.as_str()).collect();
            format!(", given {}", names.join(", "))
        }
    };
    let interrupted = match spec.interrupted {
        Interrupted::Refuse => "",
        Interrupted::RunAgain => ", run again when interrupted",
    };
    let (limit, bytes) = (plain(spec.time_limit), spec.output_limit);
    let late = late(spec.late);
    format!(
        "{command}{directory}{user} within {limit}, {bytes} bytes of each output{parameters}{interrupted}{late}"
    )
}

fn logs(upload: &UploadAction) -> String {
    let options = &upload.options;
    let sources: Vec<String> =
        options.sources.iter().map(|source| format!("{} ({})", source.name, source.origin)).collect();
    let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    let http = http("actions.diagnostics.upload", &upload.http);
    let hosts =
        if hosts.is_empty() { String::new() } else { format!(" or put to {}{http}", hosts.join(", ")) };
    format!(
        "{}: {}, at most {} bytes of it, in the answer{hosts}",
        custom(&UploadLog::ROUTE),
        sources.join(", "),
        options.max_bytes
    )
}

fn machine(facts: &FactsAction) -> String {
    let disks: Vec<String> = facts.options.disks.iter().map(|path| path.display().to_string()).collect();
    let metadata = if facts.metadata {
        format!("; keep them in metadata, looked at every {}", plain(facts.options.interval))
    } else {
        String::new()
    };
    let event = facts
        .event_interval
        .map(|interval| format!("; publish them as event facts every {}", plain(interval)))
        .unwrap_or_default();
    format!(
        "{}: memory, load, temperatures, disks {}{metadata}{event}",
        custom(&ReadFacts::ROUTE),
        disks.join(", ")
    )
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
        Verify::Signature => "a signature required",
    };
    let files = if firmware.allow_file_uri { ", also from file:// addresses" } else { "" };
    let http = http("actions.firmware", &firmware.http);
    let rate = firmware.bytes_per_second.map(|rate| format!(", {rate} bytes per second"));
    let rate = rate.unwrap_or_default();
    let limit = firmware.max_image_bytes;
    format!("at most {limit} bytes ({verify}{files}{http}{rate})")
}

fn http(section: &str, settings: &HttpSettings) -> String {
    let authorities = settings.ca_pem.as_ref().map(|_| format!(", TLS verified by {section}.ca_file"));
    let certificate = settings.client_pem.as_ref().map(|_| ", with a client certificate".to_owned());
    let proxy = settings.proxy.as_ref().map(|proxy| format!(", through {}", proxy.place()));
    [authorities, certificate, proxy].into_iter().flatten().collect()
}

/// What an installed image has to show to stay.
fn judgement(firmware: &FirmwareAction) -> String {
    let health = firmware.health_check.as_ref().map(|command| format!("{command} ends with 0"));
    let managed = firmware.managed_within.map(|within| format!("managed within {}", plain(within)));
    let conditions: Vec<String> = [health, managed].into_iter().flatten().collect();
    match conditions.is_empty() {
        true => String::new(),
        false => format!(", and roll back unless {}", conditions.join(" and ")),
    }
}

fn reboot(action: &RebootAction) -> String {
    let means = match &action.means {
        RebootMeans::Logind => Some("logind".into()),
        RebootMeans::Command(command) => command.as_ref().map(ToString::to_string),
    };
    restart(means, action.dry_run, action.budget) + &rules(&action.rules, action.dry_run) + &late(action.late)
}

fn factory_reset(action: &FactoryResetAction) -> String {
    let means = match &action.means {
        ResetMeans::Command(command) => command.as_ref().map(ToString::to_string),
        ResetMeans::Staged { wipe, then } => {
            let paths = wipe.iter().flat_map(Wipe::paths).map(|path| path.display().to_string());
            let paths: Vec<String> = paths.collect();
            let wipe = (!paths.is_empty()).then(|| format!("wipe {}", paths.join(", ")));
            let then = then.as_ref().map(ToString::to_string);
            Some([wipe, then].into_iter().flatten().collect::<Vec<_>>().join(", then ") + ", then restart")
        }
    };
    restart(means, action.dry_run, action.budget) + &rules(&action.rules, action.dry_run) + &late(action.late)
}

fn restart(means: Option<String>, dry_run: bool, budget: Duration) -> String {
    match (means, dry_run) {
        (Some(means), true) => format!("this is a dry run instead of {means}"),
        (Some(means), false) => format!("{means}, within {}", plain(budget)),
        (None, _) => "nothing, this is a dry run".into(),
    }
}

fn rules(rules: &RestartRules, dry_run: bool) -> String {
    let mut text = String::new();
    if rules.windows.is_some() {
        text.push_str(", in its maintenance windows");
    }
    if let Some((restarts, within)) = rules.limit {
        let uncounted = if dry_run { " (a dry run is not counted)" } else { "" };
        text.push_str(&format!(", at most {restarts} in {}{uncounted}", plain(within)));
    }
    if let Some((command, _)) = &rules.veto {
        text.push_str(&format!(", unless {command} refuses"));
    }
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
        FirmwareInstaller::File { target, activate } => {
            let activate = activate.as_ref().map(|command| format!(" and {command}")).unwrap_or_default();
            format!("a swap of `{}`{activate}", target.display())
        }
    }
}
