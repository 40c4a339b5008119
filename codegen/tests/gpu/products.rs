//! Products on tensor cores agree with the reference on softcuda's interpreter of PTX; every tile of every kernel compiles without spilled registers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::cases::{
    End, agrees, attention, gradient, inputs_of, launches, linear, mat_mul, partitioned, target, windows,
};
use crate::common::call;
use crate::nvrtc::{ARCHITECTURES, Nvrtc};
use crate::soft::Soft;
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::tensor::product::ProductTile;
use ccl_codegen::gpu::tiles::{Problem, ProblemTile, product_tiles};
use ccl_codegen::gpu::{Kernel, Launch, Target};
use ccl_ir::partition::Edge;
use ccl_ir::plan::Call;
use ccl_ir::{DType, Op, Partition, Sample};
use rayon::prelude::*;

#[test]
fn products_agree_with_the_reference() {
    let soft = Soft::new();
    // How the left factor lies: as it is written, column by column, or with its elements apart.
    let (plain, turned, apart) = (0, 1, 3);
    let mut cases = Vec::new();
    let of = |capability: u32| product_tiles(&target(capability)).collect::<BTreeSet<_>>();
    let (older, newer) = (of(80), of(90));
    // Those that an older device has no room for run on a newer one.
    let larger = newer.difference(&older).filter(|t| !t.is_bulk()).copied().collect();
    for (number, (capability, tiles)) in [(80, older.clone()), (90, larger)].into_iter().enumerate() {
        let target = target(capability);
        for (at, tile) in tiles.iter().enumerate() {
            let half = if (at + number) % 2 == 0 { DType::Bf16 } else { DType::F16 };
            let [bm, bn] = tile.sides.map(|s| s as usize);
            // Beyond a tile on all sides, and neither a whole number of tiles nor of eights.
            let sizes = [bm + 9, bn + 24, 136];
            cases.push((target.clone(), *tile, linear(half, sizes, End::GeluGate), plain));
            cases.push((target.clone(), *tile, linear(half, [bm / 2 + 1, bn - 3, 67], End::GeluGate), plain));
            cases.push((target.clone(), *tile, mat_mul(half, [2, 40, 72, 80], false, Some(DType::F32)), apart));
            cases.push((target.clone(), *tile, mat_mul(half, [1, bm + 8, bn + 8, 200], false, None), turned));
            cases.push((target.clone(), *tile, mat_mul(half, [1, 50, 36, 90], true, None), turned));
        }
    }
    // What the copy engine brings has lines that begin at multiples of 16 bytes. Where there are few cubes each has several tiles.
    for (at, tile) in product_tiles(&target(90)).filter(|t| t.is_bulk()).enumerate() {
        let half = if at % 2 == 0 { DType::Bf16 } else { DType::F16 };
        let [bm, bn] = tile.sides.map(|s| s as usize);
        let few = Target { parallelism: 1, ..target(90) };
        cases.push((target(90), tile, linear(half, [bm + 9, bn + 24, 136], End::GeluGate), plain));
        cases.push((few.clone(), tile, linear(half, [bm + 1, 2 * bn - 3, 328], End::GeluGate), plain));
        cases.push((few.clone(), tile, linear(half, [2 * bm - 7, bn + 8, 72], End::Gelu), plain));
        for end in [End::Residual, End::SingleResidual, End::Residuals] {
            cases.push((few.clone(), tile, linear(half, [bm + 3, bn + 16, 72], end), plain));
        }
        if tile.turns {
            // Three tiles for a cube, of one step of the depth each.
            cases.push((few.clone(), tile, linear(half, [bm - 7, 2 * bn + 8, 40], End::Gelu), plain));
        }
        cases.push((few.clone(), tile, mat_mul(half, [1, bm + 8, bn + 8, 200], false, Some(DType::F32)), turned));
        cases.push((few, tile, mat_mul(half, [1, 56, 40, 88], true, None), turned));
        if tile.slices > 1 {
            // Cubes that have several parts of the depth, not all as many.
            cases.push((
                target(90),
                tile,
                linear(half, [bm + 1, bn + 8, 64 * 2 * tile.slices as usize + 72], End::GeluGate),
                plain,
            ));
        }
    }
    let run = |(number, (mut target, tile, sample, step)): (usize, (Target, ProductTile, Sample<Op>, u64))| {
        let mut call = call(&sample);
        if step > 0 {
            // Column by column, as tokens lie for the gradient of a weight; or heads between, as weights of attention lie.
            let o = &mut call.inputs[0];
            let [m, k] = [o.ty.shape[1], o.ty.shape[2]];
            o.strides = vec![(m * k) as u64 * step, step, m as u64 * step];
        }
        let name = format!("{tile:?} {:?} step {step}", sample.inputs);
        let problem =
            Problem::of(&launches(&call, &target)[0]).unwrap_or_else(|| panic!("{name}: not on tensor cores"));
        target.choices.choose(&problem, ProblemTile::Product(tile));
        // Whether results leave as halves: those of eights, with at most one operand of each row, which is like them.
        let of_rows: Vec<_> = call.inputs.iter().skip(2).filter(|o| o.ty.rank() == 3 && o.ty.shape[1] > 1).collect();
        let alike = of_rows.iter().all(|o| o.ty.dtype.is_half()) && call.outputs[0].ty.dtype.is_half();
        let halves = tile.is_bulk() && alike && of_rows.len() <= 1 && call.outputs[0].ty.last() % 8 == 0;
        let text = emit(&launches(&call, &target)[0], &target).unwrap().text;
        assert_eq!(text.contains("stmatrix"), halves, "{name}");
        match agrees(&soft, &target, &name, &call, &inputs_of(&sample, &call, number as u64)).remove(0) {
            Kernel::TensorProduct(p) => {
                assert_eq!(p.tile, tile, "{name}: the choice was not taken");
                tile
            }
            other => panic!("{name}: {other:?}"),
        }
    };
    let seen: BTreeSet<ProductTile> = cases.into_par_iter().enumerate().map(run).collect();
    let all: BTreeSet<_> = older.union(&newer).copied().collect();
    assert_eq!(seen, all);
}

/// What is expected of tiles: few tiles of a deep product share their depth, many have a multiprocessor to themselves.
#[test]
fn few_tiles_share_their_depth() {
    let target = target(90);
    let tile =
        |m, n, k| match &launches(&call(&linear(DType::Bf16, [m, n, k], End::Plain)), &target)[0].blueprint.kernel {
            Kernel::TensorProduct(p) => p.tile,
            other => panic!("{other:?}"),
        };
    for tokens in [140, 158, 190] {
        assert!(tile(tokens, 1536, 8960).slices >= 4, "{tokens}");
        assert_eq!((tile(tokens, 8960, 1536).sides, tile(tokens, 8960, 1536).slices), ([192, 128], 1), "{tokens}");
    }
    assert_eq!((tile(18480, 5120, 5120).sides, tile(18480, 5120, 5120).slices), ([128, 256], 1));
}

/// The copy engine is not told of lines that overlap, as those of a broadcast factor do.
#[test]
fn what_is_broadcast_is_not_brought_by_the_copy_engine() {
    let target = target(90);
    let is_bulk = |step: u64| {
        let mut call = call(&linear(DType::Bf16, [512, 5120, 5120], End::Plain));
        call.inputs[0].strides[1] = step;
        matches!(&launches(&call, &target)[0].blueprint.kernel, Kernel::TensorProduct(p) if p.tile.is_bulk())
    };
    assert!(is_bulk(5120) && !is_bulk(0));
}

/// Texts to be assembled, by architecture, each once: the name of one launch that has it, and its units.
type Texts = BTreeMap<(&'static str, String), (String, u32)>;

fn add(texts: &mut Texts, architecture: &'static str, name: String, launch: &Launch, target: &Target) {
    let (units, text) = (launch.blueprint.units.iter().product(), emit(launch, target).unwrap().text);
    texts.entry((architecture, text)).or_insert((name, units));
}

/// Every tile of the problems that tensor cores solve, in both kinds of half precision and with every way of reading.
#[test]
fn no_tile_spills_registers() {
    let nvrtc = Nvrtc::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap_or_else(|e| panic!("{e}"));
    let mut texts = Texts::new();
    for (architecture, capability) in ARCHITECTURES {
        for half in [DType::Bf16, DType::F16] {
            // The kinds of half precision differ in the names of instructions, the newest architecture from the oldest in little: there the
            // tile that is taken will do.
            let all = half == DType::Bf16 && capability <= 90;
            let target = target(capability);
            let mut products = vec![
                (linear(half, [18480, 5120, 5120], End::GeluGate), false),
                (linear(half, [18480, 5120, 13824], End::Gate), false),
                (linear(half, [18480, 13824, 5120], End::Gelu), false),
                (mat_mul(half, [1, 18480, 5120, 13824], false, None), false),
                (mat_mul(half, [1, 5120, 13824, 18480], false, Some(DType::F32)), true),
            ];
            if half == DType::F16 {
                products.truncate(3);
            }
            for (sample, turned) in products {
                let mut call = call(&sample);
                if turned {
                    let o = &mut call.inputs[0];
                    o.strides = vec![(o.ty.shape[1] * o.ty.shape[2]) as u64, 1, o.ty.shape[1] as u64];
                }
                all_tiles(&call, &target, architecture, all, &mut texts);
            }
            // Sets that take turns have the fewest registers to spare: every end.
            for tile in product_tiles(&target).filter(|tile| tile.turns && all) {
                for end in [End::Plain, End::SingleResidual, End::Residuals] {
                    let call = call(&linear(half, [18480, 5120, 5120], end));
                    let mut target = target.clone();
                    target
                        .choices
                        .choose(&Problem::of(&launches(&call, &target)[0]).unwrap(), ProblemTile::Product(tile));
                    let launch = &launches(&call, &target)[0];
                    add(&mut texts, architecture, format!("{tile:?} {end:?}"), launch, &target);
                }
            }
            let windows = windows(21, 880, 158, 23, Edge::Mask);
            let nearest = Partition::NearestFrame { frames: 21, tokens_per_frame: 880, length: 158 };
            for dim in [64, 128] {
                for sample in [
                    attention(half, [1, 18480, 18480, 40, dim], false, false),
                    attention(half, [1, 18480, 512, 40, dim], false, true),
                    partitioned(half, windows, [40, dim, 8], 1),
                    partitioned(half, nearest, [40, dim, 8], 1),
                ] {
                    all_tiles(&call(&sample), &target, architecture, all, &mut texts);
                    all_tiles(&call(&gradient(&sample)), &target, architecture, all, &mut texts);
                }
            }
        }
    }
    let wrong: Vec<String> = texts
        .par_iter()
        .filter_map(|((architecture, text), (name, units))| {
            let log = nvrtc.assembled(text, architecture).unwrap_or_else(|e| panic!("{name} for {architecture}: {e}"));
            let told = log.contains("bytes spill stores") && log.contains("registers");
            let clean = told
                && log.contains(" 0 bytes spill stores, 0 bytes spill loads")
                && !log.contains("serialized")
                && !log.contains("setmaxnreg")
                // Warps that deal out registers wait for as many as there were at the start: 3 x 128 units with 168.
                && (*units != 384 || !text.contains("setmaxnreg.inc") || log.contains("Used 168 registers"));
            (!clean).then(|| format!("{name} for {architecture}: {log}"))
        })
        .collect();
    println!("{} kernels", texts.len());
    assert!(texts.len() > 60 && wrong.is_empty(), "{} kernels:\n{}", texts.len(), wrong.join("\n"));
}

/// The texts of a call's kernels with every tile, or with the one that is taken.
fn all_tiles(call: &Call, target: &Target, architecture: &'static str, all: bool, texts: &mut Texts) {
    for (i, launch) in launches(call, target).iter().enumerate() {
        let problem = Problem::of(launch).unwrap();
        add(texts, architecture, problem.key(), launch, target);
        for tile in problem.tiles(target).into_iter().filter(|_| all) {
            let mut target = target.clone();
            target.choices.choose(&problem, tile);
            let launch = &launches(call, &target)[i];
            add(texts, architecture, format!("{} {tile:?}", problem.key()), launch, &target);
        }
    }
}
