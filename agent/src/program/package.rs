//! The extension package to import in the platform (`docs/protocol.md` §5.6).

use std::collections::BTreeMap;

use iotdm_core::{Action, ExtensionAction, ExtensionPackage, Route};
use iotdm_handlers::diagnostics::{ClearErrorCodes, ClearLog};

use super::assemble::scripts;
use super::config::Actions;

/// The package of a bundle as JSON; without a name, of the only one there is.
///
/// # Errors
/// Which bundles there are.
pub(super) fn print(actions: &Actions, bundle: Option<&str>) -> Result<String, String> {
    let packages = packages(actions);
    let names: Vec<&str> = packages.keys().map(String::as_str).collect();
    let package = match (bundle, names.as_slice()) {
        (_, []) => {
            return Err("nothing is configured that the platform needs an extension package for".into());
        }
        (Some(name), _) => packages
            .get(name)
            .ok_or_else(|| format!("there is no bundle {name:?}; there is {}", names.join(", ")))?,
        (None, [only]) => &packages[*only],
        (None, _) => {
            return Err(format!("there are several bundles, {}; choose one with --bundle", names.join(", ")));
        }
    };
    let json = serde_json::to_string_pretty(package).expect("texts and truths are JSON");
    Ok(json + "\n")
}

fn packages(actions: &Actions) -> BTreeMap<String, ExtensionPackage> {
    let mut packages = scripts(actions).packages();
    let clears = [(ClearErrorCodes::ROUTE, "Clear the error codes"), (ClearLog::ROUTE, "Clear the log")];
    for (route, title) in clears.into_iter().filter(|_| actions.diagnostics.is_some()) {
        let Route::Custom { bundle, action } = route else { continue };
        let package = packages
            .entry(bundle.to_string())
            .or_insert_with(|| ExtensionPackage::new(bundle.as_ref(), bundle.as_ref()));
        package.actions.insert(action.to_string(), ExtensionAction::new(title));
    }
    packages
}
