//! The paper's ablation on the bounce world: what each part of the model teaches it, held apart by paired trainings.
//!
//! [`arms`] says what is compared; [`schedule`] trains and measures, several at once, and goes on where it was stopped; [`results`] reads what
//! lies in the directory, [`compare`] says what follows from it and what does not, [`page`] and [`figures`] show it.
//!
//! Arms of one seed are paired: they see the same clips, tasks, noise levels, noise and dropped prompts in the same order, and begin with the same
//! parameters as far as they have the same ones. Differences are taken within a seed.

pub mod arms;
pub mod compare;
mod figures;
pub mod measures;
mod page;
pub mod results;
pub mod schedule;

use std::path::PathBuf;

use ccl_model::{Config, CrossAttention, Task};
use ccl_runtime::write::write_atomic;

use crate::error::Error;
use crate::evaluation::check_config;
use crate::training::config::TrainConfig;
use crate::training::source::model_config;
use arms::{ARMS, Arm};
use results::Results;

/// Tasks whose sync is measured.
pub const TASKS: [Task; 3] = [Task::Joint, Task::A2v, Task::V2a];
/// The page, in the study's directory.
pub const PAGE: &str = "index.html";
/// Every number of the page.
pub const NUMBERS: &str = "study.json";

/// What to compare, and with how much care.
pub struct Study {
    /// How every arm learns; an arm changes the model's cross attention, a seed the seed.
    pub base: TrainConfig,
    /// The model, before an arm changes it.
    pub model: Config,
    /// The arms, in order.
    pub arms: Vec<&'static Arm>,
    /// Seeds of the trainings; every arm is trained with each.
    pub seeds: Vec<u64>,
    /// Clips that are sampled for each task, arm and seed.
    pub clips: usize,
    /// Euler steps of a sample.
    pub sample_steps: usize,
    /// Where everything goes.
    pub out: PathBuf,
    /// The configuration's file, to be named on the page.
    pub file: String,
}

impl Study {
    /// A study of all arms.
    ///
    /// # Errors
    /// When the configuration is not one of the bounce world, or names no model.
    pub fn new(base: TrainConfig, file: String, seeds: usize, clips: usize, out: PathBuf) -> Result<Self, Error> {
        if base.data.world.is_none() {
            return Err(Error::Failed(format!("{file}: data.world is missing: the study is of the bounce world")));
        }
        let Some(config) = &base.model.config else {
            return Err(Error::Failed(format!("{file}: model.config is missing: every arm begins afresh")));
        };
        if base.model.init.is_some() || base.model.init_video.is_some() || base.model.init_audio.is_some() {
            return Err(Error::Failed(format!("{file}: every arm begins afresh: leave model.init* out")));
        }
        let model = model_config(config)?;
        check_config(&model)?;
        let seeds = (0..seeds as u64).map(|k| base.train.seed + k).collect();
        Ok(Self { base, model, arms: ARMS.iter().collect(), seeds, clips, sample_steps: 20, out, file })
    }

    /// Kinds of cross attention that are trained, in the order of the arms.
    pub fn trained(&self) -> Vec<CrossAttention> {
        let mut all: Vec<_> = self.arms.iter().map(|a| a.cross).collect();
        all.dedup();
        all
    }

    /// Directory of a training.
    pub fn run_dir(&self, cross: CrossAttention, seed: u64) -> PathBuf {
        self.out.join("runs").join(format!("{}-s{seed}", cross.name()))
    }

    /// How one model of the study learns.
    ///
    /// # Errors
    /// When the configuration cannot be written as JSON.
    pub fn training(&self, cross: CrossAttention, seed: u64) -> Result<TrainConfig, Error> {
        let model = Config { cross_attention: cross, ..self.model.clone() };
        let fields = serde_json::to_value(&model).map_err(|e| Error::Failed(format!("config: {e}")))?;
        let mut config = self.base.clone();
        config.model.config = Some(fields);
        config.train.seed = seed;
        config.train.out = self.run_dir(cross, seed);
        Ok(config)
    }

    /// Audio tokens of a clip.
    pub fn rate(&self) -> usize {
        self.base.data.world.as_ref().map_or(ccl_world::space::EVEN_RATE, |w| w.rate)
    }

    /// Reads what has been found so far, and writes the page, its pictures and its numbers.
    ///
    /// # Errors
    /// When a file is damaged or cannot be written.
    pub fn write_page(&self) -> Result<Results, Error> {
        let results = Results::read(self)?;
        let figures = figures::all(self, &results)?;
        for (name, svg) in &figures {
            write_atomic(&self.out.join(name), svg.as_bytes())?;
        }
        let numbers = serde_json::to_string_pretty(&results.numbers(self))
            .map_err(|e| Error::Failed(format!("{NUMBERS}: {e}")))?;
        write_atomic(&self.out.join(NUMBERS), (numbers + "\n").as_bytes())?;
        write_atomic(&self.out.join(PAGE), page::page(self, &results, &figures).as_bytes())?;
        Ok(results)
    }
}
