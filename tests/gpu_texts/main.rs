//! The texts of all kernels that plans launch, on a machine without a GPU: WGSL validates in naga, CUDA compiles with NVRTC.
//!
//! All tasks and guidance forms of the test models and of the 14B model, in single and half precision. Kernels that plans share are
//! looked at once.

mod kernels;
#[path = "../../codegen/tests/gpu_common/nvrtc.rs"]
mod nvrtc;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use ccl_codegen::gpu::Target;
use kernels::{Text, of_models};
use nvrtc::{ARCHITECTURES, Nvrtc};

/// Does something with every item, on all cores; gives what went wrong.
fn for_each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<(), String> + Sync) -> Vec<String> {
    let (next, wrong) = (std::sync::atomic::AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(i) else { break };
                    if let Err(problem) = work(item) {
                        wrong.lock().unwrap().insert(i, problem);
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap().into_values().collect()
}

fn report(what: &str, texts: &[Text], begin: Instant, wrong: &[String]) {
    println!("{what}: {} kernels in {:.1} s, {} wrong", texts.len(), begin.elapsed().as_secs_f64(), wrong.len());
    assert!(wrong.is_empty(), "{what}: {} of {} kernels:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

#[test]
fn every_wgsl_text_validates() {
    let begin = Instant::now();
    let texts = of_models(&Target::wgpu());
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
    let mut texts = of_models(&Target::cuda("cuda", 80));
    // Texts are the same for every architecture unless a kernel asks for what only some have.
    texts.extend(of_models(&Target::cuda("cuda:sm_90a", 90)));
    texts.sort();
    texts.dedup_by(|a, b| a.text == b.text);
    assert!(texts.len() > 50, "only {} kernels", texts.len());
    let wrong = for_each(&texts, |text| {
        for architecture in ARCHITECTURES {
            nvrtc
                .compile(&text.text, architecture)
                .map_err(|log| format!("{} for {architecture}: {log}", text.first))?;
        }
        Ok(())
    });
    report("cuda", &texts, begin, &wrong);
}

#[test]
fn what_is_no_text_is_found() {
    let nvrtc = Nvrtc::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_or_else(|e| panic!("{e}"));
    for architecture in ARCHITECTURES {
        let right = "extern \"C\" __global__ void k(float* x) { x[threadIdx.x] *= 2.0f; }";
        assert!(nvrtc.compile(right, architecture).is_ok_and(|bytes| bytes > 0));
        let log = nvrtc.compile(&right.replace("x[", "y["), architecture).unwrap_err();
        assert!(log.contains("identifier \"y\" is undefined"), "{log}");
    }
}
