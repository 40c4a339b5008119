//! One problem's tiles on a device: what each takes, and whether it computes what it should.

use std::sync::Arc;

use ccl_codegen::gpu::tensor::tiles::{Choices, ProblemTile};
use ccl_ir::{Binding, Plan};
use ccl_runtime::backend::{Instance, StateMemory};
use ccl_runtime::tuned::TriedTile;
use ccl_runtime::{Backend, GpuBackend, RuntimeError};

use super::Found;
use crate::error::Error;
use crate::kernels::{Effort, Inputs, Weights, measure};

/// How much longer than the fastest tile the library may take and still be measured again.
const CLOSE: f64 = 1.1;
/// How often.
const AGAIN: usize = 2;
/// How far results of two kernels may be apart, relative L2: in half precision, which rounds them and the weights of attention, and in single.
const APART: [f64; 2] = [2e-2, 1e-3];

/// A problem on a device.
pub(super) struct Trial<'a> {
    gpu: &'a GpuBackend,
    found: &'a Found,
    effort: Effort,
    plan: Arc<Plan>,
    copies: usize,
    /// What is read is written once, and shared by the instances of all tiles.
    shared: Option<StateMemory>,
}

impl<'a> Trial<'a> {
    /// A problem, with as many copies of its inputs as the effort asks for.
    pub fn new(gpu: &'a GpuBackend, found: &'a Found, effort: Effort) -> Self {
        let memory = gpu.describe().memory;
        let room = memory.available_bytes.or(memory.total_bytes).map(|bytes| bytes / 2);
        let copies = found.lone.copies(effort.rotate, room);
        let plan = Arc::new(found.lone.plan(copies, Inputs::Shared));
        Self { gpu, found, effort, plan, copies, shared: None }
    }

    /// Does something with the call as a tile does it; the reason where that tile does not.
    fn with<T>(
        &mut self,
        tile: ProblemTile,
        body: impl FnOnce(&Self, &GpuBackend, &mut dyn Instance) -> Result<T, Error>,
    ) -> Result<Result<T, String>, Error> {
        let mut choices = Choices::default();
        choices.choose(&self.found.problem, tile);
        let device = self.gpu.clone().with_choices(choices);
        let run = || {
            let mut instance = device.instantiate_with(self.plan.clone(), &Weights, self.shared.as_ref())?;
            self.found.lone.fill(instance.as_mut(), self.shared.is_none())?;
            self.shared = self.shared.take().or_else(|| instance.state());
            let done = body(self, &device, instance.as_mut())?;
            // Where the library refuses, a kernel of ours was at work.
            let ours = tile == ProblemTile::Library && instance.by_library(Binding::Step) < self.copies;
            Ok(if ours { Err("cuBLASLt does not do it".to_owned()) } else { Ok(done) })
        };
        match run() {
            // A tile that does not compile or start; a device that is gone ends everything.
            Err(Error::Runtime(e @ RuntimeError::Kernel { .. })) => Ok(Err(e.to_string())),
            other => other,
        }
    }

    fn seconds(&mut self, tile: ProblemTile) -> Result<Result<f64, String>, Error> {
        self.with(tile, |trial, device, instance| {
            let mut seconds = measure::seconds(device, instance, trial.copies, trial.effort.time)?;
            Ok(measure::median(&mut seconds))
        })
    }

    fn result(&mut self, tile: ProblemTile) -> Result<Result<Vec<f32>, String>, Error> {
        self.with(tile, |_, _, instance| {
            instance.run(Binding::Step)?;
            Ok(instance.read(0)?.as_f32().unwrap_or_default().to_vec())
        })
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
    /// reason.
    ///
    /// # Errors
    /// As for [`Trial::measure`].
    pub fn prove(&mut self, tiles: &mut Vec<TriedTile>, plain: ProblemTile) -> Result<(), Error> {
        let key = self.found.problem.key();
        let half = self.plan.outputs.first().is_some_and(|port| port.operand.ty.dtype.is_half());
        let most = if half { APART[0] } else { APART[1] };
        let want = match self.result(plain)? {
            Ok(want) => want,
            Err(why) => {
                tracing::warn!("{key}: results are not compared, as the plain tile does not run: {why}");
                return Ok(());
            }
        };
        let mut at = 0;
        while let Some(tried) = tiles.get(at).filter(|tried| tried.seconds.is_some()).cloned() {
            let wrong = match self.result(tried.tile)? {
                Ok(got) => Some(relative(&got, &want))
                    .filter(|off| off.is_nan() || *off > most)
                    .map(|off| format!("its result is off by {off:.1e}")),
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

/// Relative L2 distance; not a number where there is none in either.
fn relative(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::NAN;
    }
    let (mut off, mut all) = (0.0, 0.0);
    for (a, b) in got.iter().zip(want) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        off += (a - b) * (a - b);
        all += b * b;
    }
    (off / all).sqrt()
}
