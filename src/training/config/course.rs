//! The course of a training: rates and averages by step, and the groups of parameters that they are for.

use super::{Group, Schedule, TrainConfig};

impl TrainConfig {
    /// Rates of the groups at full height, those of no group last, each with its weight decay.
    pub fn groups(&self) -> Vec<(f64, f64)> {
        let o = &self.optimiser;
        let own = |g: &Group| (g.lr.unwrap_or(o.lr), g.weight_decay.unwrap_or(o.weight_decay));
        o.groups.iter().map(own).chain([(o.lr, o.weight_decay)]).collect()
    }

    /// The share of the full rate at a step; steps count from 1.
    pub fn rate_at(&self, step: u64) -> f64 {
        let o = &self.optimiser;
        let rise = if o.warmup == 0 { 1.0 } else { (step as f64 / o.warmup as f64).min(1.0) };
        let (at, stop) = (step as f64, o.decay_from * self.train.steps as f64);
        if o.schedule == Schedule::Constant || at < stop {
            return rise;
        }
        let done = ((at - stop) / (self.train.steps as f64 - stop).max(1.0)).min(1.0);
        rise * (o.decay_to + (1.0 - o.decay_to) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
    }

    /// How far the average moves towards the parameters of a step; steps count from 1.
    pub fn average_at(&self, step: u64) -> f64 {
        let step = step as f64;
        1.0 - self.ema.decay.min((1.0 + step) / (10.0 + step))
    }
}

/// Whether a name fits a pattern, in which `*` stands for any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|i| rest.get(i..).is_some_and(|end| matches(tail, end)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::config::tests::config;

    #[test]
    fn patterns() {
        let name = "video.blocks.0.cca.q.weight";
        for pattern in ["*", "*.cca.*", "video.*", "*weight", "video.blocks.0.cca.q.weight", "*cca*q*"] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["", "cca", "audio.*", "*.cca", "*q*cca*"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }

    #[test]
    fn rates() {
        let c = config(
            "train.steps = 1000\n[optimiser]\nwarmup = 10\nschedule = \"cosine\"\ndecay_from = 0.6\ndecay_to = 0.05",
        );
        let want = [(1, 0.1), (10, 1.0), (599, 1.0), (600, 1.0), (800, 0.525), (1000, 0.05)];
        for (step, rate) in want {
            assert!((c.rate_at(step) - rate).abs() < 1e-12, "{step}: {}", c.rate_at(step));
        }
        assert_eq!(config("optimiser.warmup = 0").rate_at(1), 1.0);
        assert!((config("ema.decay = 0.5").average_at(1) - 9.0 / 11.0).abs() < 1e-12);
        assert_eq!(config("ema.decay = 0.5").average_at(100), 0.5);
    }
}
