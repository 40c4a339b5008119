//! Criterion benches: planning the 14B model, the kernels that a step of the `bench` model goes to, and those of training.
//!
//! `cargo bench` runs all; `cargo bench -- plan` those whose name has `plan`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use ccl::planning::{Request, plan};
use ccl_ir::chain::{Arg, Chain, Instr};
use ccl_ir::op::Operator;
use ccl_ir::partition::Edge;
use ccl_ir::plan::{About, Buffer, Call, Operand, Place, Port, Region, Report};
use ccl_ir::types::dense_strides;
use ccl_ir::{Binding, DType, Op, Partition, Plan, TensorType, ops};
use ccl_model::{Config, Guidance, Task};
use ccl_runtime::HostTensor;
use ccl_runtime::backend::Backend;
use ccl_runtime::cpu::CpuBackend;
use ccl_runtime::weights::WeightStore;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const WAN_14B: &str = r#"{"video": {"dim": 5120, "ffn_dim": 13824, "heads": 40, "in_channels": 16, "out_channels": 16, "patch": [1, 2, 2]},
    "audio": {"dim": 1536, "ffn_dim": 8960, "heads": 12, "in_channels": 20, "out_channels": 20, "patch": [1]}, "layers": 40}"#;

fn planning(c: &mut Criterion) {
    let config = Config::from_json(WAN_14B).expect("the configuration above");
    let mut group = c.benchmark_group("plan 14B");
    group.sample_size(10);
    for task in [Task::Joint, Task::V2a] {
        let clip = "21x44x80@158".parse().expect("a clip");
        let request = Request::new(&config, task, Guidance::TwoPass, clip);
        group.bench_function(task.name(), |b| b.iter(|| plan(black_box(&config), &request)));
    }
    group.finish();
}

/// A plan with one call on random inputs. The inputs of `columns`, matrices, lie in memory column by column.
fn single(op: Op, inputs: &[TensorType], columns: &[usize]) -> Plan {
    let types: Vec<&TensorType> = inputs.iter().collect();
    let outputs = op.infer(&types).expect("the bench's own types");
    let mut plan = Plan::empty(About {
        task: String::new(),
        clip: String::new(),
        batch: 1,
        guidance: String::new(),
        target: "cpu".into(),
        dtype: DType::F32,
        compiler: String::new(),
        config: serde_json::Value::Null,
    });
    let mut operand = |ty: &TensorType| {
        let bytes = ty.bytes().next_multiple_of(ccl_ir::plan::ALIGNMENT);
        plan.buffers.push(Buffer { region: Region::Persistent, offset: plan.persistent_bytes, bytes });
        plan.persistent_bytes += bytes;
        Operand {
            place: Place::Buffer(plan.buffers.len() as u32 - 1),
            ty: ty.clone(),
            offset: 0,
            strides: dense_strides(&ty.shape).into_iter().map(|s| s as u64).collect(),
        }
    };
    let ins: Vec<Operand> = inputs.iter().map(&mut operand).collect();
    let outs: Vec<Operand> = outputs.iter().map(&mut operand).collect();
    for (i, o) in ins.iter().enumerate() {
        plan.inputs.push(Port { name: format!("in{i}"), binding: Binding::Step, operand: o.clone() });
    }
    plan.outputs.push(Port { name: "out".into(), binding: Binding::Step, operand: outs[0].clone() });
    let mut read = ins;
    for &i in columns {
        // The port stays dense, of the type that is written; the call reads its memory the other way.
        read[i].strides = vec![1, inputs[i].shape[0] as u64];
    }
    plan.entries.insert(Binding::Step, vec![Call { op, inputs: read, outputs: outs, at: "bench".into() }]);
    plan
}

/// Times one call on the cpu backend, on all of the machine's threads.
fn kernel(c: &mut Criterion, name: &str, op: impl Operator, inputs: &[TensorType]) {
    kernel_of(c, name, op, inputs, &[]);
}

/// [`kernel`] with some inputs in columns.
fn kernel_of(c: &mut Criterion, name: &str, op: impl Operator, inputs: &[TensorType], columns: &[usize]) {
    let plan = single(op.into(), inputs, columns);
    let flops: u64 = plan.calls(Binding::Step).iter().map(|c| c.work().flops).sum();
    let bytes: u64 = plan.calls(Binding::Step).iter().map(|c| c.work().bytes).sum();
    let backend = CpuBackend::new(None).expect("a pool of threads");
    let weights = WeightStore::random(&[], 0);
    let mut instance = backend.instantiate(Arc::new(plan), &weights).expect("a plan that checks");
    for (i, ty) in inputs.iter().enumerate() {
        let mut tensor = HostTensor::zeros(ty);
        if let ccl_runtime::HostData::F32(data) = &mut tensor.data {
            ccl_runtime::random::Stream::new(0, &format!("in{i}")).normal(data);
        }
        instance.write(i, &tensor).expect("a fitting tensor");
    }
    let mut group = c.benchmark_group("kernel");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.throughput(if flops > 0 { Throughput::Elements(flops) } else { Throughput::Bytes(bytes) });
    group.bench_function(name, |b| b.iter(|| instance.run(Binding::Step)));
    group.finish();
}

fn kernels(c: &mut Criterion) {
    let f32 = |shape: &[usize]| TensorType::f32(shape);
    let x = f32(&[1, 1008, 512]);
    kernel(c, "linear 1008x1792x512", ops::Linear::plain(), &[x.clone(), f32(&[1792, 512])]);
    let q = f32(&[1, 1008, 4, 128]);
    kernel(c, "self-attention 1008, 4 heads", ops::Attention::full(), &[q.clone(), q.clone(), q.clone()]);
    let partition = Partition::NearestFrame { frames: 9, tokens_per_frame: 112, length: 68 };
    let (a, k, context) = (f32(&[1, 68, 2, 128]), f32(&[1, 1008, 2, 128]), f32(&[128, 2, 128]));
    let pca = ops::PartitionedContextAttention::new(partition);
    kernel(c, "context attention v2a", pca, &[a, k.clone(), k, context.clone(), context]);
    let modulation = f32(&[1, 1, 512]);
    kernel(c, "norm modulate", ops::NormModulate { eps: 1e-6 }, &[x, modulation.clone(), modulation]);
}

/// Gradients of products, `m` tokens from `k` to `n` channels.
fn products(c: &mut Criterion, m: usize, n: usize, k: usize) {
    let f32 = |shape: &[usize]| TensorType::f32(shape);
    let product = || ops::MatMul { transpose_b: false, out: None };
    kernel(c, &format!("dx {m}x{n}x{k}"), product(), &[f32(&[m, n]), f32(&[n, k])]);
    kernel_of(c, &format!("dw {m}x{n}x{k}"), product(), &[f32(&[n, m]), f32(&[m, k])], &[0]);
}

/// Attention of `[batch, queries, heads, dim]` over `keys` keys, and its gradient.
fn attentions(c: &mut Criterion, [batch, queries, keys, heads, dim]: [usize; 5]) {
    let f32 = |shape: &[usize]| TensorType::f32(shape);
    let (q, k) = (f32(&[batch, queries, heads, dim]), f32(&[batch, keys, heads, dim]));
    let name = format!("attention {batch}x{queries}x{keys}, {heads} heads of {dim}");
    kernel(c, &name, ops::Attention::full(), &[q.clone(), k.clone(), k.clone()]);
    let inputs = [q.clone(), k.clone(), k, q.clone(), q, f32(&[batch, heads, queries])];
    kernel(c, &format!("{name}, gradient"), ops::AttentionGrad { masked: false, counted: false }, &inputs);
}

/// CCA's attention with `context` context tokens, and its gradient.
fn partitioned(c: &mut Criterion, name: &str, p: Partition, [batch, heads, dim, context]: [usize; 4]) {
    let f32 = |shape: &[usize]| TensorType::f32(shape);
    let (q, k) = (f32(&[batch, p.queries(), heads, dim]), f32(&[batch, p.keys(), heads, dim]));
    let token = f32(&[context, heads, dim]);
    let mut inputs = vec![q.clone(), k.clone(), k, token.clone(), token];
    kernel(c, name, ops::PartitionedContextAttention::new(p), &inputs);
    inputs.extend([q.clone(), q, f32(&[batch, heads, p.queries()])]);
    kernel(c, &format!("{name}, gradient"), ops::PartitionedContextAttentionGrad { partition: p }, &inputs);
}

/// What a step of training goes to: a small world (16 clips of 128 and 128 tokens, 64 and 48 channels) and the `bench`
/// model.
fn training(c: &mut Criterion) {
    let f32 = |shape: &[usize]| TensorType::f32(shape);
    for (n, k) in [(64, 64), (192, 64), (64, 192), (48, 48), (144, 48), (48, 144)] {
        products(c, 2048, n, k);
    }
    products(c, 1008, 1792, 512);
    attentions(c, [16, 128, 128, 4, 16]);
    attentions(c, [16, 128, 128, 3, 16]);
    attentions(c, [16, 128, 4, 4, 16]);
    attentions(c, [1, 1008, 1008, 4, 128]);
    let windows = |frames, tokens_per_frame, length, size, scale, divisor| Partition::Windows {
        frames,
        tokens_per_frame,
        length,
        size,
        scale,
        offset: scale / 2,
        divisor,
        edge: Edge::Mask,
    };
    partitioned(c, "windows of the world", windows(16, 8, 128, 24, 8, 1), [16, 4, 16, 4]);
    let nearest = Partition::NearestFrame { frames: 16, tokens_per_frame: 8, length: 128 };
    partitioned(c, "nearest frames of the world", nearest, [16, 3, 16, 8]);
    partitioned(c, "windows of a clip", windows(9, 112, 68, 21, 136, 18), [1, 4, 128, 8]);
    let nearest = Partition::NearestFrame { frames: 9, tokens_per_frame: 112, length: 68 };
    partitioned(c, "nearest frames of a clip", nearest, [1, 2, 128, 128]);
    let (x, row) = (f32(&[16, 128, 64]), f32(&[16, 128, 1]));
    for shape in [vec![64], vec![16, 1, 64], vec![]] {
        kernel(c, &format!("sum 16x128x64 to {shape:?}"), ops::Reduce::to(shape.clone()), std::slice::from_ref(&x));
        let chain = Chain {
            inputs: 3,
            steps: vec![
                Instr::Binary(ops::BinaryKind::Mul, Arg::In(1), Arg::In(2)),
                Instr::Binary(ops::BinaryKind::Mul, Arg::In(0), Arg::Step(0)),
            ],
        };
        let name = format!("sum of g x r to {shape:?}");
        kernel(c, &name, ops::Reduce { chain: Some(chain), shape }, &[x.clone(), x.clone(), row.clone()]);
    }
    let norm = ops::NormGrad { eps: 1e-6, centered: true, scaled: true, one_plus: true };
    kernel(c, "norm gradient", norm, &[x.clone(), x.clone(), f32(&[16, 1, 64])]);
    kernel(c, "gelu derivative", ops::Unary { kind: ops::UnaryKind::GeluTanhGrad }, &[f32(&[16, 128, 192])]);
    for n in [64 * 192, 1 << 20] {
        let op = ops::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.01, group: 0 };
        let (p, scalar) = (f32(&[n]), f32(&[]));
        let inputs = [p.clone(), p.clone(), p.clone(), scalar.clone(), p, f32(&[1]), scalar];
        kernel(c, &format!("adam_w {n}"), op, &inputs);
    }
}

criterion_group!(benches, planning, kernels, training);
criterion_main!(benches);
