//! What the platform is told of a script before anybody can ask for it (`docs/protocol.md` §5.6).

use iotdm_core::{ExtensionAction, ExtensionParameter};

use super::ScriptSpec;
use super::parameters::{Parameter, written};

/// The platform checks values against the patterns in it before it sends a request; the device checks all the same. A
/// script that declares no parameters has none there, and the platform sends it none.
pub(super) fn action(spec: &ScriptSpec) -> ExtensionAction {
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
