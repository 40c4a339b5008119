//! Reading a configuration, changing it by option, and finding what is wrong with it.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{ModelSource, Schedule, Time, TrainConfig};
use crate::error::Error;

/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 20;

impl TrainConfig {
    /// Reads a file, changes it as `set` says (`train.steps=100`, values as in TOML), and checks it.
    ///
    /// # Errors
    /// When the file cannot be read, a field is unknown, missing or out of range; the message names file and field.
    pub fn read(path: &Path, set: &[String]) -> Result<Self, Error> {
        let size = std::fs::metadata(path).map_err(|e| Error::read(path, &e))?.len();
        let place = path.display();
        if size > MAX_BYTES {
            return Err(Error::Failed(format!("{place}: larger than 1 MiB; this is no training configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, &e))?;
        let mut table: toml::Table = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(0, |s| text.get(..s.start).unwrap_or_default().matches('\n').count()) + 1;
            Error::Failed(format!("{place}: line {line}: {}", e.message().replace('\n', " ")))
        })?;
        for change in set {
            apply(&mut table, change)?;
        }
        let fail = |e: toml::de::Error| Error::Failed(format!("{place}: {}", e.to_string().trim().replace('\n', " ")));
        let mut config = Self::deserialize(table).map_err(fail)?;
        config.check().map_err(|problem| Error::Failed(format!("{place}: {problem}")))?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// Makes the paths of a file in `home` ones of the process.
    fn resolve(&mut self, home: &Path) {
        if let Some(Value::String(path)) = &mut self.model.config {
            *path = home.join(&*path).display().to_string();
        }
        let ModelSource { init, init_video, init_audio, .. } = &mut self.model;
        let paths = [init, init_video, init_audio, &mut self.data.dir, &mut self.data.validation];
        for path in paths.into_iter().flatten().chain([&mut self.train.out]) {
            *path = home.join(&*path);
        }
    }

    /// What is wrong, beginning with the field.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_sources()?;
        if let Some((task, w)) = self.tasks.iter().find(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
            return Err(format!("tasks.{task} must be a weight, 0 or above, is {w}"));
        }
        if !self.tasks.values().any(|w| *w > 0.0) {
            return Err("tasks: no task has a weight above 0".into());
        }
        match self.time {
            Time::Uniform => {}
            Time::LogitNormal { mean, std } => {
                within("time.mean", mean, -100.0, 100.0)?;
                within("time.std", std, 1e-6, 100.0)?;
            }
            Time::Shifted { shift } => within("time.shift", shift, 1e-6, 1e6)?,
        }
        self.check_optimiser()?;
        within("ema.decay", self.ema.decay, 0.0, 1.0 - 1e-12)?;
        let t = &self.train;
        within("train.prompt_drop", t.prompt_drop, 0.0, 1.0)?;
        let counts = [
            ("steps", t.steps),
            ("batch", t.batch as u64),
            ("checkpoint_every", t.checkpoint_every),
            ("log_every", t.log_every),
            ("max_skipped", t.max_skipped),
        ];
        for (name, n) in counts {
            if n == 0 || n > 1 << 40 {
                return Err(format!("train.{name} must be at least 1, is {n}"));
            }
        }
        const BACKENDS: [&str; 5] = ["auto", "cpu", "wgpu", "cuda", "reference"];
        if !BACKENDS.contains(&t.backend.as_str()) {
            return Err(format!("train.backend is `{}`: use {}", t.backend, BACKENDS.join(", ")));
        }
        Ok(())
    }

    fn check_sources(&self) -> Result<(), String> {
        let m = &self.model;
        if m.init.is_some() && (m.init_video.is_some() || m.init_audio.is_some()) {
            return Err("model.init stands alone: init_video and init_audio begin from two checkpoints".into());
        }
        match &m.config {
            None if m.init.is_none() => {
                return Err("model.config is missing: name a config.json, or give its fields".into());
            }
            Some(v) if !(v.is_string() || v.is_object()) => {
                return Err("model.config must be the path of a config.json or a table of its fields".into());
            }
            _ => {}
        }
        match (&self.data.dir, &self.data.world) {
            (None, None) => Err("data.dir is missing: name a dataset's directory (or give data.world)".into()),
            (Some(_), Some(_)) => Err("data.dir and data.world exclude each other: keep one".into()),
            _ if self.data.held_out > 0 && self.data.validation.is_some() => {
                Err("data.held_out and data.validation exclude each other: keep one".into())
            }
            _ if self.train.validate_every > 0 && self.data.held_out == 0 && self.data.validation.is_none() => {
                Err("train.validate_every needs samples: give data.held_out or data.validation".into())
            }
            _ => Ok(()),
        }
    }

    fn check_optimiser(&self) -> Result<(), String> {
        let o = &self.optimiser;
        within("optimiser.lr", o.lr, 0.0, f64::from(f32::MAX))?;
        within("optimiser.weight_decay", o.weight_decay, 0.0, 1e6)?;
        for (i, group) in o.groups.iter().enumerate() {
            within(&format!("optimiser.groups[{i}].lr"), group.lr.unwrap_or(0.0), 0.0, f64::from(f32::MAX))?;
            within(&format!("optimiser.groups[{i}].weight_decay"), group.weight_decay.unwrap_or(0.0), 0.0, 1e6)?;
        }
        for beta in o.betas {
            within("optimiser.betas", beta, 1e-6, 1.0 - 1e-9)?;
        }
        within("optimiser.eps", o.eps, 1e-30, 1.0)?;
        within("optimiser.decay_from", o.decay_from, 0.0, 1.0)?;
        within("optimiser.decay_to", o.decay_to, 0.0, 1.0)?;
        within("optimiser.clip", o.clip, 0.0, f64::from(f32::MAX))?;
        if o.schedule == Schedule::Constant && (o.decay_from != 0.0 || o.decay_to != 0.0) {
            return Err("optimiser.decay_from and decay_to belong to schedule = \"cosine\"".into());
        }
        if !(1..=1 << 20).contains(&o.accumulate) {
            return Err(format!("optimiser.accumulate must be at least 1, is {}", o.accumulate));
        }
        Ok(())
    }
}

fn within(field: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{field} must be {low} to {high}, is {value}")) }
}

/// Sets `a.b.c=value` in a table.
fn apply(table: &mut toml::Table, change: &str) -> Result<(), Error> {
    let usage = |problem: &str| Error::Usage(format!("--set {change}: {problem}"));
    let (key, text) = change.split_once('=').ok_or_else(|| usage("is not of the form FIELD=VALUE"))?;
    let parsed: toml::Table = toml::from_str(&format!("v = {text}"))
        .or_else(|_| toml::from_str(&format!("v = {}", toml::Value::String(text.trim().into()))))
        .map_err(|_| usage("the value is no TOML"))?;
    let value = parsed.get("v").cloned().ok_or_else(|| usage("the value is no TOML"))?;
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().filter(|l| !l.is_empty()).ok_or_else(|| usage("names no field"))?;
    let mut at = table;
    for part in path {
        let next = at.entry(part).or_insert_with(|| toml::Table::new().into());
        at = next.as_table_mut().ok_or_else(|| usage(&format!("`{part}` has no fields")))?;
    }
    at.insert(last.into(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_by_option() {
        let mut table: toml::Table = toml::from_str("train.steps = 5").expect("a table");
        for change in ["train.steps=7", "optimiser.lr = 1e-3", "train.backend=cpu", "tasks={joint=1}"] {
            apply(&mut table, change).expect("a change");
        }
        assert_eq!(table["train"]["steps"].as_integer(), Some(7));
        assert_eq!(table["train"]["backend"].as_str(), Some("cpu"));
        assert_eq!(table["tasks"]["joint"].as_integer(), Some(1));
        assert!(apply(&mut table, "train.steps").is_err() && apply(&mut table, "train.steps.x=1").is_err());
    }
}
