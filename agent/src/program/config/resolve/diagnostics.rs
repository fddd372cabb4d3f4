//! `[actions.diagnostics]` and what stands below it.

use std::fs;
use std::path::Path;

use iotdm_core::{Action, Route};
use iotdm_handlers::diagnostics::{
    ClearErrorCodes, ClearLog, FactsOptions, FactsOptionsError, LogSource, ReadFacts, SystemFacts,
    Thresholds, UploadHost, UploadLog, UploadOptions,
};

use super::super::file;
use super::super::values::{Percent, Whole};
use super::super::{DiagnosticsAction, FactsAction, UploadAction};
use super::Resolver;

impl DiagnosticsAction {
    /// The custom actions that are served with it.
    pub(in crate::program) fn routes(&self) -> Vec<Route> {
        let mut routes = vec![ClearErrorCodes::ROUTE, ClearLog::ROUTE];
        routes.extend(self.upload.as_ref().map(|_| UploadLog::ROUTE));
        routes.extend(self.facts.as_ref().map(|_| ReadFacts::ROUTE));
        routes
    }
}

impl Resolver<'_> {
    pub(super) fn diagnostics(&mut self, section: file::Diagnostics) -> DiagnosticsAction {
        DiagnosticsAction {
            upload: self.upload(section.upload, section.log),
            facts: section.facts.map(|section| self.facts(section)),
            late: section.late.0,
        }
    }

    fn upload(
        &mut self,
        section: Option<file::Upload>,
        logs: Vec<file::DeclaredLog>,
    ) -> Option<UploadAction> {
        if logs.is_empty() {
            if section.is_some() {
                self.problem(
                    "actions.diagnostics.upload",
                    "has no log to send; add an [[actions.diagnostics.log]] section for each log that may be asked for",
                );
            }
            return None;
        }
        let sources = self.sources(logs);
        let section = section.unwrap_or_default();
        let mut options = UploadOptions::new(sources);
        for (index, text) in section.hosts.iter().enumerate() {
            let host = text.parse::<UploadHost>().map_err(|error| error.to_string());
            options.hosts.extend(self.keep(&format!("actions.diagnostics.upload.hosts[{index}]"), host));
        }
        options.allow_http = section.allow_http;
        let useless = if section.allow_http { Some("allow_http") } else { section.http().first() };
        if let Some(key) = useless.filter(|_| section.hosts.is_empty()) {
            self.problem(
                &format!("actions.diagnostics.upload.{key}"),
                "is of no use without hosts; add the servers that logs may be sent to, such as \
                 hosts = [\"logs.example.com\"]",
            );
        }
        if section.allow_http {
            self.warnings.push(
                "actions.diagnostics.upload.allow_http is true: logs may travel for everybody to read".into(),
            );
        }
        let http = self.http(section.http());
        options.max_bytes = section.max_bytes.map_or(options.max_bytes, |bytes| bytes.get_usize());
        options.time_limit = section.time_limit.map_or(options.time_limit, |limit| limit.get());
        Some(UploadAction { options, http })
    }

    fn sources(&mut self, logs: Vec<file::DeclaredLog>) -> Vec<LogSource> {
        let mut sources: Vec<LogSource> = Vec::new();
        for (index, log) in logs.into_iter().enumerate() {
            let key = format!("actions.diagnostics.log[{index}]");
            if let Some(reason) = log.file.as_ref().and_then(|path| unreadable(&self.path(path))) {
                self.warnings.push(format!("{key}.file: {reason}"));
            }
            let source = match (&log.file, &log.unit, log.journal) {
                (Some(path), None, false) => LogSource::file(log.name, self.path(path)),
                (None, Some(unit), false) => LogSource::journal(log.name, Some(unit)),
                (None, None, true) => LogSource::journal(log.name, None),
                _ => {
                    self.problem(
                        &key,
                        "is one of three: file = \"/var/log/lamp.log\", unit = \"lamp.service\" for what that unit \
                         wrote to the journal, or journal = true for all of the journal",
                    );
                    continue;
                }
            };
            // One alone, so that its own key is named.
            let alone = UploadOptions::new(std::iter::once(source.clone()))
                .check()
                .map_err(|error| error.to_string());
            self.keep(&key, alone);
            if sources.iter().any(|other| other.name == source.name) {
                let name = &source.name;
                self.problem(
                    &format!("{key}.name"),
                    format!("a log is called {name:?} already; give each its own name"),
                );
            }
            sources.push(source);
        }
        if sources.len() > MAX_LOGS {
            self.problem(
                &format!("actions.diagnostics.log[{MAX_LOGS}]"),
                format!("is one too many; at most {MAX_LOGS} logs may be declared"),
            );
        }
        sources
    }

    fn facts(&mut self, section: file::Facts) -> FactsAction {
        let default = FactsOptions::default();
        let thresholds = Thresholds {
            memory_percent: percent(section.memory_percent, default.thresholds.memory_percent),
            disk_percent: percent(section.disk_percent, default.thresholds.disk_percent),
            load: self.threshold("load", section.load, default.thresholds.load),
            celsius: self.threshold("celsius", section.celsius, default.thresholds.celsius),
        };
        let interval = section.interval.map_or(default.interval, |interval| interval.get());
        let disks = section.disks.map_or_else(
            || default.disks.clone(),
            |disks| disks.iter().map(|path| self.path(path)).collect(),
        );
        for (index, disk) in disks.iter().enumerate().filter(|(_, disk)| !disk.is_dir()) {
            self.warnings.push(format!(
                "actions.diagnostics.facts.disks[{index}]: the folder {} is not there",
                disk.display()
            ));
        }
        let metadata = !interval.is_zero();
        let interval = if metadata { interval } else { default.interval };
        let options = FactsOptions { disks, interval, thresholds, ..default };
        let key = match SystemFacts::new(options.clone()) {
            Err(FactsOptionsError::Interval) => "interval",
            _ => "disks",
        };
        let usable = SystemFacts::new(options.clone()).map_err(|error| error.to_string());
        self.keep(&format!("actions.diagnostics.facts.{key}"), usable);
        let event_interval = section.event_interval.map(|interval| interval.get());
        let event_interval = event_interval.filter(|interval| !interval.is_zero());
        FactsAction { options, metadata, event_interval }
    }

    fn threshold(&mut self, key: &str, value: Option<f64>, default: f64) -> f64 {
        let value = value.unwrap_or(default);
        if !(value.is_finite() && value > 0.0) {
            self.problem(
                &format!("actions.diagnostics.facts.{key}"),
                format!("{value} is no threshold; write a number above 0, such as {default}"),
            );
        }
        value
    }
}

/// Why a log could not be sent as it is; one that is not there may be written later.
fn unreadable(path: &Path) -> Option<String> {
    let shown = path.display();
    let metadata = fs::symlink_metadata(path).ok()?;
    if metadata.is_symlink() {
        return Some(format!("{shown} is a link, which is not followed; name the file that it leads to"));
    }
    if !metadata.is_file() {
        return Some(format!("{shown} is no file"));
    }
    let reason = fs::File::open(path).err()?;
    Some(format!("{shown} cannot be read: {reason}; let the agent's user read it"))
}

fn percent(section: Option<Whole<Percent>>, default: u8) -> u8 {
    section.map_or(default, |percent| u8::try_from(percent.get()).expect("the range of a share ends at 100"))
}

/// As many as [`UploadOptions`] takes.
const MAX_LOGS: usize = 32;
