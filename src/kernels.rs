//! Kernels measured one by one: a plan of a single call for each, run as any other plan.
//!
//! The cases are what a step of the `bench` model (joint, `9x16x28@68`) and of its training goes to, and the small products and windows
//! of training the bounce world.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::op::Work;
use ccl_ir::ops::{self, BinaryKind, UnaryKind};
use ccl_ir::partition::Edge;
use ccl_ir::plan::{About, Buffer, Call, Operand, Place, PlanWeight, Port, Region};
use ccl_ir::types::dense_strides;
use ccl_ir::{Binding, DType, Op, Partition, Plan, TensorType};
use ccl_runtime::backend::{Backend, Instance};
use ccl_runtime::random::Stream;
use ccl_runtime::{HostData, HostTensor};
use serde::Serialize;

use crate::calibrate::Small;
use crate::error::Error;

/// A call to measure.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name for people, unique.
    pub name: String,
    op: Op,
    inputs: Vec<TensorType>,
    /// Inputs that are weights of a model.
    weights: Vec<usize>,
    /// Inputs, matrices, that lie in memory column by column.
    columns: Vec<usize>,
}

/// What a call took.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The case.
    pub name: String,
    /// Name of the operator.
    pub op: String,
    /// Median seconds of a call.
    pub seconds: f64,
    /// Fastest and slowest call.
    pub range_s: [f64; 2],
    /// Operations of the call, as plans count them.
    pub flops: u64,
    /// Bytes that the call reads and writes.
    pub bytes: u64,
}

impl Case {
    fn new(name: impl Into<String>, op: impl Into<Op>, inputs: impl Into<Vec<TensorType>>) -> Self {
        Self { name: name.into(), op: op.into(), inputs: inputs.into(), weights: Vec::new(), columns: Vec::new() }
    }

    /// Name of the operator.
    pub fn op(&self) -> &str {
        self.op.name()
    }

    /// A plan whose step is this call.
    ///
    /// # Errors
    /// When the operator refuses the inputs.
    pub fn plan(&self) -> Result<Plan, Error> {
        let types: Vec<&TensorType> = self.inputs.iter().collect();
        let outputs = self.op.infer(&types).map_err(|e| Error::Failed(format!("{}: {}", self.name, e.0)))?;
        let mut plan = Plan::empty(About {
            task: "kernel".into(),
            clip: String::new(),
            batch: 1,
            guidance: "none".into(),
            target: "cpu".into(),
            dtype: DType::F32,
            compiler: String::new(),
            config: serde_json::Value::Null,
        });
        let inputs: Vec<Operand> = (0..self.inputs.len()).map(|i| self.input(&mut plan, i)).collect();
        let outputs: Vec<Operand> = outputs.iter().map(|ty| buffer(&mut plan, ty)).collect();
        plan.outputs.push(Port { name: "out".into(), binding: Binding::Step, operand: outputs[0].clone() });
        let call = Call { op: self.op.clone(), inputs, outputs, at: self.name.clone() };
        plan.entries.insert(Binding::Step, vec![call]);
        Ok(plan)
    }

    fn input(&self, plan: &mut Plan, i: usize) -> Operand {
        let ty = &self.inputs[i];
        if self.weights.contains(&i) {
            plan.weights.push(PlanWeight { name: format!("w{i}"), ty: ty.clone() });
            return whole(Place::Weight(plan.weights.len() as u32 - 1), ty);
        }
        let operand = buffer(plan, ty);
        plan.inputs.push(Port { name: format!("in{i}"), binding: Binding::Step, operand: operand.clone() });
        let strides = if self.columns.contains(&i) { vec![1, ty.shape[0] as u64] } else { operand.strides.clone() };
        // The port stays dense, of the type that is written; the call may read its memory the other way.
        Operand { strides, ..operand }
    }

    /// The call on a backend, with random inputs.
    ///
    /// # Errors
    /// When the backend refuses the plan.
    pub fn instance(&self, backend: &dyn Backend) -> Result<Box<dyn Instance>, Error> {
        let mut instance = backend.instantiate(Arc::new(self.plan()?), &Small)?;
        for i in 0..instance.plan().inputs.len() {
            let port = instance.plan().inputs[i].clone();
            let mut tensor = HostTensor::zeros(&port.operand.ty);
            if let HostData::F32(data) = &mut tensor.data {
                Stream::new(0, &port.name).normal(data);
            }
            instance.write(i, &tensor)?;
        }
        Ok(instance)
    }

    /// Operations and bytes of the call.
    ///
    /// # Errors
    /// As for [`Case::plan`].
    pub fn work(&self) -> Result<Work, Error> {
        let plan = self.plan()?;
        Ok(plan.calls(Binding::Step).first().map(Call::work).unwrap_or_default())
    }

    /// Runs the call for about `time`, at least five times, after a run that does not count.
    ///
    /// # Errors
    /// When the backend refuses the plan, or the kernel fails.
    pub fn measure(&self, backend: &dyn Backend, time: Duration) -> Result<Timing, Error> {
        let mut instance = self.instance(backend)?;
        instance.run(Binding::Step)?;
        instance.set_profiling(true);
        instance.take_profile();
        let (begin, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < 5 || begin.elapsed() < time {
            instance.run(Binding::Step)?;
            seconds.extend(instance.take_profile().iter().map(|t| t.seconds));
        }
        seconds.sort_by(f64::total_cmp);
        let (work, last) = (self.work()?, seconds.len() - 1);
        Ok(Timing {
            name: self.name.clone(),
            op: self.op.name().into(),
            seconds: seconds[last / 2],
            range_s: [seconds[0], seconds[last]],
            flops: work.flops,
            bytes: work.bytes,
        })
    }
}

/// New memory for a tensor.
fn buffer(plan: &mut Plan, ty: &TensorType) -> Operand {
    let bytes = ty.bytes().next_multiple_of(ccl_ir::plan::ALIGNMENT);
    plan.buffers.push(Buffer { region: Region::Persistent, offset: plan.persistent_bytes, bytes });
    plan.persistent_bytes += bytes;
    whole(Place::Buffer(plan.buffers.len() as u32 - 1), ty)
}

fn whole(place: Place, ty: &TensorType) -> Operand {
    let strides = dense_strides(&ty.shape).into_iter().map(|s| s as u64).collect();
    Operand { place, ty: ty.clone(), offset: 0, strides }
}

fn f32(shape: &[usize]) -> TensorType {
    TensorType::f32(shape)
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for (m, d, ffn) in [(1008, 512, 1792), (68, 256, 896)] {
        linears(&mut list, m, d, ffn);
        norms(&mut list, m, d);
        products(&mut list, m, ffn, d);
    }
    list.push(linear("linear 1x3072x512", [1, 3072, 512], None, &[]));
    let (windows, nearest) =
        (windows(9, 112, 68, 21, 136, 18), Partition::NearestFrame { frames: 9, tokens_per_frame: 112, length: 68 });
    for (queries, keys, heads) in [(1008, 1008, 4), (1008, 512, 4), (68, 68, 2), (68, 512, 2)] {
        attention(&mut list, [1, queries, keys, heads, 128]);
    }
    partitioned(&mut list, "windows of a clip", windows, [1, 4, 128, 8]);
    partitioned(&mut list, "nearest frames of a clip", nearest, [1, 2, 128, 128]);
    elementwise(&mut list);
    world(&mut list);
    list
}

/// A biased linear map of `m` tokens from `k` to `n` channels.
fn linear(name: &str, [m, n, k]: [usize; 3], epilogue: Option<Chain>, rest: &[TensorType]) -> Case {
    let inputs = [&[f32(&[1, m, k]), f32(&[n, k]), f32(&[n])], rest].concat();
    Case { weights: vec![1, 2], ..Case::new(name, ops::Linear { bias: true, epilogue, out: None }, inputs) }
}

fn linears(list: &mut Vec<Case>, m: usize, d: usize, ffn: usize) {
    let gelu = Chain { inputs: 1, steps: vec![Instr::Unary(UnaryKind::GeluTanh, Arg::In(0))] };
    let gate = Chain {
        inputs: 3,
        steps: vec![
            Instr::Binary(BinaryKind::Mul, Arg::In(0), Arg::In(2)),
            Instr::Binary(BinaryKind::Add, Arg::In(1), Arg::Step(0)),
        ],
    };
    let rest = [f32(&[1, m, d]), f32(&[1, 1, d])];
    list.push(linear(&format!("linear {m}x{d}x{d}"), [m, d, d], None, &[]));
    list.push(linear(&format!("linear {m}x{ffn}x{d}, gelu"), [m, ffn, d], Some(gelu), &[]));
    list.push(linear(&format!("linear {m}x{d}x{ffn}, gate and residual"), [m, d, ffn], Some(gate), &rest));
}

fn norms(list: &mut Vec<Case>, m: usize, d: usize) {
    let (x, row) = (f32(&[1, m, d]), f32(&[1, 1, d]));
    let modulate = ops::NormModulate { eps: 1e-6 };
    list.push(Case::new(format!("norm modulate {m}x{d}"), modulate, [x.clone(), row.clone(), row.clone()]));
    let rope = ops::RmsNormRope { heads: d / 128, eps: 1e-6 };
    list.push(Case::new(format!("rms norm rope {m}x{d}"), rope, [x.clone(), f32(&[d]), f32(&[m, 64, 2])]));
    let grad = ops::NormGrad { eps: 1e-6, centered: true, scaled: true, one_plus: true };
    list.push(Case::new(format!("norm gradient {m}x{d}"), grad, [x.clone(), x, row]));
}

/// Gradients of products, `m` tokens from `k` to `n` channels.
fn products(list: &mut Vec<Case>, m: usize, n: usize, k: usize) {
    let product = || ops::MatMul { transpose_b: false, out: None };
    list.push(Case::new(format!("dx {m}x{n}x{k}"), product(), [f32(&[m, n]), f32(&[n, k])]));
    let dw = Case::new(format!("dw {m}x{n}x{k}"), product(), [f32(&[n, m]), f32(&[m, k])]);
    list.push(Case { columns: vec![0], ..dw });
}

/// Attention of `[batch, queries, heads, dim]` over `keys` keys, and its gradient.
fn attention(list: &mut Vec<Case>, [batch, queries, keys, heads, dim]: [usize; 5]) {
    let (q, k) = (f32(&[batch, queries, heads, dim]), f32(&[batch, keys, heads, dim]));
    let name = format!("attention {batch}x{queries}x{keys}, {heads} heads of {dim}");
    list.push(Case::new(&name, ops::Attention::full(), [q.clone(), k.clone(), k.clone()]));
    let inputs = [q.clone(), k.clone(), k, q.clone(), q, f32(&[batch, heads, queries])];
    let grad = ops::AttentionGrad { masked: false, counted: false };
    list.push(Case::new(format!("{name}, gradient"), grad, inputs));
}

/// CCA's attention with `context` context tokens, and its gradient.
fn partitioned(list: &mut Vec<Case>, name: &str, p: Partition, [batch, heads, dim, context]: [usize; 4]) {
    let (q, k) = (f32(&[batch, p.queries(), heads, dim]), f32(&[batch, p.keys(), heads, dim]));
    let token = f32(&[context, heads, dim]);
    let mut inputs = vec![q.clone(), k.clone(), k, token.clone(), token];
    list.push(Case::new(name, ops::PartitionedContextAttention::new(p), inputs.clone()));
    inputs.extend([q.clone(), q, f32(&[batch, heads, p.queries()])]);
    let grad = ops::PartitionedContextAttentionGrad { partition: p };
    list.push(Case::new(format!("{name}, gradient"), grad, inputs));
}

fn windows(
    frames: usize,
    tokens_per_frame: usize,
    length: usize,
    size: usize,
    scale: usize,
    divisor: usize,
) -> Partition {
    Partition::Windows { frames, tokens_per_frame, length, size, scale, offset: scale / 2, divisor, edge: Edge::Mask }
}

fn elementwise(list: &mut Vec<Case>) {
    let x = f32(&[1, 1008, 512]);
    list.push(Case::new("sum of two 1008x512", ops::Binary { kind: BinaryKind::Add }, [x.clone(), x.clone()]));
    let gelu = ops::Unary { kind: UnaryKind::GeluTanhGrad };
    list.push(Case::new("gelu derivative 1008x1792", gelu, [f32(&[1, 1008, 1792])]));
    list.push(Case::new("sum of 1008 rows of 512", ops::Reduce::to(vec![512]), [x]));
    for n in [64 * 192, 1 << 20] {
        let op = ops::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.01, group: 0 };
        let (p, scalar) = (f32(&[n]), f32(&[]));
        let inputs = [p.clone(), p.clone(), p.clone(), scalar.clone(), p, f32(&[1]), scalar];
        list.push(Case::new(format!("adam_w {n}"), op, inputs));
    }
}

/// Training a small world: 16 clips of 128 and 128 tokens, 64 and 48 channels.
fn world(list: &mut Vec<Case>) {
    for (n, k) in [(64, 64), (192, 64), (48, 144)] {
        products(list, 2048, n, k);
    }
    attention(list, [16, 128, 128, 4, 16]);
    attention(list, [16, 128, 4, 4, 16]);
    partitioned(list, "windows of the world", windows(16, 8, 128, 24, 8, 1), [16, 4, 16, 4]);
    let nearest = Partition::NearestFrame { frames: 16, tokens_per_frame: 8, length: 128 };
    partitioned(list, "nearest frames of the world", nearest, [16, 3, 16, 8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_plans_that_check() {
        let mut names: Vec<String> = Vec::new();
        for case in cases() {
            let plan = case.plan().unwrap();
            plan.check().unwrap();
            assert!(case.work().unwrap().bytes > 0, "{}", case.name);
            names.push(case.name);
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "two cases of one name");
    }
}
