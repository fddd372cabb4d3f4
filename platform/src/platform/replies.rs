use iotdm_core::{Code, UpRoute};

/// How the platform answers each kind of request a device makes (`docs/protocol.md` §4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replies {
    /// manage.
    pub manage: Reply,
    /// unmanage.
    pub unmanage: Reply,
    /// Location.
    pub location: Reply,
    /// Error codes and log entries.
    pub diagnostics: Reply,
    /// notify.
    pub notify: Reply,
}

/// An answer to a device's request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reply {
    /// 200; 400 to a body that cannot be read, 404 to a notify of what is not observed.
    #[default]
    ByTheBook,
    /// Always this code. With 400 and above the request is not taken.
    Always(Code),
    /// The request is taken, and the answer is lost.
    Silence,
}

impl Replies {
    pub(super) const fn to(&self, route: UpRoute) -> Reply {
        match route {
            UpRoute::Manage => self.manage,
            UpRoute::Unmanage => self.unmanage,
            UpRoute::Location => self.location,
            UpRoute::AddErrorCode | UpRoute::ClearErrorCodes | UpRoute::AddLog | UpRoute::ClearLog => {
                self.diagnostics
            }
            UpRoute::Notify => self.notify,
            UpRoute::Response => Reply::Silence,
        }
    }
}

impl Reply {
    /// Whether a request that can be read takes effect.
    pub(super) const fn takes(self) -> bool {
        match self {
            Self::ByTheBook | Self::Silence => true,
            Self::Always(rc) => rc.is_success(),
        }
    }

    /// The code that is sent, where the book says `by_the_book`.
    pub(super) const fn code(self, by_the_book: Code) -> Option<Code> {
        match self {
            Self::ByTheBook => Some(by_the_book),
            Self::Always(rc) => Some(rc),
            Self::Silence => None,
        }
    }
}
