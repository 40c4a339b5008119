//! `ccl world prompt`.

use std::path::PathBuf;

use ccl::clips::samples;
use ccl::error::Error;
use ccl_data::{Dataset, Source};
use ccl_runtime::session::Tensors;
use ccl_runtime::{HostTensor, write};
use ccl_world::space::{SYMBOLS, TEXT_DIM, TEXT_TOKENS};
use ccl_world::{Colour, Prompt};

use crate::cli::forward::written;

/// Options of `ccl world prompt`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Colour of the ball: red green blue yellow
    #[arg(long, value_name = "COLOUR", required_unless_present = "from", requires = "pitches")]
    colour: Option<Colour>,
    /// Pitches of the impacts, three from 0 to 3, e.g. 0,2,1
    #[arg(long, value_name = "A,B,C", value_parser = symbols, requires = "colour")]
    pitches: Option<[usize; SYMBOLS]>,
    /// Take prompt, video and audio from this dataset
    #[arg(long, value_name = "DIR", conflicts_with_all = ["colour", "pitches"])]
    from: Option<PathBuf>,
    /// Number of the dataset's first sample to take
    #[arg(long, value_name = "N", default_value_t = 0, requires = "from")]
    sample: usize,
    /// Clips: samples of the dataset, or times the prompt is repeated
    #[arg(long, value_name = "B", default_value_t = 1)]
    clips: usize,
    /// File to write
    #[arg(short, long, value_name = "F")]
    output: PathBuf,
}

fn symbols(text: &str) -> Result<[usize; SYMBOLS], String> {
    let bad = || format!("{SYMBOLS} pitches from 0 to 3 are needed, such as 0,2,1");
    let list: Result<Vec<usize>, _> = text.split(',').map(|s| s.trim().parse()).collect();
    let symbols = list.map_err(|_| bad())?.try_into().map_err(|_| bad())?;
    Prompt::new(Colour::Red, symbols).map(|p| p.symbols).map_err(|_| bad())
}

/// Largest batch that is made: files are for one run of a model.
const MOST: usize = 4096;

/// Writes the inputs.
///
/// # Errors
/// When the dataset is broken or has no such sample, or the file cannot be written.
pub fn run(args: &Args, json: bool) -> Result<(), Error> {
    if args.clips == 0 || args.clips > MOST {
        return Err(Error::Usage(format!("--clips must be 1 to {MOST}, is {}", args.clips)));
    }
    write::check_writable(&args.output)?;
    let mut tensors = match (&args.from, args.colour, args.pitches) {
        (Some(dir), ..) => {
            let data = Dataset::open(dir)?;
            let has = data.len();
            if args.sample.checked_add(args.clips).is_none_or(|end| end > has) {
                let (n, first) = (args.clips, args.sample);
                return Err(Error::Usage(format!(
                    "{}: has {has} samples; there are no {n} from {first} on",
                    dir.display()
                )));
            }
            let mut tensors = samples(data, args.sample, args.clips)?;
            tensors.retain(|name, _| ["video", "audio", "text", "image"].contains(&name.as_str()));
            tensors
        }
        (None, Some(colour), Some(symbols)) => {
            let text = Prompt { colour, symbols }.text().repeat(args.clips);
            Tensors::from([("text".into(), HostTensor::f32([args.clips, TEXT_TOKENS, TEXT_DIM], text))])
        }
        _ => return Err(Error::Usage("give --colour and --pitches, or --from DIR".into())),
    };
    if let Some(text) = tensors.get("text") {
        let zeros = vec![0.0; text.shape.iter().product()];
        tensors.insert("negative_text".into(), HostTensor::f32(text.shape.clone(), zeros));
    }
    write::write_tensors(&args.output, &tensors)?;
    written(&args.output, &tensors, json)
}
