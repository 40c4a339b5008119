//! The texts of all kernels that plans launch, on a machine without a GPU: WGSL validates in naga, CUDA compiles with NVRTC.
//!
//! All tasks of the test models and of the 14B model, in single and half precision, and their training. Kernels that plans share are
//! looked at once.

mod kernels;
#[path = "../../codegen/tests/gpu/nvrtc.rs"]
mod nvrtc;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use ccl::ir::DType;
use ccl::ir::plan::Emitted;
use ccl::model::{Guidance, Task};
use ccl::planning::{Request, RuleSet, add_kernels, plan};
use ccl_codegen::gpu::Target;
use kernels::{Text, of_models, released};
use nvrtc::{ARCHITECTURES, Nvrtc};
use rayon::prelude::*;

/// Does something with every item, on all cores; gives what went wrong.
fn for_each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<(), String> + Sync) -> Vec<String> {
    items.par_iter().filter_map(|item| work(item).err()).collect()
}

fn report(what: &str, texts: &[Text], begin: Instant, wrong: &[String]) {
    println!("{what}: {} kernels in {:.1} s, {} wrong", texts.len(), begin.elapsed().as_secs_f64(), wrong.len());
    assert!(wrong.is_empty(), "{what}: {} of {} kernels:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

#[test]
fn every_wgsl_text_validates() {
    let begin = Instant::now();
    let texts = of_models(&[Target::wgpu()]);
    assert!(texts.len() > 50, "only {} kernels", texts.len());
    let wrong = for_each(&texts, |text| {
        let problem = |what: String| format!("{}: {what}\n{}", text.first, text.text);
        let module = naga::front::wgsl::parse_str(&text.text).map_err(|e| problem(e.emit_to_string(&text.text)))?;
        // What WebGPU has everywhere, and the one extension that a plan in half precision asks for.
        let mut capabilities = naga::valid::Capabilities::empty();
        if text.half {
            capabilities |= naga::valid::Capabilities::SHADER_FLOAT16;
        }
        let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
        validator.validate(&module).map(|_| ()).map_err(|e| problem(format!("{e:?}")))
    });
    report("wgsl", &texts, begin, &wrong);
}

#[test]
fn every_cuda_text_compiles() {
    let begin = Instant::now();
    let nvrtc = Nvrtc::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_or_else(|e| panic!("{e}"));
    let texts = of_models(&[Target::cuda("cuda", 80), Target::cuda("cuda:sm_90a", 90)]);
    assert!(texts.len() > 50, "only {} kernels", texts.len());
    let mut wrong = Vec::new();
    for (architecture, capability) in ARCHITECTURES {
        // The newest architecture is looked at with every operator's samples and every tile. The large kernels of tensor cores differ in the names
        // of instructions alone where they are for the other kind of half precision.
        let again = |text: &Text| text.text.contains("HALF_F16") && capability != 90;
        let list: Vec<&Text> =
            texts.iter().filter(|text| !again(text) && text.capabilities.contains(&capability)).collect();
        let logs = nvrtc.compile_all(&list.iter().map(|text| text.text.as_str()).collect::<Vec<_>>(), architecture);
        wrong.extend(logs.into_iter().map(|(i, log)| format!("{} for {architecture}: {log}", list[i].first)));
    }
    report("cuda", &texts, begin, &wrong);
}

#[test]
fn what_is_no_text_is_found() {
    let nvrtc = Nvrtc::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_or_else(|e| panic!("{e}"));
    for (architecture, _) in ARCHITECTURES {
        let right = "extern \"C\" __global__ void k(float* x) { x[threadIdx.x] *= 2.0f; }";
        assert!(nvrtc.compile(right, architecture).is_ok_and(|bytes| bytes > 0));
        let log = nvrtc.compile(&right.replace("x[", "y["), architecture).unwrap_err();
        assert!(log.contains("identifier \"y\" is undefined"), "{log}");
        // Among others that begin as it does.
        let of = |body: &str| {
            let entry = "extern \"C\" __global__ void universal_e_0(float* x, info_st info)";
            format!("#include <cuda_bf16.h>\nstruct info_st {{ unsigned int sizes[2]; }};\n{entry} {{ {body} }}")
        };
        let texts = [of("x[0] = 1.0f;"), of("y[0] = 1.0f;"), of("x[info.sizes[1]] = 2.0f;")];
        let wrong = nvrtc.compile_all(&texts.each_ref().map(String::as_str), architecture);
        assert_eq!(wrong.keys().collect::<Vec<_>>(), [&1], "{wrong:?}");
    }
}

/// The kernels of a plan of the 14B model, and how long planning and emission took.
fn of_14b(layers: usize, clip: &str, target: &Target, dtype: DType) -> (Emitted, Duration) {
    of_14b_by(Task::Joint, RuleSet::default(), layers, clip, target, dtype)
}

/// The same of a task, with a set of the algebra's rules.
fn of_14b_by(
    task: Task,
    rules: RuleSet,
    layers: usize,
    clip: &str,
    target: &Target,
    dtype: DType,
) -> (Emitted, Duration) {
    let begin = Instant::now();
    let config = released(layers);
    let mut request = Request::new(&config, task, Guidance::TwoPass, clip.parse().unwrap());
    (request.dtype, request.gpu) = (dtype, Some(target.clone()));
    request.algebra.rules = rules;
    let mut plan = plan(&config, &request).unwrap();
    add_kernels(&mut plan, &request).unwrap();
    (plan.kernels.unwrap(), begin.elapsed())
}

/// Both targets with the half precision that each has.
fn targets() -> [(Target, DType); 2] {
    [(Target::from_name("cuda:sm_90a").unwrap(), DType::Bf16), (Target::wgpu(), DType::F16)]
}

/// Blueprints in an order that does not depend on the order of launches.
fn blueprints(kernels: &Emitted) -> BTreeSet<String> {
    kernels.kernels.iter().map(|k| k.blueprint.to_string()).collect()
}

#[test]
fn planning_and_emission_of_14b_take_seconds() {
    for (target, dtype) in targets() {
        // Threads of its own: those that tests share may be compiling for minutes.
        let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let (kernels, took) = threads.install(|| of_14b(40, "21x44x80@158", &target, dtype));
        println!(
            "{}: {} kernels, {} launches, {took:.2?}",
            target.name,
            kernels.kernels.len(),
            kernels.launches().count()
        );
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(kernels.launches().count() > 3000 && kernels.kernels.len() < 70);
    }
}

#[test]
fn depth_adds_no_kernel() {
    for (target, dtype) in targets() {
        let (deep, flat) = (of_14b(40, "21x44x80@158", &target, dtype).0, of_14b(2, "21x44x80@158", &target, dtype).0);
        assert_eq!(deep.kernels, flat.kernels);
    }
}

#[test]
fn another_clip_needs_no_other_kernel() {
    for (target, dtype) in targets() {
        // The algebra may take another form of the program for a clip of quite another length, whose few kernels differ.
        let clips = [
            (Task::Joint, RuleSet::default(), "21x30x52@158"),
            (Task::Joint, RuleSet::default(), "13x44x80@98"),
            (Task::Joint, RuleSet::None, "21x30x52@158"),
            (Task::Joint, RuleSet::None, "41x44x80@308"),
            (Task::T2a, RuleSet::None, "21x44x80@98"),
            (Task::T2a, RuleSet::None, "21x44x80@308"),
        ];
        for (task, rules, clip) in clips {
            let kernels = of_14b_by(task, rules, 2, "21x44x80@158", &target, dtype).0;
            let other = of_14b_by(task, rules, 2, clip, &target, dtype).0;
            assert_eq!(blueprints(&kernels), blueprints(&other), "{}: {clip}", target.name);
            let texts = |k: &Emitted| k.kernels.iter().map(|k| k.text.clone()).collect::<BTreeSet<_>>();
            assert_eq!(texts(&kernels), texts(&other), "{}: {clip}", target.name);
        }
    }
}

#[test]
fn emission_gives_the_same_bytes() {
    for (target, dtype) in targets() {
        let of = || of_14b(2, "21x44x80@158", &target, dtype).0;
        let first = of();
        assert!((0..3).all(|_| of() == first), "{}", target.name);
    }
}
