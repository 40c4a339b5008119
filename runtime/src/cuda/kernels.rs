//! From a plan's calls to kernels on a device.
//!
//! The texts come from the code generator. A kernel that the plan carries compiled is loaded as it is: machine code where it was made for
//! this architecture, else its PTX where the device is newer. What is left is compiled, all kernels side by side, unless the
//! user's cache has it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ccl_codegen::gpu::text::{TensorMap, maps};
use ccl_codegen::gpu::{Blueprint, EmitPlanError, Ref, Target, emit_plan};
use ccl_ir::Plan;
use ccl_ir::plan::{BufferRef, Call, Code, Emitted, EmittedCall, EmittedKernel, EmittedLaunch};
use rayon::prelude::*;

use super::abi::Arguments;
use super::cache::{Cache, key};
use super::device::{Open, version};
use super::driver::{Kernel, Spread};
use super::library::{OfLaunch, Products};
use super::nvrtc::{Binary, Nvrtc};
use crate::error::{RuntimeError, one_line};
use crate::gpu::engine::{Api, Facts, Step, Steps};
use crate::gpu::instance::faults::failed;
use crate::tuned;

/// Kernels that are on a device, by the hash of text and architecture.
pub(super) type Loaded = Mutex<HashMap<blake3::Hash, Arc<Ready>>>;

/// A kernel with what it is told.
pub(super) struct Ready {
    pub kernel: Kernel,
    pub arguments: Arguments,
    pub maps: Vec<TensorMap>,
}

/// A launch, ready but for its buffers.
pub(crate) struct Launch {
    pub(super) ready: Arc<Ready>,
    /// What does the kernel's work instead of it.
    pub(super) library: Option<OfLaunch>,
    pub(super) cubes: [u32; 3],
    pub(super) buffers: Vec<Ref>,
    pub(super) sizes: Vec<u32>,
}

/// A plan's kernels as texts, with the code that it carries for them.
pub(crate) struct Lowered {
    emitted: Emitted,
    /// The architecture that texts are compiled for.
    architecture: String,
    /// Products that are the library's where it is there.
    library: BTreeSet<String>,
}

/// Lowers a plan's calls: for the target that its compiled kernels were made for where the device can run them, else for the device.
///
/// # Errors
/// When a call cannot run there.
pub(super) fn lower(plan: &Plan, facts: &Facts) -> Result<Lowered, RuntimeError> {
    let mut target = facts.target.clone();
    let carried = plan.kernels.as_ref().filter(|k| k.compiled.is_some());
    if let Some(carried) = carried
        && let Some(theirs) = Target::from_name(&carried.target)
        && suits(&theirs, &facts.target)
        && carried.compiled.as_ref().map(|c| c.architecture.clone()) == theirs.architecture()
    {
        // By its own name: texts may depend on it.
        target = Target { choices: tuned::carried(&carried.choices, &theirs), ..theirs };
    } else if let Some(by) = carried.and_then(|k| k.compiled.as_ref()) {
        let (theirs, device) = (&by.architecture, &facts.info.name);
        tracing::info!("the plan's kernels are compiled for {theirs}, which {device} does not run");
    }
    let mut emitted = emit_plan(plan, &target).map_err(|e| wrong(plan, e))?;
    if let Some(carried) = carried {
        let codes: HashMap<&str, &Code> =
            carried.kernels.iter().filter_map(|k| Some((k.text.as_str(), k.code.as_ref()?))).collect();
        for kernel in &mut emitted.kernels {
            kernel.code = codes.get(kernel.text.as_str()).copied().cloned();
        }
        emitted.compiled.clone_from(&carried.compiled);
        let others = emitted.kernels.iter().filter(|k| k.code.is_none()).count();
        if others > 0 && target.name == carried.target {
            let all = emitted.kernels.len();
            tracing::warn!(
                "{others} of {all} kernels that the plan carries are another version's: compile the plan again"
            );
        }
    }
    // One architecture a plan: what is missing is compiled for the device itself.
    let architecture = facts.target.architecture().unwrap_or_default();
    Ok(Lowered { emitted, architecture, library: target.choices.library })
}

/// Whether a device has what kernels for a target use.
fn suits(target: &Target, device: &Target) -> bool {
    let (Some(theirs), Some(ours)) = (target.architecture(), device.architecture()) else { return false };
    runs(&theirs, &ours)
        && target.shared_bytes <= device.shared_bytes
        && target.max_units <= device.max_units
        && (0..3).all(|i| target.max_cubes[i] <= device.max_cubes[i])
}

/// Whether a device of one architecture can run code for another: machine code for its own, PTX for older ones, unless that uses what only its
/// own architecture has.
fn runs(code: &str, device: &str) -> bool {
    let number = |name: &str| name.strip_prefix("sm_")?.trim_end_matches('a').parse::<u32>().ok();
    let older = !code.ends_with('a') && number(code).zip(number(device)).is_some_and(|(c, d)| c <= d);
    code == device || older
}

/// The error of a call that cannot run, or of a kernel without a text.
fn wrong(plan: &Plan, error: EmitPlanError) -> RuntimeError {
    let (op, at, problem) = match error {
        EmitPlanError::Lower(e) => (e.op, e.at, e.problem),
        EmitPlanError::Emit { op, at, source } => (op, at, source.problem),
    };
    let calls = plan.entries.iter().flat_map(|(&entry, calls)| calls.iter().map(move |call| (entry, call)));
    match calls.into_iter().find(|(_, call)| call.op.name() == op && call.at == at) {
        Some((entry, call)) => failed(entry, call, one_line(&problem)),
        None => RuntimeError::Backend { backend: Api::Cuda.name(), problem: format!("{op} at `{at}`: {problem}") },
    }
}

/// Loads a plan's kernels and makes its launches ready.
///
/// # Errors
/// When a kernel does not compile or cannot be loaded, or there is no compiler for one that is needed.
pub(super) fn ready(plan: &Plan, open: &Open, lowered: Lowered) -> Result<Steps<Launch>, RuntimeError> {
    let Lowered { emitted, architecture, library } = lowered;
    let kernels = load(plan, open, &emitted, &architecture)?;
    let entries = plan.entries.iter().filter_map(|(entry, calls)| Some((*entry, calls, emitted.entries.get(entry)?)));
    let entries: Vec<_> = entries.collect();
    let all = entries.iter().flat_map(|(_, calls, emitted)| calls.iter().zip(*emitted));
    let all = all.flat_map(|(call, emitted)| emitted.launches().iter().map(move |l| (call, l)));
    let products = Products::of(plan, &emitted.kernels, open, &library, all);
    let mut steps = Steps::new();
    for (entry, calls, emitted) in entries {
        let calls = calls.iter().zip(emitted).map(|(call, emitted)| match emitted {
            EmittedCall::Host => Step::Host,
            EmittedCall::Launches(all) => {
                Step::Device(all.iter().map(|l| launch(l, &kernels, products.of_launch(call, l))).collect())
            }
        });
        steps.insert(entry, calls.collect());
    }
    Ok(steps)
}

fn launch(launch: &EmittedLaunch, kernels: &[Arc<Ready>], library: Option<OfLaunch>) -> Launch {
    let buffer = |b: &BufferRef| match *b {
        BufferRef::In(i) => Ref::In(i),
        BufferRef::Out(i) => Ref::Out(i),
    };
    Launch {
        ready: Arc::clone(&kernels[launch.kernel as usize]),
        library,
        cubes: launch.cubes,
        buffers: launch.buffers.iter().map(buffer).collect(),
        sizes: launch.sizes.clone(),
    }
}

/// Every kernel on the device, in the plan's order.
fn load(plan: &Plan, open: &Open, emitted: &Emitted, architecture: &str) -> Result<Vec<Arc<Ready>>, RuntimeError> {
    let compiled = emitted.compiled.as_ref();
    let hashes: Vec<blake3::Hash> = emitted
        .kernels
        .iter()
        .map(|k| key(&k.text, k.code.as_ref().and(compiled).map_or(architecture, |c| c.architecture.as_str()), ""))
        .collect();
    let known = |hash: &blake3::Hash| open.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
    let mut found: Vec<Option<Arc<Ready>>> = hashes.iter().map(known).collect();
    let keep = |i: usize, ready: Ready| {
        let ready = Arc::new(ready);
        open.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(hashes[i], Arc::clone(&ready));
        ready
    };
    for (i, kernel) in emitted.kernels.iter().enumerate().filter(|(_, k)| k.code.is_some()) {
        let (None, Some(code), Some(by)) = (&found[i], &kernel.code, compiled) else { continue };
        let exact = by.architecture == architecture;
        if !runs(&by.architecture, architecture) {
            continue;
        }
        match place(open, kernel, code, exact) {
            Ok(ready) => found[i] = Some(keep(i, ready)),
            // For instance machine code of a compiler that is newer than the driver.
            Err(problem) => tracing::warn!("kernel {} that the plan carries is compiled anew: {problem}", kernel.name),
        }
    }
    let left: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_none()).collect();
    if !left.is_empty() {
        let backend = |problem: String| RuntimeError::Backend { backend: Api::Cuda.name(), problem };
        let nvrtc = Nvrtc::for_driver(open.driver).map_err(backend)?;
        let cache = Cache::of_user();
        let texts: Vec<&str> = left.iter().map(|&i| emitted.kernels[i].text.as_str()).collect();
        let compiled = compile_all(nvrtc, &cache, &texts, architecture).map_err(backend)?;
        for (&i, code) in left.iter().zip(compiled) {
            let kernel = &emitted.kernels[i];
            let what = |problem: String| refuse(plan, emitted, i, &format!("kernel {}: {problem}", kernel.name));
            let code = code.map_err(|log| what(format!("does not compile for {architecture}: {log}")))?;
            let driver = || format!("{}, driver of CUDA {}", nvrtc.version(), version(open.driver));
            let ready = place(open, kernel, &code, true).map_err(|p| what(format!("{p} ({})", driver())))?;
            found[i] = Some(keep(i, ready));
        }
        tracing::info!("made {} of {} kernels ready for {architecture}", left.len(), found.len());
    }
    Ok(found.into_iter().flatten().collect())
}

/// Loads a compiled kernel: its machine code where that fits the device `exact`ly, else its PTX.
fn place(open: &Open, kernel: &EmittedKernel, code: &Code, exact: bool) -> Result<Ready, String> {
    let arguments = Arguments::of(&kernel.text)?;
    let blueprint: Blueprint = serde_json::from_value(kernel.blueprint.clone()).map_err(|e| e.to_string())?;
    let maps = maps(&blueprint);
    if maps.len() != arguments.maps {
        return Err("the kernel's text and its blueprint do not agree".into());
    }
    let shared = u32::try_from(kernel.shared_bytes).map_err(|_| "asks for too much shared memory")?;
    let early = awaits(&code.ptx).then(|| Spread::of(&open.facts.target));
    let load = |bytes: &[u8]| Kernel::load(&open.context, bytes, &arguments.entry, kernel.units, shared, early);
    // Software drivers know no machine code.
    let loaded = match exact && !open.facts.software {
        true => load(&code.cubin),
        false => load(format!("{}\0", code.ptx).as_bytes()),
    };
    Ok(Ready { kernel: loaded.map_err(|f| f.problem)?, arguments, maps })
}

/// Whether a kernel waits for earlier ones itself: for compute capability 9.0 and newer its text says so. What is read by `.nc` is taken not to change
/// while the kernel is there, and might be read before it waits.
fn awaits(ptx: &str) -> bool {
    ptx.contains("griddepcontrol.wait") && !ptx.contains("ld.global.nc")
}

/// Stack of a thread that compiles: the compiler recurses deeper than the usual two megabytes.
const STACK: usize = 64 << 20;

/// Compiles texts side by side.
fn compile_all(
    nvrtc: &Nvrtc,
    cache: &Cache,
    texts: &[&str],
    architecture: &str,
) -> Result<Vec<Result<Code, String>>, String> {
    let pool = rayon::ThreadPoolBuilder::new().stack_size(STACK).build();
    let pool = pool.map_err(|e| format!("no threads to compile kernels with: {e}"))?;
    Ok(pool.install(|| texts.par_iter().map(|text| compile(nvrtc, cache, text, architecture)).collect()))
}

/// Compiles a text, or finds it in the cache.
fn compile(nvrtc: &Nvrtc, cache: &Cache, text: &str, architecture: &str) -> Result<Code, String> {
    let key = key(text, architecture, nvrtc.version());
    let binary = cache.get(&key).map_or_else(
        || nvrtc.compile(text, architecture).inspect(|binary| cache.put(&key, binary)).map_err(|log| one_line(&log)),
        Ok,
    );
    binary.map(|Binary { ptx, cubin }| Code { ptx, cubin })
}

/// The error of a kernel, at the first call that launches it.
fn refuse(plan: &Plan, emitted: &Emitted, kernel: usize, problem: &str) -> RuntimeError {
    let launches = |call: &EmittedCall| call.launches().iter().any(|l| l.kernel as usize == kernel);
    let calls = plan.entries.iter().flat_map(|(&entry, calls)| {
        let emitted = emitted.entries.get(&entry).map_or(&[][..], Vec::as_slice);
        calls.iter().zip(emitted).map(move |(call, emitted)| (entry, call, emitted))
    });
    let first: Option<(_, &Call, _)> = calls.into_iter().find(|(_, _, emitted)| launches(emitted));
    match first {
        Some((entry, call, _)) => failed(entry, call, one_line(problem)),
        None => RuntimeError::Backend { backend: Api::Cuda.name(), problem: one_line(problem) },
    }
}

/// Compiles the kernels that a plan carries for a CUDA target, where this machine can: a device that runs the plan then needs no compiler.
/// Does nothing for other targets.
///
/// # Errors
/// When there is no compiler, or a kernel does not compile; then nothing is added.
pub fn add_code(emitted: &mut Emitted) -> Result<(), String> {
    let Some(architecture) = Target::from_name(&emitted.target).and_then(|t| t.architecture()) else { return Ok(()) };
    let (nvrtc, cache) = (Nvrtc::get()?, Cache::of_user());
    let texts: Vec<&str> = emitted.kernels.iter().map(|k| k.text.as_str()).collect();
    let codes = compile_all(nvrtc, &cache, &texts, &architecture)?;
    let named = codes.into_iter().zip(&emitted.kernels);
    let codes = named.map(|(code, k)| code.map_err(|log| format!("kernel {} does not compile: {log}", k.name)));
    let codes = codes.collect::<Result<Vec<_>, _>>()?;
    for (kernel, code) in emitted.kernels.iter_mut().zip(codes) {
        kernel.code = Some(code);
    }
    emitted.compiled = Some(ccl_ir::plan::Compiled { architecture, compiler: nvrtc.version().into() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_on_its_own_architecture_and_ptx_on_newer_ones() {
        for (code, device, want) in [
            ("sm_90a", "sm_90a", true),
            ("sm_80", "sm_90a", true),
            ("sm_80", "sm_80", true),
            ("sm_90a", "sm_100a", false),
            ("sm_86", "sm_80", false),
            ("sm_75", "sm_120a", true),
            ("", "sm_90a", false),
        ] {
            assert_eq!(runs(code, device), want, "{code} on {device}");
        }
    }

    #[test]
    fn a_target_suits_devices_that_have_as_much() {
        let of = |name: &str| Target::from_name(name).unwrap_or_else(Target::wgpu);
        assert!(suits(&of("cuda"), &of("cuda:sm_90a")) && suits(&of("cuda:sm_90a"), &of("cuda:sm_90")));
        // 8.6 is newer than 8.0 and has less shared memory.
        assert!(!suits(&of("cuda"), &of("cuda:sm_86")) && !suits(&of("wgpu"), &of("cuda")));
    }
}
