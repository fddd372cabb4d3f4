//! Random lives of the whole agent: requests, faults and ends of everything, and what must hold of them.

use iotdm_tests::lives::{Census, Plan, check, difference, live};

/// How many lives are lived when nothing else is said.
const SEEDS: u64 = 15;

/// Every how many of them is lived twice.
const TWICE_EVERY: u64 = 5;

/// `IOTDM_SEED=n` lives one seed, `IOTDM_SEEDS=n` the first n, from `IOTDM_FIRST_SEED` on.
#[test]
fn the_promises_hold_over_random_lives_with_a_real_link_and_a_real_journal() {
    let seeds = match std::env::var("IOTDM_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => {
            let number =
                |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
            let first = number("IOTDM_FIRST_SEED", 0);
            first..first + number("IOTDM_SEEDS", SEEDS)
        }
    };
    let mut census = Census::default();
    for seed in seeds {
        let life = match check(seed) {
            Ok(life) => life,
            Err(story) => panic!("IOTDM_SEED={seed}\n{story}"),
        };
        census.add(&life.entries);
        if seed % TWICE_EVERY == 0 {
            let again = live(&Plan::from_seed(seed));
            assert_eq!(difference(&life, &again), None, "IOTDM_SEED={seed} has two lives");
        }
    }
    assert_eq!(census.missing(), [] as [&str; 0], "what was to be tested did not happen: {census}");
}
