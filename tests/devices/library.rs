//! Products by cuBLASLt where measuring chose it: equal results, recorded steps, and kernels of our own where it is not there.
//!
//! On a machine without an NVIDIA GPU softcuda does them, which is strict about what the library is told.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::tensors::{Tensor, relative_l2};
use crate::common::{Run, case, ccl, clip_of, cuda, temp_dir};
use ccl::ir::DType;
use ccl::kernels::{Inputs, Set, Types, Weights};
use ccl::model::{Guidance, Task};
use ccl::planning::{Request, plan};
use ccl::runtime::tuned::{Tried, TriedTile, Tuned, path_of};
use ccl::runtime::{Backend, GpuBackend};
use ccl::tuning::{Found, plan_calls, problems};
use ccl_codegen::gpu::Target;
use ccl_codegen::gpu::tensor::library::LibraryProduct;
use ccl_codegen::gpu::tiles::{Choices, ProblemTile};
use ccl_codegen::gpu::{Lowered, lower_in};
use ccl_ir::Binding;

/// What a call computes on a device with these choices, by the library or not.
fn result(gpu: &GpuBackend, found: &Found, choices: Choices) -> Tensor {
    let library = usize::from(!choices.library.is_empty());
    let plan = Arc::new(found.lone.plan(1, Inputs::Shared));
    let mut instance = gpu.clone().with_choices(choices).instantiate(plan, &Weights).expect("an instance");
    found.lone.fill(instance.as_mut(), true).expect("inputs");
    // Launched, recorded, replayed.
    for _ in 0..3 {
        instance.run(Binding::Step).expect("a run");
    }
    assert_eq!(instance.by_library(Binding::Step), library);
    let data = instance.read(0).expect("a result");
    Tensor { shape: data.shape.clone(), data: data.as_f32().expect("numbers").to_vec() }
}

/// What tells products apart besides their sizes.
fn kind(found: &Found, target: &Target) -> String {
    let plan = found.lone.plan(1, Inputs::Shared);
    let Ok(Lowered::Device(launches)) = lower_in(&plan, &plan.calls(Binding::Step)[0], target) else { panic!() };
    let p = LibraryProduct::of(&launches[0].blueprint, &launches[0].sizes).expect("a product of the library");
    format!("{:?} bias {} gelu {} {}", p.problem.along, p.bias.is_some(), p.gelu, p.result)
}

#[test]
fn the_library_gives_what_kernels_give() {
    if cuda().is_none() {
        return;
    }
    let gpu = GpuBackend::cuda(0).expect("a device").with_choices(Choices::default());
    gpu.library().expect("cuBLASLt, or a software driver that does its work");
    let target = gpu.target().expect("a target").clone();
    let mut kinds = Vec::new();
    for half in [DType::Bf16, DType::F16] {
        let cases = Set::Tiny.cases(Types { tokens: half, matrices: half });
        let calls = cases.iter().map(|c| c.lone().expect("a call")).collect();
        for found in problems(calls, &target).expect("problems").iter().filter(|f| f.library) {
            let chosen = |tile| {
                let mut choices = Choices::default();
                choices.choose(&found.problem, tile);
                choices
            };
            let ours = result(&gpu, found, Choices::default());
            let library = result(&gpu, found, chosen(ProblemTile::Library));
            let kind = kind(found, &target);
            let off = relative_l2(&library, &ours);
            let most = if kind.ends_with("f32") { 1e-5 } else { 4e-3 };
            assert!(
                off < most && ours.data.iter().any(|x| *x != 0.0),
                "{half} {}, {kind}: {off:e}",
                found.problem.key()
            );
            kinds.push(kind);
        }
    }
    for want in [
        "[true, true] bias true gelu false bf16",
        "[true, true] bias true gelu true f16",
        "[true, false] bias false gelu false bf16",
        "[false, false] bias false gelu false f32",
    ] {
        assert!(kinds.iter().any(|kind| kind == want), "{want}: {kinds:#?}");
    }
}

/// Writes a file that gives every product of a task to the library that can be.
fn tuned(data: &Path, cache: &Path) -> usize {
    let gpu = GpuBackend::cuda(0).expect("a device").with_choices(Choices::default());
    let target = gpu.target().expect("a target");
    let model = ccl::model_dir::ModelDir::open(data).expect("a model");
    let clip = clip_of(data).0.parse().expect("a clip");
    let mut request = Request::new(&model.config, Task::T2a, Guidance::None, clip);
    (request.dtype, request.gpu, request.batch) = (DType::Bf16, Some(target.clone()), clip_of(data).1);
    let plan = plan(&model.config, &request).expect("a plan");
    let found = problems(plan_calls(&plan), target).expect("problems");
    let name = gpu.describe().name;
    let mut tuned = Tuned::new(&name, target, "2026-11-27", "ccl");
    for f in found.iter().filter(|f| f.library) {
        let tile = TriedTile { tile: ProblemTile::Library, seconds: Some(1e-6), problem: None };
        let (op, at) = (f.lone.call().op.name().into(), f.lone.call().at.clone());
        tuned.problems.push(Tried { problem: f.problem.key(), op, at, expected_s: None, tiles: vec![tile] });
    }
    let file = path_of(&name, target).expect("a place");
    let file = cache.join("tuned").join(file.file_name().expect("a name"));
    tuned.save(&file).expect("a file");
    tuned.problems.len()
}

#[test]
fn a_step_uses_the_library_where_it_is_there() {
    let Some(device) = cuda() else { return };
    let (dir, data) = (temp_dir(), case("small"));
    let [out, cache, stats] = ["out.safetensors", "cache", "stats"].map(|name| dir.path().join(name));
    let sample = |more: fn(crate::common::Ccl) -> crate::common::Ccl| -> (Vec<u8>, Run) {
        let run = ccl("sample --task t2a --guidance none --dtype bf16 --steps 3 --backend cuda -v").on(&data);
        let run = run.with("-o", &out).env("CCL_CACHE_DIR", &cache.to_string_lossy());
        let run = more(run.env("SOFTCUDA_STATS", &stats.to_string_lossy())).ok();
        (fs::read(&out).expect("a result"), run)
    };
    let products = || {
        let text = fs::read_to_string(&stats).unwrap_or_default();
        text.lines().filter(|line| line.contains("cublasLtMatmul")).count()
    };
    let (ours, _) = sample(|r| r);
    assert_eq!(products(), 0);
    let count = tuned(&data, &cache);
    assert!(count > 1, "{count}");
    let (library, run) = sample(|r| r);
    let (before, _) = run.stderr.split_once(" products of the plan").expect("cuBLASLt does some");
    let said = before.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok());
    assert!(said >= Some(count), "{}", run.stderr);
    // At least once a step.
    assert!(!device.software || products() >= 3 * count, "{}", products());
    assert!(library != ours);
    // What is not there is said and not missed.
    let before = products();
    let (without, run) = sample(|r| r.env("CCL_CUBLASLT_DIR", "/nowhere"));
    assert!(without == ours && products() == before);
    assert!(run.stderr.contains("take other kernels: cuBLASLt was not found"), "{}", run.stderr);
    // A library that does no such product, and one that fails when it is to.
    let failing: [(fn(crate::common::Ccl) -> crate::common::Ccl, &str); 2] = [
        (|r| r.env("SOFTCUDA_BLAS", "refuse"), "takes another kernel"),
        (|r| r.env("SOFTCUDA_BLAS", "fail"), "takes a kernel of ours from here on"),
    ];
    for (more, says) in failing.into_iter().filter(|_| device.software) {
        let (without, run) = sample(more);
        assert!(without == ours && products() == before, "{says}");
        assert!(run.stderr.contains(says), "{}", run.stderr);
    }
}
