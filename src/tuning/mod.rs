//! The choice of tiles by measuring: every tile of every matrix problem of some calls, on the device that will run them.

pub mod journal;
mod trial;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use ccl_codegen::gpu::kernels::attention::ROWS;
use ccl_codegen::gpu::target::TensorCores;
use ccl_codegen::gpu::tensor::library::{Constants, LibraryProduct};
use ccl_codegen::gpu::tiles::{Choices, Problem, ProblemTile, Work};
use ccl_codegen::gpu::{Language, Lowered, Target, emit_plan, lower_in};
use ccl_ir::plan::Emitted;
use ccl_ir::{Binding, DType, Plan};
use ccl_model::{Guidance, Task};
use ccl_runtime::cuda::add_code;
use ccl_runtime::tuned::{Tried, TriedTile};
use ccl_runtime::{Backend, GpuBackend};

use crate::error::Error;
use crate::kernels::{Effort, Inputs, Lone, Set, Types, measure, paper};
use crate::planning::{Request, plan};
use journal::Journal;
use trial::Trial;

/// Problems whose kernels are compiled before they are measured.
const AHEAD: usize = 4;
/// Expected cycles from which on a product is large: what begins and ends a kernel counts for little.
const LARGE: f64 = 5e5;
/// The tile that is expected to be best stays where the fastest is no faster than by this factor: less than what two measurements differ by.
const NOISE: f64 = 1.01;

/// A problem, and a call that has it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The problem.
    pub problem: Problem,
    /// The call.
    pub lone: Lone,
    /// Whether a library could do it.
    pub library: bool,
}

impl Found {
    /// Whether it is a part of an attention's gradient, which no step of sampling has.
    pub fn is_gradient(&self) -> bool {
        matches!(self.problem.work, Work::Gradient(_))
    }
}

/// The calls whose sizes are tried where no model is given: the set's, forward and backward, and of the 14B model all of the tasks that see the other
/// stream.
///
/// # Errors
/// When the target does not store the type.
pub fn set_calls(set: Set, target: &Target, dtype: DType) -> Result<Vec<Lone>, Error> {
    let mut calls = if set == Set::Paper { paper_calls(target, dtype)? } else { Vec::new() };
    for case in set.cases(Types { tokens: dtype, matrices: dtype }) {
        calls.push(case.lone()?);
    }
    Ok(calls)
}

/// The calls of the 14B model's plans.
fn paper_calls(target: &Target, dtype: DType) -> Result<Vec<Lone>, Error> {
    let sizes = paper::Sizes::PAPER;
    let config = sizes.config(2);
    let grid = sizes.grid;
    let clip =
        ccl_model::Clip { frames: grid.frames, height: 2 * grid.rows, width: 2 * grid.columns, audio: grid.length };
    let mut calls = Vec::new();
    for task in [Task::Joint, Task::A2v, Task::V2a] {
        let mut request = Request::new(&config, task, Guidance::TwoPass, clip);
        (request.dtype, request.gpu) = (dtype, Some(target.clone()));
        calls.extend(plan_calls(&plan(&config, &request)?));
    }
    Ok(calls)
}

/// The calls of a plan that run more than once.
pub fn plan_calls(plan: &Plan) -> Vec<Lone> {
    let often = plan.entries.iter().filter(|(entry, _)| **entry != Binding::Load);
    let constants = Constants::of(plan);
    often.flat_map(|(_, calls)| calls).map(|call| Lone::of(plan, &constants, call)).collect()
}

/// Every problem of some calls that leaves a choice, each once, those of the most work first.
///
/// # Errors
/// When a call cannot run on the target.
pub fn problems(calls: Vec<Lone>, target: &Target) -> Result<Vec<Found>, Error> {
    let mut found: Vec<Found> = Vec::new();
    for lone in calls {
        let plan = lone.plan(1, Inputs::Shared);
        let constants = Constants::of(&plan);
        for call in plan.calls(Binding::Step) {
            let lowered = lower_in(&plan, call, target).map_err(|e| Error::Failed(e.to_string()))?;
            let Lowered::Device(launches) = lowered else { continue };
            for launch in &launches {
                let Some(problem) = Problem::of(launch) else { continue };
                let library = LibraryProduct::of_call(call, &constants, &launch.blueprint, &launch.sizes).is_some();
                if !library && problem.tiles(target).len() < 2 {
                    continue;
                }
                let new = Found { problem, lone: lone.clone(), library };
                match found.iter_mut().find(|f| f.problem.key() == problem.key()) {
                    // Of calls that share a problem one that a library could do: its tiles are compared with the library too.
                    Some(old) if library && !old.library => *old = new,
                    Some(_) => {}
                    None => found.push(new),
                }
            }
        }
    }
    found.sort_by_key(|f| std::cmp::Reverse(f.lone.call().work().flops));
    Ok(found)
}

/// A tile in a few words: `128x256 wgmma`.
pub fn tile_name(tile: &ProblemTile) -> String {
    match tile {
        ProblemTile::Product(t) => {
            let slices = if t.slices > 1 { format!("{} slices, ", t.slices) } else { String::new() };
            let turns = if t.turns { "2 sets in turns, " } else { "" };
            format!(
                "{}x{}, {}x{} warps, {} stages, {slices}{turns}{:?}",
                t.sides[0], t.sides[1], t.warps[0], t.warps[1], t.stages, t.cores
            )
        }
        ProblemTile::Attention(t) => {
            let queries = t.queries();
            let bringers = if t.brings { " and 4 that bring" } else { "" };
            let held = if t.holds { " held" } else { "" };
            format!(
                "{queries} queries{held}, {} keys, {}x{} warps{bringers}, {:?}",
                t.keys, t.warps_q, t.warps_k, t.cores
            )
        }
        ProblemTile::Gradient(t) => {
            format!(
                "{} rows, {} walked, {}x{} warps, {:?}",
                t.kept(),
                t.warps_walked * t.walk,
                t.warps_kept,
                t.warps_walked,
                t.cores
            )
        }
        ProblemTile::PlainProduct(t) => format!("{0}x{0}, {1} deep, {2}x{2} a unit", t.side, t.depth, t.micro),
        ProblemTile::PlainAttention(t) | ProblemTile::PlainGradient(t) => {
            let chunks = if t.chunk < t.dim { format!(", {} channels at a time", t.chunk) } else { String::new() };
            format!("{} rows, {} walked, {}x{} units{chunks}", t.queries, t.keys, t.columns, ROWS)
        }
        ProblemTile::Library => return "cuBLASLt".into(),
    }
    .to_lowercase()
}

/// Compiles the kernels of a problem's tiles side by side, so that measuring finds them in the user's cache. What fails here is told when it is measured.
fn compile_ahead(found: &Found, target: &Target) {
    let (Language::Cuda(_), Some(architecture)) = (target.language, target.architecture()) else { return };
    let plan = found.lone.plan(1, Inputs::Shared);
    let mut all: Option<Emitted> = None;
    for tile in candidates(&found.problem, target) {
        let Ok(emitted) = emit_plan(&plan, &with(target, &found.problem, tile)) else { continue };
        match &mut all {
            None => all = Some(emitted),
            Some(all) => all.kernels.extend(emitted.kernels),
        }
    }
    let Some(mut all) = all else { return };
    all.target = format!("cuda:{architecture}");
    all.kernels.sort_by(|a, b| a.text.cmp(&b.text));
    all.kernels.dedup_by(|a, b| a.text == b.text);
    if let Err(why) = add_code(&mut all) {
        tracing::debug!("kernels are compiled one by one: {why}");
    }
}

fn with(target: &Target, problem: &Problem, tile: ProblemTile) -> Target {
    let mut target = Target { choices: Choices::default(), ..target.clone() };
    target.choices.choose(problem, tile);
    target
}

/// Measures every tile of each problem, as many problems as are started within `budget`; `progress` is told of all that are done whenever one more is.
/// What the journal says was done is not done again, nor are tiles tried that it says took a device with them.
///
/// # Errors
/// When the device has no room for a call, or is lost.
pub fn tune(
    gpu: &GpuBackend,
    found: &[Found],
    effort: Effort,
    budget: Option<Duration>,
    journal: &Journal,
    mut progress: impl FnMut(&[Tried]) -> Result<(), Error>,
) -> Result<Vec<Tried>, Error> {
    let Some(target) = gpu.target() else { return Ok(Vec::new()) };
    let library = found.iter().any(|f| f.library).then(|| gpu.library());
    match &library {
        Some(Ok(name)) => tracing::info!("{name} is tried for products without an epilogue of their own"),
        Some(Err(why)) => tracing::warn!("only our own kernels are tried: {why}"),
        None => {}
    }
    let library = matches!(library, Some(Ok(_)));
    let begin = Instant::now();
    let late = || budget.is_some_and(|budget| begin.elapsed() >= budget);
    let mut all = journal.done();
    if !all.is_empty() {
        // The process that found it may have ended before it was told.
        progress(&all)?;
    }
    let left: Vec<&Found> = found.iter().filter(|f| all.iter().all(|t| t.problem != f.problem.key())).collect();
    // Kernels of the next problems are compiled while one is measured, which is left two threads.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(2).max(1));
    let compilers = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let compilers = compilers.map_err(|e| Error::Failed(format!("threads cannot be started: {e}")))?;
    let (ready, wait) = mpsc::sync_channel(AHEAD);
    std::thread::scope(|scope| {
        let left = &left;
        scope.spawn(move || {
            for f in left {
                compilers.install(|| compile_ahead(f, target));
                if ready.send(()).is_err() {
                    // Nobody waits any more: time is up.
                    break;
                }
            }
        });
        // Goes when this is done, whatever comes of it.
        let wait = wait;
        for f in left {
            // Where the other thread is gone, measuring compiles.
            let _ = wait.recv();
            if late() {
                break;
            }
            all.push(one(Trial::new(gpu, f, effort, journal), target, library)?);
            journal.found(&all)?;
            progress(&all)?;
        }
        Ok(all)
    })
}

/// The tiles of a problem that are worth a try: of a large product on tensor cores those that are not expected to take half as long again as the best one.
fn candidates(problem: &Problem, target: &Target) -> Vec<ProblemTile> {
    let mut tiles = problem.tiles(target);
    if let Work::Product(product) = &problem.work {
        let cycles = |tile: &ProblemTile| {
            if let ProblemTile::Product(tile) = tile { product.cycles(target, *tile) } else { 0.0 }
        };
        // What sets that take turns bring is not known yet, and of plain arithmetic nothing is.
        let known = tiles.iter().filter(|tile| !matches!(tile, ProblemTile::Product(t) if t.turns));
        let best = known.map(cycles).fold(f64::INFINITY, f64::min);
        tiles.retain(|tile| best < LARGE || cycles(tile) <= 1.5 * best);
    }
    tiles
}

/// Measures the tiles of a problem, and the library where it is there. The fastest one is proven.
fn one(mut trial: Trial<'_>, target: &Target, library: bool) -> Result<Tried, Error> {
    let found = trial.found;
    let Found { problem, lone, .. } = found;
    let mut tiles = Vec::new();
    for tile in candidates(problem, target) {
        tiles.push(trial.measure(tile)?);
    }
    if library && found.library {
        let tried = trial.measure_library(&mut tiles)?;
        tiles.push(tried);
    }
    let expected = problem.expected(target);
    let expected_s = tiles.iter().find(|tried| Some(tried.tile) == expected).and_then(|tried| tried.seconds);
    let fastest = tiles.iter().filter_map(|t| t.seconds).fold(f64::INFINITY, f64::min);
    let rank = |tried: &TriedTile| match tried.seconds {
        Some(s) if Some(tried.tile) == expected && s <= NOISE * fastest => 0.0,
        Some(s) => s,
        None => f64::INFINITY,
    };
    tiles.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    match plainest(problem, target, trial.journal) {
        Some(plain) => trial.prove(&mut tiles, plain)?,
        None => tracing::warn!("{}: results are not compared, as there is no plain tile that runs", problem.key()),
    }
    Ok(Tried {
        problem: problem.key(),
        op: lone.call().op.name().into(),
        at: lone.call().at.clone(),
        expected_s,
        tiles,
    })
}

/// The tile of the plainest kernel, by which others are proven: on tensor cores fragments in registers, copies by the warps that use them; of plain
/// arithmetic what is taken where nothing was measured.
fn plainest(problem: &Problem, target: &Target, journal: &Journal) -> Option<ProblemTile> {
    if problem.plain {
        return problem.expected(target).filter(|&tile| journal.lost(tile).is_none());
    }
    let tiles = problem.tiles(target).into_iter().filter(|&tile| journal.lost(tile).is_none());
    let cycles = |tile: &ProblemTile| match (&problem.work, tile) {
        (Work::Product(product), ProblemTile::Product(tile)) => product.cycles(target, *tile),
        _ => 0.0,
    };
    let plain = tiles.filter(|tile| match tile {
        ProblemTile::Product(t) => t.cores == TensorCores::Mma && t.slices == 1,
        ProblemTile::Attention(t) => t.cores == TensorCores::Mma,
        ProblemTile::Gradient(t) => t.cores == TensorCores::Mma,
        _ => false,
    });
    // Of attention's tiles the first.
    plain.min_by(|a, b| cycles(a).total_cmp(&cycles(b)))
}

/// How tiles are measured on a backend, in so much time each.
pub fn effort(gpu: &dyn Backend, time: Duration, rotate: Option<u64>) -> Effort {
    Effort { time, rotate: rotate.unwrap_or_else(|| measure::rotation(gpu)) }
}

#[cfg(test)]
mod tests {
    use ccl_codegen::gpu::{Launch, Tiles};

    use super::*;

    /// Problems have different names by which they are found again, and tiles that the target takes when they are chosen.
    fn every_tile_is_taken(found: &[Found], target: &Target) {
        for f in found {
            let key = f.problem.key();
            let tiles = f.problem.tiles(target);
            assert!(tiles.len() > 1 && tiles.contains(&f.problem.expected(target).unwrap()), "{key}: {tiles:?}");
            assert_eq!(Problem::from_key(&key).map(|p| (p.key(), p.plain)), Some((key.clone(), f.problem.plain)));
            let plan = f.lone.plan(1, Inputs::Shared);
            plan.check().unwrap();
            for tile in tiles {
                let chosen = with(target, &f.problem, tile);
                let mut known = chosen.choices.clone();
                known.keep_known(target);
                assert_eq!(known, chosen.choices, "{key}: {tile:?} is not known again");
                let call = &plan.calls(Binding::Step)[0];
                let Ok(Lowered::Device(launches)) = lower_in(&plan, call, &chosen) else { panic!("{key}") };
                let of = |launch: &&Launch| Problem::of(launch).is_some_and(|p| p.key() == key);
                let taken = launches.iter().find(of).map(|l| format!("{:?}", l.blueprint.kernel)).unwrap_or_default();
                let text = match tile {
                    ProblemTile::Product(t) => format!("{t:?}"),
                    ProblemTile::Attention(t) => format!("{t:?}"),
                    ProblemTile::Gradient(t) => format!("{t:?}"),
                    ProblemTile::PlainProduct(t) => format!("{t:?}"),
                    ProblemTile::PlainAttention(t) | ProblemTile::PlainGradient(t) => format!("{t:?}"),
                    ProblemTile::Library => panic!("{key}"),
                };
                assert!(taken.contains(&text), "{key}: {text} was chosen, {taken}");
            }
        }
    }

    fn set_problems(set: Set, target: &Target, dtype: DType) -> Vec<Found> {
        problems(set_calls(set, target, dtype).unwrap(), target).unwrap()
    }

    #[test]
    fn the_14b_model_has_problems_with_tiles() {
        let target = Target::from_name("cuda:sm_90a").unwrap();
        let found = set_problems(Set::Paper, &target, DType::Bf16);
        assert!(found.len() > 20, "{}", found.len());
        assert!(found[0].lone.call().work().flops >= found[1].lone.call().work().flops);
        for gradient in [false, true] {
            assert!(found.iter().any(|f| !f.problem.plain && f.is_gradient() == gradient));
        }
        every_tile_is_taken(&found, &target);
    }

    #[test]
    fn plain_arithmetic_has_problems_with_tiles_everywhere() {
        let small = Target { tiles: Tiles::Small, ..Target::wgpu() };
        let named =
            [("wgpu", DType::F16), ("wgpu", DType::F32), ("cuda:sm_90a", DType::F32), ("cuda:sm_75", DType::F16)];
        let named = named.map(|(name, dtype)| (Target::from_name(name).unwrap(), dtype));
        for (target, dtype) in named.into_iter().chain([(small, DType::F32)]) {
            for set in [Set::Small, Set::Tiny] {
                let found = set_problems(set, &target, dtype);
                assert!(found.len() > 10 && found.iter().all(|f| f.problem.plain), "{}", target.name);
                assert!(found.iter().any(Found::is_gradient), "{}", target.name);
                every_tile_is_taken(&found, &target);
            }
        }
    }
}
