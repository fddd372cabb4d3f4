use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An extension package: what the platform must know of a bundle before a device may claim it in `supports`, and
/// before anyone can ask for its actions (`docs/protocol.md` §5.6). Its JSON is what is imported there.
///
/// ```
/// use iotdm_core::{ExtensionAction, ExtensionPackage, ExtensionParameter};
///
/// let dim = ExtensionAction::new("Dim the lamp")
///     .parameter(ExtensionParameter::required("percent").value("[0-9]{1,3}"));
/// let package = ExtensionPackage::new("acme-lamp", "ACME lamp").action("dim", dim);
/// assert_eq!(serde_json::to_value(&package).unwrap()["actions"]["dim"]["parameters"][0]["required"], true);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionPackage {
    /// The bundle's id, as it stands in topics and in `supports`.
    pub bundle_id: String,
    /// The package's version.
    pub version: String,
    /// Who made it, at most 1024 characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider: Option<String>,
    /// What people read.
    pub display_name: LocalText,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub description: Option<LocalText>,
    /// Each action by its id.
    pub actions: BTreeMap<String, ExtensionAction>,
}

impl ExtensionPackage {
    /// A package of version 1.0 without actions.
    pub fn new(bundle_id: impl Into<String>, display_name: impl Into<String>) -> Self {
        Self {
            bundle_id: bundle_id.into(),
            version: "1.0".into(),
            provider: None,
            display_name: LocalText::english(display_name),
            description: None,
            actions: BTreeMap::new(),
        }
    }

    /// With one action more, or another one under this id.
    #[must_use]
    pub fn action(mut self, id: impl Into<String>, action: ExtensionAction) -> Self {
        self.actions.insert(id.into(), action);
        self
    }
}

/// One action of an [`ExtensionPackage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionAction {
    /// What people read.
    pub action_display_name: LocalText,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub description: Option<LocalText>,
    /// What it is given, in the order in which people are asked for it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub parameters: Vec<ExtensionParameter>,
}

impl ExtensionAction {
    /// An action without parameters.
    pub fn new(display_name: impl Into<String>) -> Self {
        Self {
            action_display_name: LocalText::english(display_name),
            description: None,
            parameters: Vec::new(),
        }
    }

    /// What it does, in English.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(LocalText::english(text));
        self
    }

    /// With one parameter more.
    #[must_use]
    pub fn parameter(mut self, parameter: ExtensionParameter) -> Self {
        self.parameters.push(parameter);
        self
    }
}

/// One parameter of an [`ExtensionAction`]. It arrives as `{"field": <name>, "value": …}` in `d.fields`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionParameter {
    /// Its name: 1 to 255 characters of `a-z A-Z 0-9 - _ .`.
    pub name: String,
    /// A regular expression; the platform sends no request whose value does not match it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<String>,
    /// Whether a request needs it.
    #[serde(default)]
    pub required: bool,
    /// What the platform fills in where nothing is given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub default_value: Option<String>,
}

impl ExtensionParameter {
    /// A parameter that every request needs.
    pub fn required(name: impl Into<String>) -> Self {
        Self { name: name.into(), value: None, required: true, default_value: None }
    }

    /// A parameter that a request may leave out.
    pub fn optional(name: impl Into<String>) -> Self {
        Self { required: false, ..Self::required(name) }
    }

    /// With the regular expression that its values match.
    #[must_use]
    pub fn value(mut self, pattern: impl Into<String>) -> Self {
        self.value = Some(pattern.into());
        self
    }

    /// With what is filled in where nothing is given.
    #[must_use]
    pub fn default_value(mut self, value: impl Into<String>) -> Self {
        self.default_value = Some(value.into());
        self
    }
}

/// A text in one or more languages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LocalText(pub BTreeMap<String, String>);

impl LocalText {
    /// A text under `en_US`.
    pub fn english(text: impl Into<String>) -> Self {
        Self(BTreeMap::from([(ENGLISH.to_owned(), text.into())]))
    }
}

/// The locale that the platform falls back on.
const ENGLISH: &str = "en_US";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_package_has_the_members_that_the_platform_documents() {
        let dim = ExtensionAction::new("Dim")
            .description("Sets how bright the lamp is.")
            .parameter(ExtensionParameter::required("percent").value("[0-9]{1,3}").default_value("50"));
        let mut package = ExtensionPackage::new("acme-lamp", "ACME lamp")
            .action("dim", dim)
            .action("blink", ExtensionAction::new("Blink"));
        package.provider = Some("ACME".into());
        package.description = Some(LocalText::english("What the lamp can do."));
        let json = json!({
            "bundleId": "acme-lamp",
            "version": "1.0",
            "provider": "ACME",
            "displayName": {"en_US": "ACME lamp"},
            "description": {"en_US": "What the lamp can do."},
            "actions": {
                "blink": {"actionDisplayName": {"en_US": "Blink"}},
                "dim": {
                    "actionDisplayName": {"en_US": "Dim"},
                    "description": {"en_US": "Sets how bright the lamp is."},
                    "parameters": [
                        {"name": "percent", "value": "[0-9]{1,3}", "required": true, "defaultValue": "50"}
                    ]
                }
            }
        });
        assert_eq!(serde_json::to_value(&package).unwrap(), json);
        assert_eq!(serde_json::from_value::<ExtensionPackage>(json).unwrap(), package);
    }
}
