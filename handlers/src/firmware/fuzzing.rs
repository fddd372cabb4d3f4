//! What the fuzz targets reach beyond the public interface, under `cfg(fuzzing)` alone (`fuzz/README.md`).

use super::verify::Verifier;

/// Reads what the platform may send as `mgmt.firmware.verifier`; the canonical text.
///
/// # Errors
/// What the platform is told.
pub fn verifier(text: &str) -> Result<String, String> {
    text.parse::<Verifier>().map(String::from).map_err(|error| error.to_string())
}
