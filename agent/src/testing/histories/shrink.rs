//! The fewest steps that still break a law.

/// Leaves out as many of the steps as possible while `breaks` still says yes: first halves, then smaller and smaller
/// parts, at last single steps.
pub(super) fn shrink<T: Clone>(mut steps: Vec<T>, mut breaks: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut runs = 0;
    let mut part = steps.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        let mut shorter = false;
        while from < steps.len() {
            if runs >= MAX_RUNS {
                return steps;
            }
            runs += 1;
            let to = (from + part).min(steps.len());
            let rest: Vec<T> = [&steps[..from], &steps[to..]].concat();
            if breaks(&rest) {
                steps = rest;
                shorter = true;
            } else {
                from = to;
            }
        }
        // Single steps are tried again as long as one could be left out.
        part = if part > 1 { part / 2 } else { usize::from(shorter) };
    }
    steps
}

/// How many histories may be spent on one failure: some seconds.
const MAX_RUNS: u32 = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_left_out() {
        let steps: Vec<u32> = (0..100).collect();
        let needed = |steps: &[u32]| [7, 8, 93].iter().all(|step| steps.contains(step));
        assert_eq!(shrink(steps, needed), [7, 8, 93]);
        assert!(shrink(vec![1], |_| true).is_empty());
    }

    #[test]
    fn the_search_ends_also_when_nothing_is_stable() {
        let mut runs = 0;
        let steps = shrink((0..10_000).collect(), |_| {
            runs += 1;
            runs % 7 == 0
        });
        assert!(runs <= MAX_RUNS && steps.len() < 10_000);
    }
}
