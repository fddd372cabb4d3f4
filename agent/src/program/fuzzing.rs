//! What the fuzz targets reach of the program, under `cfg(fuzzing)` alone (`fuzz/README.md`).

use std::ffi::OsString;
use std::path::Path;

use super::config::{Settings, Surroundings};
use super::{assemble, check};

/// Reads the text of a configuration as `iotdm-agent check` does, and says what that would say.
///
/// Every environment variable holds `secret`.
///
/// # Errors
/// What the operator is told, one line per problem.
pub fn configuration(text: &str, secret: &str) -> Result<String, String> {
    let variable = |_: &str| Some(OsString::from(secret));
    let path = Path::new("/nowhere/agent.toml");
    let mut settings = Settings::parse(path, text, &Surroundings { variable: &variable })
        .map_err(|error| error.to_string())?;
    let described = format!("{}{settings:?}", check::describe(path, &settings));
    // The system's authorities are hundreds of files, and not the operator's text.
    settings.config.broker.tls = None;
    assemble::assemble(&settings).map_err(|error| error.to_string())?;
    Ok(described)
}
