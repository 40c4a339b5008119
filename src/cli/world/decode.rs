//! `ccl world decode`.

use std::path::PathBuf;

use ccl::clips::Clips;
use ccl::decoding::{check_prefix, write_clip};
use ccl::error::Error;

use crate::cli::log;

/// Options of `ccl world decode`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Safetensors file with sample.video, sample.audio, video or audio; more than once where they lie in several, the first that has
    /// a stream counts
    #[arg(long, value_name = "F", required = true)]
    input: Vec<PathBuf>,
    /// Which clip of the batch
    #[arg(long, value_name = "I", default_value_t = 0)]
    index: usize,
    /// Beginning of the names of the files to write
    #[arg(short, long, value_name = "PREFIX")]
    output: PathBuf,
}

/// Writes the clip's files.
///
/// # Errors
/// When a file cannot be read or written, or its latents are not of this world.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    check_prefix(&args.output)?;
    let clips = Clips::read(&args.input)?;
    let place = clips.video.as_ref().or(clips.audio.as_ref()).map(|s| (s.place.clone(), s.clips));
    let Some((place, count)) = place else {
        let file = args.input[0].display();
        return Err(Error::Failed(format!(
            "{file}: has no latent to decode: no sample.video, sample.audio, video or audio"
        )));
    };
    if args.index >= count {
        return Err(Error::Usage(format!("--index {} is beyond the batch: {place} has {count} clips", args.index)));
    }
    let of = |stream: &Option<ccl::clips::Stream>| stream.as_ref().map(|s| s.clip(args.index).to_vec());
    let (video, audio) = (of(&clips.video), of(&clips.audio));
    let written = write_clip(&args.output, &place, video.as_deref(), audio.as_deref())?;
    written.notes.iter().for_each(|note| log::note(note));
    if json {
        return crate::cli::print_json(&serde_json::json!({ "files": written.files, "notes": written.notes }));
    }
    let files: Vec<String> = written.files.iter().map(|f| f.display().to_string()).collect();
    crate::cli::print_line(&format!("wrote {}", files.join(", ")))
}
