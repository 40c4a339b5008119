//! Measured times of a step's calls, as a file: `bench step --trace F` writes it, `explain --trace F` reads it.

use std::path::Path;

use ccl_ir::{Binding, DType, Plan};
use ccl_runtime::error::one_line;
use ccl_runtime::profile::{CallTime, Copies};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a trace file says it is.
const FORMAT: &str = "ccl trace 1";

/// Times of one step's calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    format: String,
    task: String,
    clip: String,
    batch: usize,
    guidance: String,
    dtype: DType,
    /// What ran it, for people.
    pub device: String,
    /// Median seconds of a whole step that was not traced.
    pub step_s: f64,
    /// Weights that came to the device in the step, where not all stay there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<Copies>,
    /// The calls.
    pub calls: Vec<Time>,
}

/// Time of one call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Entry point of the plan.
    pub entry: Binding,
    /// Position of the call in its entry.
    pub index: usize,
    /// Name of the operator.
    pub op: String,
    /// Model path of the call.
    pub at: String,
    /// Seconds.
    pub seconds: f64,
}

impl Trace {
    /// A trace of calls of a plan.
    pub fn new(plan: &Plan, device: String, step_s: f64, times: &[CallTime], copies: Option<Copies>) -> Self {
        let about = &plan.about;
        let time = |t: &CallTime| Time {
            entry: t.entry,
            index: t.index,
            op: t.op.into(),
            at: t.at.clone(),
            seconds: t.seconds,
        };
        Self {
            format: FORMAT.into(),
            task: about.task.clone(),
            clip: about.clip.clone(),
            batch: about.batch,
            guidance: about.guidance.clone(),
            dtype: about.dtype,
            device,
            step_s,
            copies,
            calls: times.iter().map(time).collect(),
        }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|e| Error::Failed(format!("JSON: {e}")))?;
        Ok(ccl_runtime::write::write_atomic(path, text.as_bytes())?)
    }

    /// Reads a file that [`Trace::save`] wrote for this plan.
    ///
    /// # Errors
    /// When the file is no trace, or one of another plan.
    pub fn load(path: &Path, plan: &Plan) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, &e))?;
        let wrong = |what: String| Error::Failed(format!("{}: {what}", path.display()));
        let trace: Self = serde_json::from_str(&text).map_err(|e| {
            wrong(format!("is no trace ({}): write one with `ccl bench step --trace F`", one_line(&e.to_string())))
        })?;
        trace.matches(plan).map_err(wrong)?;
        Ok(trace)
    }

    /// Whether the trace can be of this plan.
    fn matches(&self, plan: &Plan) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("is `{}`, this program reads `{FORMAT}`: write it again", self.format));
        }
        let about = &plan.about;
        let said = [
            ("task", &self.task, &about.task),
            ("clip", &self.clip, &about.clip),
            ("batch", &self.batch.to_string(), &about.batch.to_string()),
            ("guidance", &self.guidance, &about.guidance),
            ("dtype", &self.dtype.to_string(), &about.dtype.to_string()),
        ];
        if let Some((what, has, wants)) = said.into_iter().find(|(_, has, wants)| has != wants) {
            return Err(format!("is a trace of {what} {has}, the plan's is {wants}"));
        }
        for t in &self.calls {
            let call = plan.calls(t.entry).get(t.index);
            if !call.is_some_and(|c| c.op.name() == t.op && c.at == t.at) {
                let (entry, index) = (t.entry, t.index);
                return Err(format!(
                    "call {index} of {entry} is {} at {}, another in the plan: trace it again, for the plan's target",
                    t.op, t.at
                ));
            }
            if !t.seconds.is_finite() || t.seconds < 0.0 {
                return Err(format!("call {} has no time: {}", t.index, t.seconds));
            }
        }
        let (has, wants) = (self.calls.len(), plan.calls(Binding::Step).len());
        if has != wants {
            return Err(format!("has times of {has} calls, a step of the plan has {wants}"));
        }
        Ok(())
    }

    /// Seconds of all calls of one operator in one entry; `None` where none was timed.
    pub fn seconds(&self, entry: Binding, op: &str) -> Option<f64> {
        let mut of = self.calls.iter().filter(|t| t.entry == entry && t.op == op).peekable();
        of.peek()?;
        Some(of.map(|t| t.seconds).sum())
    }

    /// Seconds of all calls.
    pub fn total(&self) -> f64 {
        self.calls.iter().map(|t| t.seconds).sum()
    }
}
