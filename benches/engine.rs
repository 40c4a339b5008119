//! Criterion benches: planning the 14B model, one step of the `bench` model, and the kernels that its time goes to.
//!
//! `cargo bench` runs all; `cargo bench -- plan` those whose name has `plan`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use ccl::planning::{Request, plan};
use ccl_ir::op::Operator;
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

/// A plan with one call on random inputs.
fn single(op: Op, inputs: &[TensorType]) -> Plan {
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
    plan.entries.insert(Binding::Step, vec![Call { op, inputs: ins, outputs: outs, at: "bench".into() }]);
    plan
}

/// Times one call on the cpu backend.
fn kernel(c: &mut Criterion, name: &str, op: impl Operator, inputs: &[TensorType]) {
    let plan = single(op.into(), inputs);
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
    let pca = ops::PartitionedContextAttention { partition };
    kernel(c, "context attention v2a", pca, &[a, k.clone(), k, context.clone(), context]);
    let modulation = f32(&[1, 1, 512]);
    kernel(c, "norm modulate", ops::NormModulate { eps: 1e-6 }, &[x, modulation.clone(), modulation]);
}

criterion_group!(benches, planning, kernels);
criterion_main!(benches);
