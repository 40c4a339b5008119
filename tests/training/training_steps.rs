//! Twenty optimiser steps of a small model against PyTorch's AdamW on the same data and draws (`scripts/training_case.py`).

use std::collections::BTreeMap;

use crate::common::tensors::{self, Tensor, relative_l2};
use crate::common::{case, inputs};
use ccl::model_dir::ModelDir;
use ccl::planning::{Algebra, RuleSet};
use ccl::running::backend;
use ccl::runtime::HostTensor;
use ccl::runtime::session::Tensors;
use ccl::training::config::TrainConfig;
use ccl::training::engine::{Engine, EngineSpec, Pace, Sizes, optimiser};
use ccl_ir::DType;
use ccl_model::Task;
use serde_json::Value;

/// The case's model, the small case's batch and what PyTorch made of them.
struct Case {
    model: ModelDir,
    config: TrainConfig,
    sizes: Sizes,
    settings: Value,
    batch: tensors::Tensors,
    draws: tensors::Tensors,
    expected: tensors::Tensors,
}

impl Case {
    fn open() -> Self {
        let dir = case("training");
        let settings: Value =
            serde_json::from_slice(&std::fs::read(dir.join("settings.json")).expect("a file")).expect("JSON");
        let number = |name: &str| settings[name].as_f64().expect("a number");
        let mut config = TrainConfig::default();
        config.tasks = Task::ALL.map(|t| (t, 1.0)).into();
        let o = &mut config.optimiser;
        o.betas = [0, 1].map(|i| settings["betas"][i].as_f64().expect("a number"));
        (o.eps, o.weight_decay, o.clip) = (number("eps"), number("weight_decay"), number("clip"));
        config.ema.decay = number("ema");
        let batch = tensors::read(&inputs(&case("small")));
        let (clip, count) = crate::common::clip_of(&case("small"));
        let sizes = Sizes {
            clip: clip.parse().expect("a clip"),
            batch: count,
            text_tokens: batch["text"].shape[1],
            image_tokens: 0,
        };
        Self {
            model: ModelDir::open(&case("small")).expect("a model"),
            config,
            sizes,
            settings,
            batch,
            draws: tensors::read(&inputs(&dir)),
            expected: tensors::read(&dir.join("expected.safetensors")),
        }
    }

    /// An engine with the case's parameters that takes `accumulate` batches a step.
    fn engine(&self, batch: usize, accumulate: usize, backend_name: &str, rules: RuleSet) -> Engine {
        self.engine_in(None, batch, accumulate, backend_name, rules)
    }

    /// The same with products and tokens in half precision.
    fn engine_in(
        &self,
        half: Option<DType>,
        batch: usize,
        accumulate: usize,
        backend_name: &str,
        rules: RuleSet,
    ) -> Engine {
        let mut config = self.config.clone();
        config.optimiser.accumulate = accumulate;
        let spec = EngineSpec {
            model: &self.model.config,
            sizes: Sizes { batch, ..self.sizes },
            tasks: Task::ALL.into(),
            optimiser: optimiser(&config, &self.model.config).expect("an optimiser"),
            clip: config.optimiser.clip,
            validates: false,
            memory: None,
            half,
            algebra: Algebra { rules, ..Algebra::default() },
        };
        let device = backend(backend_name, Some(2)).expect("a backend");
        let mut engine = Engine::new(&spec, spec.plans().expect("plans"), device.as_ref()).expect("an engine");
        let weights = self.model.weights(&self.model.files().expect("files"), 0).expect("weights");
        engine.load(&weights).expect("parameters");
        engine
    }

    fn steps(&self) -> usize {
        self.settings["tasks"].as_array().expect("tasks").len()
    }

    fn task(&self, step: usize) -> Task {
        self.settings["tasks"][step - 1].as_str().expect("a name").parse().expect("a task")
    }

    fn pace(&self, step: usize) -> Pace {
        let rate = self.settings["rates"][step - 1].as_f64().expect("a rate") as f32;
        Pace { rates: vec![rate], average: self.config.average_at(step as u64) as f32 }
    }

    /// The batch of a step: samples `from..to`.
    fn batch(&self, engine: &Engine, step: usize, from: usize, to: usize) -> Tensors {
        let wanted = engine.inputs(self.task(step)).expect("inputs");
        let given = |name: &str| match name {
            "t" | "noise.video" | "noise.audio" => &self.draws[&format!("{name}.{step}")],
            _ => &self.batch[name],
        };
        let cut = |t: &Tensor| {
            let width = t.data.len() / t.shape[0];
            let shape = [&[to - from], &t.shape[1..]].concat();
            HostTensor::f32(shape, t.data[from * width..to * width].to_vec())
        };
        wanted
            .into_iter()
            .map(|(name, _)| {
                let t = cut(given(&name));
                (name, t)
            })
            .collect()
    }
}

fn state(engine: &mut Engine, name: &str) -> Tensor {
    let t = engine.learner().read_state(name).expect("a state");
    Tensor { data: t.as_f32().expect("numbers").to_vec(), shape: t.shape }
}

/// How far all states of a kind are from the expected ones, relative to how far the expected ones went.
fn apart(engine: &mut Engine, case: &Case, first: &BTreeMap<String, Tensor>) -> (f64, f64) {
    let (mut difference, mut way, mut worst) = (0.0, 0.0, 0.0f64);
    for (name, want) in case.expected.iter().filter_map(|(n, t)| Some((n.strip_prefix("p.")?, t))) {
        let got = state(engine, name);
        for ((g, w), f) in got.data.iter().zip(&want.data).zip(&first[name].data) {
            difference += f64::from(g - w).powi(2);
            way += f64::from(w - f).powi(2);
        }
        worst = worst.max(relative_l2(&got, want));
    }
    ((difference / way).sqrt(), worst)
}

#[test]
fn twenty_steps_agree_with_pytorch() {
    // Small models are too small for most rules to pay: `Always` applies them all the same.
    for rules in [RuleSet::None, RuleSet::All, RuleSet::Always] {
        twenty_steps(rules);
    }
}

fn twenty_steps(rules: RuleSet) {
    let case = Case::open();
    let mut engine = case.engine(case.sizes.batch, 1, "cpu", rules);
    let first = tensors::read(&crate::common::case("small").join("weights.safetensors"));
    for step in 1..=case.steps() {
        let batch = case.batch(&engine, step, 0, case.sizes.batch);
        let done = engine.step(case.task(step), [Ok(batch)], &case.pace(step)).expect("a step");
        assert!(done.applied);
        let close = |what: &str, got: f64| {
            let want = f64::from(case.expected[&format!("{what}.{step}")].data[0]);
            assert!((got - want).abs() < 1e-4 * want, "{what} of step {step}: {got}, not {want}");
        };
        close("loss", done.parts.values().sum());
        close("norm", done.norm);
    }
    let (change, worst) = apart(&mut engine, &case, &first);
    println!("change of the parameters: {change:.2e} apart; worst parameter: {worst:.2e}");
    // Adam divides by the size of the gradient: where that is nothing but rounding, a parameter may go either way.
    assert!(change < 1e-3 && worst < 1e-3);
    for name in case.settings["some"].as_array().expect("names").iter().filter_map(Value::as_str) {
        for (kind, stored) in
            [("ema", format!("ema.{name}")), ("m", format!("adam.m.{name}")), ("v", format!("adam.v.{name}"))]
        {
            let (got, want) = (state(&mut engine, &stored), &case.expected[&format!("{kind}.{name}")]);
            let apart = relative_l2(&got, want);
            assert!(apart < 1e-3, "{stored}: {apart:.2e}");
        }
    }
}

/// In half precision the same steps lead to nearly the same parameters. Where the gradients' factor makes them overflow, a step is tried again; the loop
/// of a training would go on with the next batch.
#[test]
fn twenty_steps_in_half_precision_stay_close_to_pytorch() {
    let case = Case::open();
    let mut engine = case.engine_in(Some(DType::F16), case.sizes.batch, 1, "wgpu", RuleSet::All);
    let first = tensors::read(&crate::common::case("small").join("weights.safetensors"));
    // Far above what f16 holds: the first steps must find that out.
    *engine.scaling() =
        serde_json::from_value(serde_json::json!({ "factor": 16_777_216.0, "good": 0 })).expect("a factor");
    let (mut overflows, mut worst) = (0, 0.0f64);
    for step in 1..=case.steps() {
        let done = loop {
            let batch = case.batch(&engine, step, 0, case.sizes.batch);
            let done = engine.step(case.task(step), [Ok(batch)], &case.pace(step)).expect("a step");
            assert!(done.applied != done.overflow, "step {step}: {done:?}");
            if done.applied {
                break done;
            }
            overflows += 1;
            assert!(overflows < 20, "the factor falls and falls");
        };
        for (what, got) in [("loss", done.parts.values().sum::<f64>()), ("norm", done.norm)] {
            let want = f64::from(case.expected[&format!("{what}.{step}")].data[0]);
            worst = worst.max((got - want).abs() / want);
        }
    }
    let (change, _) = apart(&mut engine, &case, &first);
    println!(
        "{overflows} overflows; losses and norms within {worst:.1e}; change of the parameters: {change:.1e} apart"
    );
    assert!(overflows > 0 && worst < 2e-2 && change < 0.1, "{overflows} {worst:.1e} {change:.1e}");
    assert!(
        engine.learner().states().all(|(_, ty)| ty.dtype == DType::F32),
        "parameters and moments are in single precision"
    );
}

/// Two batches of one sample come to the same as one of two.
#[test]
fn accumulated_gradients_are_those_of_one_batch() {
    let case = Case::open();
    assert_eq!(case.sizes.batch, 2);
    let first = tensors::read(&crate::common::case("small").join("weights.safetensors"));
    let mut engine = case.engine(1, 2, "cpu", RuleSet::All);
    for step in 1..=case.steps() {
        let batches = [0, 1].map(|i| Ok(case.batch(&engine, step, i, i + 1)));
        let done = engine.step(case.task(step), batches, &case.pace(step)).expect("a step");
        let want = f64::from(case.expected[&format!("norm.{step}")].data[0]);
        assert!((done.norm - want).abs() < 1e-4 * want, "step {step}: {} {want}", done.norm);
    }
    let (change, worst) = apart(&mut engine, &case, &first);
    println!("change of the parameters: {change:.2e} apart; worst parameter: {worst:.2e}");
    assert!(change < 1e-3 && worst < 1e-3);
}

/// What is not finite is left out, whole, and leaves nothing behind in the sums of gradients.
#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let case = Case::open();
    for accumulate in [1, 2] {
        let mut engine = case.engine(1, accumulate, "cpu", RuleSet::All);
        let all = |engine: &mut Engine| -> BTreeMap<String, Tensor> {
            let names: Vec<String> = engine.learner().states().map(|(n, _)| n.to_owned()).collect();
            let kept = names.into_iter().filter(|n| !n.starts_with("sum."));
            kept.map(|n| {
                let t = state(engine, &n);
                (n, t)
            })
            .collect()
        };
        let good: Vec<Tensors> = (0..accumulate).map(|i| case.batch(&engine, 3, i % 2, i % 2 + 1)).collect();
        let (task, pace) = (case.task(3), case.pace(3));
        engine.step(task, good.iter().cloned().map(Ok), &pace).expect("a step");
        let before = all(&mut engine);
        let mut bad = good.clone();
        let text = bad[0].get_mut("text").expect("a text");
        *text = HostTensor::f32(text.shape.clone(), vec![f32::INFINITY; text.as_f32().expect("numbers").len()]);
        let done = engine.step(task, bad.into_iter().map(Ok), &pace).expect("a step");
        assert!(!done.applied && !(done.norm.is_finite() && done.parts.values().all(|x| x.is_finite())));
        assert_eq!(all(&mut engine), before, "accumulate {accumulate}");
        let done = engine.step(task, good.iter().cloned().map(Ok), &pace).expect("a step");
        assert!(done.applied && done.norm.is_finite());
        assert_ne!(all(&mut engine), before);
    }
}
