//! `ccl world measure`.

use std::path::PathBuf;

use ccl::clips::Clips;
use ccl::error::Error;
use ccl_world::measure::{Measures, Within};

/// Options of `ccl world measure`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Safetensors file with sample.video, sample.audio, video or audio, and text; more than once where they lie in several, the first
    /// that has a tensor counts
    #[arg(long, value_name = "F", required_unless_present = "data")]
    input: Vec<PathBuf>,
    /// Dataset that gives what the inputs have not; alone, its own clips are measured
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The dataset's sample that belongs to the first clip
    #[arg(long, value_name = "N", default_value_t = 0, requires = "data")]
    sample: usize,
    /// Clips of the dataset to measure [default: all; with --input, as many as there are]
    #[arg(long, value_name = "N", conflicts_with = "input")]
    clips: Option<usize>,
}

/// Measures clips.
///
/// # Errors
/// When a file cannot be read, a stream is missing, or a latent is not of this world.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    if args.clips == Some(0) {
        return Err(Error::Usage("--clips must be at least 1".into()));
    }
    let given = Clips::read(&args.input)?;
    let place = match (args.input.first(), &args.data) {
        (Some(path), _) | (None, Some(path)) => path.display().to_string(),
        (None, None) => return Err(Error::Usage("give --input F or --data DIR".into())),
    };
    let count = given.count()?;
    let clips = match &args.data {
        None => given,
        Some(dir) => {
            given.or(Clips::of_dataset(dir, args.sample, if count > 0 { Some(count) } else { args.clips })?)?
        }
    };
    let (Some(video), Some(audio)) = (&clips.video, &clips.audio) else {
        let (lacks, other) = if clips.video.is_none() { ("video", "v2a") } else { ("audio", "a2v") };
        return Err(Error::Failed(format!(
            "{place}: has no {lacks} to measure; after {other}, name the file with the clean {lacks} in a second --input"
        )));
    };
    let measures = ccl_world::measure(&video.data, &audio.data, &clips.prompts()?)
        .map_err(|source| Error::World { place, source })?;
    if json { crate::cli::print_json(&measures) } else { say(&measures) }
}

/// Prints measures as a table.
pub fn say(m: &Measures) -> Result<(), Error> {
    let number = |x: Option<f64>| x.map_or_else(|| "    -".into(), |x| format!("{x:.3}"));
    let mut lines = vec![format!(
        "{} clip{}, {:.2} impacts and {:.2} onsets each",
        m.clips,
        if m.clips == 1 { "" } else { "s" },
        m.sync.impacts,
        m.sync.onsets
    )];
    lines.push(format!("{:<24} {:>8} {:>8}   {:>8} {:>8}", "", "1 frame", "chance", "1/2", "chance"));
    let shares: [(&str, Within, Within); 3] = [
        ("recall", m.sync.recall, m.chance.recall),
        ("precision", m.sync.precision, m.chance.precision),
        ("F1", m.sync.f1, m.chance.f1),
    ];
    for (name, got, chance) in shares {
        let [a, b, c, d] = [got.one, chance.one, got.half, chance.half].map(number);
        lines.push(format!("{name:<24} {a:>8} {b:>8}   {c:>8} {d:>8}"));
    }
    let rest = [
        ("offset, in frames", m.sync.offset, m.chance.offset),
        ("timbre of the ball", Some(m.timbre_match), Some(0.25)),
        ("colour of the prompt", m.colour_ok, Some(0.25)),
        ("pitch-code errors", m.pitch_error, Some(0.75)),
        ("pitches not in prompt", m.pitch_unlisted, Some(0.42)),
    ];
    for (name, got, chance) in rest {
        lines.push(format!("{name:<24} {:>8} {:>8}", number(got), number(chance)));
    }
    crate::cli::print_line(&lines.join("\n"))
}
