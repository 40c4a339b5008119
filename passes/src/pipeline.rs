//! All passes in order.

use std::collections::BTreeSet;

use ccl_ir::plan::About;
use ccl_ir::{DType, Graph, Plan, TensorType};

use crate::device::DeviceSpec;
use crate::error::PassError;
use crate::optimise::Optimiser;
use crate::record::{Record, Spent};
use crate::specialise::Answers;
use crate::stage::Stages;
use crate::validate::Validator;
use crate::{
    algebra, cse, dead, differentiate, fuse, hoist, layout, lower, optimise, precision, raise, rematerialise, simplify,
    specialise, split,
};

/// Rows of the schedule that a plan holds. The prologue embeds all of them at once; a longer schedule runs the prologue again.
pub const SCHEDULE_ROWS: usize = 64;

/// What a training plan does beside computing the loss.
#[derive(Clone, Debug, Default)]
pub struct Training {
    /// The parameters that gradients are wanted for; `None`: all.
    pub only: Option<BTreeSet<String>>,
    /// How parameters are updated; `None`: gradients are outputs.
    pub optimiser: Option<Optimiser>,
    /// How many blocks, from the first on, are computed again for their backward pass.
    pub rematerialise: usize,
    /// The half precision that products compute with, tokens and their gradients are stored in; `None`: all is `f32`.
    pub half: Option<DType>,
}

impl Training {
    /// The parameters that get gradients; `None`: all.
    fn learnt(&self) -> Option<BTreeSet<String>> {
        self.only.clone().or_else(|| self.optimiser.as_ref().map(Optimiser::trained))
    }
}

/// Settings of one compilation.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rows of the schedule table; 0 where the time follows no schedule.
    pub schedule_rows: usize,
    /// Whether to raise plain patterns to fused operators. Off, the plan computes the plain patterns: the oracle.
    pub raise: bool,
    /// Equality saturation: its rules and the target's prices. `None`: the algebra stays as the model has it.
    pub algebra: Option<algebra::Settings>,
    /// Whether to fuse elementwise operators.
    pub fuse: bool,
    /// Whether token streams are stored in the half precision of the matrices; off, activations are `f32`.
    pub half_activations: bool,
    /// Independent parts of work that fill the target; 0 where keys are never split.
    pub parallelism: usize,
    /// Whether to differentiate the output `loss`, and what for.
    pub training: Option<Training>,
    /// Where states lie; those that the graph reads and this table lacks lie behind it. Plans that share states are compiled with one table.
    pub states: Vec<(String, TensorType)>,
    /// Whether to run the reference interpreter before and after each pass, on random inputs.
    pub validate: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schedule_rows: SCHEDULE_ROWS,
            raise: true,
            algebra: Some(algebra::Settings::new(DeviceSpec::for_target("cpu"))),
            fuse: true,
            half_activations: false,
            parallelism: 0,
            training: None,
            states: Vec::new(),
            validate: false,
        }
    }
}

/// A graph transformation that succeeded.
type Passed = Result<Graph, PassError>;

/// Compiles a graph for a task.
///
/// `answers` has an answer for each route flag of the graph; `about` goes into the plan as it is.
///
/// # Errors
/// When a route has no answer, when a pass breaks the graph, and under `validate` when a pass changes a result.
pub fn compile(graph: &Graph, answers: &Answers, about: About, options: &Options) -> Result<Plan, PassError> {
    compile_some(graph, answers, about, options, None).map(|(plan, _)| plan)
}

/// Compiles with the first `fuel` rewrites alone, all of them where there is no limit, and says which were made. What a plan cannot do
/// without is no rewrite: the task's answers, the schedule's table, stored types, copies.
///
/// # Errors
/// As for [`compile`].
pub fn compile_some(
    graph: &Graph,
    answers: &Answers,
    about: About,
    options: &Options,
    fuel: Option<usize>,
) -> Result<(Plan, Spent), PassError> {
    let mut record = Record::with_fuel(fuel);
    let mut check = Validator::new(options.validate);
    check_graph(graph, "build")?;
    let mut stages = Stages::new(graph);

    let mut pass = |name: &'static str, from: &Graph, run: &dyn Fn(&Graph, &mut Record) -> Passed| -> Passed {
        let to = run(from, &mut record)?;
        check_graph(&to, name)?;
        check.compare(name, from, &to)?;
        stages.push(name, &to, record.events.len());
        Ok(to)
    };

    let answered = specialise::answered(graph, answers)?;
    let g = pass("specialise", &answered, &|_, r| specialise::run(graph, answers, r))?;
    let needed = pass("dead", &g, &dead::run)?;
    let before = needed.total_work().flops;

    let g = pass("simplify", &needed, &simplify::run)?;
    let g = pass("cse", &g, &cse::run)?;
    // What became equal by merging can make more neutral: a guidance term whose two passes are one.
    let g = pass("simplify", &g, &simplify::run)?;
    let mut g = pass("dead", &g, &dead::run)?;
    if options.raise {
        g = pass("raise", &g, &raise::run)?;
        g = pass("simplify", &g, &simplify::run)?;
        g = pass("cse", &g, &cse::run)?;
        g = pass("dead", &g, &dead::run)?;
    }
    if let Some(settings) = &options.algebra {
        g = match &options.training {
            None => pass("algebra", &g, &|g, r| algebra::run(g, settings, r))?,
            Some(training) => {
                let flow = differentiate::flow(&g, training.learnt().as_ref())?;
                pass("algebra", &g, &|g, r| algebra::run_differentiable(g, settings, &flow, r))?
            }
        };
        g = pass("simplify", &g, &simplify::run)?;
        g = pass("cse", &g, &cse::run)?;
        g = pass("dead", &g, &dead::run)?;
    }
    g = match &options.training {
        Some(training) => train(&mut pass, g, training)?,
        None => differentiate::attach(&g)?,
    };
    if options.schedule_rows > 0 {
        g = pass("hoist", &g, &|g, r| hoist::run(g, options.schedule_rows, r))?;
    }
    g = pass("dead", &g, &dead::run)?;
    if options.fuse {
        g = pass("fuse", &g, &fuse::run)?;
    }
    let mixed = options.training.as_ref().and_then(|t| t.half);
    if options.half_activations || mixed.is_some() {
        g = pass("precision", &g, &|g, r| precision::run(g, mixed, r))?;
    }
    // After precision: merged results are stored as the queries are, parts in f32.
    if options.parallelism > 0 {
        g = pass("split", &g, &|g, r| split::run(g, options.parallelism, r))?;
    }
    let g = pass("layout", &g, &layout::run)?;
    hoist::report(&g, &mut record);

    let mut plan = lower::run(&g, about, &options.states, &mut record);
    plan.report.flops_before = ccl_ir::Binding::ALL.iter().map(|b| (b.name().to_string(), 0)).collect();
    plan.report.flops_before.insert(ccl_ir::Binding::Step.name().into(), before);
    let spent = record.spent().clone();
    stages.specialised(&needed);
    stages.finish(&mut plan, record.events.len());
    plan.report.events = record.events;
    plan.check().map_err(PassError::ir("lower"))?;
    Ok((plan, spent))
}

/// Adds the backward pass, and the update of the parameters where it is asked for.
fn train(
    pass: &mut dyn FnMut(&'static str, &Graph, &dyn Fn(&Graph, &mut Record) -> Passed) -> Passed,
    g: Graph,
    training: &Training,
) -> Passed {
    let only = training.learnt();
    let mut g = pass("differentiate", &g, &|g, r| differentiate::run(g, only.as_ref(), r))?;
    if let Some(optimiser) = &training.optimiser {
        g = pass("optimise", &g, &|g, r| optimise::run(g, optimiser, r))?;
    }
    let g = pass("simplify", &g, &simplify::run)?;
    let g = pass("cse", &g, &cse::run)?;
    if training.rematerialise == 0 {
        return Ok(g);
    }
    let g = pass("rematerialise", &g, &|g, r| rematerialise::run(g, training.rematerialise, r))?;
    // The copies' last values may be the next block's only.
    pass("dead", &g, &dead::run)
}

fn check_graph(graph: &Graph, pass: &'static str) -> Result<(), PassError> {
    ccl_ir::verify::verify(graph).map_err(PassError::ir(pass))
}
