//! A model and a dataset that train in no time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ccl::data::{Schema, TensorSpec, Writer, WriterOptions};
use ccl::runtime::HostTensor;
use ccl::runtime::random::Stream;
use ccl::runtime::tensorfile::FileDType;
use tempfile::TempDir;

use super::{Ccl, ccl, temp_dir};

/// The model, as a table of a training configuration.
pub const MODEL: &str = r#"
[model.config]
layers = 1
text_dim = 6
freq_dim = 8
audio_context_tokens = 2
video_context_tokens = 2
window_center = "proportional"
video = { dim = 16, ffn_dim = 16, heads = 1, in_channels = 2, out_channels = 2, patch = [1, 2, 2] }
audio = { dim = 8, ffn_dim = 8, heads = 1, in_channels = 3, out_channels = 3, patch = [1] }
"#;

/// Samples of the dataset.
pub const SAMPLES: usize = 20;

/// A directory with a dataset and a configuration.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A place whose configuration says this, beside the model and the data.
    pub fn new(more: &str) -> Self {
        let place = Self { dir: temp_dir() };
        dataset(&place.path("data"), SAMPLES, 1.0);
        place.configure(more);
        place
    }

    /// Another configuration.
    pub fn configure(&self, more: &str) {
        fs::write(self.config(), format!("{more}\n{MODEL}")).expect("a written file");
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.path("train.toml")
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ccl train` into the directory `out`, on the cpu.
    pub fn train(&self, out: &str) -> Ccl {
        ccl("train --backend cpu --threads 1").with("--config", self.config()).with("--out", self.path(out))
    }
}

/// Writes a dataset of noise, times a factor.
pub fn dataset(dir: &Path, samples: usize, factor: f32) {
    let shapes: [(&str, &[usize]); 3] = [("video", &[2, 2, 4, 4]), ("audio", &[3, 6]), ("text", &[2, 6])];
    let specs: BTreeMap<String, TensorSpec> =
        shapes.iter().map(|(n, s)| (n.to_string(), TensorSpec::new(FileDType::F32, *s))).collect();
    let schema = Schema::new(specs).expect("a schema");
    let mut writer = Writer::create(dir, schema, WriterOptions::default()).expect("a writer");
    for sample in 0..samples {
        let tensor = |(name, shape): &(&str, &[usize])| {
            let mut data = vec![0.0; shape.iter().product()];
            Stream::new(5, &format!("{name}/{sample}")).normal(&mut data);
            data.iter_mut().for_each(|x| *x *= factor);
            (name.to_string(), HostTensor::f32(*shape, data))
        };
        writer.add(&shapes.iter().map(tensor).collect()).expect("a sample");
    }
    writer.finish().expect("a dataset");
}

/// Every file of a directory and below, by path, with its bytes.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("inside").display().to_string();
                out.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    out
}

/// Which files of two directories differ.
pub fn differences(a: &Path, b: &Path) -> Vec<String> {
    let (a, b) = (files(a), files(b));
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|n| a.get(*n) != b.get(*n)).cloned().collect()
}
