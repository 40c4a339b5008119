//! The paper's figures 5 and 6, of this study.

use std::collections::BTreeMap;

use ccl_model::{CrossAttention, Task};

use super::Study;
use super::compare::Estimate;
use super::results::{Results, loss};
use crate::error::Error;
use crate::training::curve::{Line, svg};

/// Joint loss of each model, averaged over seeds.
pub const LOSS: &str = "fig5-loss.svg";
/// What each model gains on the first, within pairs.
pub const GAIN: &str = "fig5-paired.svg";
/// Where the cross attention looks.
pub const MAP: &str = "fig6-attention.svg";

/// The pictures that can be drawn, by file name.
///
/// # Errors
/// When what was found is not of the world.
pub fn all(study: &Study, results: &Results) -> Result<BTreeMap<&'static str, String>, Error> {
    let mut out = BTreeMap::new();
    let losses = losses(study, results);
    if losses.iter().any(|l| l.points.len() > 1) {
        out.insert(LOSS, svg(&losses, "step", "joint loss"));
    }
    let gains = gains(study, results);
    if gains.iter().any(|l| l.points.len() > 1) {
        out.insert(GAIN, svg(&gains, "step", "joint loss beside arm 1"));
    }
    if let Some((_, attention)) = results.attention().iter().next() {
        out.insert(MAP, attention.svg()?);
    }
    Ok(out)
}

/// Title of the first arm with a kind of cross attention.
fn title(study: &Study, cross: CrossAttention) -> String {
    study.arms.iter().find(|a| a.cross == cross).map_or_else(|| cross.name().into(), |a| a.title.into())
}

/// Joint loss at a step.
fn at(results: &Results, cross: CrossAttention, seed: u64) -> BTreeMap<u64, f64> {
    results.rows(cross, seed).iter().filter_map(|r| Some((r.step, loss(r, "", Task::Joint)?))).collect()
}

/// A line through means over seeds, with standard errors, where every seed that has begun has a value.
fn line(name: String, seeds: &[BTreeMap<u64, f64>]) -> Line {
    let mut line = Line { name, ..Line::default() };
    let Some(first) = seeds.iter().max_by_key(|s| s.len()) else { return line };
    for step in first.keys() {
        let values: Vec<f64> = seeds.iter().filter_map(|s| s.get(step).copied()).collect();
        if values.len() < seeds.len() {
            continue;
        }
        if let Some(e) = Estimate::of(&values) {
            line.points.push((*step as f64, e.mean));
            line.spread.push(e.error.unwrap_or(0.0));
        }
    }
    line
}

fn losses(study: &Study, results: &Results) -> Vec<Line> {
    let of = |cross| {
        let seeds = study.seeds.iter().map(|&s| at(results, cross, s)).filter(|s| !s.is_empty());
        line(title(study, cross), &seeds.collect::<Vec<_>>())
    };
    study.trained().into_iter().map(of).filter(|l| !l.points.is_empty()).collect()
}

/// Differences from the first model, seed by seed: what all arms draw alike cancels out.
fn gains(study: &Study, results: &Results) -> Vec<Line> {
    let trained = study.trained();
    let Some((&first, others)) = trained.split_first() else { return Vec::new() };
    let of = |&cross: &CrossAttention| {
        let pairs = study.seeds.iter().map(|&seed| {
            let plain = at(results, first, seed);
            let own = at(results, cross, seed);
            own.into_iter().filter_map(|(step, x)| Some((step, x - plain.get(&step)?))).collect::<BTreeMap<_, _>>()
        });
        line(title(study, cross), &pairs.filter(|p| !p.is_empty()).collect::<Vec<_>>())
    };
    others.iter().map(of).filter(|l| !l.points.is_empty()).collect()
}
