//! Every pass on random graphs, the interpreter before and after it, for as long as one likes:
//!
//! ```text
//! cargo run --release -p ccl-passes --example hunt -- [SECONDS] [FIRST SEED]
//! ```
//!
//! A seed chooses the graph and the settings of its compilation, so that a finding is a number. It is printed as a text, shrunk, to become a
//! file in `ir/src/random_graph/found/`, which the suite compiles for ever after.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ccl_ir::plan::About;
use ccl_ir::random_graph::{Recipe, answers, hunt};
use ccl_ir::{DType, Graph};
use ccl_passes::algebra::{Choose, Settings};
use ccl_passes::{DeviceSpec, Options, compile};

/// Seconds of a hunt where none are given.
const SECONDS: u64 = 30;

/// What a seed chooses beside the graph.
struct Choices {
    recipe: Recipe,
    options: Options,
    about: About,
}

impl Choices {
    fn of(seed: u64) -> Self {
        // Neighbouring seeds choose differently.
        let bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let bit = |n: u32| bits >> n & 1 == 1;
        let half = bit(0).then_some(if bit(1) { DType::Bf16 } else { DType::F16 });
        let target = ["cpu", "wgpu", "cuda"][(bits >> 4) as usize % 3];
        let choose = if bit(2) { Choose::Always } else { Choose::Cheapest };
        let algebra = Settings { choose, keep_share: 10.0, ..Settings::new(DeviceSpec::for_target(target)) };
        let about = About { target: target.into(), ..About::no_model("hunt", 1, half.unwrap_or(DType::F32)) };
        Self {
            recipe: Recipe { nodes: 4 + (bits >> 8) as usize % 60, half, ..Recipe::default() },
            options: Options {
                validate: true,
                schedule_rows: 4,
                half_activations: half.is_some(),
                parallelism: if bit(3) { 64 } else { 0 },
                algebra: Some(algebra),
                ..Options::default()
            },
            about,
        }
    }

    fn check(&self, graph: &Graph) -> Result<(), String> {
        compile(graph, &answers(), self.about.clone(), &self.options).map(|_| ()).map_err(|e| e.to_string())
    }
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let (seconds, first) = match (numbers.next().unwrap_or(Ok(SECONDS)), numbers.next().unwrap_or(Ok(0))) {
        (Ok(seconds), Ok(first)) => (seconds, first),
        _ => {
            eprintln!("usage: hunt [SECONDS] [FIRST SEED]");
            return ExitCode::from(2);
        }
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    // A panic is a finding, which says what it was.
    std::panic::set_hook(Box::new(|_| {}));
    let mut seed = first;
    while Instant::now() < end {
        let choices = Choices::of(seed);
        if let Err(failure) = hunt(seed..seed.saturating_add(1), &choices.recipe, |g| choices.check(g)) {
            println!("{failure}");
            return ExitCode::FAILURE;
        }
        seed = seed.wrapping_add(1);
    }
    println!("{} graphs, seeds {first} to {}: no pass changed a result", seed - first, seed.wrapping_sub(1));
    ExitCode::SUCCESS
}
