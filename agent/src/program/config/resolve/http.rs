//! How servers of images and logs are reached: one set of keys, in each section that has such servers.

use std::ffi::OsString;

use iotdm_agent::Secret;
use iotdm_handlers::http::Proxy;

use super::super::values::{CredentialsVariable, FilePath, ProxyChoice, ProxyText};
use super::super::{HttpSettings, broker, file, references};
use super::Resolver;

/// The keys of one section.
#[derive(Clone, Copy)]
pub(super) struct HttpKeys<'a> {
    section: &'static str,
    ca_file: Option<&'a FilePath>,
    client_certificate: Option<&'a FilePath>,
    client_key: Option<&'a FilePath>,
    proxy: Option<&'a ProxyText>,
    proxy_credentials_file: Option<&'a FilePath>,
    proxy_credentials_env: Option<&'a CredentialsVariable>,
    no_proxy: &'a [String],
}

macro_rules! http_keys {
    ($section:ty, $name:literal) => {
        impl $section {
            pub(super) fn http(&self) -> HttpKeys<'_> {
                HttpKeys {
                    section: $name,
                    ca_file: self.ca_file.as_ref(),
                    client_certificate: self.client_certificate.as_ref(),
                    client_key: self.client_key.as_ref(),
                    proxy: self.proxy.as_ref(),
                    proxy_credentials_file: self.proxy_credentials_file.as_ref(),
                    proxy_credentials_env: self.proxy_credentials_env.as_ref(),
                    no_proxy: &self.no_proxy,
                }
            }
        }
    };
}

http_keys!(file::Firmware, "actions.firmware");
http_keys!(file::Upload, "actions.diagnostics.upload");

impl broker::Broker {
    /// Those of the way to the broker; which hosts a proxy is not for is no question where there is one host.
    pub(super) fn http(&self) -> HttpKeys<'_> {
        HttpKeys {
            section: "broker",
            ca_file: self.ca_file.as_ref(),
            client_certificate: self.client_certificate.as_ref(),
            client_key: self.client_key.as_ref(),
            proxy: self.proxy.as_ref(),
            proxy_credentials_file: self.proxy_credentials_file.as_ref(),
            proxy_credentials_env: self.proxy_credentials_env.as_ref(),
            no_proxy: &[],
        }
    }
}

impl HttpKeys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.section)
    }

    /// The first of them that is given.
    pub(super) fn first(&self) -> Option<&'static str> {
        let given = [
            ("ca_file", self.ca_file.is_some()),
            ("client_certificate", self.client_certificate.is_some()),
            ("client_key", self.client_key.is_some()),
            ("proxy", self.proxy.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

impl Resolver<'_> {
    pub(super) fn http(&mut self, keys: HttpKeys<'_>) -> HttpSettings {
        HttpSettings {
            ca_pem: self.authorities(&keys.key("ca_file"), keys.ca_file),
            client_pem: self.client_pem(keys.section, keys.client_certificate, keys.client_key),
            proxy: self.proxy(keys),
        }
    }

    /// The device's own certificate and its key: both or none.
    pub(super) fn client_pem(
        &mut self,
        section: &str,
        certificate: Option<&FilePath>,
        key: Option<&FilePath>,
    ) -> Option<(Vec<u8>, Secret)> {
        let (certificate_key, key_key) =
            (format!("{section}.client_certificate"), format!("{section}.client_key"));
        let chain = certificate.and_then(|path| {
            let chain = references::certificates(&self.path(path));
            self.keep(&certificate_key, chain)
        });
        let pem = key.and_then(|path| {
            let key = references::private_key(&self.path(path), self.credentials().as_deref());
            self.keep(&key_key, key)
        });
        match (certificate, key) {
            (Some(_), None) => {
                self.problem(&certificate_key, "has no key; add client_key with the path of its private key");
            }
            (None, Some(_)) => {
                self.problem(
                    &key_key,
                    "has no certificate; add client_certificate with the path of its chain",
                );
            }
            _ => {}
        }
        chain.zip(pem)
    }

    pub(super) fn proxy(&mut self, keys: HttpKeys<'_>) -> Option<Proxy> {
        let of_a_proxy = [
            ("proxy_credentials_file", keys.proxy_credentials_file.is_some()),
            ("proxy_credentials_env", keys.proxy_credentials_env.is_some()),
            ("no_proxy", !keys.no_proxy.is_empty()),
        ];
        let address = match keys.proxy.map(|proxy| &proxy.0) {
            Some(ProxyChoice::Address(proxy)) => Some(proxy.clone()),
            Some(ProxyChoice::Environment) => {
                for (name, _) in of_a_proxy.iter().filter(|(_, given)| *given) {
                    self.problem(
                        &keys.key(name),
                        "is of no use with proxy = \"environment\", which brings its own; remove it",
                    );
                }
                let variable = |name: &str| (self.surroundings.variable)(name)?.into_string().ok();
                let proxy = Proxy::from_environment(variable);
                return self.keep(&keys.key("proxy"), proxy.map_err(|error| error.to_string()))?;
            }
            None => None,
        };
        let Some(proxy) = address else {
            for (name, _) in of_a_proxy.iter().filter(|(_, given)| *given) {
                self.problem(
                    &keys.key(name),
                    "is of no use without a proxy; remove it, or add proxy = \"http://HOST:PORT\"",
                );
            }
            return None;
        };
        let proxy = proxy.except(keys.no_proxy.iter().map(String::as_str));
        let proxy = self.keep(&keys.key("no_proxy"), proxy.map_err(|error| error.to_string()))?;
        match self.proxy_credentials(keys) {
            None => Some(proxy),
            Some((key, credentials)) => {
                let proxy = proxy.with_credentials(credentials.expose()).map_err(|error| error.to_string());
                self.keep(&key, proxy)
            }
        }
    }

    /// The user and the password, and the key that named them.
    fn proxy_credentials(&mut self, keys: HttpKeys<'_>) -> Option<(String, Secret)> {
        let (file_key, variable_key) =
            (keys.key("proxy_credentials_file"), keys.key("proxy_credentials_env"));
        match (keys.proxy_credentials_file, keys.proxy_credentials_env) {
            (Some(_), Some(_)) => {
                self.problem(&variable_key, "proxy_credentials_file is given too; keep one of the two");
                None
            }
            (Some(path), None) => {
                let read = references::proxy_credentials(&self.path(path), self.credentials().as_deref());
                self.keep(&file_key, read).map(|credentials| (file_key, credentials))
            }
            (None, Some(name)) => {
                let name = &name.0;
                let text = match (self.surroundings.variable)(name).map(OsString::into_string) {
                    Some(Ok(text)) => Ok(Secret::new(text)),
                    Some(Err(_)) => Err(format!("variable {name} is not text; it must hold USER:PASSWORD")),
                    None => Err(format!("the environment has no variable {name}; set it to USER:PASSWORD")),
                };
                self.keep(&variable_key, text).map(|credentials| (variable_key, credentials))
            }
            (None, None) => None,
        }
    }
}
