use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::action::Phases;
use crate::response::Code;

/// What a handler may answer with; the type is the code. Sealed: the protocol has these three.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no answer of the protocol",
    label = "not an answer",
    note = "write `type Reply = Accepted` (202), `Changed` (204), or `Finished<T>` (200) where `T` has `#[derive(serde::Serialize, schemars::JsonSchema)]`"
)]
pub trait Reply: sealed::Sealed + Send + 'static {
    /// The code that it is answered with.
    const CODE: Code;
    /// Whether the work is done before the answer or after it.
    const PHASES: Phases;
    /// The answer, ready to be stored; a value that does not serialize is a refusal.
    fn into_parts(self) -> Result<ReplyParts, Refusal>;
    /// The schema of the answer's `d`, where there is one.
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema>;
}

/// 202: the device will do it, in [`Handler::after_ack`](crate::Handler::after_ack), once the platform has this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted;

/// 204: it has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed;

/// 200: it has been done, and this came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished<T>(pub T);

/// A successful answer without its reqId.
#[derive(Clone, Debug)]
pub struct ReplyParts {
    /// 200, 202 or 204.
    pub rc: Code,
    /// The answer's `d`.
    pub d: Option<Box<RawValue>>,
}

impl Reply for Accepted {
    const CODE: Code = Code::ACCEPTED;
    const PHASES: Phases = Phases::AnswerThenWork;

    fn into_parts(self) -> Result<ReplyParts, Refusal> {
        Ok(ReplyParts { rc: Self::CODE, d: None })
    }

    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
}

impl Reply for Changed {
    const CODE: Code = Code::CHANGED;
    const PHASES: Phases = Phases::WorkThenAnswer;

    fn into_parts(self) -> Result<ReplyParts, Refusal> {
        Ok(ReplyParts { rc: Self::CODE, d: None })
    }

    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + JsonSchema + Send + 'static> Reply for Finished<T> {
    const CODE: Code = Code::OK;
    const PHASES: Phases = Phases::WorkThenAnswer;

    fn into_parts(self) -> Result<ReplyParts, Refusal> {
        let d = serde_json::value::to_raw_value(&self.0)
            .map_err(|error| Refusal::failed("the result could not be written").log(error.to_string()))?;
        // `Finished(())` answers without `d`.
        Ok(ReplyParts { rc: Self::CODE, d: Some(d).filter(|d| d.get() != "null") })
    }

    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(T::json_schema(generator))
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "that is what seals it")]
    pub trait Sealed {}
    impl Sealed for super::Accepted {}
    impl Sealed for super::Changed {}
    impl<T> Sealed for super::Finished<T> {}
}

/// A handler's "no": a code of 400 to 599 with two messages, one for the platform and one for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    rc: Code,
    message: Cow<'static, str>,
    log: Option<String>,
}

impl Refusal {
    /// 400: the request is wrong, or the device is in a state that does not allow it.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::with(Code::BAD_REQUEST, message.into())
    }

    /// 404: what the request names is not here.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::with(Code::NOT_FOUND, message.into())
    }

    /// 409: something else is going on; the platform may ask again later, with a reqId of its own.
    pub fn busy(message: impl Into<Cow<'static, str>>) -> Self {
        Self::with(Code::CONFLICT, message.into())
    }

    /// 500: the attempt failed.
    pub fn failed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::with(Code::FAILED, message.into())
    }

    /// 501: this device does not offer that.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::with(Code::UNSUPPORTED, message.into())
    }

    /// Any code of 400 to 599; another one becomes 500, so that a refusal cannot read as success.
    pub fn new(rc: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self::with(if rc.is_refusal() { rc } else { Code::FAILED }, message.into())
    }

    /// With a text for the device's own log: paths, standard error and the like stay out of the answer.
    pub fn log(self, log: impl Into<String>) -> Self {
        Self { log: Some(log.into()), ..self }
    }

    /// The code, 400 to 599.
    pub fn rc(&self) -> Code {
        self.rc
    }

    /// What the platform is told.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the log is told besides.
    pub fn log_message(&self) -> Option<&str> {
        self.log.as_deref()
    }

    fn with(rc: Code, message: Cow<'static, str>) -> Self {
        Self { rc, message, log: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.rc, self.message)?;
        self.log.as_ref().map_or(Ok(()), |log| write!(f, " ({log})"))
    }
}

impl std::error::Error for Refusal {}

/// How [`Handler::after_ack`](crate::Handler::after_ack) ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Performed {
    /// It is done.
    Complete,
    /// The device is about to restart; the request ends when [`Handler::recover`](crate::Handler::recover) has judged
    /// it under another boot id.
    Restarting,
}

/// How [`Handler::after_ack`](crate::Handler::after_ack) failed. The platform has its 202 already: this goes to the
/// log, to a log entry and to an error code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(Cow<'static, str>);

impl Failure {
    /// A failure told in words.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self(message.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_refusal_cannot_read_as_success() {
        for rc in [0, 200, 202, 399, 600] {
            assert_eq!(Refusal::new(Code::from_u16(rc), "x").rc(), Code::FAILED);
        }
        assert_eq!(Refusal::new(Code::from_u16(418), "x").rc().as_u16(), 418);
    }

    #[test]
    fn a_result_that_does_not_serialize_is_a_500() {
        let unwritable = Unwritable(BTreeMap::from([((1, 2), 3)]));
        assert_eq!(Finished(unwritable).into_parts().unwrap_err().rc(), Code::FAILED);
    }

    #[derive(Serialize)]
    struct Unwritable(BTreeMap<(u8, u8), u8>);

    impl JsonSchema for Unwritable {
        fn schema_name() -> Cow<'static, str> {
            "Unwritable".into()
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            true.into()
        }
    }

    #[test]
    fn nothing_to_tell_means_no_d() {
        assert!(Finished(()).into_parts().unwrap().d.is_none());
    }
}
