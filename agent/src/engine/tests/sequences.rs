//! Any sequence of inputs keeps the laws: what a driver gives, what nobody should give, crashes in between. Beside
//! `walk`, whose histories are those of a world, these are short, hostile, and shrink to the steps that matter.

use bytes::Bytes;
use iotdm_core::{Failure, Performed, Recovery, Refusal};
use proptest::prelude::*;
use proptest::sample::select;

use crate::engine::{Delivered, Input, PublishId};

use super::world::*;

#[derive(Clone, Debug)]
enum Step {
    Ask(Ask, u8),
    /// Anything on a topic of requests.
    Message(Ask, Vec<u8>),
    /// A handler returns, if it runs; how, if its answer is wanted at all.
    Return(u8, u8),
    /// A result that nobody waits for.
    Stray(u8, u8),
    /// A PUBACK for what was never sent.
    Puback(u64),
    Pubacks(bool),
    Cut,
    Pass(u32),
    Crash,
    CrashAfter(u64),
    PowerOff,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let asks =
        || select(vec![reboot(), reset(), download(), once(), again(), after(), fresh(), observe("level")]);
    let step = prop_oneof![
        6 => (asks(), 0..IDS).prop_map(|(ask, id)| Step::Ask(ask, id)),
        1 => (asks(), prop::collection::vec(any::<u8>(), 0..30)).prop_map(|(ask, bytes)| Step::Message(ask, bytes)),
        1 => (asks(), "\\{\"reqId\":(7|null|\\[\\]|\"s\"),?\"d\":(\\{\\}|[a-z1]{1,4}|\"\")\\}")
            .prop_map(|(ask, text)| Step::Message(ask, text.into_bytes())),
        8 => (0..IDS, 0..8_u8).prop_map(|(id, how)| Step::Return(id, how)),
        1 => (0..IDS, 0..3_u8).prop_map(|(id, how)| Step::Stray(id, how)),
        1 => any::<u64>().prop_map(Step::Puback),
        1 => any::<bool>().prop_map(Step::Pubacks),
        1 => Just(Step::Cut),
        3 => (0..4000_u32).prop_map(Step::Pass),
        1 => Just(Step::Crash),
        2 => (1..12_u64).prop_map(Step::CrashAfter),
        1 => Just(Step::PowerOff),
    ];
    prop::collection::vec(step, 1..60)
}

/// Few, so that they come again, also for something else.
const IDS: u8 = 6;

fn take(world: &mut World, step: Step) {
    if !world.boot_up() {
        return;
    }
    match step {
        Step::Ask(ask, id) => world.deliver(&format!("r{id}"), ask),
        Step::Message(ask, payload) => {
            let payload = Bytes::from(payload);
            world.input(Input::Delivered(Delivered {
                delivery: None,
                topic: ask.topic,
                payload,
                retained: false,
            }));
        }
        Step::Return(id, how) => hand_back(world, &format!("r{id}"), how),
        Step::Stray(id, how) => {
            let id = format!("r{id}");
            if !world.is_running(&id) {
                let (key, failure) = (key(&id), Failure::new("a stray"));
                world.input(match how {
                    0 => Input::Decided(key, no(Refusal::failed("a stray"))),
                    1 => Input::Performed(key, Err(failure)),
                    _ => Input::Recovered(key, Recovery::Done),
                });
            }
        }
        Step::Puback(id) => world.input(Input::Acknowledged(PublishId(id | 1 << 40))),
        Step::Pubacks(on) if on => world.puback(),
        Step::Pubacks(_) => world.broker.pubacks = false,
        Step::Cut => world.cut(),
        Step::Pass(seconds) => world.pass(secs(seconds.into())),
        Step::Crash => world.restart(),
        Step::CrashAfter(points) => world.crash_at = Some(world.points + points),
        Step::PowerOff => world.reboot(),
    }
}

/// The handler of this request returns.
fn hand_back(world: &mut World, id: &str, how: u8) {
    use crate::engine::TaskMoment::{AfterAck, Handle, Recover};
    let Some(task) = world.agent.as_ref().and_then(|agent| agent.tasks.get(&key(id)).cloned()) else {
        return;
    };
    let works_after = [reboot(), reset(), download(), after()]
        .iter()
        .any(|ask| ask.topic == format!("iotdm-1/{}", task.route));
    match (task.moment, how) {
        (Handle, 0) => world.decide(id, no(Refusal::busy("not now"))),
        (Handle, 1) => world.end(id),
        (Handle, _) => world.decide(id, yes(if works_after { 202 } else { 200 })),
        (AfterAck, 0) => world.performed(id, Err(Failure::new("broken"))),
        (AfterAck, 1..=3) => world.performed(id, Ok(Performed::Restarting)),
        (AfterAck, _) => world.performed(id, Ok(Performed::Complete)),
        (Recover, 0) => world.recovered(id, Recovery::RunAgain),
        (Recover, 1) => world.recovered(id, Recovery::Abandon),
        (Recover, _) => world.recovered(id, Recovery::Done),
    }
}

/// Everything works again, handlers return, and there is time.
fn calm_down(world: &mut World) {
    world.crash_at = None;
    for _ in 0..40 {
        world.boot_up();
        world.puback();
        for id in 0..IDS {
            hand_back(world, &format!("r{id}"), 7);
        }
        world.pass(secs(60));
    }
}

/// Whose handlers must not be started twice for one reqId.
fn must_not_repeat(world: &World, id: &str) -> bool {
    let asked =
        world.broker.copies.values().filter(|copy| copy.payload.windows(2).any(|w| w == id.as_bytes()));
    asked.into_iter().all(|copy| copy.topic == once().topic || copy.topic == fresh().topic)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_inputs_keeps_the_laws(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            take(&mut world, step);
        }
        calm_down(&mut world);
        let engine = world.engine();
        prop_assert!(engine.is_managed(), "it is not managed");
        prop_assert!(engine.requests.is_empty(), "P1: unfinished: {:?}", engine.requests);
        prop_assert!(engine.kept() <= 2 * usize::from(IDS) + 4, "P8: {} are kept", engine.kept());
        prop_assert_eq!(world.broker.unacknowledged(), 0, "P1: not acknowledged");
        for id in (0..IDS).map(|id| format!("r{id}")) {
            let asked = world.broker.copies.values().any(|copy| copy.payload.windows(2).any(|w| w == id.as_bytes()));
            prop_assert!(!asked || !world.codes(&id).is_empty(), "P3: {} is not answered", id);
            if must_not_repeat(&world, &id) {
                prop_assert!(world.runs(&id) <= 1, "P2: {} ran {} times", id, world.runs(&id));
            }
            prop_assert!(world.performs(&id) <= 3 && world.recovers(&id) <= 3, "P6: {} loops", id);
        }
    }
}
