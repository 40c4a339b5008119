//! What of a training is kept between runs: writing it down, putting it back, and telling whether it is the same training.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use ccl_ir::TensorType;
use ccl_model::{Config, tensors};
use ccl_passes::optimise::COUNT;
use ccl_runtime::session::Tensors;
use ccl_runtime::tensorfile::TensorFile;
use ccl_runtime::weights::WeightSource;
use ccl_runtime::{HostTensor, RuntimeError};
use serde_json::Value;

use super::checkpoint::{self, Draft, Record};
use super::config::TrainConfig;
use super::engine::Engine;
use super::source::{Data, Start};
use crate::error::Error;

/// Writes the checkpoint that a record describes. `first` has the parameters that no plan keeps in its state.
///
/// # Errors
/// When it cannot be written; then there is no new checkpoint.
pub(super) fn write(
    out: &Path,
    record: Record,
    model: &Config,
    engine: &mut Engine,
    first: &dyn WeightSource,
) -> Result<PathBuf, Error> {
    let mut draft = Draft::begin(out, record.step)?;
    let config = serde_json::to_string_pretty(model).map_err(|e| Error::Failed(format!("config: {e}")))? + "\n";
    draft.text(checkpoint::CONFIG, &config)?;
    let mut parameters = parameters(model, engine, first)?;
    draft.tensors(checkpoint::MODEL, &parameters)?;
    if engine.averages() {
        for name in engine.trained().clone() {
            let average = engine.learner().read_state(&format!("ema.{name}"))?;
            parameters.insert(name, average);
        }
        draft.text(&format!("{}/{}", checkpoint::EMA, checkpoint::CONFIG), &config)?;
        draft.tensors(&format!("{}/{}", checkpoint::EMA, checkpoint::MODEL), &parameters)?;
    }
    drop(parameters);
    let trained = engine.trained().clone();
    let learner = engine.learner();
    let names: Vec<String> = learner.states().map(|(n, _)| n.to_owned()).collect();
    let mut moments = Tensors::new();
    for name in names.into_iter().filter(|n| n.starts_with("adam.")) {
        let tensor = learner.read_state(&name)?;
        if name == COUNT {
            let counts = tensor.as_f32().unwrap_or_default();
            moments.extend(trained.iter().zip(counts).map(|(p, &n)| (count_of(p), HostTensor::f32([], vec![n]))));
        } else {
            moments.insert(name, tensor);
        }
    }
    draft.tensors(checkpoint::OPTIMISER, &moments)?;
    draft.finish(record)
}

/// What a checkpoint calls the number of steps of a parameter. A plan has the numbers of all parameters in one tensor; a file names each, so that it can
/// be read whichever others are trained.
fn count_of(parameter: &str) -> String {
    format!("{COUNT}.{parameter}")
}

/// Every parameter of the model.
fn parameters(model: &Config, engine: &mut Engine, first: &dyn WeightSource) -> Result<Tensors, Error> {
    let mut out = Tensors::new();
    for spec in tensors(model) {
        let tensor = if engine.learner().has_state(&spec.name) {
            engine.learner().read_state(&spec.name)?
        } else {
            let bytes = first.load(&spec.name, &TensorType::f32(spec.shape.clone()))?;
            let values = bytes.bytes().as_chunks::<4>().0.iter().map(|&b| f32::from_ne_bytes(b)).collect();
            HostTensor::f32(spec.shape, values)
        };
        out.insert(spec.name, tensor);
    }
    Ok(out)
}

/// Settings of the configuration, and what the model and the data are.
pub(super) fn settings(config: &TrainConfig, model: &Config, data: &Data) -> Result<BTreeMap<String, Value>, Error> {
    let mut settings = config.settings();
    settings.insert("data".into(), data.fingerprint.clone().into());
    // Where the file of the model's configuration is still there, it must say what the checkpoint does.
    let m = &config.model;
    let given = match (&m.config, &m.init) {
        (Some(_), None) if m.init_video.is_none() && m.init_audio.is_none() => Start::new(m, 0).map(|s| s.model).ok(),
        _ => None,
    };
    let value = serde_json::to_value(given.as_ref().unwrap_or(model));
    let value = value.map_err(|e| Error::Failed(format!("config: {e}")))?;
    let fields = value.as_object().into_iter().flatten();
    settings.extend(fields.map(|(name, value)| (format!("model.{name}"), value.clone())));
    Ok(settings)
}

/// Puts the optimiser's state and the averages back.
pub(super) fn restore(engine: &mut Engine, dir: &Path) -> Result<(), Error> {
    let moments = TensorFile::open(&dir.join(checkpoint::OPTIMISER))?;
    let count = |parameter: &String| {
        let name = count_of(parameter);
        let number = moments.read(&name)?.as_f32().and_then(|n| n.first().copied());
        number.ok_or_else(|| Error::Failed(format!("{}: {name} is no number", dir.display())))
    };
    let counts = engine.trained().iter().map(count).collect::<Result<Vec<f32>, Error>>()?;
    let learner = engine.learner();
    let names: Vec<String> = learner.states().map(|(n, _)| n.to_owned()).collect();
    let averages = match names.iter().any(|n| n.starts_with("ema.")) {
        true => Some(TensorFile::open(&dir.join(checkpoint::EMA).join(checkpoint::MODEL))?),
        false => None,
    };
    for name in &names {
        if name == COUNT {
            learner.write_state(name, &HostTensor::f32([counts.len()], counts.clone()))?;
        } else if name.starts_with("adam.") {
            learner.write_state(name, &moments.read(name)?)?;
        } else if let (Some(parameter), Some(file)) = (name.strip_prefix("ema."), &averages) {
            learner.write_state(name, &file.read(parameter)?)?;
        }
    }
    Ok(())
}

/// Takes a training's directory for this process; the system lets go of it when the process ends, however it ends.
pub(super) fn lock(out: &Path) -> Result<File, Error> {
    fs::create_dir_all(out).map_err(|e| RuntimeError::io(out, "write", e))?;
    let path = out.join(".lock");
    let file = File::create(&path).map_err(|e| RuntimeError::io(&path, "write", e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::Failed(format!("{}: another training is running there; name another --out", out.display())))
        }
        // A file system without locks: go on without.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}
