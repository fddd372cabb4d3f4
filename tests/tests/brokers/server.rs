use std::time::Duration;

use async_trait::async_trait;

/// A broker of the test's own, with the users of `docs/brokers`.
#[async_trait]
pub(crate) trait Server: Send {
    /// Its column in the table.
    fn name(&self) -> &'static str;

    /// Where devices connect.
    fn port(&self) -> u16;

    /// Where the platform connects.
    fn platform_port(&self) -> u16 {
        self.port()
    }

    /// How it names a user in the files of `docs/brokers`.
    fn user(&self, who: Who) -> String;

    /// Ends it in order and starts it again, on the same port and disk; of several nodes the one that devices are
    /// connected to.
    async fn restart(&mut self);

    /// Whether a restart cuts the platform too.
    fn restart_cuts_platform(&self) -> bool {
        true
    }

    /// After so long without an answer none is expected.
    fn quiet(&self) -> Duration {
        QUIET
    }
}

/// More than twice as long as NATS waits before it repeats a message.
const QUIET: Duration = Duration::from_secs(12);

/// A user of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Platform,
    Lamp(u8),
    /// A gateway, `gw/g7`.
    Gateway,
}

impl Who {
    /// As the files of `docs/brokers` have it.
    pub(crate) fn password(self) -> String {
        match self {
            Self::Platform => "change-me-0".into(),
            Self::Lamp(number) => format!("change-me-{number}"),
            Self::Gateway => "change-me-7".into(),
        }
    }

    /// What the user is called where a name may have a slash.
    pub(crate) fn path(self) -> String {
        match self {
            Self::Platform => "platform".into(),
            Self::Lamp(number) => format!("lamp/lamp-{number}"),
            Self::Gateway => "gw/g7".into(),
        }
    }
}
