//! `[actions.firmware]`: where images come from, what proves them, what installs them.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::time::Duration;

use iotdm_agent::Secret;
use iotdm_core::{Action, Download, Update};
use iotdm_handlers::firmware::Proxy;

use super::super::values::ProxyChoice;
use super::super::{FirmwareAction, Verify, file, references};
use super::Resolver;

impl Resolver<'_> {
    pub(super) fn firmware(
        &mut self,
        mut section: file::Firmware,
        can_restart: bool,
    ) -> Option<FirmwareAction> {
        let verify = self.verify(&section);
        let client_pem = self.client_pem(&section);
        let proxy = self.proxy(&section);
        let ca_pem = self.authorities("actions.firmware.ca_file", section.ca_file.as_ref());
        let install = self.install(&mut section, can_restart);
        Some(FirmwareAction {
            staging_dir: self.path(&section.staging_dir),
            installer: install.installer?,
            restart_after_install: install.restart,
            health_check: install.health_check,
            managed_within: install.managed_within,
            verify,
            public_keys: section.public_keys.into_iter().map(|key| key.0).collect(),
            max_image_bytes: section.max_image_bytes.map_or(DEFAULT_IMAGE_BYTES, |bytes| bytes.get()),
            allow_file_uri: section.allow_file_uri,
            ca_pem,
            client_pem,
            proxy,
            bytes_per_second: section.bytes_per_second.and_then(|rate| NonZeroU64::new(rate.get())),
            stall_limit: section.stall_limit.map_or(DEFAULT_STALL_LIMIT, |limit| limit.get()),
            fruitless_attempts: section.fruitless_attempts.map_or(DEFAULT_ATTEMPTS, |attempts| {
                u32::try_from(attempts.get()).expect("the range of attempts ends far below")
            }),
            download_budget: section.download_budget.map_or(Download::PERFORM_BUDGET, |budget| budget.get()),
            install_budget: section.install_budget.map_or(Update::PERFORM_BUDGET, |budget| budget.get()),
            late: section.late.0,
        })
    }

    /// Whoever names keys wants signatures, unless the file says otherwise.
    fn verify(&mut self, section: &file::Firmware) -> Verify {
        match (section.verify, section.public_keys.is_empty()) {
            (Some(Verify::Signature), true) => {
                self.problem(
                    "actions.firmware.verify",
                    "\"signature\" needs a key to check it with; add public_keys = [\"RW...\"]",
                );
                Verify::Signature
            }
            (Some(verify), true) => verify,
            (Some(verify), false) => {
                if verify != Verify::Signature {
                    self.warnings.push(
                        "actions.firmware.verify: images without a signature are taken though there are public_keys"
                            .into(),
                    );
                }
                verify
            }
            (None, true) => Verify::Required,
            (None, false) => Verify::Signature,
        }
    }

    fn client_pem(&mut self, section: &file::Firmware) -> Option<(Vec<u8>, Secret)> {
        let chain = section.client_certificate.as_ref().and_then(|path| {
            let chain = references::certificates(&self.path(path));
            self.keep("actions.firmware.client_certificate", chain)
        });
        let key = section.client_key.as_ref().and_then(|path| {
            let key = references::private_key(&self.path(path), self.credentials().as_deref());
            self.keep("actions.firmware.client_key", key)
        });
        match (&section.client_certificate, &section.client_key) {
            (Some(_), None) => self.problem(
                "actions.firmware.client_certificate",
                "has no key; add client_key with the path of its private key",
            ),
            (None, Some(_)) => self.problem(
                "actions.firmware.client_key",
                "has no certificate; add client_certificate with the path of its chain",
            ),
            _ => {}
        }
        chain.zip(key)
    }

    fn proxy(&mut self, section: &file::Firmware) -> Option<Proxy> {
        let keys = [
            ("actions.firmware.proxy_credentials_file", section.proxy_credentials_file.is_some()),
            ("actions.firmware.proxy_credentials_env", section.proxy_credentials_env.is_some()),
            ("actions.firmware.no_proxy", !section.no_proxy.is_empty()),
        ];
        let address = match section.proxy.as_ref().map(|proxy| &proxy.0) {
            Some(ProxyChoice::Address(proxy)) => Some(proxy.clone()),
            Some(ProxyChoice::Environment) => {
                for (key, _) in keys.iter().filter(|(_, given)| *given) {
                    self.problem(
                        key,
                        "is of no use with proxy = \"environment\", which brings its own; remove it",
                    );
                }
                let variable = |name: &str| (self.surroundings.variable)(name)?.into_string().ok();
                let proxy = Proxy::from_environment(variable);
                return self.keep("actions.firmware.proxy", proxy.map_err(|error| error.to_string()))?;
            }
            None => None,
        };
        let Some(proxy) = address else {
            for (key, _) in keys.iter().filter(|(_, given)| *given) {
                self.problem(
                    key,
                    "is of no use without a proxy; remove it, or add proxy = \"http://HOST:PORT\"",
                );
            }
            return None;
        };
        let proxy = proxy.except(section.no_proxy.iter().map(String::as_str));
        let proxy = self.keep("actions.firmware.no_proxy", proxy.map_err(|error| error.to_string()))?;
        match self.proxy_credentials(section) {
            None => Some(proxy),
            Some((key, credentials)) => {
                let proxy = proxy.with_credentials(credentials.expose()).map_err(|error| error.to_string());
                self.keep(key, proxy)
            }
        }
    }

    /// The user and the password, and the key that named them.
    fn proxy_credentials(&mut self, section: &file::Firmware) -> Option<(&'static str, Secret)> {
        let (file_key, variable_key) =
            ("actions.firmware.proxy_credentials_file", "actions.firmware.proxy_credentials_env");
        match (&section.proxy_credentials_file, &section.proxy_credentials_env) {
            (Some(_), Some(_)) => {
                self.problem(variable_key, "proxy_credentials_file is given too; keep one of the two");
                None
            }
            (Some(path), None) => {
                let read = references::proxy_credentials(&self.path(path), self.credentials().as_deref());
                self.keep(file_key, read).map(|credentials| (file_key, credentials))
            }
            (None, Some(name)) => {
                let name = &name.0;
                let text = match (self.surroundings.variable)(name).map(OsString::into_string) {
                    Some(Ok(text)) => Ok(Secret::new(text)),
                    Some(Err(_)) => Err(format!("variable {name} is not text; it must hold USER:PASSWORD")),
                    None => Err(format!("the environment has no variable {name}; set it to USER:PASSWORD")),
                };
                self.keep(variable_key, text).map(|credentials| (variable_key, credentials))
            }
            (None, None) => None,
        }
    }
}

/// 512 MiB: more than most images, less than most disks.
const DEFAULT_IMAGE_BYTES: u64 = 512 * 1024 * 1024;

/// A mobile link that changes its cell is silent for some ten seconds.
const DEFAULT_STALL_LIMIT: Duration = Duration::from_secs(60);

/// With the pauses between attempts this bridges an outage of a quarter of an hour.
const DEFAULT_ATTEMPTS: u32 = 20;
