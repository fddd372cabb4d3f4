use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::exit;
use super::logging::{Level, LogFormat, LogSettings};

/// A device-management agent for the Watson IoT / Maximo IoT Device Management Protocol.
///
/// It keeps the device managed and carries out what the configuration enables: reboot, factory reset, firmware,
/// diagnostics and scripts. What is not enabled is answered 501.
#[derive(Debug, Parser)]
#[command(name = "iotdm-agent", version, arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// How log lines look; without it, `format` of the file's [log] section, which is human by default.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// The least severe lines that are logged; without it, `level` of the file's [log] section, which is info by
    /// default.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<Level>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect and serve until stopped with Ctrl-C or SIGTERM; a second one ends at once. SIGHUP reads the scripts of
    /// the configuration again.
    Run {
        /// The configuration. Relative paths in it start at its folder.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Read the configuration and every file it names, and say what `run` would do. Nothing is connected or
    /// changed.
    Check {
        /// The configuration. Relative paths in it start at its folder.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Print the extension package of a bundle of custom actions as JSON, to be imported in the platform before the
    /// device claims that bundle.
    ExtensionPackage {
        /// The configuration. Relative paths in it start at its folder.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// The bundle; without it, the only one that the configuration has.
        #[arg(long, value_name = "BUNDLE")]
        bundle: Option<String>,
    },
}

impl Command {
    pub(crate) fn config(&self) -> &Path {
        match self {
            Self::Run { config } | Self::Check { config } | Self::ExtensionPackage { config, .. } => config,
        }
    }
}

/// What came of the command line.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// It says what to do.
    Cli(Cli),
    /// It asked for the help or the version: this is it.
    Answered(String),
    /// It is wrong: this is why.
    Misused(String),
}

impl Cli {
    pub(crate) fn parse_args(args: impl IntoIterator<Item = OsString>) -> Parsed {
        let command = Self::command().after_help(exit::help());
        match command.try_get_matches_from(args).and_then(|matches| Self::from_arg_matches(&matches)) {
            Ok(cli) => Parsed::Cli(cli),
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Answered(error.to_string()),
                _ => Parsed::Misused(error.to_string()),
            },
        }
    }

    /// The log as the file has it, with what the command line says in its place.
    pub(crate) fn log_settings(&self, file: LogSettings) -> LogSettings {
        LogSettings {
            format: self.log_format.unwrap_or(file.format),
            level: self.log_level.unwrap_or(file.level),
        }
    }
}

/// Where a package puts the configuration.
const DEFAULT_CONFIG: &str = "/etc/iotdm-agent/agent.toml";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Parsed {
        Cli::parse_args(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_line_overrides_the_file_s_log_section() {
        let file = LogSettings { format: LogFormat::Human, level: Level::Warn };
        for line in
            ["iotdm-agent run --log-format json", "iotdm-agent --log-format json check --config x.toml"]
        {
            let Parsed::Cli(cli) = parse(line) else { panic!("{line}") };
            assert_eq!(cli.log_settings(file), LogSettings { format: LogFormat::Json, level: Level::Warn });
        }
    }

    #[test]
    fn the_configuration_has_a_usual_place() {
        let Parsed::Cli(cli) = parse("iotdm-agent run") else { panic!("run needs nothing more") };
        assert_eq!(cli.command.config(), Path::new("/etc/iotdm-agent/agent.toml"));
    }

    #[test]
    fn help_lists_every_exit_code_and_the_version_is_told() {
        let Parsed::Answered(help) = parse("iotdm-agent --help") else { panic!("help is an answer") };
        for exit in exit::ALL {
            assert!(help.contains(&format!("\n  {:>3}  ", exit.code())), "{exit:?} in {help}");
        }
        let Parsed::Answered(version) = parse("iotdm-agent --version") else {
            panic!("version is an answer")
        };
        assert_eq!(version, format!("iotdm-agent {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn a_wrong_command_line_is_told_and_is_no_answer() {
        for line in
            ["iotdm-agent", "iotdm-agent fly", "iotdm-agent run --confg x", "iotdm-agent run --log-format x"]
        {
            let Parsed::Misused(text) = parse(line) else { panic!("{line}") };
            assert!(text.contains("--help") || text.contains("Usage"), "{line}: {text}");
        }
    }
}
