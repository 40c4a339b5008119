//! The search for a cheap choice: rewrites are tried one by one and in pairs, from the region as it was and from a bottom-up guess.

use egg::Id;

use super::super::language::{Move, Term};
use super::{Choice, Prices, Total};

/// Rounds over all rewrites.
const ROUNDS: usize = 6;
/// Rewrites up to which pairs are tried too: one may pay only after another that does not pay by itself.
const PAIRS: usize = 40;

/// Terms that take the place of others: classes, and which of their terms.
type Picks = Vec<(usize, usize)>;

/// A choice with some terms in the place of others.
fn with(choice: &Choice, picks: &Picks) -> Choice {
    let mut out = choice.clone();
    picks.iter().for_each(|&(class, n)| out[class] = n);
    out
}

/// Whether some terms change what a choice computes, and with it what it costs.
fn changes(choice: &Choice, computed: &[bool], picks: &Picks) -> bool {
    picks.iter().any(|&(class, n)| computed[class] && choice[class] != n)
}

impl Prices<'_> {
    /// The terms that a rewrite takes.
    fn picks(&self, found: &Move) -> Picks {
        let pick = |(id, term): &(Id, Term)| {
            let class = self.class(*id);
            Some((class, self.position(class, term)?))
        };
        found.picks.iter().filter_map(pick).collect()
    }

    /// The choice with a rewrite applied.
    pub fn with(&self, choice: &Choice, found: &Move) -> Choice {
        with(choice, &self.picks(found))
    }

    /// The cheapest choice found, and its price; `start` must have one.
    pub fn cheapest(&self, start: Choice, before: Total, moves: &[Move]) -> (Choice, Total) {
        let moves: Vec<Picks> = moves.iter().map(|found| self.picks(found)).collect();
        let mut best = self.climb(start, before, &moves);
        let guess = self.bottom_up();
        if let Ok(price) = self.price(&guess) {
            let other = self.climb(guess, price, &moves);
            if other.1.cost < best.1.cost {
                best = other;
            }
        }
        best
    }

    /// Applies rewrites, alone and in pairs, as long as one makes the choice cheaper.
    fn climb(&self, choice: Choice, total: Total, moves: &[Picks]) -> (Choice, Total) {
        let mut best = (choice, total);
        let better = |candidate: Choice, best: &mut (Choice, Total)| match self.price(&candidate) {
            Ok(price) if price.cost < best.1.cost => {
                *best = (candidate, price);
                true
            }
            _ => false,
        };
        for _ in 0..ROUNDS {
            let mut improved = false;
            let mut computed = self.computed(&best.0);
            for found in moves {
                if changes(&best.0, &computed, found) && better(with(&best.0, found), &mut best) {
                    improved = true;
                    computed = self.computed(&best.0);
                }
            }
            if !improved && moves.len() <= PAIRS {
                for (i, first) in moves.iter().enumerate() {
                    let one = with(&best.0, first);
                    // As long as it is no better by itself, neither is what adds nothing to it.
                    let alone = !self.price(&one).is_ok_and(|price| price.cost < best.1.cost);
                    let computed = self.computed(&one);
                    for second in moves.iter().skip(i + 1) {
                        if !alone || changes(&one, &computed, second) {
                            improved |= better(with(&one, second), &mut best);
                        }
                    }
                }
            }
            if !improved {
                break;
            }
        }
        best
    }

    /// Which classes a choice computes; all where it cannot be computed.
    fn computed(&self, choice: &Choice) -> Vec<bool> {
        let Ok(order) = self.order(choice) else { return vec![true; self.classes.len()] };
        let mut computed = vec![false; self.classes.len()];
        order.into_iter().for_each(|class| computed[class] = true);
        computed
    }

    /// For each class the term whose operands' DAG is cheapest, as far as one walk up can tell: sets of classes are joined, so that what
    /// the operands of one term share counts once.
    fn bottom_up(&self) -> Choice {
        let words = self.classes.len().div_ceil(64);
        let own = |class: usize, n: usize| {
            let node = &self.classes[class].nodes[n];
            u128::from(node.picoseconds) * self.weight(self.classes[class].binding)
        };
        let mut best: Vec<Option<(u128, Vec<u64>, usize)>> = vec![None; self.classes.len()];
        for _ in 0..self.classes.len() {
            let mut changed = false;
            for (class, c) in self.classes.iter().enumerate() {
                for (n, node) in c.nodes.iter().enumerate() {
                    let mut set = vec![0u64; words];
                    let known = node.children.iter().all(|&child| match &best[child] {
                        Some((_, below, _)) => {
                            set.iter_mut().zip(below).for_each(|(a, b)| *a |= b);
                            true
                        }
                        None => false,
                    });
                    if !known || set[class / 64] >> (class % 64) & 1 == 1 {
                        continue;
                    }
                    let mut cost = own(class, n);
                    for (word, &bits) in set.iter().enumerate() {
                        let mut bits = bits;
                        while bits != 0 {
                            let member = word * 64 + bits.trailing_zeros() as usize;
                            bits &= bits - 1;
                            cost += best[member].as_ref().map_or(0, |(_, _, n)| own(member, *n));
                        }
                    }
                    if best[class].as_ref().is_none_or(|(known, ..)| cost < *known) {
                        set[class / 64] |= 1 << (class % 64);
                        best[class] = Some((cost, set, n));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        best.into_iter().map(|b| b.map_or(0, |(_, _, n)| n)).collect()
    }
}
