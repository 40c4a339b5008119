//! Finding the rewrite that changes a result.
//!
//! A compilation makes its rewrites in one order, and can be told to stop after so many of them. Results with none and with all of them are
//! compared first; if they differ, halving finds the first rewrite after which they do.

use std::collections::BTreeMap;

use ccl_ir::tensor::relative_l2;
use ccl_passes::Spent;
use serde::Serialize;

use crate::error::Error;

/// Results by name.
pub type Results = BTreeMap<String, Vec<f32>>;

/// The first rewrite that changes a result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guilty {
    /// Its number among all rewrites, from 1.
    pub number: usize,
    /// The pass that made it.
    pub pass: String,
    /// The rule.
    pub rule: String,
    /// Model path where.
    pub at: String,
    /// The result that changes most.
    pub output: String,
    /// Its relative L2 difference from the result without any rewrite; `None`: it is not finite.
    pub relative_l2: Option<f64>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Rewrites that the compilation makes.
    pub rewrites: usize,
    /// Largest relative L2 difference that all of them together make; `None`: a result is not finite.
    pub relative_l2: Option<f64>,
    /// Evaluations that it took.
    pub evaluations: usize,
    /// The first rewrite that changes a result, if any does.
    pub guilty: Option<Guilty>,
}

/// The largest difference between results, and of which.
fn difference(want: &Results, got: &Results) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for (name, want) in want {
        let error = match got.get(name) {
            Some(got) if got.len() == want.len() => relative_l2(got, want),
            _ => f64::NAN,
        };
        // NaN is the worst difference.
        if error.is_nan() || error > worst.0 || worst.1.is_empty() {
            worst = (error, name.clone());
        }
        if error.is_nan() {
            break;
        }
    }
    worst
}

/// Finds the first rewrite that changes a result by more than `tolerance`, relative L2. `evaluate` gives the results of a compilation with
/// so many rewrites, all of them where there is no limit, and says which it made.
///
/// # Errors
/// Those of `evaluate`.
pub fn bisect(
    tolerance: f64,
    mut evaluate: impl FnMut(Option<usize>) -> Result<(Results, Spent), Error>,
) -> Result<Found, Error> {
    let (want, _) = evaluate(Some(0))?;
    let (got, all) = evaluate(None)?;
    let mut evaluations = 2;
    let (worst, _) = difference(&want, &got);
    let finite = |x: f64| x.is_finite().then_some(x);
    let differs = |x: f64| x.is_nan() || x > tolerance;
    let mut found = Found { rewrites: all.count, relative_l2: finite(worst), evaluations, guilty: None };
    if !differs(worst) {
        return Ok(found);
    }
    // With `good` rewrites results agree, with `bad` they do not.
    let (mut good, mut bad) = (0, all.count);
    let mut last = None;
    while good < bad {
        let middle = if bad - good == 1 { bad } else { good + (bad - good) / 2 };
        let (got, spent) = evaluate(Some(middle))?;
        evaluations += 1;
        let (worst, output) = difference(&want, &got);
        if differs(worst) {
            last = Some((spent, worst, output));
            if middle == bad {
                break;
            }
            bad = middle;
            if bad - good == 1 {
                break;
            }
        } else if middle == bad {
            break;
        } else {
            good = middle;
        }
    }
    found.evaluations = evaluations;
    found.guilty = last.map(|(spent, worst, output)| {
        let [pass, rule, at] = spent.last.unwrap_or_default();
        Guilty { number: spent.count, pass, rule, at, output, relative_l2: finite(worst) }
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A compilation of `count` rewrites of which number `bad` changes the result.
    fn hunt(count: usize, bad: usize) -> Found {
        let evaluate = |fuel: Option<usize>| {
            let made = fuel.unwrap_or(count).min(count);
            let value = if bad > 0 && made >= bad { 2.0 } else { 1.0 };
            let last = Some(["pass".to_string(), format!("rule {made}"), "here".into()]);
            Ok((BTreeMap::from([("y".to_string(), vec![value, 1.0])]), Spent { count: made, last }))
        };
        bisect(1e-4, evaluate).unwrap()
    }

    #[test]
    fn every_position_is_found() {
        for count in 1..40 {
            assert_eq!(hunt(count, 0).guilty, None);
            for bad in 1..=count {
                let found = hunt(count, bad);
                let guilty = found.guilty.unwrap_or_else(|| panic!("{bad} of {count} is not found"));
                assert_eq!((guilty.number, guilty.rule), (bad, format!("rule {bad}")), "of {count}");
                assert!(found.evaluations <= 3 + count.next_power_of_two().trailing_zeros() as usize + 1);
            }
        }
    }

    #[test]
    fn results_that_are_not_finite_differ() {
        let evaluate = |fuel: Option<usize>| {
            let value = if fuel == Some(0) { 1.0 } else { f32::NAN };
            Ok((BTreeMap::from([("y".to_string(), vec![value])]), Spent { count: 1, last: None }))
        };
        let found = bisect(1e-4, evaluate).unwrap();
        assert_eq!(found.guilty.map(|g| (g.number, g.relative_l2)), Some((1, None)));
    }
}
