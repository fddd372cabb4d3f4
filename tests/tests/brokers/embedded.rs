use std::time::Duration;

use async_trait::async_trait;
use iotdm_platform::broker::{Authentication, Broker, BrokerOptions, Mount};

use super::server::{Server, Who};

/// The broker of `iotdm-platform`, with one tree for everybody as the others have it.
pub(crate) struct Embedded(Option<Broker>);

impl Embedded {
    pub(crate) async fn start() -> Self {
        Self(Some(on_port(0).await))
    }
}

async fn on_port(port: u16) -> Broker {
    let users =
        [Who::Platform, Who::Lamp(1), Who::Lamp(2), Who::Gateway].map(|who| (who.path(), who.password()));
    let options = BrokerOptions {
        port,
        mount: Mount::Off,
        authentication: Authentication::Users(users.into()),
        ..BrokerOptions::default()
    };
    Broker::start(options).await.expect("the port is free")
}

#[async_trait]
impl Server for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn port(&self) -> u16 {
        self.0.as_ref().expect("it runs").local_addr().port()
    }

    fn user(&self, who: Who) -> String {
        who.path()
    }

    async fn restart(&mut self) {
        let port = self.port();
        self.0.take().expect("it runs").shutdown().await;
        self.0 = Some(on_port(port).await);
    }

    /// It repeats at once, or never.
    fn quiet(&self) -> Duration {
        Duration::from_secs(3)
    }
}
