//! Random graphs on every runtime: the interpreter's f64 results against the plan on the reference backend, the cpu, wgpu and cuda.
//!
//! A runtime that is not there is said to be not run, on standard error and past the test harness. `CCL_RANDOM_GRAPHS` is a factor for the
//! number of graphs, to hunt for longer than the suite does.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use ccl::ir::interp::random_bindings;
use ccl::ir::ops::{Input, Weight};
use ccl::ir::plan::About;
use ccl::ir::random_graph::{Expected, Failure, Recipe, VALUES, answers, found, hunt};
use ccl::ir::{Binding, DType, Graph, Plan, Tensor, TensorType};
use ccl::passes::{Options, compile};
use ccl::runtime::weights::{WeightBytes, WeightSource};
use ccl::runtime::{Backend, CpuBackend, GpuBackend, HostTensor, Instance, ReferenceBackend, RuntimeError};

/// How a graph is compiled for a runtime.
#[derive(Clone, Copy, Debug, Default)]
struct Target {
    /// Half precision of tokens, where they have it.
    storage: Option<DType>,
    parallelism: usize,
}

fn compiled(graph: &Graph, target: Target) -> Result<Plan, String> {
    let about = About::no_model("random", 1, target.storage.unwrap_or(DType::F32));
    let options = Options {
        schedule_rows: 4,
        half_activations: target.storage.is_some(),
        parallelism: target.parallelism,
        ..Options::default()
    };
    compile(graph, &answers(), about, &options).map_err(|e| format!("does not compile: {e}"))
}

/// The values of a plan's inputs and weights. They are those of the graph; where the plan reads the time from a schedule, the schedule
/// has it in the row of the step.
struct Given(BTreeMap<String, Tensor<f64>>);

impl Given {
    fn of(plan: &Plan) -> Result<Self, String> {
        let mut named = Graph::new("given");
        for port in &plan.inputs {
            let op = Input { name: port.name.clone(), ty: port.operand.ty.clone(), binding: port.binding };
            named.add(&port.name, op, &[]).map_err(|e| e.to_string())?;
        }
        for w in &plan.weights {
            named.add(&w.name, Weight { name: w.name.clone(), ty: w.ty.clone() }, &[]).map_err(|e| e.to_string())?;
        }
        Ok(Self(random_bindings(&named, VALUES)))
    }

    fn singles(&self, name: &str) -> Vec<f32> {
        self.0[name].data.iter().map(|&x| x as f32).collect()
    }
}

impl WeightSource for Given {
    fn load(&self, name: &str, want: &TensorType) -> Result<WeightBytes, RuntimeError> {
        WeightBytes::of_values(name, &self.singles(name), want)
    }
}

/// What a plan gives out, by name.
type Results = BTreeMap<String, Vec<f32>>;

/// Runs one entry: writes its inputs, and reads its results right after it, as plans promise.
fn run(instance: &mut dyn Instance, entry: Binding, given: &Given, results: &mut Results) -> Result<(), RuntimeError> {
    let plan = Arc::clone(instance.plan());
    for (i, port) in plan.inputs.iter().enumerate().filter(|(_, p)| p.binding == entry) {
        let (ty, values) = (&port.operand.ty, given.singles(&port.name));
        let tensor = match ty.dtype {
            DType::I32 => HostTensor::i32(&ty.shape[..], values.iter().map(|&x| x as i32).collect()),
            _ => HostTensor::f32(&ty.shape[..], values),
        };
        instance.write(i, &tensor)?;
    }
    instance.run(entry)?;
    for (i, port) in plan.outputs.iter().enumerate().filter(|(_, p)| p.binding == entry) {
        let tensor = instance.read(i)?;
        let whole = |data: &[i32]| data.iter().map(|&n| n as f32).collect();
        let values = tensor.as_f32().map(<[f32]>::to_vec).or_else(|| tensor.as_i32().map(whole));
        results.insert(port.name.clone(), values.unwrap_or_default());
    }
    Ok(())
}

/// Runs a plan for two clips of the same values, and gives its results, which must be the same bytes.
fn results(backend: &dyn Backend, plan: Plan) -> Result<Results, String> {
    let given = Given::of(&plan)?;
    let text = |e: RuntimeError| e.to_string();
    let mut instance = backend.instantiate(Arc::new(plan), &given).map_err(text)?;
    let mut first = Results::new();
    for entry in Binding::ALL {
        run(instance.as_mut(), entry, &given, &mut first).map_err(text)?;
    }
    let mut second = first.clone();
    for entry in [Binding::Prologue, Binding::Step, Binding::Step] {
        run(instance.as_mut(), entry, &given, &mut second).map_err(text)?;
    }
    let bits = |r: &Results| -> Vec<u32> { r.values().flatten().map(|x| x.to_bits()).collect() };
    if bits(&first) == bits(&second) { Ok(first) } else { Err("the second run gives other bytes".into()) }
}

/// Holds a graph's plan on a backend against the interpreter.
fn check(backend: &dyn Backend, graph: &Graph, target: Target) -> Result<(), String> {
    let expected = Expected::of(graph, target.storage).map_err(|e| e.to_string())?;
    let plan = compiled(graph, target)?;
    results(backend, plan)?.iter().try_for_each(|(name, got)| expected.check(name, got))
}

fn passed(on: &str, outcome: Result<(), Box<Failure>>) {
    if let Err(failure) = outcome {
        panic!("on {on}: {failure}");
    }
}

/// Runs graphs grown for `recipe`, and those on which something was wrong once.
fn on(backend: &dyn Backend, seeds: std::ops::Range<u64>, half: Option<DType>, target: Target) {
    let name = format!("{} {target:?}", backend.name());
    let recipe = Recipe { half, ..Recipe::default() };
    let factor = std::env::var("CCL_RANDOM_GRAPHS").map_or(1, |n| n.parse().expect("CCL_RANDOM_GRAPHS is a number"));
    let count = (seeds.end - seeds.start) * factor;
    let (begin, seeds) = (std::time::Instant::now(), seeds.start..seeds.start + count);
    passed(&name, hunt(seeds, &recipe, |g| check(backend, g, target)));
    for (what, graph) in found() {
        let halves =
            |g: &Graph| g.nodes().iter().flat_map(|n| &n.types).any(|t| !matches!(t.dtype, DType::F32 | DType::I32));
        if half.is_some() || !halves(&graph) {
            check(backend, &graph, target).unwrap_or_else(|e| panic!("{what} on {name}: {e}"));
        }
    }
    println!("{name}: {count} graphs in {:.1} s", begin.elapsed().as_secs_f64());
}

const HALF_BF16: Target = Target { storage: Some(DType::Bf16), parallelism: 64 };
const HALF_F16: Target = Target { storage: Some(DType::F16), parallelism: 64 };

#[test]
fn the_reference_backend_computes_what_graphs_mean() {
    on(&ReferenceBackend, 0..150, None, Target::default());
    on(&ReferenceBackend, 150..200, Some(DType::F16), HALF_F16);
    on(&ReferenceBackend, 200..250, Some(DType::Bf16), HALF_BF16);
}

#[test]
fn the_cpu_computes_what_graphs_mean() {
    for threads in [1, 3] {
        let cpu = CpuBackend::new(Some(threads)).expect("a pool of threads");
        on(&cpu, 0..200, None, Target::default());
        on(&cpu, 200..250, None, Target { parallelism: 64, ..Target::default() });
    }
}

/// Writes past the test harness, which keeps the output of tests that pass.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn gpus_compute_what_graphs_mean() {
    for (name, gpu) in [("wgpu", GpuBackend::wgpu(0)), ("cuda", GpuBackend::cuda(0))] {
        let gpu = match gpu {
            Ok(gpu) => gpu,
            Err(e) => {
                say(&format!("NOT RUN: random graphs on {name}: {e}"));
                continue;
            }
        };
        say(&format!("random graphs run on {name}: {}", gpu.describe().name));
        // A software adapter compiles for a second what it runs for a millisecond, and a software driver interprets besides.
        let count = match (gpu.is_software(), name) {
            (true, "cuda") => 8,
            (true, _) => 40,
            (false, _) => 150,
        };
        on(&gpu, 0..count, None, Target { storage: None, parallelism: 64 });
        for (half, target) in [(DType::F16, HALF_F16), (DType::Bf16, HALF_BF16)] {
            if gpu.describe().element_types.contains(&half) {
                on(&gpu, 300..300 + count, Some(half), target);
            }
        }
    }
}
