//! What comes of a region: nodes in its place, what was rewritten, and why other rewrites were not taken.

use std::collections::BTreeSet;

use ccl_ir::{Op, Work};

use super::extract::{Choice, Prices, Total, Unpriced};
use super::language::{Kind, Move};
use super::region::{Plain, Ref};
use super::rules::Rule;
use super::saturate::{Built, Chosen, choose};
use super::{Choose, Settings};

/// What takes a region's place.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// The new nodes, and where the old outputs went; `None`: the region stays as it is.
    pub recipe: Option<Recipe>,
    /// What was done, and what was not.
    pub notes: Vec<Note>,
    /// E-nodes of the saturated e-graph.
    pub terms: usize,
}

/// New nodes for a region.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// Operators with operands, and the old node in whose place in the model they stand.
    pub nodes: Vec<(Op, Vec<Ref>, u32)>,
    /// For every output of the region, in order, what takes its place.
    pub outputs: Vec<Ref>,
}

/// A rewrite, or a refusal, in terms of the region.
#[derive(Clone, Debug)]
pub(super) struct Note {
    /// Name of the rule.
    pub rule: &'static str,
    /// The old node where.
    pub origin: u32,
    /// Whether it was applied.
    pub applied: bool,
    /// Why, or why not.
    pub reason: String,
    /// Change of work in each step and once per clip.
    pub flops: i64,
    /// Change of memory traffic.
    pub bytes: i64,
}

/// What takes a region's place under these settings.
pub(super) fn outcome(plain: &Plain, settings: &Settings) -> Outcome {
    // An original region always has a price; should it not, it stays as it is.
    let Ok(found) = choose(plain, &settings.rules, settings) else { return Outcome::default() };
    let built = &found.built;
    let prices = Prices::new(&built.region, plain, &built.outputs, &settings.cost, u64::MAX);
    let taken = settings.choose == Choose::Always || found.total.cost < found.before.cost;
    let recipe = taken.then(|| recipe(plain, built, &prices, &found.choice)).flatten();
    let mut notes = Vec::new();
    let mut applied = BTreeSet::new();
    if recipe.is_some() {
        let moves = &built.region.analysis.moves;
        let used = prices.used(&found.choice, &built.originals, moves);
        for (n, rule) in settings.rules.iter().enumerate() {
            let of_rule: Vec<&Move> = used.iter().map(|&i| &moves[i]).filter(|m| m.rule == n).collect();
            if of_rule.is_empty() {
                continue;
            }
            let without: Vec<Rule> = settings.rules.iter().filter(|r| r.name != rule.name).copied().collect();
            let other = match settings.choose {
                Choose::Cheapest => choose(plain, &without, settings).map_or(found.before, |c| c.total),
                Choose::Always => found.before,
            };
            let note = note(plain, rule, &of_rule, &found, other);
            // A rewrite that others make unnecessary is not worth a line.
            if settings.choose == Choose::Always || other.cost > found.total.cost {
                notes.push(note);
            }
            applied.insert(n);
        }
    }
    let limited = Prices::new(
        &built.region,
        plain,
        &built.outputs,
        &settings.cost,
        found.before.kept + (plain.weight_bytes() as f64 * settings.keep_share) as u64,
    );
    refusals(plain, &limited, &found, settings, &applied, &mut notes);
    if found.full {
        notes.push(Note {
            rule: "saturate",
            origin: 0,
            applied: false,
            reason: format!("stopped at {} terms", built.region.total_size()),
            flops: 0,
            bytes: 0,
        });
    }
    Outcome { recipe, notes, terms: built.region.total_size() }
}

fn note(plain: &Plain, rule: &Rule, used: &[&Move], found: &Chosen, other: Total) -> Note {
    let (built, first, places) = (&found.built, used[0], used.len());
    let mut reason = rule.law.to_string();
    if !first.said.is_empty() {
        reason = format!("{}; {reason}", first.said);
    }
    if places > 1 {
        reason = format!("{reason} ({places} places)");
    }
    let saved = (other.cost as f64 - found.total.cost as f64) / crate::cost::SCALE as f64 / 1e6;
    reason = format!("{reason}: {saved:.3} us {} by the cost model", plain.step());
    let delta = |now: u64, then: u64| now as i64 - then as i64;
    Note {
        rule: rule.name,
        origin: built.region[first.root].data.origin,
        applied: true,
        reason,
        flops: delta(found.total.work.flops, other.work.flops),
        bytes: delta(found.total.work.bytes, other.work.bytes),
    }
}

/// Why rules that found something were not used.
fn refusals(
    plain: &Plain,
    prices: &Prices,
    found: &Chosen,
    settings: &Settings,
    applied: &BTreeSet<usize>,
    notes: &mut Vec<Note>,
) {
    let known = &found.built.region.analysis;
    for (n, rule) in settings.rules.iter().enumerate().filter(|(n, _)| !applied.contains(n)) {
        let mut told = BTreeSet::new();
        let mut refuse = |origin: u32, reason: String| {
            if told.insert(origin) {
                notes.push(Note { rule: rule.name, origin, applied: false, reason, flops: 0, bytes: 0 });
            }
        };
        for m in known.moves.iter().filter(|m| m.rule == n) {
            let candidate = prices.with(&found.choice, m);
            let said = if m.said.is_empty() { String::new() } else { format!("{}; ", m.said) };
            let reason = match prices.price(&candidate) {
                Ok(price) if price.cost > found.total.cost => {
                    let more = (price.cost - found.total.cost) as f64 / crate::cost::SCALE as f64 / 1e6;
                    format!(
                        "{said}would take {more:.3} us more {} by the cost model ({})",
                        plain.step(),
                        change(price.work, found.total.work)
                    )
                }
                Err(Unpriced::Kept(bytes)) => {
                    let share = settings.keep_share;
                    format!("{said}would keep {bytes} bytes of folded weights, more than {share} of the weights")
                }
                Err(Unpriced::Learns) => format!("{said}other parameters would get a gradient"),
                Err(Unpriced::NoGradient(op)) => format!("{said}a gradient would have to go through {op}"),
                _ => continue,
            };
            refuse(found.built.region[m.root].data.origin, reason);
        }
        for (_, origin, reason) in known.refusals.iter().filter(|(rule, ..)| *rule == n) {
            refuse(*origin, reason.clone());
        }
    }
}

fn change(now: Work, then: Work) -> String {
    format!("{:+} flops, {:+} bytes", now.flops as i128 - then.flops as i128, now.bytes as i128 - then.bytes as i128)
}

/// The chosen terms as nodes.
fn recipe(plain: &Plain, built: &Built, prices: &Prices, choice: &Choice) -> Option<Recipe> {
    let mut out = Recipe { nodes: Vec::new(), outputs: Vec::new() };
    let order = prices.order(choice).ok()?;
    let mut places: Vec<Option<Ref>> = vec![None; order.iter().max().map_or(0, |m| m + 1)];
    for class in order {
        let (kind, children, _) = prices.chosen(choice, class);
        places[class] = Some(match kind {
            Kind::Leaf(n) => Ref::Leaf(n),
            Kind::Port(p) => match places[children[0]]? {
                Ref::Node(n, _) => Ref::Node(n, p),
                leaf => leaf,
            },
            Kind::Op(n) => {
                let inputs = children.iter().map(|&c| places[c]).collect::<Option<Vec<Ref>>>()?;
                let origin = prices.origin(class).min(plain.nodes.len() as u32 - 1);
                out.nodes.push((built.region.analysis.ops[n as usize].clone(), inputs, origin));
                Ref::Node(out.nodes.len() as u32 - 1, 0)
            }
        });
    }
    out.outputs = prices.outputs().iter().map(|&c| places[c]).collect::<Option<Vec<Ref>>>()?;
    Some(out)
}
