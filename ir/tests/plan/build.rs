//! Plans made by hand.

use ccl_ir::ops::{Attention, Binary, BinaryKind, Copy, Index, LayerNorm, Linear, Unary, UnaryKind};
use ccl_ir::plan::{About, Buffer, Call, Operand, Place, Plan, PlanWeight, Port, Region};
use ccl_ir::{Binding, DType, Op, TensorType};

/// A dense view of all of a place, `f32`.
pub fn dense(place: Place, shape: &[usize]) -> Operand {
    let ty = TensorType::f32(shape);
    let strides = ty.strides().into_iter().map(|s| s as u64).collect();
    Operand { place, ty, offset: 0, strides }
}

/// A dense view of a buffer, `f32`.
pub fn buffer(index: u32, shape: &[usize]) -> Operand {
    dense(Place::Buffer(index), shape)
}

/// The same view with these strides.
pub fn strided(mut operand: Operand, strides: &[u64]) -> Operand {
    operand.strides = strides.to_vec();
    operand
}

/// The same view of other elements.
pub fn typed(mut operand: Operand, dtype: DType) -> Operand {
    operand.ty.dtype = dtype;
    operand
}

/// A call.
pub fn call(op: impl Into<Op>, inputs: &[Operand], outputs: &[Operand]) -> Call {
    Call { op: op.into(), inputs: inputs.to_vec(), outputs: outputs.to_vec(), at: "cond/video.blocks.0".into() }
}

/// A function of one tensor.
pub fn unary() -> Unary {
    Unary { kind: UnaryKind::Silu }
}

/// The sum of two tensors.
pub fn add() -> Binary {
    Binary { kind: BinaryKind::Add }
}

/// A port.
pub fn port(name: &str, binding: Binding, operand: Operand) -> Port {
    Port { name: name.into(), binding, operand }
}

/// A buffer of persistent memory.
pub fn kept(offset: u64, bytes: u64) -> Buffer {
    Buffer { region: Region::Persistent, offset, bytes }
}

/// A buffer of scratch memory.
pub fn scratch(offset: u64, bytes: u64) -> Buffer {
    Buffer { region: Region::Scratch, offset, bytes }
}

/// A plan without calls, its regions as large as its buffers want.
pub fn plan(buffers: Vec<Buffer>) -> Plan {
    let size = |region| buffers.iter().filter(|b| b.region == region).map(|b| b.offset + b.bytes).max().unwrap_or(0);
    let about = About {
        task: "v2a".into(),
        clip: "2x4x4@8".into(),
        batch: 1,
        guidance: "none".into(),
        target: "cpu".into(),
        dtype: DType::F32,
        compiler: "0.1.0".into(),
        config: serde_json::json!({"video": {"dim": 8, "eps": 1e-6}, "audio": {"dim": 4}, "theta": 0.1 + 0.2}),
    };
    Plan {
        persistent_bytes: size(Region::Persistent),
        scratch_bytes: size(Region::Scratch),
        state_bytes: size(Region::State),
        buffers,
        ..Plan::empty(about)
    }
}

/// Index of buffers of [`small`].
pub mod b {
    pub const VIDEO: u32 = 0;
    pub const TEXT: u32 = 1;
    pub const STEP: u32 = 2;
    pub const SCHEDULE: u32 = 3;
    pub const BIAS: u32 = 4;
    pub const KEYS: u32 = 5;
    pub const ROW: u32 = 6;
    pub const SUM: u32 = 7;
    pub const NORM: u32 = 8;
    pub const BIASED: u32 = 9;
    pub const PROJECTED: u32 = 10;
    pub const ATTENDED: u32 = 11;
    pub const LSE: u32 = 12;
    pub const VELOCITY: u32 = 13;
    pub const LAST: u32 = 14;
}

/// A plan with every entry, views, an in-place sum, half precision weights and a call with two outputs. It passes.
pub fn small() -> Plan {
    let mut p = plan(vec![
        kept(0, 64),
        kept(256, 64),
        kept(512, 4),
        kept(768, 192),
        kept(1536, 32),
        kept(1792, 64),
        scratch(0, 64),
        scratch(0, 64),
        scratch(256, 64),
        scratch(0, 64),
        scratch(512, 64),
        scratch(0, 64),
        scratch(256, 16),
        scratch(768, 64),
        scratch(0, 64),
    ]);
    let weight = |name: &str, ty| PlanWeight { name: name.into(), ty };
    p.weights = vec![
        weight("video.proj.weight", TensorType::new(DType::Bf16, [8, 8])),
        weight("video.proj.bias", TensorType::f32([8])),
    ];
    let (matrix, bias) = (typed(dense(Place::Weight(0), &[8, 8]), DType::Bf16), dense(Place::Weight(1), &[8]));
    let x = |index| buffer(index, &[2, 8]);
    let step = typed(buffer(b::STEP, &[]), DType::I32);
    p.inputs = vec![
        port("video", Binding::Step, x(b::VIDEO)),
        port("text", Binding::Prologue, x(b::TEXT)),
        port("step", Binding::Step, step.clone()),
        port("schedule", Binding::Prologue, buffer(b::SCHEDULE, &[3, 2, 8])),
    ];
    p.outputs = vec![
        port("velocity.video", Binding::Step, buffer(b::VELOCITY, &[8, 2])),
        port("last", Binding::Epilogue, x(b::LAST)),
    ];
    let heads = buffer(b::PROJECTED, &[1, 2, 2, 4]);
    let norm = LayerNorm { eps: 1e-6, affine: false };
    p.entries.insert(Binding::Load, vec![call(unary(), &[bias], &[buffer(b::BIAS, &[8])])]);
    p.entries.insert(
        Binding::Prologue,
        vec![call(Linear::biased(), &[x(b::TEXT), matrix.clone(), buffer(b::BIAS, &[8])], &[x(b::KEYS)])],
    );
    p.entries.insert(
        Binding::Step,
        vec![
            call(Index {}, &[buffer(b::SCHEDULE, &[3, 2, 8]), step], &[x(b::ROW)]),
            call(add(), &[x(b::ROW), x(b::VIDEO)], &[x(b::SUM)]),
            call(norm, &[x(b::SUM)], &[x(b::NORM)]),
            call(add(), &[x(b::NORM), strided(x(b::BIAS), &[0, 1])], &[x(b::BIASED)]),
            call(Linear::plain(), &[x(b::BIASED), matrix], &[x(b::PROJECTED)]),
            call(
                Attention::full(),
                &[heads.clone(), heads, buffer(b::KEYS, &[1, 2, 2, 4])],
                &[buffer(b::ATTENDED, &[1, 2, 2, 4]), buffer(b::LSE, &[1, 2, 2])],
            ),
            call(Copy {}, &[strided(buffer(b::ATTENDED, &[8, 2]), &[1, 8])], &[buffer(b::VELOCITY, &[8, 2])]),
        ],
    );
    p.entries.insert(Binding::Epilogue, vec![call(unary(), &[x(b::VIDEO)], &[x(b::LAST)])]);
    p.report.events.push(ccl_ir::Event {
        pass: "fold".into(),
        rule: "constant".into(),
        at: "cond/video".into(),
        applied: true,
        reason: "both are known".into(),
        flops_delta: -12,
        bytes_delta: i64::MIN,
    });
    p
}

/// The calls of the step.
pub fn step(p: &mut Plan) -> &mut Vec<Call> {
    p.entries.get_mut(&Binding::Step).expect("the small plan has a step")
}
