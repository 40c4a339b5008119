//! Whether kernels compute what they should: their results beside those of plainer kernels on the same device, at the sizes that are measured.

use std::sync::Arc;

use ccl_ir::plan::{Call, Place};
use ccl_ir::{Binding, Plan, TensorType};
use ccl_runtime::HostTensor;
use ccl_runtime::backend::{Backend, Instance};
use rayon::prelude::*;

use super::{Case, Inputs, Lone, RESULT, Weights};
use crate::error::Error;

/// How far results of two kernels may be apart, relative to the root of their mean square, in the worst of all pieces: in half precision, which rounds
/// them and the weights of attention, and in single.
const APART: [f64; 2] = [5e-2, 1e-3];
/// Numbers of a piece: fewer than any tile has of a row.
const PIECE: usize = 64;
/// Numbers that a thread looks at before it asks for more.
const SHARE: usize = 1 << 16;
/// Runs after which a kernel was launched, recorded and replayed.
pub(crate) const RUNS: usize = 3;

impl Case {
    /// How far the results of a backend's kernels are from those of its plain ones, the worst piece of the worst result, and how far they may be.
    ///
    /// # Errors
    /// When a backend refuses the plan, or a kernel fails.
    pub fn check(&self, backend: &dyn Backend, plain: &dyn Backend) -> Result<[f64; 2], Error> {
        let lone = self.lone_on(backend)?;
        let plan = Arc::new(lone.plan(1, Inputs::Shared));
        let most = may_be_apart(lone.call());
        // Where it only writes, once is enough for what is slow.
        let updates = plan.states.iter().enumerate().any(|(i, s)| !s.name.starts_with(RESULT) && writes(&plan, i));
        let want = results(&lone, &plan, plain, if updates { RUNS } else { 1 })?;
        let got = results(&lone, &plan, backend, RUNS)?;
        Ok([worst(&got, &want), most])
    }
}

/// Whether the last call of a plan writes a state.
fn writes(plan: &Plan, state: usize) -> bool {
    let last = plan.calls(Binding::Step).last();
    let place = Place::Buffer(plan.states[state].buffer);
    last.is_some_and(|call| call.outputs.iter().any(|o| o.place == place))
}

/// What a call leaves after so many runs.
fn results(lone: &Lone, plan: &Arc<Plan>, backend: &dyn Backend, runs: usize) -> Result<Vec<HostTensor>, Error> {
    let mut instance = backend.instantiate(Arc::clone(plan), &Weights)?;
    lone.fill(instance.as_mut(), true)?;
    run_over_nothing(instance.as_mut(), runs)
}

/// What the last call of a plan leaves after so many runs, with nothing where its results are to be.
pub(crate) fn run_over_nothing(instance: &mut dyn Instance, runs: usize) -> Result<Vec<HostTensor>, Error> {
    let plan = Arc::clone(instance.plan());
    let results = plan.states.iter().enumerate().filter(|(_, state)| state.name.starts_with(RESULT));
    let nothing: Vec<_> = results.map(|(i, state)| (i, nothing(&state.ty))).collect();
    for _ in 0..runs {
        for (i, nothing) in &nothing {
            instance.write_state(*i, nothing)?;
        }
        instance.run(Binding::Step)?;
    }
    let written = (0..plan.states.len()).filter(|i| writes(&plan, *i));
    written.map(|i| Ok(instance.read_state(i)?)).collect()
}

/// How far results of a call may be apart.
pub(crate) fn may_be_apart(call: &Call) -> f64 {
    let half = call.inputs.iter().chain(&call.outputs).any(|o| o.ty.dtype.is_half());
    APART[usize::from(!half)]
}

/// A tensor in which nothing is a number.
fn nothing(ty: &TensorType) -> HostTensor {
    HostTensor::f32(ty.shape.clone(), vec![f32::NAN; ty.elements() as usize])
}

/// The root of the mean square.
pub(crate) fn size(tensor: &HostTensor) -> Option<f64> {
    let numbers = tensor.as_f32()?;
    let sums = numbers.par_chunks(SHARE).map(|some| some.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>());
    Some((sums.sum::<f64>() / numbers.len().max(1) as f64).sqrt())
}

/// How far the results of a call are apart, by the one that is worst; infinitely where something is no number.
pub(crate) fn worst(got: &[HostTensor], want: &[HostTensor]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let off = want.iter().zip(got).map(|(want, got)| apart(got, want));
    off.fold(0.0, |worst: f64, off| if off.is_nan() { f64::INFINITY } else { worst.max(off) })
}

/// The root of the mean square of the difference in the worst piece, in that of all that is wanted or of the piece, if that is larger; not a number where
/// something is none.
fn apart(got: &HostTensor, want: &HostTensor) -> f64 {
    let (Some(got), Some(numbers), Some(size)) = (got.as_f32(), want.as_f32(), size(want)) else { return f64::NAN };
    if got.len() != numbers.len() {
        return f64::NAN;
    }
    let square = |(a, b): (&[f32], &[f32])| {
        let (mut difference, mut wanted) = (0.0, 0.0);
        for (a, b) in a.iter().zip(b) {
            difference += (f64::from(*a) - f64::from(*b)).powi(2);
            wanted += f64::from(*b).powi(2);
        }
        // What is rounded is off by a share of itself, and rows may differ much in size.
        let ratio = difference / (size.powi(2) * a.len() as f64).max(wanted);
        // What is no number is worse than any.
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    };
    let worst = got.par_chunks(PIECE).zip(numbers.par_chunks(PIECE)).with_min_len(SHARE / PIECE).map(square);
    let worst = worst.reduce(|| 0.0, f64::max);
    if worst.is_finite() { worst.sqrt() } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use ccl_runtime::CpuBackend;

    use super::*;
    use crate::kernels::{Set, Types};

    #[test]
    fn one_wrong_piece_is_found() {
        let numbers: Vec<f32> = (0..100_000).map(|i| (i as f32 * 0.37).sin()).collect();
        let tensor = |numbers: &[f32]| HostTensor::f32(vec![numbers.len()], numbers.to_vec());
        let want = tensor(&numbers);
        let with = |at: usize, x: f32| {
            let mut other = numbers.clone();
            other[at] = x;
            apart(&tensor(&other), &want)
        };
        assert_eq!(apart(&want, &want), 0.0);
        // Nothing is a measure of nothing.
        assert!(apart(&tensor(&[0.0; 64]), &tensor(&[0.0; 64])).is_nan());
        // A row that is much larger than the others is off by more, and by no larger share.
        let large = |scale: f32| {
            tensor(&numbers.iter().enumerate().map(|(i, x)| if i < 64 { x * scale } else { *x }).collect::<Vec<_>>())
        };
        assert!((0.9e-2..1.1e-2).contains(&apart(&large(101.0), &large(100.0))));
        // Rounding to eight bits, then one number of many.
        let rounded: Vec<f32> = numbers.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        assert!((1e-4..APART[0] / 5.0).contains(&apart(&tensor(&rounded), &want)));
        assert!(with(70_000, 3.0) > 2.0 * APART[0]);
        assert!(with(99_999, f32::NAN).is_nan() && apart(&tensor(&numbers[1..]), &want).is_nan());
    }

    /// Of a gradient those of queries, keys, values and context.
    #[test]
    fn all_results_of_a_call_count() {
        let cases = Set::Tiny.cases(Types::SINGLE);
        let count = |id: &str| {
            let lone = cases.iter().find(|case| case.id == id).unwrap().lone().unwrap();
            let (cpu, plan) = (CpuBackend::new(Some(1)).unwrap(), Arc::new(lone.plan(2, Inputs::Shared)));
            let all = results(&lone, &plan, &cpu, 1).unwrap();
            assert!(all.iter().all(|result| size(result) > Some(0.0)));
            let mut other = all.clone();
            let last = other.last_mut().unwrap();
            *last = HostTensor::f32(last.shape.clone(), vec![1.0; last.as_f32().unwrap().len()]);
            assert!(worst(&all, &all) == 0.0 && worst(&other, &all) > APART[0]);
            assert!(worst(&all[1..], &all).is_infinite());
            all.len()
        };
        assert_eq!((count("video.self_attention.gradient"), count("video.cca.gradient")), (3, 5));
    }
}
