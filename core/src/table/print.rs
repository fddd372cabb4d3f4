use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::Table;
use crate::extension::ExtensionPackage;
use crate::reply::Refusal;
use crate::topic::Route;

/// What the table says of its actions before anybody asks for one.
impl Table {
    /// What the platform has to know of each bundle before a device may claim it: one extension package for each, in
    /// English, with the parameters that the schemas of the actions describe (`docs/protocol.md` §5.6). Its display name
    /// is the bundle's id; the product may change that and everything else before it prints them.
    pub fn extension_packages(&self) -> Vec<ExtensionPackage> {
        let mut packages: BTreeMap<&str, ExtensionPackage> = BTreeMap::new();
        for (route, entry) in &self.entries {
            let Route::Custom { bundle, action: id } = route else { continue };
            let package =
                packages.entry(bundle).or_insert_with(|| ExtensionPackage::new(&**bundle, &**bundle));
            package.actions.insert(id.to_string(), entry.handler.describe(id));
        }
        packages.into_values().collect()
    }

    /// What a body would be answered before its handler sees it: nothing, or 400 with the place that does not fit.
    ///
    /// # Errors
    /// That refusal; 501 where the route has no handler.
    pub fn check(&self, route: &Route, d: Option<&RawValue>) -> Result<(), Refusal> {
        let handler = self.handler(route).ok_or_else(|| Refusal::unsupported(NOT_SUPPORTED))?;
        handler.check(d)
    }
}

/// As the engine answers an action without a handler.
const NOT_SUPPORTED: &str = "this device does not offer that action";
