//! `ccl world`.

mod attention;
mod decode;
mod eval;
mod measure;
mod prompt;

use ccl::error::Error;
use clap::Subcommand;

/// Options of `ccl world`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Make the inputs of a clip to sample: a colour and three pitches, or a clip of a dataset
    ///
    /// The prompt gives the ball's colour, which is the sound's timbre too, and three pitches from 0 to 3: impact k sounds pitch k mod 3.
    /// When the ball hits the floor is not in it. The file has `text` and a `negative_text` of zeros, and with --from the clip's
    /// `video` and `audio`, for v2a and a2v.
    Prompt(prompt::Args),
    /// Turn latents into something to watch and to hear: PREFIX.png, .gif, .wav, and .mp4 where there is an ffmpeg
    ///
    /// Nothing learned is needed: the video latent's four directions are shown as four colours, the audio latent's eight as four pitches in
    /// four timbres. A clip is 4 seconds, 100 pictures; sound and pictures end together. The PNG has a whole clip on one page: its frames,
    /// impacts and onsets as the detectors find them, the pitches over time, and the sound's wave.
    Decode(decode::Args),
    /// Measure how well picture, sound and prompt agree, beside what chance gives
    ///
    /// Recall is the share of impacts with an onset within a frame or half a frame, precision the share of onsets with such an impact. Chance
    /// pairs every video with the sound of other clips. Reading what was sampled and what was given from two files is fine:
    ///
    ///     ccl world measure --input sample.safetensors --input inputs.safetensors
    Measure(measure::Args),
    /// Where a model's cross attention looks: the share of its weight on context tokens, for background, ball, impacts, bursts and hum
    ///
    /// The paper's figure 6. True clips with noise are shown to the model, joint. Tokens that have nothing to do with the other stream look at the
    /// learned context; those that have look less.
    Attention(attention::Args),
    /// Sample clips that a model never saw and measure them: what it has learnt of the world
    Eval(eval::Args),
}

/// Runs the command.
///
/// # Errors
/// When an option or a file is wrong.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    match &args.what {
        What::Prompt(args) => prompt::run(args, json),
        What::Decode(args) => decode::run(args, json),
        What::Measure(args) => measure::run(args, json),
        What::Attention(args) => attention::run(args, json),
        What::Eval(args) => eval::run(args, json),
    }
}
