//! Calls for the kernels of tensor cores, and holding them against the reference on softcuda.

use ccl_codegen::gpu::{Kernel, Lowered, Target, lower};
use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::interp::sample_inputs;
use ccl_ir::ops::{self, BinaryKind, UnaryKind};
use ccl_ir::partition::Edge;
use ccl_ir::plan::Call;
use ccl_ir::tensor::relative_l2;
use ccl_ir::{DType, Op, Partition, Sample, TensorType};

use crate::common::{Buffer, reference};
use crate::soft::Soft;

/// An NVIDIA device of a compute capability: 90 is 9.0.
pub fn target(capability: u32) -> Target {
    Target::cuda("cuda", capability)
}

pub fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape)
}

/// What is done with the sums of a linear map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// A bias, like all that say nothing else.
    Plain,
    Gelu,
    /// A gate that all rows share, and a residual.
    Gate,
    /// The same after GELU.
    GeluGate,
    /// No bias, a residual.
    Residual,
    /// A residual of single precision.
    SingleResidual,
    /// Two residuals.
    Residuals,
}

/// A linear map of `m` tokens from `k` to `n` channels.
pub fn linear(half: DType, [m, n, k]: [usize; 3], end: End) -> Sample<Op> {
    let gelu = Instr::Unary(UnaryKind::GeluTanh, Arg::In(0));
    let gate = |x| Instr::Binary(BinaryKind::Mul, x, Arg::In(2));
    let add = |x, residual| Instr::Binary(BinaryKind::Add, Arg::In(residual), x);
    let (row, gates) = (ty(half, &[1, m, n]), ty(DType::F32, &[1, 1, n]));
    let (steps, extras) = match end {
        End::Plain => (Vec::new(), Vec::new()),
        End::Gelu => (vec![gelu], Vec::new()),
        End::Gate => (vec![gate(Arg::In(0)), add(Arg::Step(0), 1)], vec![row, gates]),
        End::GeluGate => (vec![gelu, gate(Arg::Step(0)), add(Arg::Step(1), 1)], vec![row, gates]),
        End::Residual => (vec![add(Arg::In(0), 1)], vec![row]),
        End::SingleResidual => (vec![add(Arg::In(0), 1)], vec![ty(DType::F32, &[1, m, n])]),
        End::Residuals => (vec![add(Arg::In(0), 1), add(Arg::Step(0), 2)], vec![row.clone(), row]),
    };
    let epilogue = (end != End::Plain).then_some(Chain { inputs: 1 + extras.len() as u16, steps });
    let bias = (end != End::Residual).then(|| ty(half, &[n]));
    let inputs: Vec<_> =
        [ty(half, &[1, m, k]), ty(half, &[n, k])].into_iter().chain(bias.clone()).chain(extras).collect();
    Sample::new(Op::from(ops::Linear { bias: bias.is_some(), epilogue, out: None }), inputs)
}

pub fn mat_mul(half: DType, [b, m, n, k]: [usize; 4], transpose_b: bool, out: Option<DType>) -> Sample<Op> {
    let right = if transpose_b { [b, n, k] } else { [b, k, n] };
    Sample::new(Op::from(ops::MatMul { transpose_b, out }), vec![ty(half, &[b, m, k]), ty(half, &right)])
}

pub fn attention(half: DType, [b, queries, keys, heads, dim]: [usize; 5], masked: bool, counted: bool) -> Sample<Op> {
    let k = ty(half, &[b, keys, heads, dim]);
    let mut inputs = vec![ty(half, &[b, queries, heads, dim]), k.clone(), k];
    if masked {
        inputs.push(ty(DType::F32, &[b, keys]));
    }
    if counted {
        inputs.push(TensorType::new(DType::I32, []));
    }
    Sample::new(Op::from(ops::Attention { masked, counted }), inputs)
}

pub fn partitioned(half: DType, p: Partition, [heads, dim, context]: [usize; 3], splits: usize) -> Sample<Op> {
    let (q, k) = (ty(half, &[1, p.queries(), heads, dim]), ty(half, &[1, p.keys(), heads, dim]));
    let token = ty(half, &[context, heads, dim]);
    let op = ops::PartitionedContextAttention { splits, ..ops::PartitionedContextAttention::new(p) };
    Sample::new(Op::from(op), vec![q, k.clone(), k, token.clone(), token])
}

/// The gradient of a forward sample; its result and log-sum-exp are put in by [`backward`].
pub fn gradient(forward: &Sample<Op>) -> Sample<Op> {
    let q = &forward.inputs[0];
    let (heads, queries) = (q.shape[2], q.shape[1]);
    let mut inputs = forward.inputs.clone();
    let rest = [q.clone(), q.clone(), ty(DType::F32, &[q.shape[0], heads, queries])];
    let op: Op = match &forward.op {
        Op::Attention(a) => {
            inputs.splice(3..3, rest);
            ops::AttentionGrad { masked: a.masked, counted: a.counted }.into()
        }
        Op::PartitionedContextAttention(p) => {
            inputs.extend(rest);
            ops::PartitionedContextAttentionGrad { partition: p.partition }.into()
        }
        other => panic!("{other:?}"),
    };
    Sample::new(op, inputs)
}

pub fn windows(frames: usize, tokens_per_frame: usize, length: usize, size: usize, edge: Edge) -> Partition {
    Partition::Windows {
        frames,
        tokens_per_frame,
        length,
        size,
        scale: length,
        offset: length / 2,
        divisor: frames,
        edge,
    }
}

pub fn launches(call: &Call, target: &Target) -> Vec<ccl_codegen::gpu::Launch> {
    match lower(call, target).unwrap() {
        Lowered::Device(launches) => launches,
        Lowered::Host => panic!("the host runs {}", call.op.name()),
    }
}

/// Inputs of a call. A count is two thirds of the keys; a mask hides some.
pub fn inputs_of(sample: &Sample<Op>, call: &Call, seed: u64) -> Vec<Buffer> {
    changed_inputs_of(sample, call, seed, |_, _| {})
}

/// The same, each changed by its position.
pub fn changed_inputs_of(
    sample: &Sample<Op>,
    call: &Call,
    seed: u64,
    change: impl Fn(usize, &mut Vec<f64>),
) -> Vec<Buffer> {
    let drawn = sample_inputs(sample, seed);
    let keys = call.inputs[1].ty.shape.iter().rev().nth(2).copied().unwrap_or(1);
    let inputs = call.inputs.iter().zip(drawn).enumerate().map(|(i, (o, t))| {
        let mut data = match o.ty.dtype {
            DType::I32 => vec![(keys * 2 / 3) as f64],
            _ => t.data,
        };
        // A mask hides some keys.
        if i == 3 && o.ty.dtype != DType::I32 && matches!(call.op, Op::Attention(_)) {
            data.iter_mut().skip(2).step_by(7).for_each(|x| *x = f64::NEG_INFINITY);
        }
        change(i, &mut data);
        Buffer::new(o, &data)
    });
    inputs.collect()
}

/// Inputs of a gradient: what the forward pass was given, what it left, and a gradient of its result.
pub fn backward(forward: &Sample<Op>, call: &Call, seed: u64) -> Vec<Buffer> {
    let given = inputs_of(forward, &crate::common::call(forward), seed);
    let left = reference(&crate::common::call(forward), &given);
    let at = if call.op.name() == "attention_grad" { 3 } else { 5 };
    let drawn = sample_inputs(&gradient(forward), seed + 1);
    let mut given = given.into_iter();
    let mut list = Vec::new();
    for (i, o) in call.inputs.iter().enumerate() {
        list.push(match i.checked_sub(at) {
            Some(0) => Buffer::new(o, &left[0].data),
            Some(1) => Buffer::new(o, &drawn[i].data),
            Some(2) => Buffer::new(o, &left[1].data),
            _ => given.next().unwrap(),
        });
    }
    list
}

/// Runs a call on the interpreter and holds it against the reference.
pub fn agrees(soft: &Soft, target: &Target, name: &str, call: &Call, inputs: &[Buffer]) -> Vec<Kernel> {
    let (outputs, done) = soft.run(target, call, inputs).unwrap();
    for (port, (got, want)) in outputs.iter().zip(reference(call, inputs)).enumerate() {
        let error = relative_l2(got, &want.data);
        // Attention rounds its weights to half precision, everything its results.
        let bound = match call.inputs[0].ty.dtype {
            DType::Bf16 => 5e-3,
            _ => 1e-3,
        };
        let bound = if call.outputs[port].ty.dtype == DType::F32 && call.op.name() != "attention" {
            bound / 2.0
        } else {
            bound
        };
        assert!(error <= bound, "{name} output {port}: {error:e} > {bound:e}");
    }
    done.into_iter().map(|(launch, _)| launch.blueprint.kernel).collect()
}
