//! Calls for the GPU tests, and running them on a wgpu device.

use ccl_codegen::gpu::run::launch;
use ccl_codegen::gpu::{LowerError, Lowered, Ref, Target, Tiles, lower};
use ccl_ir::partition::Edge;
use ccl_ir::plan::{Call, Operand, Place};
use ccl_ir::types::dense_strides;
use ccl_ir::{DType, Op, Partition, Sample, Tensor, TensorType};
use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::wgpu::WgpuDevice;

/// What lavapipe wants: small tiles, so that kernels compile quickly.
pub fn target() -> Target {
    Target { tiles: Tiles::Small, parallelism: 8, ..Target::wgpu() }
}

/// The wgpu device.
pub fn client() -> Client {
    cubecl::Device::Wgpu(WgpuDevice::default()).client()
}

/// A call of a sample on dense operands.
pub fn call(sample: &Sample<Op>) -> Call {
    let types: Vec<&TensorType> = sample.inputs.iter().collect();
    let outputs = sample.op.infer(&types).unwrap();
    let mut next = 0;
    let mut operand = |ty: &TensorType| {
        next += 1;
        let strides = dense_strides(&ty.shape).into_iter().map(|s| s as u64).collect();
        Operand { place: Place::Buffer(next - 1), ty: ty.clone(), offset: 0, strides }
    };
    Call {
        op: sample.op.clone(),
        inputs: sample.inputs.iter().map(&mut operand).collect(),
        outputs: outputs.iter().map(&mut operand).collect(),
        at: "sample".into(),
    }
}

/// A buffer with an operand in it; NaN where the view has gaps.
pub struct Buffer {
    dtype: DType,
    /// Positions of the view's elements, in row-major order.
    places: Vec<usize>,
    values: Vec<f64>,
}

impl Buffer {
    /// Stores numbers, rounded to the element type. Where the view repeats elements, the last number written stays.
    pub fn new(operand: &Operand, numbers: &[f64]) -> Self {
        let mut places = Vec::new();
        Tensor::<f64>::from_fn(operand.ty.shape.clone(), |index| {
            let at: u64 = index.iter().zip(&operand.strides).map(|(&i, s)| i as u64 * s).sum();
            places.push((operand.offset + at) as usize);
            0.0
        });
        let mut values = vec![f64::NAN; places.iter().max().map_or(0, |n| n + 1)];
        let dtype = operand.ty.dtype;
        let rounded = decode(dtype, &encode(dtype, numbers));
        places.iter().zip(rounded).for_each(|(&at, x)| values[at] = x);
        Self { dtype, places, values }
    }

    /// The buffer's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        encode(self.dtype, &self.values)
    }

    /// The numbers of the view.
    pub fn numbers(&self) -> Vec<f64> {
        self.places.iter().map(|&at| self.values[at]).collect()
    }
}

/// Numbers as a buffer has them.
pub fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect(),
        DType::I32 => values.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| half::f16::from_f64(x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|&x| half::bf16::from_f64(x).to_le_bytes()).collect(),
    }
}

/// The numbers of a buffer.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        DType::I32 => bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        DType::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        DType::Bf16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
    }
}

/// Runs a call on a device and returns its outputs; `None` where the host is to run it. Outputs start as NaN, save those in place.
pub fn run(
    client: &Client,
    target: &Target,
    call: &Call,
    inputs: &[Buffer],
) -> Result<Option<Vec<Vec<f64>>>, LowerError> {
    let launches = match lower(call, target)? {
        Lowered::Host => return Ok(None),
        Lowered::Device(launches) => launches,
    };
    let create = |dtype, values: &[f64]| (client.create_from_slice(&encode(dtype, values)), values.len());
    let ins: Vec<(Handle, usize)> = inputs.iter().map(|b| create(b.dtype, &b.values)).collect();
    let poisoned = |o: &Operand| create(o.ty.dtype, &vec![f64::NAN; o.ty.elements() as usize]);
    // An output at the place of an input is written over it.
    let over = |o: &Operand| call.inputs.iter().position(|i| i.place == o.place);
    let out = |o: &Operand| over(o).map_or_else(|| poisoned(o), |i| ins[i].clone());
    let outs: Vec<(Handle, usize)> = call.outputs.iter().map(out).collect();
    for l in &launches {
        let buffer = |r: Ref| {
            let (handle, n) = match r {
                Ref::In(i) => &ins[i as usize],
                Ref::Out(i) => &outs[i as usize],
            };
            // SAFETY: the handle has that many elements.
            unsafe { BufferArg::from_raw_parts(handle.clone(), *n) }
        };
        // SAFETY: lowered for these operands, which lie in buffers of their own.
        unsafe { launch(client, l, &buffer) };
    }
    let read =
        |((handle, _), o): (&(Handle, usize), &Operand)| decode(o.ty.dtype, &client.read_one(handle.clone()).unwrap());
    Ok(Some(outs.iter().zip(&call.outputs).map(read).collect()))
}

/// The evaluation in f64 of a call on the numbers that its buffers hold.
pub fn reference(call: &Call, inputs: &[Buffer]) -> Vec<Tensor<f64>> {
    let tensor = |(o, b): (&Operand, &Buffer)| Tensor::new(o.ty.shape.clone(), b.numbers()).unwrap();
    let tensors: Vec<Tensor<f64>> = call.inputs.iter().zip(inputs).map(tensor).collect();
    call.op.eval(&tensors.iter().collect::<Vec<_>>()).unwrap()
}

/// Parses and validates a WGSL text.
pub fn validate(text: &str) {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}\n{text}", e.emit_to_string(text)));
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    validator.validate(&module).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
}

/// Partitions of every kind and edge: one frame and several, windows smaller and larger than what there is.
pub fn partitions() -> Vec<Partition> {
    let tokens_per_frame = 2;
    let mut all = Vec::new();
    for (frames, length) in [1, 5].into_iter().flat_map(|frames| [1, 4, 23].map(|length| (frames, length))) {
        all.push(Partition::NearestFrame { frames, tokens_per_frame, length });
        for edge in [Edge::Mask, Edge::Shift, Edge::Replicate] {
            for (size, scale, offset, divisor) in [(1, 3, 0, 1), (6, 2 * length, length, 2 * frames), (41, 4, 2, 1)] {
                all.push(Partition::Windows { frames, tokens_per_frame, length, size, scale, offset, divisor, edge });
            }
        }
    }
    all
}
