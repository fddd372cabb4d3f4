//! Random histories of a product: its own handlers in the whole agent, and everything that can go wrong around them.
//!
//! A history is a plan made from a seed: requests, copies of them, reqIds used twice, broken connections, outages of
//! minutes to days, `kill -9`, power cuts, restarts that never come, a full disk, crashes in the middle of a commit, a
//! damaged journal, a lost session, withheld acknowledgements. The real agent lives through it on tokio's paused
//! clock, with link and disk in memory. Then nothing goes wrong any more, everything has to come to its end, and the
//! [laws](#laws) are judged from what the platform, the broker and the machine have seen.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use iotdm_agent::testing::histories::Histories;
//! use iotdm_core::{Action, Context, Empty, Finished, Handler, Refusal, Route};
//! use serde_json::Value;
//!
//! /// Gives out a drink. It may not be repeated after a crash: that is the default of an action.
//! struct Pour;
//! impl Action for Pour {
//!     const ROUTE: Route = Route::custom("bar", "pour");
//!     type Request = Empty;
//!     type Reply = Finished<u32>;
//! }
//!
//! /// What stays when the process dies: the glasses that are full.
//! #[derive(Clone, Default)]
//! struct Bar(Arc<Mutex<u32>>);
//! impl Handler<Pour> for Bar {
//!     async fn handle(&self, _: &Context, _: &Empty) -> Result<Finished<u32>, Refusal> {
//!         let mut full = self.0.lock().unwrap();
//!         *full += 1;
//!         Ok(Finished(*full))
//!     }
//! }
//!
//! Histories::of(|_| Bar::default(), |bar, builder| builder.on::<Pour>(bar.clone()))
//!     .request(1, Pour::ROUTE, Value::Null)
//!     .check(20); // panics with the seed, the shortest plan and the story of what breaks a law
//! ```
//!
//! This is a plain `#[test]`: each history makes a runtime of its own. `IOTDM_SEED=n` runs one seed, `IOTDM_SEEDS=n` so
//! many, `IOTDM_FIRST_SEED=n` from this one on. The same seed is the same history, as long as the product takes its
//! time from tokio and its luck from nowhere.
//!
//! # Laws
//! * **P1, P3, P4**: what was acknowledged is answered after its last delivery, and the broker has the answer.
//! * **P2**: one answer per reqId and body, byte for byte; what may not be repeated begins once. Nothing begins that was
//!   not asked for.
//! * **P5**: no handler restarts the machine before the broker has its 202, or once more after the restart (of a reset:
//!   once its handler has said that all was done; of an update: after a second one, which may have been the way back); between the 202 of a reboot or reset and the restart there is no
//!   manage.
//! * **P6**: no part of a handler begins more often than its action has attempts.
//! * **P8**: the journal is no larger than what was asked and answered explains.
//! * **P9**: nothing begins later than its action's `refuse_after`.
//! * **P10**: nothing ends the agent, and in the end it is managed; after its journal was lost, nothing begins that may
//!   not be repeated and that the lost journal may have known of.
//! * **Quiet**: once all is done, nothing begins, connects or restarts by itself.
//!
//! # Laws of the product's own
//! A product adds them with [`law`](Histories::law). What its hardware does it writes down by [`Machine::note`]; a law
//! reads the [`Record`] and what has survived:
//!
//! ```
//! # use std::sync::{Arc, Mutex};
//! # use iotdm_agent::testing::histories::{Event, Histories, Machine, Part};
//! # use iotdm_core::{Action, Context, Empty, Finished, Handler, Refusal, Route};
//! # use serde_json::Value;
//! # struct Pour;
//! # impl Action for Pour {
//! #     const ROUTE: Route = Route::custom("bar", "pour");
//! #     type Request = Empty;
//! #     type Reply = Finished<u32>;
//! # }
//! #[derive(Clone)]
//! struct Bar {
//!     full: Arc<Mutex<u32>>,
//!     machine: Machine,
//! }
//!
//! impl Handler<Pour> for Bar {
//!     async fn handle(&self, _: &Context, _: &Empty) -> Result<Finished<u32>, Refusal> {
//!         self.machine.note("the tap opens");
//!         let mut full = self.full.lock().unwrap();
//!         *full += 1;
//!         Ok(Finished(*full))
//!     }
//! }
//!
//! let bar = |machine: &Machine| Bar { full: Arc::default(), machine: machine.clone() };
//! Histories::of(bar, |bar, builder| builder.on::<Pour>(bar.clone()))
//!     .request(1, Pour::ROUTE, Value::Null)
//!     .law("each glass is poured by one start of the handler", |record, bar| {
//!         let started = |event: &&Event| matches!(event, Event::Started(work) if work.part == Part::Handle);
//!         let starts = record.events().filter(started).count();
//!         let opened = record.notes().filter(|note| *note == "the tap opens").count();
//!         let full = *bar.full.lock().unwrap() as usize;
//!         if opened == full && full <= starts {
//!             Ok(())
//!         } else {
//!             Err(format!("{full} glasses, the tap opened {opened} times, {starts} starts"))
//!         }
//!     })
//!     .check(20);
//! ```
//!
//! # In a product
//! The feature `testing` is for tests alone: it pauses tokio's clock. A product's `Cargo.toml`:
//!
//! ```toml
//! [dev-dependencies]
//! iotdm-agent = { path = "../iotdm/agent", default-features = false, features = ["testing"] }
//! serde_json = "1"
//! ```
//!
//! # Caveats
//! * Blocking work ([`Context::blocking`](iotdm_core::Context::blocking)) is done on the spot and takes no time. It must
//!   not wait for anything. A plan interrupts it only where the model of the hardware says so, by
//!   [`Machine::cut_power`] or [`Machine::crash`].
//! * The machine is the history's own: a [`System`](iotdm_core::System) that the product sets is not used.
//! * What a handler spawned by itself lives on after a crash of the process.
//! * Files that a handler writes are not lost in a power cut, and not torn.

mod laws;
mod machine;
mod plan;
pub(super) mod record;
mod shrink;
mod watch;
mod world;

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

use iotdm_core::Route;
use serde_json::Value;

use crate::{Builder, Device};

use self::laws::Broken;
pub use self::machine::Machine;
use self::plan::Step;
use self::record::Entries;
pub use self::record::{Asked, Entry, Event, Outcome, Part, Record, Work};
use self::world::World;

/// Random histories of one product. `W` is what of it survives its process: its hardware, its files.
pub struct Histories<W> {
    hardware: Box<dyn Fn(&Machine) -> W>,
    product: Box<Product<W>>,
    beside: Option<Box<Beside<W>>>,
    requests: Vec<Request>,
    laws: Vec<(String, Box<Law<W>>)>,
}

type Product<W> = dyn Fn(&W, Builder) -> Builder;
type Beside<W> = dyn Fn(&W, Device) -> Pin<Box<dyn Future<Output = ()> + Send>>;
type Law<W> = dyn Fn(&Record, &W) -> Result<(), String>;

/// What the platform may ask.
struct Request {
    weight: u32,
    route: Route,
    d: Value,
}

impl<W> Histories<W> {
    /// Of a product: `hardware` is called once for each history, `product` for each life of the process in it.
    #[must_use]
    pub fn of(
        hardware: impl Fn(&Machine) -> W + 'static,
        product: impl Fn(&W, Builder) -> Builder + 'static,
    ) -> Self {
        Self {
            hardware: Box::new(hardware),
            product: Box::new(product),
            beside: None,
            requests: Vec::new(),
            laws: Vec::new(),
        }
    }

    /// A request that the platform may send, and how often compared with the others; `d` is `null` for none.
    #[must_use]
    pub fn request(mut self, weight: u32, route: Route, d: Value) -> Self {
        self.requests.push(Request { weight, route, d });
        self
    }

    /// What the product does beside its agent, in each life of the process; it ends with the process.
    #[must_use]
    pub fn beside<F>(mut self, work: impl Fn(&W, Device) -> F + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.beside = Some(Box::new(move |hardware, device| Box::pin(work(hardware, device))));
        self
    }

    /// A law of the product's own, judged at the end of each history in which the others hold.
    #[must_use]
    pub fn law(
        mut self,
        name: impl Into<String>,
        holds: impl Fn(&Record, &W) -> Result<(), String> + 'static,
    ) -> Self {
        self.laws.push((name.into(), Box::new(holds)));
        self
    }

    /// Runs so many histories, or those that the environment names.
    ///
    /// # Panics
    /// When a law does not hold: with the seed, the steps that are needed for it, and what happened. Also inside of
    /// an asynchronous runtime, and when a variable of the environment is no number.
    pub fn check(&self, seeds: u64) {
        if let Some(violation) = self.find(seeds_of_environment(seeds)) {
            panic!("{violation}");
        }
    }

    /// The first of these seeds whose history breaks a law, with as few steps as still break it.
    ///
    /// # Panics
    /// Inside of an asynchronous runtime.
    pub fn find(&self, seeds: Range<u64>) -> Option<Violation> {
        seeds.into_iter().find_map(|seed| self.try_seed(seed))
    }

    /// What happens in the history of a seed, whether or not the laws hold.
    ///
    /// # Panics
    /// When the product does, and inside of an asynchronous runtime.
    pub fn record(&self, seed: u64) -> Record {
        self.live(seed, &self.plan(seed), Entries::default()).0
    }

    fn try_seed(&self, seed: u64) -> Option<Violation> {
        let plan = self.plan(seed);
        let found = self.breaks(seed, &plan)?;
        let still = |steps: &[Step]| self.breaks(seed, steps).is_some_and(|other| other.law == found.law);
        let mut steps = shrink::shrink(plan.clone(), still);
        let merged = plan::merge_pauses(&steps);
        if merged != steps && still(&merged) {
            steps = merged;
        }
        // What was found with the whole plan is what is told when the short one does not repeat it.
        let (steps, found) = match self.breaks(seed, &steps) {
            Some(again) => (steps, again),
            None => (plan.clone(), found),
        };
        let entries = Entries::default();
        let lived = catch_unwind(AssertUnwindSafe(|| self.live(seed, &steps, entries.clone()).0));
        let mut record = lived.unwrap_or_else(|_| Record::of(&entries));
        if found.law != laws::QUIET {
            // What is told of the quiet is only that it is quiet.
            let quiet = record.events().position(|event| *event == Event::Quiet);
            record.entries.truncate(quiet.map_or(record.entries.len(), |at| at + 1));
        }
        let story = record.to_string();
        Some(Violation {
            seed,
            law: found.law,
            what: found.what,
            steps: steps.iter().map(ToString::to_string).collect(),
            steps_of_plan: plan.len(),
            story,
        })
    }

    fn plan(&self, seed: u64) -> Vec<Step> {
        let weights: Vec<u32> = self.requests.iter().map(|request| request.weight).collect();
        plan::plan(seed, &weights)
    }

    fn breaks(&self, seed: u64, steps: &[Step]) -> Option<Broken> {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            let (record, hardware) = self.live(seed, steps, Entries::default());
            laws::judge(&record).err().or_else(|| self.breaks_own(&record, &hardware))
        }));
        lived.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Some(Broken { law: "panic".into(), what: text.into() })
        })
    }

    fn breaks_own(&self, record: &Record, hardware: &W) -> Option<Broken> {
        self.laws.iter().find_map(|(law, holds)| {
            let what = holds(record, hardware).err()?;
            Some(Broken { law: law.clone(), what })
        })
    }

    fn live(&self, seed: u64, steps: &[Step], entries: Entries) -> (Record, W) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can be made");
        runtime.block_on(World::run(self, seed, steps, entries))
    }

    /// The request with this number; a reboot when the product named none.
    fn request_of(&self, what: usize) -> (Route, Value) {
        match self.requests.len() {
            0 => (Route::Reboot, Value::Null),
            count => {
                let Request { route, d, .. } = &self.requests[what % count];
                (route.clone(), d.clone())
            }
        }
    }
}

impl<W> fmt::Debug for Histories<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let laws: Vec<&str> = self.laws.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Histories")
            .field("requests", &self.requests.len())
            .field("laws", &laws)
            .finish_non_exhaustive()
    }
}

/// A history in which a law does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Its seed.
    pub seed: u64,
    /// The law: `P1` to `P10`, `quiet`, `panic`, or the name of one of the product's own.
    pub law: String,
    /// How it was broken.
    pub what: String,
    /// The steps that are needed for it.
    pub steps: Vec<String>,
    /// How many the plan of the seed had.
    pub steps_of_plan: usize,
    /// What happened.
    pub story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "IOTDM_SEED={}: {}: {}", self.seed, self.law, self.what)?;
        writeln!(f, "{} of {} steps are needed:", self.steps.len(), self.steps_of_plan)?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        write!(f, "what happened:\n{}", self.story)
    }
}

fn seeds_of_environment(seeds: u64) -> Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
    };
    match number("IOTDM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("IOTDM_FIRST_SEED").unwrap_or(0);
            first..first + number("IOTDM_SEEDS").unwrap_or(seeds)
        }
    }
}

#[cfg(test)]
mod tests;
