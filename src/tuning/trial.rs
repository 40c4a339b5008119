//! One problem's tiles on a device: what each takes, and whether it computes what it should.

use std::sync::Arc;

use ccl_codegen::gpu::tiles::{Choices, ProblemTile};
use ccl_ir::{Binding, Plan};
use ccl_runtime::backend::{Instance, StateMemory};
use ccl_runtime::tuned::TriedTile;
use ccl_runtime::{Backend, GpuBackend, HostTensor, RuntimeError};

use super::Found;
use super::journal::{Attempt, Journal};
use crate::error::Error;
use crate::kernels::check::{RUNS, may_be_apart, run_over_nothing, size, worst};
use crate::kernels::{Effort, Inputs, Weights, measure};

/// How much longer than the fastest tile the library may take and still be measured again.
const CLOSE: f64 = 1.1;
/// How often.
const AGAIN: usize = 2;

/// A problem on a device.
pub(super) struct Trial<'a> {
    gpu: &'a GpuBackend,
    /// The problem.
    pub found: &'a Found,
    effort: Effort,
    /// What it tells of its course.
    pub journal: &'a Journal,
    plan: Arc<Plan>,
    copies: usize,
    /// What is read is written once, and shared by the instances of all tiles.
    shared: Option<StateMemory>,
}

impl<'a> Trial<'a> {
    /// A problem, with as many copies of its inputs as the effort asks for.
    pub fn new(gpu: &'a GpuBackend, found: &'a Found, effort: Effort, journal: &'a Journal) -> Self {
        let memory = gpu.describe().memory;
        let room = memory.available_bytes.or(memory.total_bytes).map(|bytes| bytes / 2);
        let copies = found.lone.copies(effort.rotate, room);
        let plan = Arc::new(found.lone.plan(copies, Inputs::Shared));
        Self { gpu, found, effort, journal, plan, copies, shared: None }
    }

    /// Does something with the call as a tile does it; the reason where that tile does not.
    fn with<T>(
        &mut self,
        tile: ProblemTile,
        body: impl FnOnce(&Self, &GpuBackend, &mut dyn Instance) -> Result<T, Error>,
    ) -> Result<Result<T, String>, Error> {
        if let Some(why) = self.journal.lost(tile) {
            return Ok(Err(why));
        }
        let attempt = Attempt::of(&self.found.problem, tile);
        let mut choices = Choices::default();
        choices.choose(&self.found.problem, tile);
        let device = self.gpu.clone().with_choices(choices);
        let run = || {
            self.journal.trying(&attempt)?;
            let mut instance = device.instantiate_with(self.plan.clone(), &Weights, self.shared.as_ref())?;
            self.found.lone.fill(instance.as_mut(), self.shared.is_none())?;
            self.shared = self.shared.take().or_else(|| instance.state());
            // What came before is the host's work.
            self.journal.trying(&attempt)?;
            let done = body(self, &device, instance.as_mut())?;
            // Where the library refuses, a kernel of ours was at work.
            let ours = tile == ProblemTile::Library && instance.by_library(Binding::Step) < self.copies;
            Ok(if ours { Err("cuBLASLt does not do it".to_owned()) } else { Ok(done) })
        };
        let done = match run() {
            // A tile that does not compile or start.
            Err(Error::Runtime(e @ RuntimeError::Kernel { .. })) => Ok(Err(e.to_string())),
            // A device that is gone: nothing more can be done with it by this process.
            Err(Error::Runtime(e @ RuntimeError::Lost { .. })) => {
                self.journal.trying(&Attempt { why: Some(e.to_string()), ..attempt })?;
                return Err(e.into());
            }
            other => other,
        };
        self.journal.tried();
        done
    }

    fn seconds(&mut self, tile: ProblemTile) -> Result<Result<f64, String>, Error> {
        self.with(tile, |trial, device, instance| {
            let mut seconds = measure::seconds(device, instance, trial.copies, trial.effort.time)?;
            Ok(measure::median(&mut seconds))
        })
    }

    /// All that comes of the last copy of the call once it was launched, recorded and replayed, where nothing was before.
    fn results(&mut self, tile: ProblemTile) -> Result<Result<Vec<HostTensor>, String>, Error> {
        self.with(tile, |_, _, instance| run_over_nothing(instance, RUNS))
    }

    /// What a tile takes.
    ///
    /// # Errors
    /// When the device has no room for the call, or is lost.
    pub fn measure(&mut self, tile: ProblemTile) -> Result<TriedTile, Error> {
        Ok(match self.seconds(tile)? {
            Ok(seconds) => TriedTile { tile, seconds: Some(seconds), problem: None },
            Err(why) => TriedTile { tile, seconds: None, problem: Some(why) },
        })
    }

    /// What the library takes. Tiles were many and had the best of many tries, and came first, when the device was cooler: where it is close, it and
    /// the fastest of them are measured again in turns.
    ///
    /// # Errors
    /// As for [`Trial::measure`].
    pub fn measure_library(&mut self, tiles: &mut [TriedTile]) -> Result<TriedTile, Error> {
        let mut library = self.measure(ProblemTile::Library)?;
        let least = |tried: &&mut TriedTile| tried.seconds.unwrap_or(f64::INFINITY);
        let fastest = tiles.iter_mut().min_by(|a, b| least(a).total_cmp(&least(b)));
        let Some(fastest) = fastest else { return Ok(library) };
        let (Some(theirs), Some(ours)) = (library.seconds, fastest.seconds) else { return Ok(library) };
        if theirs < CLOSE * ours {
            let (mut ours, mut theirs) = (vec![ours], vec![theirs]);
            for _ in 0..AGAIN {
                ours.extend(self.seconds(fastest.tile)?.ok());
                theirs.extend(self.seconds(ProblemTile::Library)?.ok());
            }
            fastest.seconds = Some(measure::median(&mut ours));
            library.seconds = Some(measure::median(&mut theirs));
        }
        Ok(library)
    }

    /// Compares results of the fastest with that of a `plain` tile, until one of ours is proven; what computes something else goes to the end, with the
    /// reason. Where the plain one does not run, or its result is no measure, nothing is proven, and a warning says so.
    ///
    /// # Errors
    /// As for [`Trial::measure`].
    pub fn prove(&mut self, tiles: &mut Vec<TriedTile>, plain: ProblemTile) -> Result<(), Error> {
        let key = self.found.problem.key();
        if tiles.first().is_none_or(|tried| tried.tile == plain || tried.seconds.is_none()) {
            return Ok(());
        }
        let most = may_be_apart(self.found.lone.call());
        let something = |result: &HostTensor| size(result).is_some_and(|size| size > 0.0 && size.is_finite());
        let want = match self.results(plain)? {
            Ok(want) if !want.is_empty() && want.iter().all(something) => want,
            Ok(_) => return Ok(tracing::warn!("{key}: results are not compared, as there is nothing in them")),
            Err(why) => {
                return Ok(tracing::warn!("{key}: results are not compared, as the plain tile does not run: {why}"));
            }
        };
        let mut at = 0;
        while let Some(tried) = tiles.get(at).filter(|t| t.seconds.is_some() && t.tile != plain).cloned() {
            let wrong = match self.results(tried.tile)? {
                Ok(got) => {
                    let off = worst(&got, &want);
                    (off > most).then(|| format!("its result is off by {off:.1e}"))
                }
                Err(why) => Some(why),
            };
            match wrong {
                Some(why) => {
                    tracing::warn!("{key}: a tile is not taken: {why} ({})", super::tile_name(&tried.tile));
                    tiles.remove(at);
                    tiles.push(TriedTile { tile: tried.tile, seconds: None, problem: Some(why) });
                }
                // Beside the library comes what serves where it is not there.
                None if tried.tile == ProblemTile::Library => at += 1,
                None => break,
            }
        }
        Ok(())
    }
}
