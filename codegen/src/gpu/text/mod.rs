//! Kernels that are CUDA texts of our own (`*.cuh`), where CubeCL's would leave most of the device idle: [`super::tensor`] and [`super::wide`].
//!
//! A text is made from a [`Blueprint`](super::Blueprint) like any other kernel's, with the same arguments and the same sizes as the kernel of
//! [`super::kernels`] that does the work elsewhere, so that a plan may mix both: constants and buffers by name, then what all kernels share, then the
//! kernel.

use std::fmt::Write;

use ccl_ir::DType;
use ccl_ir::ops::{BinaryKind, UnaryKind};

use super::blueprint::{Blueprint, Class, Kernel, Program, Slot, Source, Step};
use super::emit::KernelText;
use super::launch::Launch;

/// What all texts share.
const NUMBERS: &str = include_str!("numbers.cuh");
/// What every kernel does before it reads or writes, CubeCL's too.
const IN_TURN: &str = include_str!("in_turn.cuh");

/// A matrix in a buffer that the copy engine (TMA) is told of when a kernel is launched: its rows are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Position of the buffer among the kernel's.
    pub buffer: usize,
    /// Kind of half precision.
    pub half: DType,
    /// Position among the sizes of the first element.
    pub first: usize,
    /// Positions of the number of elements of a row, and of rows.
    pub extents: [usize; 2],
    /// Position of the distance between rows.
    pub stride: usize,
    /// Elements of a row and rows that are brought at a time.
    pub tile: [u32; 2],
}

/// What a kernel is told of tensors, in the order of its arguments.
pub fn maps(blueprint: &Blueprint) -> Vec<TensorMap> {
    match &blueprint.kernel {
        Kernel::TensorProduct(p) => p.maps(blueprint.half),
        _ => Vec::new(),
    }
}

/// The text of a kernel that has one of its own; `None` for the others, which CubeCL makes.
pub fn text(launch: &Launch) -> Option<KernelText> {
    let (text, shared_bytes) = match &launch.blueprint.kernel {
        Kernel::TensorProduct(p) => (p.text(launch), p.tile.shared_bytes()),
        Kernel::TensorAttention(a) => (a.text(launch), a.tile.tile.shared_bytes(a.tile.dim)),
        Kernel::TensorProbabilities(a) => (a.probabilities(launch), a.tile.tile.shared_bytes(a.tile.dim)),
        Kernel::TensorAttentionGrad(a) => (a.text(launch), a.tile.tile.shared_bytes(a.side, a.tile.dim)),
        Kernel::WideNorm(n) => (n.text(launch), 0),
        Kernel::WideNormGrad(n) => (n.text(launch), 0),
        Kernel::WideNormRope(n) => (n.text(launch), 0),
        Kernel::WideAdamW(a) => (a.text(launch), 0),
        Kernel::WideElementwise(e) => (e.text(launch), 0),
        _ => return None,
    };
    let (shared_bytes, units) = (shared_bytes as usize, launch.blueprint.units);
    Some(KernelText { language: "cuda".into(), text, shared_bytes, units })
}

/// A kernel of CubeCL's that waits for earlier ones itself, as those here do; `None` where the text has no kernel. It may not say `__restrict__` either.
pub(in crate::gpu) fn in_turn(text: &str) -> Option<String> {
    let text = &text.replace("__restrict__ ", "");
    let kernel = text.find("extern \"C\" __global__")?;
    let body = kernel + text[kernel..].find(") {")? + ") {".len();
    Some(format!("{}{IN_TURN}\n{}\nin_turn();{}", &text[..kernel], &text[kernel..body], &text[body..]))
}

/// The lines before a kernel.
pub(in crate::gpu) struct Prelude {
    text: String,
    /// Type and name of each buffer, in the order of the arguments.
    buffers: Vec<(&'static str, String)>,
    /// Names of the tensors that the copy engine is told of.
    maps: Vec<&'static str>,
    sizes: usize,
}

impl Prelude {
    /// The kind of half precision and the buffers of a launch.
    pub(in crate::gpu) fn new(launch: &Launch) -> Self {
        let mut text = String::from("// See ccl_codegen::gpu::text.\n");
        if launch.blueprint.half == DType::F16 {
            text.push_str("#define HALF_F16\n");
        }
        let lists = [
            ("unsigned short const*", "h", launch.halves.len()),
            ("float const*", "f", launch.floats.len()),
            ("int const*", "i", launch.ints.len()),
            ("unsigned short*", "ho", launch.half_outs.len()),
            ("float*", "fo", launch.float_outs.len()),
        ];
        let buffers = lists.iter().flat_map(|&(ty, name, n)| (0..n).map(move |i| (ty, format!("{name}{i}")))).collect();
        Self { text, buffers, maps: Vec::new(), sizes: launch.sizes.len() }
    }

    /// A number that is known when the kernel is compiled.
    pub(in crate::gpu) fn constant(&mut self, name: &str, value: impl Into<i64>) {
        self.line(format_args!("constexpr int {name} = {};", value.into()));
    }

    /// A question that is answered when the kernel is compiled.
    pub(in crate::gpu) fn flag(&mut self, name: &str, value: bool) {
        self.line(format_args!("constexpr bool {name} = {value};"));
    }

    /// A macro.
    pub(in crate::gpu) fn define(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(format_args!("#define {name} {value}"));
    }

    /// The buffer of an operand that is read, under a name.
    pub(in crate::gpu) fn input(&mut self, name: &str, slot: Slot) {
        self.define(name, input(slot));
    }

    /// A tensor that the copy engine is told of: the next argument behind the buffers.
    pub(in crate::gpu) fn map(&mut self, name: &'static str) {
        self.maps.push(name);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// The text: these lines, the arguments' names, and the parts. The layout of the sizes is that of CubeCL's kernels.
    pub(in crate::gpu) fn finish(mut self, parts: &[&str]) -> String {
        // Without `__restrict__`: what is read may change until the kernel's turn has come, and must not be read before.
        let buffers = self.buffers.iter().map(|(ty, name)| format!("{ty} const {name}"));
        let maps = self.maps.iter().map(|name| format!("__grid_constant__ TensorMap const {name}"));
        let parameters: Vec<String> = buffers.chain(maps).collect();
        let names = self.buffers.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ");
        let fields: Vec<String> = self.buffers.iter().map(|(ty, name)| format!("{ty} {name};")).collect();
        let (sizes, count) = (self.sizes.next_multiple_of(2), self.buffers.len().next_multiple_of(2));
        // Written out: what loads a kernel reads its arguments off the text.
        let entry = format!("universal({}, __grid_constant__ info_st const info)", parameters.join(", "));
        self.line(format_args!("typedef unsigned int uint32_t;"));
        self.define("ARGUMENTS", names);
        self.line(format_args!("struct info_st {{ uint32_t scalars_u32[{sizes}]; uint32_t static_meta[{count}]; }};"));
        self.line(format_args!("struct Buffers {{ {} }};", fields.join(" ")));
        if !self.maps.is_empty() {
            self.line(format_args!("struct __align__(64) TensorMap {{ unsigned long long words[16]; }};"));
        }
        [&[self.text.as_str(), IN_TURN, NUMBERS], parts].concat().join("\n").replace("universal(PARAMETERS)", &entry)
    }
}

/// Where an operand that is read is found.
pub(in crate::gpu) fn input(slot: Slot) -> String {
    let name = match slot.class {
        Class::Half => "h",
        Class::Float => "f",
        Class::Int => "i",
    };
    format!("buffers.{name}{}", slot.index)
}

/// Where an operand that is written is found.
pub(in crate::gpu) fn output(slot: Slot) -> String {
    let name = if slot.class == Class::Half { "ho" } else { "fo" };
    format!("buffers.{name}{}", slot.index)
}

/// The functions of one number, as `ccl_ir::ops::UnaryKind` defines them. `tanh` by one exponential: hardware's own has 11 bits.
pub(in crate::gpu) const FUNCTIONS: &str = "\
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float hyperbolic(float x) { return 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x)); }
__device__ __forceinline__ float gelu_inner(float x) { return 0.7978846f * (x + 0.044715f * x * x * x); }
// 0.5 x (1 + tanh(inner)) = x / (1 + e^(-2 inner)), with the exponential's base and all factors as one polynomial.
__device__ __forceinline__ float gelu(float x) {
  float e;
  asm(\"ex2.approx.ftz.f32 %0, %1;\" : \"=f\"(e) : \"f\"(x * (-2.3022082f - 0.10294324f * x * x)));
  return __fdividef(x, 1.0f + e);
}
";

/// A program as C: a function `program` of `inputs` numbers.
pub(in crate::gpu) fn program(program: &Program, inputs: usize) -> String {
    let parameters: Vec<String> = (0..inputs).map(|i| format!("float x{i}")).collect();
    let mut text = format!("__device__ __forceinline__ float program({}) {{\n", parameters.join(", "));
    let source = |s: &Source| match *s {
        Source::In(n) => format!("x{n}"),
        Source::Step(n) => format!("s{n}"),
        Source::Const(bits) => format!("__uint_as_float(0x{bits:08x}u)"),
    };
    for (i, step) in program.steps.iter().enumerate() {
        let value = match step {
            Step::Unary(kind, a) => unary(*kind, &source(a)),
            Step::Binary(kind, a, b) => {
                let sign = match kind {
                    BinaryKind::Add => '+',
                    BinaryKind::Sub => '-',
                    BinaryKind::Mul => '*',
                };
                format!("{} {sign} {}", source(a), source(b))
            }
        };
        let _ = writeln!(text, "  float s{i} = {value};");
    }
    let last = if program.steps.is_empty() { "x0".into() } else { format!("s{}", program.steps.len() - 1) };
    let _ = writeln!(text, "  return {last};\n}}");
    text
}

fn unary(kind: UnaryKind, x: &str) -> String {
    match kind {
        UnaryKind::Neg => format!("-{x}"),
        UnaryKind::Exp => format!("expf({x})"),
        UnaryKind::Silu => format!("{x} * sigmoid({x})"),
        UnaryKind::GeluTanh => format!("gelu({x})"),
        UnaryKind::GeluErf => format!("0.5f * {x} * (1.0f + erff({x} * 0.70710677f))"),
        UnaryKind::SiluGrad => format!("sigmoid({x}) * (1.0f + {x} * (1.0f - sigmoid({x})))"),
        UnaryKind::GeluTanhGrad => format!(
            "0.5f * (1.0f + hyperbolic(gelu_inner({x}))) + 0.5f * {x} * (1.0f - hyperbolic(gelu_inner({x})) * \
             hyperbolic(gelu_inner({x}))) * (0.7978846f * (1.0f + 0.134145f * {x} * {x}))"
        ),
        UnaryKind::GeluErfGrad => {
            format!("0.5f * (1.0f + erff({x} * 0.70710677f)) + {x} * 0.3989423f * expf(-0.5f * {x} * {x})")
        }
    }
}

/// An instruction of four warps (`wgmma`): 64 rows, a depth of 16.
pub(in crate::gpu) struct Group {
    /// The kind of half precision.
    pub half: DType,
    /// Columns.
    pub columns: u32,
    /// The array of sums.
    pub sums: &'static str,
    /// Whether the sums begin with this product.
    pub first: bool,
    /// Whether the right factor's neighbours in memory are columns.
    pub turn_b: bool,
}

impl Group {
    /// With the left factor in shared memory; `turn_a` as `turn_b`.
    pub fn of_shared(&self, left: &str, turn_a: bool) -> String {
        let at = self.columns / 2;
        let turns = format!(", {}, {}", u8::from(turn_a), u8::from(self.turn_b));
        self.text(&format!("%{at}, %{}", at + 1), &turns, &format!("\"l\"({left}), \"l\"(right)"))
    }

    /// With the left factor in four registers.
    pub fn of_registers(&self, left: &str) -> String {
        let at = self.columns / 2;
        let names: Vec<String> = (at..at + 4).map(|i| format!("%{i}")).collect();
        let inputs: String = (0..4).map(|i| format!("\"r\"({left}[{i}]), ")).collect();
        let turns = format!(", {}", u8::from(self.turn_b));
        self.text(&format!("{{{}}}, %{}", names.join(", "), at + 4), &turns, &format!("{inputs}\"l\"(right)"))
    }

    fn text(&self, factors: &str, turns: &str, inputs: &str) -> String {
        let ty = if self.half == DType::F16 { "f16" } else { "bf16" };
        let count = self.columns / 2;
        let registers: Vec<String> = (0..count).map(|i| format!("%{i}")).collect();
        let (mode, more) = if self.first { ('=', 0) } else { ('+', 1) };
        let sums: Vec<String> =
            (0..count).map(|i| format!("\"{mode}f\"({}[{}][{}])", self.sums, i / 4, i % 4)).collect();
        format!(
            "asm volatile(\"wgmma.mma_async.sync.aligned.m64n{}k16.f32.{ty}.{ty} {{{}}}, {factors}, {more}, 1, 1{turns};\" : {} : {inputs});",
            self.columns,
            registers.join(", "),
            sums.join(", ")
        )
    }
}
