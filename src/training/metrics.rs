//! What is known of a training's course: averages of the losses, `metrics.jsonl` and `loss.svg`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use ccl_runtime::RuntimeError;
use ccl_runtime::write::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::curve::{self, Line};
use crate::error::Error;

/// The file of metrics, a JSON object a line.
pub const METRICS: &str = "metrics.jsonl";
/// The picture of the losses.
pub const CURVE: &str = "loss.svg";
/// What a new loss changes of its average.
const SHARE: f64 = 0.03;

/// Exponential averages of losses, without the bias of their beginning: each has the weighted sum of its values and the sum of the
/// weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Averages(BTreeMap<String, [f64; 2]>);

impl Averages {
    /// Takes a value.
    pub fn add(&mut self, name: &str, value: f64) {
        let [sum, weight] = self.0.entry(name.to_owned()).or_default();
        *sum = (1.0 - SHARE) * *sum + SHARE * value;
        *weight = (1.0 - SHARE) * *weight + SHARE;
    }

    /// The averages by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, [sum, weight])| (name.as_str(), sum / weight))
    }
}

/// One line of metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Steps that are done.
    pub step: u64,
    /// Seconds of training so far, through all runs.
    pub seconds: f64,
    /// Learning rate of parameters that are in no group.
    pub rate: f64,
    /// Norm of the gradient before clipping.
    pub norm: Option<f64>,
    /// Updates that were skipped so far.
    pub skipped: u64,
    /// Tokens of the streams computed, a second.
    pub tokens_per_s: f64,
    /// Losses: `<task>.<stream>` averages of training, `valid.<task>.<stream>` and `valid_ema.<task>.<stream>`.
    #[serde(flatten)]
    pub losses: Map<String, Value>,
}

/// The metrics of a training in its directory.
pub struct Metrics {
    out: PathBuf,
    rows: Vec<Row>,
}

impl Metrics {
    /// Opens the metrics of a training of which `step` steps are done: lines beyond that are cut, as is a line that is not whole.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(out: &Path, step: u64) -> Result<Self, Error> {
        let path = out.join(METRICS);
        let text = text(&path)?;
        let (mut rows, mut kept) = (Vec::new(), String::new());
        for (line, row) in lines(&text).filter(|(_, row)| row.step <= step) {
            kept.push_str(line);
            rows.push(row);
        }
        if kept != text {
            write_atomic(&path, kept.as_bytes())?;
        }
        Ok(Self { out: out.into(), rows })
    }

    /// The lines of a training that may still be running.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(out: &Path) -> Result<Vec<Row>, Error> {
        Ok(lines(&text(&out.join(METRICS))?).map(|(_, row)| row).collect())
    }

    /// Seconds of training so far.
    pub fn seconds(&self) -> f64 {
        self.rows.last().map_or(0.0, |r| r.seconds)
    }

    /// The lines.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, row: Row) -> Result<(), Error> {
        let path = self.out.join(METRICS);
        let line = serde_json::to_string(&row).map_err(|e| Error::Failed(format!("{METRICS}: {e}")))? + "\n";
        self.rows.push(row);
        let append = || OpenOptions::new().create(true).append(true).open(&path)?.write_all(line.as_bytes());
        Ok(append().map_err(|e| RuntimeError::io(&path, "write", e))?)
    }

    /// Draws the losses.
    ///
    /// # Errors
    /// When the picture cannot be written.
    pub fn draw(&self) -> Result<(), Error> {
        let mut lines: BTreeMap<&str, Line> = BTreeMap::new();
        for row in &self.rows {
            for (name, value) in row.losses.iter().filter_map(|(n, v)| Some((n, v.as_f64()?))) {
                let line = lines.entry(name).or_insert_with(|| Line { name: name.clone(), ..Line::default() });
                line.points.push((row.step as f64, value));
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        let lines: Vec<Line> = lines.into_values().collect();
        Ok(write_atomic(&self.out.join(CURVE), curve::svg(&lines, "step", "loss").as_bytes())?)
    }
}

/// Text of a file; none where there is no file.
fn text(path: &Path) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|e| Error::read(path, &e)),
    }
}

/// Whole lines, with what they say.
fn lines(text: &str) -> impl Iterator<Item = (&str, Row)> {
    let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
    whole.filter_map(|line| Some((line, serde_json::from_str(line).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> Row {
        let losses = Map::from_iter([("joint.video".to_owned(), Value::from(1.5))]);
        Row { step, seconds: step as f64, rate: 0.1, norm: Some(2.0), skipped: 0, tokens_per_s: 3.0, losses }
    }

    #[test]
    fn averages_have_no_bias_at_the_beginning() {
        let mut averages = Averages::default();
        averages.add("a", 3.0);
        assert!((averages.iter().next().expect("one").1 - 3.0).abs() < 1e-12);
        (0..500).for_each(|_| averages.add("a", 1.0));
        assert!((averages.iter().next().expect("one").1 - 1.0).abs() < 1e-6);
        let text = serde_json::to_string(&averages).expect("JSON");
        assert_eq!(serde_json::from_str::<Averages>(&text).expect("JSON"), averages);
    }

    #[test]
    fn lines_beyond_the_step_and_half_lines_are_cut() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut metrics = Metrics::open(dir.path(), 0).expect("none");
        (1..5).for_each(|s| metrics.add(row(s)).expect("a line"));
        let path = dir.path().join(METRICS);
        let whole = fs::read_to_string(&path).expect("text");
        fs::write(&path, format!("{whole}{{\"step\":2,\"sec")).expect("a half line");
        let again = Metrics::open(dir.path(), 2).expect("two lines");
        assert_eq!(again.rows(), [row(1), row(2)]);
        assert_eq!(again.seconds(), 2.0);
        assert_eq!(fs::read_to_string(&path).expect("text").lines().count(), 2);
        again.draw().expect("a picture");
        assert!(fs::read_to_string(dir.path().join(CURVE)).expect("text").contains("joint.video"));
    }
}
