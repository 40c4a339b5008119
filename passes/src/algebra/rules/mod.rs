//! The rules: a table, with the law of each.

mod absorb;
mod elementwise;
mod fold;
mod merge;
mod movement;

use ccl_ir::Op;
use egg::Id;
use serde::{Deserialize, Serialize};

use super::site::Site;

/// What a rule may change about a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Every sum is added up in the same order.
    Exact,
    /// Equal over the real numbers; sums are added up in another order, products are rounded elsewhere.
    Reassociating,
    /// Not equal: a result is rounded to a narrower type. Never used without being asked for by name.
    Lossy,
}

/// A directed rewrite.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Name, as on the command line and in events.
    pub name: &'static str,
    /// What it may change.
    pub class: Class,
    /// The law: `left = right`, and where it holds.
    pub law: &'static str,
    /// Whether an operator can be the root of the left side: looked at before `find`.
    pub root: fn(&Op) -> bool,
    /// Finds the left side at a class and adds the right side.
    pub find: fn(&mut Site<'_>, Id),
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?}): {}", self.name, self.class, self.law)
    }
}

/// All rules, in the order in which they are tried.
pub fn all() -> Vec<Rule> {
    [absorb::RULES, merge::RULES, fold::RULES, elementwise::RULES, movement::RULES].concat()
}

/// The rule with this name.
pub fn named(name: &str) -> Option<Rule> {
    all().into_iter().find(|r| r.name == name)
}
