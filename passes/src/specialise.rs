//! Routes get the task's answers (SPEC 5); outputs that the task does not want go.
//!
//! What becomes unused is left to [`crate::dead`]: pruning needs no rule of its own.

use std::collections::BTreeMap;

use ccl_ir::{Graph, Op, ops};

use crate::error::PassError;
use crate::rebuild::Rebuild;
use crate::record::Record;

/// Answers to route flags.
pub type Answers = BTreeMap<String, bool>;

/// Replaces every route by the way that the task takes.
///
/// # Errors
/// When a route has no answer, or no output is wanted.
pub fn run(graph: &Graph, answers: &Answers, record: &mut Record) -> Result<Graph, PassError> {
    let wanted = wanted(graph, answers)?;
    let mut re = Rebuild::new(&wanted);
    for (id, node) in wanted.iter() {
        let Op::Route(route) = &node.op else {
            re.keep(id).map_err(PassError::ir("specialise"))?;
            continue;
        };
        let yes = answer(answers, &route.flag, &node.at)?;
        let taken = re.get(node.inputs[usize::from(!yes)]);
        re.replace(id, taken);
        let reason = format!("`{}` is {} for this task", route.flag, if yes { "true" } else { "false" });
        record.applied("specialise", "route", &node.at, reason, 0, 0);
    }
    for o in &graph.outputs {
        if !wanted.outputs.iter().any(|w| w.name == o.name) {
            let flag = o.wanted_if.as_deref().unwrap_or_default();
            record.applied("specialise", "output", &o.name, format!("not wanted: `{flag}` is false"), 0, 0);
        }
    }
    let mut out = re.finish();
    out.outputs.iter_mut().for_each(|o| o.wanted_if = None);
    Ok(out)
}

/// The same graph with answers written into its routes and unwanted outputs removed: what specialisation starts from,
/// in a form that can be evaluated.
///
/// # Errors
/// When a route has no answer, or no output is wanted.
pub fn answered(graph: &Graph, answers: &Answers) -> Result<Graph, PassError> {
    let wanted = wanted(graph, answers)?;
    let mut re = Rebuild::new(&wanted);
    for (id, node) in wanted.iter() {
        match &node.op {
            Op::Route(route) => {
                let yes = answer(answers, &route.flag, &node.at)?;
                let op = ops::Route { flag: route.flag.clone(), answer: Some(yes) };
                let inputs = re.inputs(node);
                re.put(id, op.into(), &inputs)
            }
            _ => re.keep(id),
        }
        .map_err(PassError::ir("specialise"))?;
    }
    Ok(re.finish())
}

fn answer(answers: &Answers, flag: &str, at: &str) -> Result<bool, PassError> {
    answers.get(flag).copied().ok_or_else(|| PassError::Unanswered { flag: flag.into(), at: at.into() })
}

fn wanted(graph: &Graph, answers: &Answers) -> Result<Graph, PassError> {
    let mut out = graph.clone();
    out.outputs.clear();
    for o in &graph.outputs {
        let keep = match &o.wanted_if {
            Some(flag) => answer(answers, flag, &o.name)?,
            None => true,
        };
        if keep {
            out.outputs.push(o.clone());
        }
    }
    if out.outputs.is_empty() {
        return Err(PassError::NoOutputs(graph.name.clone()));
    }
    Ok(out)
}
