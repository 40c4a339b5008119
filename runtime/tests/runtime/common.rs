//! Plans written by hand, for the tests of runtimes.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use ccl_ir::ops::{Attention, Binary, BinaryKind, Constant, Index, Linear};
use ccl_ir::plan::{ALIGNMENT, About, Buffer, Call, Operand, Place, PlanState, PlanWeight, Port, Region};
use ccl_ir::{Binding, DType, Op, Plan, TensorType};
use ccl_runtime::inputs::Inputs;
use ccl_runtime::weights::{ExpectedTensor, Init, WeightStore};
use ccl_runtime::{Backend, CpuBackend, GpuBackend, HostTensor, ReferenceBackend, RuntimeError, Session, Tensors};

/// What a fallible test returns.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Builds a plan in which every value has a buffer of its own.
pub struct Builder {
    plan: Plan,
}

impl Builder {
    pub fn new() -> Self {
        Self { plan: Plan::empty(About::no_model("test", 1, DType::F32)) }
    }

    fn buffer(&mut self, region: Region, ty: TensorType) -> Operand {
        let size = match region {
            Region::Persistent => &mut self.plan.persistent_bytes,
            Region::Scratch => &mut self.plan.scratch_bytes,
            Region::State => &mut self.plan.state_bytes,
        };
        let bytes = ty.bytes().next_multiple_of(ALIGNMENT);
        self.plan.buffers.push(Buffer { region, offset: *size, bytes });
        *size += bytes;
        dense(Place::Buffer(self.plan.buffers.len() as u32 - 1), ty)
    }

    pub fn input(&mut self, name: &str, ty: TensorType, binding: Binding) -> Operand {
        let operand = self.buffer(Region::Persistent, ty);
        self.plan.inputs.push(Port { name: name.into(), binding, operand: operand.clone() });
        operand
    }

    pub fn weight(&mut self, name: &str, ty: TensorType) -> Operand {
        self.plan.weights.push(PlanWeight { name: name.into(), ty: ty.clone() });
        dense(Place::Weight(self.plan.weights.len() as u32 - 1), ty)
    }

    /// Adds a call and returns its first output; kept says whether a later entry reads it.
    pub fn call(&mut self, entry: Binding, kept: bool, at: &str, op: impl Into<Op>, inputs: &[&Operand]) -> Operand {
        let op = op.into();
        let types: Vec<&TensorType> = inputs.iter().map(|o| &o.ty).collect();
        let region = if kept { Region::Persistent } else { Region::Scratch };
        let types = op.infer(&types).unwrap_or_else(|e| panic!("{at}: {e}"));
        let outputs: Vec<Operand> = types.into_iter().map(|ty| self.buffer(region, ty)).collect();
        let first = outputs[0].clone();
        let call = Call { op, inputs: inputs.iter().map(|&o| o.clone()).collect(), outputs, at: at.into() };
        self.plan.entries.entry(entry).or_default().push(call);
        first
    }

    /// Adds a tensor to the table of states, and uses it.
    pub fn state(&mut self, name: &str, ty: TensorType) -> Operand {
        let (offset, bytes) = (self.plan.state_bytes, ty.bytes());
        self.skip_state(&ty);
        let buffer = self.plan.buffers.len() as u32;
        self.plan.buffers.push(Buffer { region: Region::State, offset, bytes });
        self.plan.states.push(PlanState { name: name.into(), ty: ty.clone(), buffer });
        dense(Place::Buffer(buffer), ty)
    }

    /// Adds a tensor to the table of states that other plans use.
    pub fn skip_state(&mut self, ty: &TensorType) {
        self.plan.state_bytes += ty.bytes().next_multiple_of(ALIGNMENT);
    }

    /// Adds a call whose outputs are the next values of the inputs that it updates, of the first where it says nothing, at their places.
    /// Returns the outputs.
    pub fn update(&mut self, entry: Binding, at: &str, op: impl Into<Op>, inputs: &[&Operand]) -> Vec<Operand> {
        let op = op.into();
        let types: Vec<&TensorType> = inputs.iter().map(|o| &o.ty).collect();
        let count = op.infer(&types).unwrap_or_else(|e| panic!("{at}: {e}")).len();
        let mut next = |o: &Operand| {
            let Place::Buffer(b) = o.place else { panic!("{at}: updates a weight") };
            self.plan.buffers.push(self.plan.buffers[b as usize].clone());
            dense(Place::Buffer(self.plan.buffers.len() as u32 - 1), o.ty.clone())
        };
        let outputs: Vec<Operand> = (0..count).map(|o| next(inputs[op.updates(o).unwrap_or(0)])).collect();
        let inputs = inputs.iter().map(|&o| o.clone()).collect();
        let call = Call { op, inputs, outputs: outputs.clone(), at: at.into() };
        self.plan.entries.entry(entry).or_default().push(call);
        outputs
    }

    pub fn output(&mut self, name: &str, operand: &Operand, binding: Binding) {
        self.plan.outputs.push(Port { name: name.into(), binding, operand: operand.clone() });
    }

    pub fn build(self) -> Arc<Plan> {
        Arc::new(self.plan)
    }
}

fn dense(place: Place, ty: TensorType) -> Operand {
    let strides = ty.strides().into_iter().map(|s| s as u64).collect();
    Operand { place, ty, offset: 0, strides }
}

/// The same memory with another shape.
pub fn reshaped(o: &Operand, shape: impl Into<Vec<usize>>) -> Operand {
    dense(o.place, o.ty.with_shape(shape))
}

pub fn mul() -> Binary {
    Binary { kind: BinaryKind::Mul }
}

pub fn add() -> Binary {
    Binary { kind: BinaryKind::Add }
}

/// `velocity.video = 0.5 x + t - 0.3 x t` for `x` = `video [1,4]`, with `rows` rows of schedule. The factor `0.3 t` is
/// made for all rows in the prologue, so that a prologue that did not run again would be noticed.
pub fn field(rows: usize) -> Arc<Plan> {
    let mut b = Builder::new();
    let x = b.input("video", TensorType::f32([1, 4]), Binding::Step);
    let schedule = b.input("schedule", TensorType::f32([rows, 1]), Binding::Prologue);
    let step = b.input("step", TensorType::new(DType::I32, []), Binding::Step);
    let number = |value| Constant { ty: TensorType::f32([]), value };
    let half = b.call(Binding::Load, true, "half", number(0.5), &[]);
    let third = b.call(Binding::Load, true, "third", number(0.3), &[]);
    let table = b.call(Binding::Prologue, true, "table", mul(), &[&schedule, &third]);
    let t = b.call(Binding::Step, false, "t", Index {}, &[&schedule, &step]);
    let s = b.call(Binding::Step, false, "s", Index {}, &[&table, &step]);
    let a = b.call(Binding::Step, false, "a", mul(), &[&x, &half]);
    let c = b.call(Binding::Step, false, "c", add(), &[&a, &t]);
    let d = b.call(Binding::Step, false, "d", mul(), &[&x, &s]);
    let v = b.call(Binding::Step, false, "v", Binary { kind: BinaryKind::Sub }, &[&c, &d]);
    b.output("velocity.video", &v, Binding::Step);
    b.build()
}

/// The field of [`field`] in `f64`.
pub fn field_at(x: f64, t: f64) -> f64 {
    0.5 * x + t - 0.3 * x * t
}

/// [`prompt_in`] with a weight in `bf16`.
pub fn prompt() -> Arc<Plan> {
    prompt_in(DType::Bf16)
}

/// The half precision type that a runtime's weights can have.
pub fn half_of(backend: &dyn Backend) -> DType {
    let types = backend.describe().element_types;
    [DType::Bf16, DType::F16].into_iter().find(|t| types.contains(t)).unwrap_or(DType::F32)
}

/// A prompt of up to 6 tokens of width 4, attended by two learned queries and projected by a weight of this type in the
/// prologue; `guided.video = video * scale.video + prompt` in a step, whose time `t` it ignores.
pub fn prompt_in(half: DType) -> Arc<Plan> {
    let mut b = Builder::new();
    let x = b.input("video", TensorType::f32([1, 2, 4]), Binding::Step);
    let text = b.input("text", TensorType::f32([1, 6, 4]), Binding::Prologue);
    let count = b.input("text_len", TensorType::new(DType::I32, []), Binding::Prologue);
    let scale = b.input("scale.video", TensorType::f32([]), Binding::Step);
    let query = b.weight("query", TensorType::f32([1, 2, 1, 4]));
    let matrix = b.weight("out.weight", TensorType::new(half, [4, 4]));
    let keys = reshaped(&text, [1, 6, 1, 4]);
    let attention = Attention { masked: false, counted: true };
    let read = b.call(Binding::Prologue, false, "attend", attention, &[&query, &keys, &keys, &count]);
    let read = reshaped(&read, [1, 2, 4]);
    let context = b.call(Binding::Prologue, true, "out", Linear::plain(), &[&read, &matrix]);
    let scaled = b.call(Binding::Step, false, "scaled", mul(), &[&x, &scale]);
    let v = b.call(Binding::Step, false, "sum", add(), &[&scaled, &context]);
    b.output("guided.video", &v, Binding::Step);
    b.build()
}

/// Random weights for [`prompt`], large enough to matter.
pub fn weights() -> WeightStore {
    let expected = |name: &str, shape: &[usize]| ExpectedTensor {
        name: name.into(),
        shape: shape.into(),
        init: Init::Normal { std: 1.0 },
    };
    WeightStore::random(&[expected("query", &[1, 2, 1, 4]), expected("out.weight", &[4, 4])], 3)
}

/// Every runtime that a plan must run on.
pub fn backends() -> Result<Vec<Box<dyn Backend>>, RuntimeError> {
    let mut all: Vec<Box<dyn Backend>> = vec![
        Box::new(ReferenceBackend),
        Box::new(CpuBackend::new(Some(1))?),
        Box::new(CpuBackend::new(Some(3))?),
        Box::new(CpuBackend::new(None)?),
    ];
    all.extend(gpus().iter().map(|gpu| Box::new(gpu.clone()) as Box<dyn Backend>));
    Ok(all)
}

/// The GPUs of this machine, software adapters too. What is not there is said on standard error, past the test harness.
pub fn gpus() -> &'static [GpuBackend] {
    static GPUS: OnceLock<Vec<GpuBackend>> = OnceLock::new();
    GPUS.get_or_init(|| {
        let found = [("wgpu", GpuBackend::wgpu(0)), ("cuda", GpuBackend::cuda(0))];
        let opened = found.into_iter().filter_map(|(name, gpu)| {
            let said = match &gpu {
                Ok(gpu) => format!("running on {name}: {}", gpu.describe().name),
                Err(e) => format!("NOT RUN on {name}: no device ({e}); ./test.sh brings software ones"),
            };
            let _ = writeln!(std::io::stderr(), "{said}");
            gpu.ok()
        });
        opened.collect()
    })
}

pub fn session(backend: &dyn Backend, plan: Arc<Plan>) -> Result<Session, RuntimeError> {
    Session::new(backend, plan, &weights())
}

pub fn inputs(tensors: &[(&str, HostTensor)]) -> Inputs {
    let mut inputs = Inputs::new();
    for (name, tensor) in tensors {
        inputs.insert(*name, tensor.clone());
    }
    inputs
}

pub fn tensors(tensors: &[(&str, HostTensor)]) -> Tensors {
    tensors.iter().map(|(n, t)| ((*n).to_string(), t.clone())).collect()
}

/// Numbers that are neither round nor equal.
pub fn ramp(shape: &[usize]) -> HostTensor {
    let n: usize = shape.iter().product();
    HostTensor::f32(shape, (0..n).map(|i| (i as f32 * 0.7 + 0.3).sin()).collect())
}

/// Fails unless the error's text has all of these parts and is one line.
pub fn says<T>(result: Result<T, RuntimeError>, parts: &[&str]) {
    let Err(error) = result else { panic!("an error with {parts:?} was expected") };
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in `{text}`");
    }
}
