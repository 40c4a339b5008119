//! What a training step is made of: forward pass, what is computed again, backward pass and update, stream by stream.
//!
//! Everything is read off the plan's calls: the passes leave a mark in front of the path of what they add.

use std::collections::BTreeMap;

use ccl_ir::plan::{Again, Call};
use ccl_ir::{Event, Plan, Work};
use ccl_passes::differentiate::LOSS_SCALE;
use ccl_runtime::device::human_bytes;
use serde::Serialize;

use super::units::{human_flops, percent};

/// A part of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From the batch to the loss.
    Forward,
    /// Values of the forward pass that are computed once more for the backward pass.
    Again,
    /// From the loss to the gradients.
    Backward,
    /// From the gradients to the next parameters.
    Update,
}

impl Phase {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Again => "computed again",
            Phase::Backward => "backward",
            Phase::Update => "update",
        }
    }
}

/// Work of one phase in one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The phase.
    pub phase: Phase,
    /// `video`, `audio`, or `loss` for what is neither's.
    pub stream: String,
    /// Number of calls.
    pub calls: usize,
    /// Floating point operations.
    pub flops: u64,
    /// Bytes moved.
    pub bytes: u64,
}

/// What the report of a training step says beside that of any plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Training {
    /// Phases in order, and in each the streams.
    pub shares: Vec<Share>,
    /// Streams that are computed and have no backward pass: references, which are read and not learnt.
    pub without_backward: Vec<String>,
    /// What computing blocks again costs and saves, where there is a budget of memory.
    pub rematerialised: Option<Rematerialised>,
    /// What the passes that make a training step of a loss did, in their words.
    pub passes: Vec<String>,
}

/// What computing blocks again for their backward pass comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rematerialised {
    /// Blocks that are computed again.
    pub blocks: usize,
    /// Blocks of the model.
    pub of: usize,
    /// Bytes that the plan may take.
    pub budget: u64,
    /// FLOPs that are done twice.
    pub cost_flops: u64,
    /// Bytes of memory less at the peak.
    pub saved_peak_bytes: u64,
    /// FLOPs of the step that keeps everything.
    pub kept_flops: u64,
    /// Memory of the step that keeps everything.
    pub kept_peak_bytes: u64,
}

impl Rematerialised {
    fn new(plan: &Plan, again: Again) -> Self {
        let flops: u64 = plan.report.flops.values().sum();
        Self {
            blocks: again.blocks,
            of: again.of,
            budget: again.budget,
            cost_flops: flops.saturating_sub(again.kept_flops),
            saved_peak_bytes: again.kept_peak_bytes.saturating_sub(plan.report.peak_bytes),
            kept_flops: again.kept_flops,
            kept_peak_bytes: again.kept_peak_bytes,
        }
    }

    /// In a sentence, for people.
    pub fn sentence(&self) -> String {
        let [budget, kept] = [self.budget, self.kept_peak_bytes].map(human_bytes);
        if self.blocks == 0 {
            return format!("nothing is computed again: the step takes {kept} and the budget is {budget}");
        }
        let share = self.cost_flops as f64 / self.kept_flops.max(1) as f64;
        format!(
            "{} of {} blocks are computed again to fit {budget}: {} more work ({}), {} less memory at the peak than the {kept} of \
             keeping everything",
            self.blocks,
            self.of,
            human_flops(self.cost_flops),
            percent(share),
            human_bytes(self.saved_peak_bytes)
        )
    }
}

/// Phase and stream of a call, by its path.
fn place(at: &str) -> (Phase, &'static str) {
    let marks =
        [("again/", Phase::Again), ("grad/", Phase::Backward), ("adam/", Phase::Update), ("ema/", Phase::Update)];
    let marked = marks.iter().find_map(|(mark, phase)| Some((*phase, at.strip_prefix(mark)?)));
    let (phase, path) = marked.unwrap_or((Phase::Forward, at));
    // A guidance pass stands before the stream; parameters have none.
    let path = path.split_once('/').map_or(path, |(_, rest)| rest);
    let stream =
        ["video", "audio"].into_iter().find(|s| path.strip_prefix(s).is_some_and(|rest| rest.starts_with('.')));
    (phase, stream.unwrap_or("loss"))
}

/// Whether a pass makes a training step of a loss.
fn trains(e: &Event) -> bool {
    matches!(e.pass.as_str(), "differentiate" | "optimise")
}

impl Training {
    /// What a plan says of training; `None` where it has no gradients.
    pub fn of(plan: &Plan) -> Option<Self> {
        plan.input(LOSS_SCALE)?;
        let mut sums: BTreeMap<(Phase, &str), (usize, Work)> = BTreeMap::new();
        for call in plan.entries.values().flatten() {
            let (calls, work) = sums.entry(place(&call.at)).or_default();
            *calls += 1;
            *work = *work + Call::work(call);
        }
        let of = |stream: &str, phase| sums.keys().any(|&(p, s)| p == phase && s == stream);
        let without = ["video", "audio"].into_iter().filter(|s| of(s, Phase::Forward) && !of(s, Phase::Backward));
        let without_backward = without.map(str::to_owned).collect();
        let share = |((phase, stream), (calls, work)): ((Phase, &str), (usize, Work))| Share {
            phase,
            stream: stream.into(),
            calls,
            flops: work.flops,
            bytes: work.bytes,
        };
        let told = plan.report.events.iter().filter(|e| trains(e)).map(|e| format!("{}: {}", e.pass, e.reason));
        Some(Self {
            passes: told.collect(),
            without_backward,
            rematerialised: plan.report.again.map(|again| Rematerialised::new(plan, again)),
            shares: sums.into_iter().map(share).collect(),
        })
    }

    /// The streams, in the order of the shares.
    pub fn streams(&self) -> Vec<&str> {
        ["video", "audio", "loss"].into_iter().filter(|s| self.shares.iter().any(|share| share.stream == *s)).collect()
    }

    /// The share of a phase in a stream.
    pub fn share(&self, phase: Phase, stream: &str) -> Option<&Share> {
        self.shares.iter().find(|s| s.phase == phase && s.stream == stream)
    }

    /// The phases that the plan has.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases: Vec<Phase> = self.shares.iter().map(|s| s.phase).collect();
        phases.dedup();
        phases
    }

    /// What to say of streams without a backward pass.
    pub fn sentences(&self) -> Vec<String> {
        let of_stream = |s: &String| {
            format!("the {s} stream has no backward pass: it is the reference, which is read and not learnt")
        };
        let again = self.rematerialised.iter().map(Rematerialised::sentence);
        self.passes.iter().cloned().chain(self.without_backward.iter().map(of_stream)).chain(again).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_phase_and_stream() {
        let cases = [
            ("cond/video.blocks.3.cca.q", Phase::Forward, "video"),
            ("again/cond/audio.blocks.3.ffn", Phase::Again, "audio"),
            ("grad/cond/audio.blocks.0.self_attn", Phase::Backward, "audio"),
            ("grad/loss.video", Phase::Backward, "loss"),
            ("adam/video.head.head.weight", Phase::Update, "video"),
            ("ema/audio.head.head.weight", Phase::Update, "audio"),
            ("loss", Phase::Forward, "loss"),
        ];
        for (at, phase, stream) in cases {
            assert_eq!(place(at), (phase, stream), "{at}");
        }
    }
}
