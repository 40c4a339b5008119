//! Random graphs: what tests of passes and runtimes run on beside models.
//!
//! [`grow`] makes a valid graph from the samples of all operators, so that an operator that has samples is in the graphs
//! by existing: between them lie elementwise chains, views that no kernel likes, the plain patterns that raising looks for,
//! routes, a flow time and values of every binding time. A graph depends on its seed, the recipe and the set of operators alone, and is well
//! conditioned: what rounding makes of it is known by [`Expected`], which says how far a runtime may be from the f64 evaluation.
//!
//! [`hunt`] checks one graph per seed. A graph that fails is [shrunk](shrink()) and told in the text form, ready to become a fixed case:
//!
//! ```
//! use ccl_ir::random_graph::{Expected, Recipe, hunt};
//!
//! let recipe = Recipe { nodes: 12, ..Recipe::default() };
//! let outcome = hunt(0..5, &recipe, |graph| {
//!     let expected = Expected::of(graph, None).map_err(|e| e.to_string())?;
//!     expected.values.iter().try_for_each(|(name, want)| expected.check(name, &want.data))
//! });
//! assert!(outcome.is_ok());
//! ```

mod fit;
mod grow;
mod noise;
mod pattern;
mod shrink;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use grow::{Recipe, grow};
pub use noise::Expected;
pub use shrink::shrink;

use crate::graph::Graph;

/// Seed of the values of every random graph's inputs and weights, by [`crate::interp::random_bindings`]. It is the seed
/// that passes are validated with: a graph is well conditioned on these values, not on all.
pub const VALUES: u64 = 20;

/// The answers to the routes of random graphs, by flag.
pub fn answers() -> BTreeMap<String, bool> {
    BTreeMap::from([("yes".into(), true), ("no".into(), false)])
}

/// Graphs on which something was wrong once, by name: what random graphs found, as small as it got. Every test of random graphs runs
/// on them too.
pub fn found() -> Vec<(&'static str, Graph)> {
    const TEXTS: &[(&str, &str)] = &[
        ("constant_gives_shape", include_str!("found/constant_gives_shape.txt")),
        ("constant_gives_type", include_str!("found/constant_gives_type.txt")),
        ("epilogue_gives_type", include_str!("found/epilogue_gives_type.txt")),
        ("tokens_reach_log_sum_exp", include_str!("found/tokens_reach_log_sum_exp.txt")),
    ];
    let read = |text: &str| text.parse().unwrap_or_else(|e| unreachable!("the texts are tested: {e}"));
    TEXTS.iter().map(|(name, text)| (*name, read(text))).collect()
}

/// A graph that did not pass a check.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Seed that grew it.
    pub seed: u64,
    /// The smallest graph found that fails.
    pub graph: Graph,
    /// What was wrong with it.
    pub problem: String,
}

impl fmt::Display for Failure {
    /// The problem, then the graph in the text form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "random graph {}: {}\n{}", self.seed, self.problem, self.graph)
    }
}

/// Grows a graph for each seed and checks it; the first one that fails is shrunk. A check that panics fails.
///
/// # Errors
/// The failure, with a graph as small as shrinking could make it.
pub fn hunt(
    seeds: Range<u64>,
    recipe: &Recipe,
    check: impl Fn(&Graph) -> Result<(), String>,
) -> Result<(), Box<Failure>> {
    let problem = |graph: &Graph| match catch_unwind(AssertUnwindSafe(|| check(graph))) {
        Ok(outcome) => outcome.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("panicked: {}", text.unwrap_or("no message")))
        }
    };
    for seed in seeds {
        let graph = grow(seed, recipe);
        if problem(&graph).is_some() {
            let graph = shrink(graph, |g| sound(g, recipe) && problem(g).is_some());
            let problem = problem(&graph).unwrap_or_else(|| "fails in some runs only".into());
            return Err(Box::new(Failure { seed, graph, problem }));
        }
    }
    Ok(())
}

/// Whether a part of a graph is as well conditioned as what is grown. It need not be: a window's mask holds infinities, and the
/// difference of equal rows is nothing but rounding.
fn sound(graph: &Graph, recipe: &Recipe) -> bool {
    let Ok(expected) = Expected::measured(graph, None, false) else { return false };
    let finite = expected.values.values().flat_map(|t| &t.data).all(|x| x.is_finite());
    finite && expected.bounds.values().all(|&bound| bound <= 2.0 * noise::MARGIN * recipe.sensitivity)
}
