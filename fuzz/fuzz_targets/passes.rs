//! Every pass on random graphs, the interpreter before and after it, with settings that the input chooses.
#![no_main]

use ccl_ir::DType;
use ccl_ir::plan::About;
use ccl_ir::random_graph::{Recipe, answers, hunt};
use ccl_passes::algebra::{Choose, Settings};
use ccl_passes::{DeviceSpec, Options, compile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u8, u8)| {
    let (seed, size, choices) = input;
    let bit = |n: u8| choices >> n & 1 == 1;
    let half = bit(0).then_some(if bit(1) { DType::Bf16 } else { DType::F16 });
    let recipe = Recipe { nodes: 4 + usize::from(size) % 60, half, ..Recipe::default() };
    let target = ["cpu", "wgpu", "cuda"][usize::from(choices >> 4) % 3];
    let choose = if bit(2) { Choose::Always } else { Choose::Cheapest };
    let algebra = Settings { choose, keep_share: 10.0, ..Settings::new(DeviceSpec::for_target(target)) };
    let options = Options {
        validate: true,
        schedule_rows: 4,
        half_activations: half.is_some(),
        parallelism: if bit(3) { 64 } else { 0 },
        algebra: Some(algebra),
        ..Options::default()
    };
    let about = || About {
        task: String::new(),
        clip: String::new(),
        batch: 1,
        guidance: String::new(),
        target: target.into(),
        dtype: half.unwrap_or(DType::F32),
        compiler: "fuzz".into(),
        config: serde_json::Value::Null,
    };
    let check = |g: &ccl_ir::Graph| compile(g, &answers(), about(), &options).map(|_| ()).map_err(|e| e.to_string());
    if let Err(failure) = hunt(seed..seed.saturating_add(1), &recipe, check) {
        panic!("{failure}");
    }
});
