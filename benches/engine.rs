//! Criterion benches: planning the 14B model, and the kernels that `ccl bench kernels` measures.
//!
//! `cargo bench` runs all; `cargo bench -- plan` those whose name has `plan`.

use std::hint::black_box;
use std::time::Duration;

use ccl::kernels::cases;
use ccl::planning::{Request, plan};
use ccl_ir::Binding;
use ccl_model::{Config, Guidance, Task};
use ccl_runtime::cpu::CpuBackend;
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

/// Each kernel's case on the cpu backend, on all of the machine's threads.
fn kernels(c: &mut Criterion) {
    let backend = CpuBackend::new(None).expect("a pool of threads");
    let mut group = c.benchmark_group("kernel");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for case in cases() {
        let work = case.work().expect("a case that checks");
        group.throughput(if work.flops > 0 { Throughput::Elements(work.flops) } else { Throughput::Bytes(work.bytes) });
        let mut instance = case.instance(&backend, 1).expect("a case that checks");
        group.bench_function(&case.name, |b| b.iter(|| instance.run(Binding::Step)));
    }
    group.finish();
}

criterion_group!(benches, planning, kernels);
criterion_main!(benches);
