//! Tensors in memory for the kernel tests, and the checks that every operator goes through.

use ccl_codegen::cpu::{self, KernelError, view::View, weight};
use ccl_ir::tensor::relative_l2;
use ccl_ir::types::dense_strides;
use ccl_ir::{DType, Op, Sample, Tensor, TensorType, Tolerance};
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Packed in row-major order.
    Dense,
    /// Rows are packed, everything above them has gaps.
    Padded,
    /// The first dimension of more than one element that is not the last one (or the last one, where there is no
    /// other) repeats: stride 0.
    Repeated,
    /// The first dimension is the fastest, with gaps.
    Reversed,
    /// In panels, as products read weights.
    Panels,
}

/// A tensor in memory of its own.
#[derive(Clone, Debug)]
pub struct Memory {
    ty: TensorType,
    strides: Vec<u64>,
    /// 8-byte words, so that every element type is aligned.
    words: Vec<u64>,
    /// The same in panels, for kernels to read.
    panels: Option<Vec<u64>>,
}

/// The dimension that [`Layout::Repeated`] repeats.
fn repeated(shape: &[usize]) -> Option<usize> {
    let outer = shape.len().saturating_sub(1);
    shape[..outer].iter().position(|&n| n > 1)
}

fn strides(layout: Layout, shape: &[usize]) -> Vec<usize> {
    let mut strides = dense_strides(shape);
    match layout {
        Layout::Dense | Layout::Panels => {}
        Layout::Padded => {
            let mut next = 1;
            for (i, &n) in shape.iter().enumerate().rev() {
                strides[i] = next;
                next = next * n + 3;
            }
        }
        Layout::Repeated => {
            if let Some(axis) = repeated(shape) {
                strides[axis] = 0;
            }
        }
        Layout::Reversed => {
            let mut next = 1;
            for (s, &n) in strides.iter_mut().zip(shape) {
                *s = next;
                next = next * n + 1;
            }
        }
    }
    strides
}

impl Memory {
    /// Room for a tensor, all bytes 0xFF: NaN in every float type.
    pub fn poisoned(ty: &TensorType, layout: Layout) -> Self {
        let strides = strides(layout, &ty.shape);
        let span: usize = ty.shape.iter().zip(&strides).map(|(n, s)| n.saturating_sub(1) * s).sum::<usize>() + 1;
        let words = vec![u64::MAX; (span * ty.dtype.bytes() as usize).div_ceil(8)];
        Self { ty: ty.clone(), strides: strides.into_iter().map(|s| s as u64).collect(), words, panels: None }
    }

    /// Stores numbers, rounded to the element type.
    pub fn store(ty: &TensorType, layout: Layout, values: &[f64]) -> Self {
        let mut memory = Self::poisoned(ty, layout);
        for (at, &value) in memory.offsets().into_iter().zip(values) {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory.words);
            match ty.dtype {
                DType::F32 => bytemuck::cast_slice_mut::<u8, f32>(bytes)[at] = value as f32,
                DType::F16 => bytemuck::cast_slice_mut::<u8, f16>(bytes)[at] = f16::from_f32(value as f32),
                DType::Bf16 => bytemuck::cast_slice_mut::<u8, bf16>(bytes)[at] = bf16::from_f32(value as f32),
                DType::I32 => bytemuck::cast_slice_mut::<u8, i32>(bytes)[at] = value as i32,
            }
        }
        if layout == Layout::Panels {
            let len = weight::panels_bytes(ty);
            let mut panels = vec![u64::MAX; len.div_ceil(8)];
            weight::to_panels(ty, memory.bytes(), &mut bytemuck::cast_slice_mut(&mut panels)[..len]);
            memory.panels = Some(panels);
        }
        memory
    }

    /// Offsets of the elements in row-major order.
    fn offsets(&self) -> Vec<usize> {
        let strides = self.strides.iter().map(|&s| s as usize);
        let strides: Vec<usize> = strides.collect();
        let mut offsets = Vec::new();
        Tensor::<f64>::from_fn(self.ty.shape.clone(), |index| {
            offsets.push(index.iter().zip(&strides).map(|(i, s)| i * s).sum());
            0.0
        });
        offsets
    }

    /// The numbers in row-major order.
    pub fn values(&self) -> Vec<f64> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        let get = |at: usize| match self.ty.dtype {
            DType::F32 => f64::from(bytemuck::cast_slice::<u8, f32>(bytes)[at]),
            DType::F16 => bytemuck::cast_slice::<u8, f16>(bytes)[at].to_f64(),
            DType::Bf16 => bytemuck::cast_slice::<u8, bf16>(bytes)[at].to_f64(),
            DType::I32 => f64::from(bytemuck::cast_slice::<u8, i32>(bytes)[at]),
        };
        self.offsets().into_iter().map(get).collect()
    }

    /// The bytes of a dense tensor.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.ty.bytes() as usize]
    }

    fn view(&mut self) -> View<'_> {
        let words = self.panels.as_mut().unwrap_or(&mut self.words);
        let view = View::new(words.as_mut_ptr().cast(), &self.ty, &self.strides);
        View { panels: self.panels.is_some(), ..view }
    }
}

/// Inputs of a sample: unit normal numbers (or their absolute values), rounded to their type; what repeats has equal
/// numbers.
pub fn inputs(sample: &Sample<Op>, layout: impl Fn(usize) -> Layout) -> Vec<Memory> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut integers = sample.integers.iter();
    let mut memory = |(i, ty): (usize, &TensorType)| {
        let mut uniform = || rng.random::<f64>();
        let mut normal = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let count = ty.elements() as usize;
        let values: Vec<f64> = match ty.dtype {
            DType::I32 => (0..count).map(|_| f64::from(*integers.next().unwrap())).collect(),
            _ if sample.positive.contains(&i) => (0..count).map(|_| normal().abs()).collect(),
            _ => (0..count).map(|_| normal()).collect(),
        };
        // With stride 0 the last number written stays, and that is what the evaluation is given as well.
        Memory::store(ty, layout(i), &values)
    };
    sample.inputs.iter().enumerate().map(&mut memory).collect()
}

/// Runs a kernel on `threads` threads into poisoned outputs; the first output is written over input `over`, if given.
pub fn run(
    op: &Op,
    inputs: &[Memory],
    outputs: &[TensorType],
    over: Option<usize>,
    threads: usize,
) -> Result<Vec<Memory>, KernelError> {
    let over: Vec<(usize, usize)> = over.map(|input| (0, input)).into_iter().collect();
    run_over(op, inputs, outputs, &over, threads)
}

/// [`run`] with each output of the pairs (output, input) written over that input.
pub fn run_over(
    op: &Op,
    inputs: &[Memory],
    outputs: &[TensorType],
    over: &[(usize, usize)],
    threads: usize,
) -> Result<Vec<Memory>, KernelError> {
    let mut inputs = inputs.to_vec();
    let mut results: Vec<Memory> = outputs.iter().map(|ty| Memory::poisoned(ty, Layout::Dense)).collect();
    for &(output, input) in over {
        results[output].words.clone_from(&inputs[input].words);
    }
    let mut sources: Vec<View<'_>> = inputs.iter_mut().map(Memory::view).collect();
    let targets: Vec<View<'_>> = results.iter_mut().map(Memory::view).collect();
    for &(output, input) in over {
        sources[input].ptr = targets[output].ptr;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    // SAFETY: views of live memory, outputs dense and apart, of the types that `infer` gave; `over` only where allowed.
    pool.install(|| unsafe { cpu::run(op, &sources, &targets) })?;
    Ok(results)
}

/// [`check_layouts`] with everything dense.
pub fn check(sample: &Sample<Op>) {
    check_layouts(sample, |_| Layout::Dense);
}

/// Runs a sample's kernel and compares with the evaluation in f64, and bytes between numbers of threads.
pub fn check_layouts(sample: &Sample<Op>, layout: impl Fn(usize) -> Layout) {
    let op = &sample.op;
    let values = inputs(sample, &layout);
    let what = || {
        let types: Vec<String> = sample.inputs.iter().map(|t| t.to_string()).collect();
        let layouts: Vec<Layout> = (0..types.len()).map(&layout).collect();
        format!("{op:?} of {} as {layouts:?}", types.join(", "))
    };
    let types: Vec<&TensorType> = sample.inputs.iter().collect();
    let outputs = op.infer(&types).unwrap();
    let exact = |m: &Memory| Tensor::new(m.ty.shape.clone(), m.values()).unwrap();
    let tensors: Vec<Tensor<f64>> = values.iter().map(exact).collect();
    let want = op.eval(&tensors.iter().collect::<Vec<_>>()).unwrap();
    let got = run(op, &values, &outputs, None, 1).unwrap_or_else(|e| panic!("{}: {e}", what()));
    assert_eq!(want.len(), got.len());
    for (want, got) in want.iter().zip(&got) {
        if op.tolerance() == Tolerance::Exact {
            let want = Memory::store(&got.ty, Layout::Dense, &want.data);
            assert!(want.bytes() == got.bytes(), "{} moves wrongly", what());
        } else {
            let error = relative_l2(&got.values(), &want.data);
            assert!(error <= op.tolerance().f32(), "{} is off by {error:e}", what());
        }
    }
    for threads in [2, 5] {
        let again = run(op, &values, &outputs, None, threads).unwrap();
        for (a, b) in again.iter().zip(&got) {
            assert!(a.bytes() == b.bytes(), "{} differs with {threads} threads", what());
        }
    }
}
