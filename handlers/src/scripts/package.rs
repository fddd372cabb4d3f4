//! What the platform must know of scripts before anybody can ask for them.

use std::collections::BTreeMap;

use iotdm_core::{ExtensionAction, ExtensionPackage, ExtensionParameter};

use super::parameters::{Parameter, written};
use super::{ScriptSpec, Scripts};

impl Scripts {
    /// The extension package of every bundle, by its id, to be imported in the platform (`docs/protocol.md` §5.6). It
    /// checks values against the patterns in them before it sends a request; the device checks all the same.
    ///
    /// A script that declares no parameters has none there, and the platform sends it none.
    pub fn packages(&self) -> BTreeMap<String, ExtensionPackage> {
        let mut packages = BTreeMap::new();
        for spec in &self.specs {
            let package = packages
                .entry(spec.bundle.clone())
                .or_insert_with(|| ExtensionPackage::new(&spec.bundle, &spec.bundle));
            package.actions.insert(spec.action.clone(), action(spec));
        }
        packages
    }
}

fn action(spec: &ScriptSpec) -> ExtensionAction {
    let mut action = ExtensionAction::new(spec.title.as_ref().unwrap_or(&spec.action));
    if let Some(description) = &spec.description {
        action = action.description(description);
    }
    action.parameters = spec.parameters.iter().flatten().map(parameter).collect();
    action
}

fn parameter(declared: &Parameter) -> ExtensionParameter {
    let parameter = ExtensionParameter::optional(&declared.name).value(declared.kind.platform_pattern());
    ExtensionParameter {
        required: declared.required,
        default_value: declared.default.as_ref().map(written),
        ..parameter
    }
}
