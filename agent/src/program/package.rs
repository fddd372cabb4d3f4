//! The extension package to import in the platform (`docs/protocol.md` §5.6).

use iotdm_core::ExtensionPackage;

/// The package of a bundle as JSON; without a name, of the only one there is.
///
/// # Errors
/// Which bundles there are.
pub(super) fn print(packages: &[ExtensionPackage], bundle: Option<&str>) -> Result<String, String> {
    let names: Vec<&str> = packages.iter().map(|package| package.bundle_id.as_str()).collect();
    let package = match (bundle, packages) {
        (_, []) => {
            return Err("nothing is configured that the platform needs an extension package for".into());
        }
        (Some(name), _) => packages
            .iter()
            .find(|package| package.bundle_id == name)
            .ok_or_else(|| format!("there is no bundle {name:?}; there is {}", names.join(", ")))?,
        (None, [only]) => only,
        (None, _) => {
            return Err(format!("there are several bundles, {}; choose one with --bundle", names.join(", ")));
        }
    };
    let json = serde_json::to_string_pretty(package).expect("texts and truths are JSON");
    Ok(json + "\n")
}
