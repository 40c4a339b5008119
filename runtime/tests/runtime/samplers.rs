//! Both samplers follow diffusers' trajectories on a field with a closed form, for every number of steps and shift.

use crate::common::Outcome;
use ccl_runtime::SamplerKind;
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    sampler: String,
    steps: usize,
    shift: f64,
    levels: Vec<f64>,
    start: Vec<f64>,
    end: Vec<f64>,
}

fn velocity(x: f64, t: f64) -> f64 {
    0.5 * x + t - 0.3 * x * t + 0.2 * (3.0 * x).sin()
}

#[test]
fn trajectories_are_those_of_diffusers() -> Outcome {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/samplers.json");
    let rows: Vec<Row> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    assert_eq!(rows.len(), 30);
    for row in rows {
        let kind = SamplerKind::from_name(&row.sampler).ok_or("unknown sampler")?;
        let levels = kind.levels(row.steps, row.shift)?;
        assert_eq!(levels.all().len(), row.levels.len());
        for (have, want) in levels.all().iter().zip(&row.levels) {
            assert!((have - want).abs() < 1e-6, "{} {} {}: {have} {want}", row.sampler, row.steps, row.shift);
        }
        let mut x = row.start.clone();
        let mut sampler = kind.start(&levels, x.len());
        for k in 0..row.steps {
            let t = levels.all()[k];
            let v: Vec<f64> = x.iter().map(|&x| velocity(x, t)).collect();
            sampler.step(k, &v, &mut x)?;
        }
        for (have, want) in x.iter().zip(&row.end) {
            assert!((have - want).abs() < 1e-5, "{} {} {}: {have} {want}", row.sampler, row.steps, row.shift);
        }
    }
    Ok(())
}
