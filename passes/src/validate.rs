//! Doubting every pass: the reference interpreter runs the graph before and after it.
//!
//! Both graphs run in f64 on the same random inputs and must agree to rounding; the new graph also runs in f32 and must be as
//! close to f64 as f32 allows. The interpreter is slow: this is for small models. The command line validates a large model on a
//! small one of the same structure.

use std::collections::BTreeMap;

use ccl_ir::interp::{evaluate, random_bindings};
use ccl_ir::tensor::relative_l2;
use ccl_ir::{Graph, Tensor};

use crate::error::PassError;

/// Largest difference between f64 results before and after a pass: reassociated sums, nothing else.
const SAME: f64 = 1e-10;
/// Largest difference of the new graph's f32 result from f64.
const SINGLE: f64 = 1e-4;
/// Seed of the random inputs.
const SEED: u64 = 20;

/// Compares graphs before and after passes.
pub struct Validator {
    on: bool,
    /// Random values of everything that any graph so far reads, by name.
    given: BTreeMap<String, Tensor<f64>>,
    /// Results of the last graph.
    last: Option<BTreeMap<String, Tensor<f64>>>,
}

impl Validator {
    /// A validator that compares, or one that does nothing.
    pub fn new(on: bool) -> Self {
        Self { on, given: BTreeMap::new(), last: None }
    }

    /// Compares the results of `from` and `to`, which pass `name` made from it.
    ///
    /// # Errors
    /// When a result differs by more than rounding, or cannot be computed.
    pub fn compare(&mut self, name: &'static str, from: &Graph, to: &Graph) -> Result<(), PassError> {
        if !self.on {
            return Ok(());
        }
        let err = PassError::ir(name);
        self.draw(from);
        self.draw(to);
        let want = match self.last.take() {
            Some(last) => last,
            None => evaluate(from, &self.given).map_err(&err)?,
        };
        let got = evaluate(to, &self.given).map_err(&err)?;
        let single = self.given.iter().map(|(k, t)| (k.clone(), t.convert::<f32>())).collect();
        let single = evaluate(to, &single).map_err(&err)?;
        for (output, got) in &got {
            let Some(want) = want.get(output) else { continue };
            let double = relative_l2(&got.data, &want.data);
            let single = relative_l2(&single[output].data, &want.data);
            for (found, allowed) in [(double, SAME), (single, SINGLE)] {
                if found.is_nan() || found > allowed {
                    return Err(PassError::Changed { pass: name.into(), output: output.clone(), found, allowed });
                }
            }
        }
        self.last = Some(got);
        Ok(())
    }

    /// Draws values for what a graph reads and has none yet. The step's row of a schedule is the flow time, so that a graph
    /// that reads the one and a graph that reads the other say the same.
    fn draw(&mut self, graph: &Graph) {
        for (name, mut value) in random_bindings(graph, SEED) {
            if self.given.contains_key(&name) {
                continue;
            }
            if name == "schedule"
                && let Some(t) = self.given.get("t")
            {
                let (batch, step) = (t.data.len(), value.shape[0] / 2);
                value.data[step * batch..(step + 1) * batch].copy_from_slice(&t.data);
                self.given.insert("step".into(), Tensor::filled([], step as f64));
            }
            self.given.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccl_ir::ops::{Binary, BinaryKind};
    use ccl_ir::{Binding, TensorType};

    fn graph(kind: BinaryKind) -> Graph {
        let mut g = Graph::new("test");
        let ty = TensorType::f32([3, 4]);
        let a = g.input("a", ty.clone(), Binding::Step).unwrap();
        let b = g.input("b", ty, Binding::Step).unwrap();
        let y = g.add("y", Binary { kind }, &[a, b]).unwrap();
        g.output("y", y, None);
        g
    }

    #[test]
    fn a_pass_that_changes_a_result_is_named() {
        let (add, sub) = (graph(BinaryKind::Add), graph(BinaryKind::Sub));
        assert!(Validator::new(true).compare("same", &add, &add).is_ok());
        let error = Validator::new(true).compare("wrong", &add, &sub).unwrap_err();
        assert!(error.to_string().starts_with("pass `wrong` changed `y`"), "{error}");
        assert!(Validator::new(false).compare("wrong", &add, &sub).is_ok());
    }
}
