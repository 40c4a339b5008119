//! What lies in a study's directory.

use std::collections::BTreeMap;

use ccl_model::{CrossAttention, Task};
use ccl_world::Measures;
use serde_json::{Value, json};

use super::arms::Arm;
use super::compare::{By, METRICS, claims, over_seeds};
use super::measures::{KeptAttention, KeptMeasures};
use super::{Study, TASKS};
use crate::attention::{Attention, Look};
use crate::error::Error;
use crate::training::metrics::{Metrics, Row};

/// Everything that has been found so far.
#[derive(Default)]
pub struct Results {
    /// By arm, seed and task.
    measures: BTreeMap<(&'static str, u64, Task), Measures>,
    /// By kind of cross attention and seed.
    rows: BTreeMap<(&'static str, u64), Vec<Row>>,
    attention: BTreeMap<u64, Attention>,
}

impl Results {
    /// Reads a study's directory. What was measured of other checkpoints or in another way is passed over.
    ///
    /// # Errors
    /// When a file is damaged.
    pub fn read(study: &Study) -> Result<Self, Error> {
        let mut out = Self::default();
        for &seed in &study.seeds {
            for cross in study.trained() {
                let dir = study.run_dir(cross, seed);
                if dir.is_dir() {
                    let metrics = Metrics::read(&dir)?;
                    out.rows.insert((cross.name(), seed), metrics);
                }
                let Ok((_, checkpoint)) = study.checkpoint(cross, seed) else { continue };
                for (arm, task) in study.arms.iter().filter(|a| a.cross == cross).flat_map(|a| TASKS.map(|t| (a, t))) {
                    let how = format!("{:?}", study.evaluation(arm, task));
                    let kept = KeptMeasures::read(&study.measures_file(arm, seed, task), &checkpoint, &how)?;
                    out.measures.extend(kept.map(|k| ((arm.key, seed, task), k.found)));
                }
                if cross == CrossAttention::Context {
                    let how = format!("{:?}", Look { rate: study.rate(), ..Look::default() });
                    let kept = KeptAttention::read(&study.attention_file(seed), &checkpoint, &how)?;
                    out.attention.extend(kept.map(|k| (seed, k.found)));
                }
            }
        }
        Ok(out)
    }

    /// Measures of an arm.
    pub fn measures(&self, arm: &Arm, seed: u64, task: Task) -> Option<&Measures> {
        self.measures.get(&(arm.key, seed, task))
    }

    /// Number of measured triples of arm, seed and task.
    pub fn measured(&self) -> usize {
        self.measures.len()
    }

    /// Metrics of a training.
    pub fn rows(&self, cross: CrossAttention, seed: u64) -> &[Row] {
        self.rows.get(&(cross.name(), seed)).map_or(&[], Vec::as_slice)
    }

    /// Attention of the model with context tokens, by seed.
    pub fn attention(&self) -> &BTreeMap<u64, Attention> {
        &self.attention
    }

    /// What two arms are compared by.
    pub fn number(&self, arm: &Arm, seed: u64, by: By) -> Option<f64> {
        let rows = self.rows(arm.cross, seed);
        match by {
            By::Sync(task) => (METRICS[0].value)(self.measures(arm, seed, task)?),
            By::Loss(task) => {
                let last = rows.last()?.step;
                let late = rows.iter().filter(|r| r.step * 6 > last * 5).filter_map(|r| loss(r, "", task));
                let late: Vec<f64> = late.collect();
                (!late.is_empty()).then(|| late.iter().sum::<f64>() / late.len() as f64)
            }
            By::Held(task) => rows.iter().rev().find_map(|r| loss(r, "valid_ema.", task)),
        }
    }

    /// All numbers, for programs.
    pub fn numbers(&self, study: &Study) -> Value {
        let mut table = Vec::new();
        for (arm, task) in study.arms.iter().flat_map(|a| TASKS.map(|t| (a, t))) {
            for metric in &METRICS {
                let of = |value: fn(&Measures) -> Option<f64>| {
                    over_seeds(study, |seed| value(self.measures(arm, seed, task)?))
                };
                table.push(json!({
                    "arm": arm.key, "task": task.name(), "measure": metric.name,
                    "value": of(metric.value), "chance": of(metric.chance),
                }));
            }
        }
        let each: Vec<Value> = self
            .measures
            .iter()
            .map(|((arm, seed, task), m)| json!({ "arm": arm, "seed": seed, "task": task.name(), "measures": m }))
            .collect();
        json!({
            "steps": study.base.train.steps, "seeds": study.seeds, "clips": study.clips, "arms":
            study.arms.iter().map(|a| json!({ "key": a.key, "title": a.title, "about": a.about })).collect::<Vec<_>>(),
            "claims": claims(study, self), "table": table, "each": each, "attention": self.attention,
        })
    }
}

/// Loss of a task in a line of metrics: the sum over its streams.
pub(super) fn loss(row: &Row, prefix: &str, task: Task) -> Option<f64> {
    let streams = ccl_model::Stream::ALL.into_iter().filter(|m| task.produces(*m));
    streams.map(|m| row.losses.get(&format!("{prefix}{task}.{m}"))?.as_f64()).sum()
}
