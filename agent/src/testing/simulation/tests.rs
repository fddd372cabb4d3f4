use super::*;

/// `IOTDM_SEED=n` lives one life, `IOTDM_SEEDS=n` that many from `IOTDM_FIRST_SEED` on.
#[test]
fn every_law_holds_in_every_life() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("IOTDM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("IOTDM_FIRST_SEED").unwrap_or(0);
            first..first + number("IOTDM_SEEDS").unwrap_or(SEEDS)
        }
    };
    for seed in seeds {
        let plan = Plan::from_seed(seed);
        if let Some(violation) = plan.run().violation {
            let short = plan.shrink(SHRINK_RUNS);
            panic!("IOTDM_SEED={seed}: {violation}\n{:#?}\n{}", short, short.tell().story.join("\n"));
        }
    }
}

#[test]
fn one_seed_is_one_life_told_or_not() {
    for seed in 0..50 {
        let plan = Plan::from_seed(seed);
        let (first, second) = (plan.tell(), plan.tell());
        assert!(!first.story.is_empty());
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(plan.run().counts, first.counts, "seed {seed}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 300, ..Default::default() })]

    /// Bytes reach lives that no seed gives: short ones, long ones, the same step over and over.
    #[test]
    fn any_sequence_of_steps_keeps_the_laws(bytes in proptest::collection::vec(0_u8.., 0..600)) {
        let plan = Plan::from_bytes(&bytes);
        proptest::prop_assert_eq!(plan.run().violation, None, "{}", plan.tell().story.join("\n"));
    }
}

/// Each line is a life that broke a law once, as short as it could be made, and a word on why.
#[test]
fn no_law_is_broken_again_by_a_life_that_broke_it_once() {
    for line in include_str!("corpus.txt").lines().filter(|line| !line.starts_with('#')) {
        let (digits, why) = line.split_once(' ').unwrap();
        let life = Plan::from_hex(digits).unwrap().tell();
        assert!(life.violation.is_none(), "{why}: {}\n{}", life.violation.unwrap(), life.story.join("\n"));
    }
}

#[test]
fn a_plan_that_breaks_nothing_is_as_short_as_it_can_be() {
    let plan = Plan::from_seed(1);
    assert_eq!(plan.shrink(10), plan);
}

/// Lives that a plain test lives.
const SEEDS: u64 = 500;

/// Lives spent on a shorter story.
const SHRINK_RUNS: usize = 2000;
