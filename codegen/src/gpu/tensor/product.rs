//! Matrix products on tensor cores: blueprint, tiles and text.

use std::fmt::Write;

use ccl_ir::DType;
use serde::{Deserialize, Serialize};

use super::{BARRIERS, COMMON, GROUP};
use crate::gpu::blueprint::{Class, Program, Slot};
use crate::gpu::launch::Launch;
use crate::gpu::target::TensorCores;
use crate::gpu::text::{FUNCTIONS, Group, Prelude, TensorMap, input, output, program};

/// A product whose factors are of half precision. Its sizes are those of [`crate::gpu::kernels::product`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorProduct {
    /// Number of dimensions that number the batches.
    pub batch_rank: u32,
    /// Number of dimensions that number the rows.
    pub row_rank: u32,
    /// How the work is cut.
    pub tile: ProductTile,
    /// The left factor, one row of the result each.
    pub a: Factor,
    /// The right factor, one column of the result each.
    pub b: Factor,
    /// Added to the columns.
    pub bias: Option<Columns>,
    /// Further inputs of the epilogue.
    pub extras: Vec<Columns>,
    /// What is done with each sum: input 0 of the program.
    pub epilogue: Program,
    /// Where the result goes.
    pub output: Columns,
}

/// A factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Factor {
    /// Its buffer.
    pub slot: Slot,
    /// Whether neighbours in memory are neighbours along the depth; else along rows (or columns).
    pub along: bool,
    /// How many neighbours are sure to be aligned together: 8, 4, 2 or 1; 0 where elements along the depth are apart.
    pub align: u32,
}

/// An operand of the result's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Columns {
    /// Its buffer.
    pub slot: Slot,
    /// Whether columns are neighbours in memory, aligned and whole by eights.
    pub wide: bool,
    /// Whether every row of a product has the same.
    pub fixed: bool,
}

/// How a product is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProductTile {
    /// Which instructions multiply.
    pub cores: TensorCores,
    /// Rows and columns of the result that a cube computes.
    pub sides: [u32; 2],
    /// Warps along rows and columns.
    pub warps: [u32; 2],
    /// Tiles of the depth that are in shared memory or on their way.
    pub stages: u32,
    /// Sets of warps that share the depth; cubes of a cluster where the copy engine brings the tiles.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub slices: u32,
    /// Whether two such sets of warps take turns at the tensor cores, with a tile of the result each, where the copy engine brings the tiles.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub turns: bool,
}

fn one() -> u32 {
    1
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

/// Depth of a tile: a line of 128 bytes.
pub const DEPTH: u32 = 64;
/// Columns that leave at a time where the copy engine brings the tiles, and the distance of their rows in shared memory.
const STRIP: [u32; 2] = [64, 68];

impl ProductTile {
    /// Warps of a cube that have sums of their own to bring to an end.
    fn enders(&self) -> u32 {
        self.warps[0] * self.warps[1] * if self.turns { 2 } else { 1 }
    }

    /// Units of a cube: those that multiply, and where the copy engine brings the tiles four warps that ask it to.
    pub fn units(&self) -> u32 {
        if self.is_bulk() { 32 * (self.enders() + 4) } else { 32 * self.enders() * self.slices }
    }

    /// Whether the copy engine brings the tiles.
    pub fn is_bulk(&self) -> bool {
        self.cores == TensorCores::Bulk
    }

    /// Cubes for so many tiles of rows and of columns. Those that the copy engine serves stay for as many as are theirs, unless several share one.
    pub fn cubes(&self, [rows, columns]: [u64; 2], multiprocessors: usize) -> u64 {
        let tiles = rows.saturating_mul(columns);
        match (self.is_bulk(), self.slices) {
            (true, 1) => tiles.min(multiprocessors as u64),
            (true, slices) => tiles.saturating_mul(slices.into()),
            (false, _) => tiles,
        }
    }

    /// Shared memory of a cube in bytes: the stages, or at the end 16 rows of sums for each warp and the sums of other slices.
    pub fn shared_bytes(&self) -> u32 {
        let stages = self.stages * (self.sides[0] + self.sides[1]) * DEPTH * 2;
        let warps = self.enders();
        if self.is_bulk() {
            // Strips beside the stages, and two barriers for each stage.
            return stages + warps * 16 * STRIP[1] * 4 + self.stages * 16;
        }
        let strips = warps * 16 * (self.sides[1] / self.warps[1] + 8) * 4;
        (self.slices * stages).max(strips + (self.slices - 1) * self.sides[0] * self.sides[1] * 4)
    }
}

impl TensorProduct {
    /// The kernel's text.
    pub fn text(&self, launch: &Launch) -> String {
        let mut p = Prelude::new(launch);
        let tile = &self.tile;
        for (name, value) in [
            ("BM", tile.sides[0]),
            ("BN", tile.sides[1]),
            ("WARPS_M", tile.warps[0]),
            ("WARPS_N", tile.warps[1]),
            ("STAGES", tile.stages),
            ("SLICES", tile.slices),
            // Rows of tiles that go through the columns together, so that what they read stays in the second-level cache.
            ("GROUP", 1024 / tile.sides[0].max(64)),
            ("STRIP", STRIP[0]),
            ("PITCH", STRIP[1]),
            ("BATCH_RANK", self.batch_rank),
            ("ROW_RANK", self.row_rank),
            ("EXTRAS", self.extras.len() as u32),
            ("A_ALIGN", self.a.align),
            ("B_ALIGN", self.b.align),
        ] {
            p.constant(name, value);
        }
        p.flag("TURNS", tile.turns);
        p.flag("HAS_BIAS", self.bias.is_some());
        p.flag("A_ALONG", self.a.along);
        p.flag("B_ALONG", self.b.along);
        p.input("A_BUFFER", self.a.slot);
        p.input("B_BUFFER", self.b.slot);
        if tile.cores != TensorCores::Mma {
            p.define("WGMMA", "");
            let [turn_a, turn_b] = [self.a.along, self.b.along].map(|along| !along);
            let product =
                Group { half: launch.blueprint.half, columns: tile.sides[1], sums: "sums", first: false, turn_b };
            p.define("MULTIPLY_GROUP", product.of_shared("left", turn_a));
        }
        let program = program(&self.epilogue, 1 + self.extras.len());
        let (leave, [operands, ends]) = if self.leaves_halves() {
            (include_str!("product_halves.cuh"), self.halves_end())
        } else {
            (include_str!("product_rows.cuh"), self.rows_end())
        };
        let (barriers, pipeline, kernel) = match (tile.is_bulk(), tile.slices) {
            (false, _) => ("", "", include_str!("product.cuh")),
            (true, _) if tile.turns => {
                (BARRIERS, include_str!("product_pipeline.cuh"), include_str!("product_turns.cuh"))
            }
            (true, 1) => (BARRIERS, include_str!("product_pipeline.cuh"), include_str!("product_bulk.cuh")),
            (true, _) => (BARRIERS, include_str!("product_pipeline.cuh"), include_str!("product_cluster.cuh")),
        };
        if tile.is_bulk() {
            p.map("a_map");
            p.map("b_map");
        }
        let parts = include_str!("product_parts.cuh");
        let group = if tile.cores == TensorCores::Mma { "" } else { GROUP };
        p.finish(&[COMMON, group, barriers, FUNCTIONS, &program, &operands, parts, leave, pipeline, kernel, &ends])
    }

    /// Where among the sizes those of the left factor begin, of the right one, and of the bias.
    pub(in crate::gpu) fn places(&self) -> [usize; 3] {
        let [batch, rows] = [self.batch_rank, self.row_rank].map(|rank| rank as usize);
        let left = 6 + batch + rows;
        let right = left + 2 + batch + rows;
        [left, right, right + 3 + batch]
    }

    /// What the copy engine is told of the factors, where it brings them: boxes as wide as a line of 128 bytes.
    pub(in crate::gpu) fn maps(&self, half: DType) -> Vec<TensorMap> {
        if !self.tile.is_bulk() {
            return Vec::new();
        }
        let (batch, [at_a, at_b, _]) = (self.batch_rank as usize, self.places());
        let map = |factor: &Factor, at: usize, outer: usize, side: u32| {
            let first = at;
            // Of a factor whose depth is contiguous the rows follow one another in memory, of another the depths.
            let (extents, stride, lines) = match factor.along {
                true => ([3, outer], at + 1 + batch, side),
                false => ([outer, 3], at + 2 + batch, DEPTH),
            };
            TensorMap { buffer: factor.slot.index as usize, half, first, extents, stride, tile: [DEPTH, lines] }
        };
        vec![map(&self.a, at_a, 1, self.tile.sides[0]), map(&self.b, at_b, 2, self.tile.sides[1])]
    }

    /// Whether results are of half precision, and what the epilogue reads of single rows is one operand like them: sums leave as halves then.
    fn leaves_halves(&self) -> bool {
        let half = |columns: &Columns| columns.slot.class == Class::Half && columns.wide;
        let lines: Vec<_> = self.extras.iter().filter(|extra| !extra.fixed).collect();
        self.tile.is_bulk() && half(&self.output) && lines.len() <= 1 && lines.into_iter().all(half)
    }

    /// Where the first column of an extra is, for all rows and then for a row, and how far columns are apart.
    fn extra(e: usize) -> [String; 3] {
        let at = format!("AT_EXTRAS + {e} * EXTRA_SIZES");
        let row = format!("distance<ROW_RANK>(sizes, row, AT_ROWS, {at} + 1 + BATCH_RANK)");
        [format!("sizes[{at}]"), row, format!("sizes[{at} + EXTRA_SIZES - 1]")]
    }

    fn result(&self) -> String {
        format!("{} + sizes[AT_OUT] + (batch * sizes[1] + row) * sizes[2] + column", output(self.output.slot))
    }

    /// What brings eight sums of a row to an end: what the epilogue needs besides, for all rows and for one, and the functions that read that, and
    /// that compute and store.
    fn rows_end(&self) -> [String; 2] {
        let arguments = "const Buffers& buffers, const u32* sizes, u32 batch, u32 row, u32 column, int there";
        // Of all rows, then of one.
        let (mut members, mut reads) = ([String::new(), String::new()], [String::new(), String::new()]);
        let mut read = |name: &str, columns: Columns, first: String, step: String| {
            let of = usize::from(!columns.fixed);
            // Writing to a string cannot fail.
            let _ = write!(members[of], " float {name}[8];");
            let from = format!("{} + {first} + column * {step}", input(columns.slot));
            let _ = writeln!(reads[of], "  read8<{}>({from}, {step}, there, extras.{name});", columns.wide);
        };
        if let Some(bias) = self.bias {
            read("bias", bias, "sizes[AT_BIAS]".into(), "sizes[AT_BIAS + 1]".into());
        }
        for (e, &extra) in self.extras.iter().enumerate() {
            let [first, row, step] = Self::extra(e);
            let batch = format!("distance<BATCH_RANK>(sizes, batch, 6, AT_EXTRAS + {e} * EXTRA_SIZES + 1)");
            read(&format!("x{e}"), extra, format!("{first} + {batch} + {row}"), step);
        }
        let from = |columns: &Columns| if columns.fixed { "fixed" } else { "extras" };
        let more: String =
            self.extras.iter().enumerate().map(|(e, extra)| format!(", {}.x{e}[i]", from(extra))).collect();
        let bias = if self.bias.is_some() { " + fixed.bias[i]" } else { "" };
        let [fixed, extras] = reads;
        let functions = format!(
            "__device__ __forceinline__ void fetch8({arguments}, Fixed& extras) {{\n{fixed}}}\n\
             __device__ __forceinline__ void fetch8({arguments}, Extras& extras) {{\n{extras}}}\n\
             __device__ __forceinline__ void store8({arguments}, const Fixed& fixed, const Extras& extras, \
             float (&sums)[8]) {{\n  float result[8];\n#pragma unroll\n  \
             for (int i = 0; i < 8; i++) result[i] = program(sums[i]{bias}{more});\n  \
             write8<{}>({}, there, result);\n}}\n",
            self.output.wide,
            self.result()
        );
        let [fixed, extras] = members;
        [format!("struct Fixed {{{fixed} }};\nstruct Extras {{{extras} }};\n"), functions]
    }

    /// The same where sums leave as halves: how many operands of the epilogue all rows share and whether rows have one each, and the functions that
    /// read the former, say where the latter and the result are, and compute.
    fn halves_end(&self) -> [String; 2] {
        let arguments = "const Buffers& buffers, const u32* sizes";
        let (mut fixed, mut reads, mut line) = (0, String::new(), None);
        let mut share = |slot: Slot, first: &str, step: &str| {
            // Writing to a string cannot fail.
            let _ =
                writeln!(reads, "  fetch2({} + {first} + column * {step}, {step}, fixed.of[{fixed}]);", input(slot));
            fixed += 1;
            format!("fixed[{}]", fixed - 1)
        };
        let bias = self
            .bias
            .map_or(String::new(), |bias| format!(" + {}", share(bias.slot, "sizes[AT_BIAS]", "sizes[AT_BIAS + 1]")));
        let mut more = String::new();
        for (e, extra) in self.extras.iter().enumerate() {
            let [first, row, step] = Self::extra(e);
            let x = if extra.fixed { share(extra.slot, &first, &step) } else { "line".into() };
            let _ = write!(more, ", {x}");
            if !extra.fixed {
                line = Some(format!("{} + {first} + {row} + column", input(extra.slot)));
            }
        }
        let begin = format!("constexpr int FIXED = {fixed};\nconstexpr bool HAS_LINES = {};\n", line.is_some());
        let functions = format!(
            "__device__ __forceinline__ void fetch_fixed({arguments}, u32 column, Fixed& fixed) {{\n{reads}}}\n\
             __device__ __forceinline__ const half_t* line_at({arguments}, u32 row, u32 column) {{ return {}; }}\n\
             __device__ __forceinline__ half_t* result_at({arguments}, u32 row, u32 column) {{\n  \
             const u32 batch = 0;\n  return {};\n}}\n\
             __device__ __forceinline__ float ended(float sum, const float (&fixed)[FIXED + 1], float line) {{ \
             return program(sum{bias}{more}); }}\n",
            line.as_deref().unwrap_or("nullptr"),
            self.result()
        );
        [begin, functions]
    }
}
