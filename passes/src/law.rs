//! The law of each rule, for people: why a rewrite leaves the result as it was.

use crate::algebra;

/// The law of a rule, by the names in its events; `None` for a rule that has none here.
pub fn law(pass: &str, rule: &str) -> Option<&'static str> {
    // The rules of the algebra have theirs with them.
    if let Some(rule) = algebra::rules::named(rule).filter(|_| pass == "algebra") {
        return Some(rule.law);
    }
    LAWS.iter().find(|(p, r, _)| *p == pass && *r == rule).map(|(_, _, law)| *law)
}

/// Pass, rule, law.
const LAWS: &[(&str, &str, &str)] = &[
    ("specialise", "route", "route(true, a, b) = a,  route(false, a, b) = b"),
    ("specialise", "output", "a result that nobody asks for need not be computed"),
    ("dead", "dead code", "a value that no result depends on need not be computed"),
    ("dead", "dead weight", "a weight that nothing reads need not be loaded"),
    ("dead", "dead input", "an input that nothing reads need not be given"),
    ("simplify", "same shape", "reshape(x) = x where the shape stays"),
    ("simplify", "reshape of reshape", "reshape(reshape(x)) = reshape(x)"),
    ("simplify", "same order", "transpose(x) = x for the identity permutation"),
    ("simplify", "transpose of transpose", "transpose_p(transpose_q(x)) = transpose_{q∘p}(x)"),
    ("simplify", "whole slice", "slice(x) = x where it takes everything"),
    ("simplify", "concat of one", "concat(x) = x"),
    ("simplify", "same type", "cast(x) = x where the type stays"),
    ("simplify", "constant", "f(constant) is a constant"),
    ("simplify", "neutral operand", "x + 0 = x,  x − 0 = x,  x · 1 = x"),
    ("simplify", "difference with itself", "x − x = 0"),
    ("simplify", "times zero", "x · 0 = 0 for finite x"),
    ("cse", "same value", "equal operators on equal inputs have equal results"),
    ("cse", "equal work of guidance passes", "equal operators on equal inputs have equal results, whichever pass asks"),
    (
        "raise",
        "PartitionedContextAttention",
        "softmax(q · [gather(k), ck]ᵀ + mask) · [gather(v), cv] = attention over the window's keys in place, context first",
    ),
    ("raise", "NormModulate", "LN(x) · (1 + scale) + shift = NormModulate(x, shift, scale)"),
    ("raise", "RmsNormRope", "rope(heads(rms(x))) = RmsNormRope(x)"),
    ("dead", "dead state", "a state that nothing reads need not be kept"),
    ("differentiate", "gradient", "∂L/∂x = Σ over the readers y of x of (∂L/∂y) · (∂y/∂x)"),
    ("optimise", "update", "p' = p − rate · step(m, v, g), written over p when nobody reads p any more"),
    ("rematerialise", "block", "f(x) = f(x): computed again, not kept"),
    ("algebra", "saturate", "of programs that are equal by the rules' laws, the cheapest is taken"),
    ("hoist", "time from the schedule", "t of step k = row k of the schedule"),
    ("hoist", "row choice sinks", "f(row k of S) = row k of f(S) for every f that treats rows alike"),
    ("hoist", "sums of a row together", "(a + r, b + r, ..) = (a, b, ..) + r"),
    ("bind", "to load", "a value that depends on weights alone is the same in every clip"),
    ("bind", "to prologue", "a value that no noisy latent enters is the same in every step"),
    ("bind", "to epilogue", "a value that no step reads can wait until the loop is over"),
    ("fuse", "chain", "g(f(x)) element by element = (g ∘ f)(x)"),
    ("fuse", "epilogue", "f(x · Wᵀ + b) element by element, before the product leaves the cache"),
    ("fuse", "sum", "Σ f(x): what is summed is never stored"),
    ("precision", "cast", "tokens are stored in the matrices' type; arithmetic stays f32"),
    ("split", "keys", "softmax over K₁ ∪ K₂ = (e^{l₁} o₁ + e^{l₂} o₂) / (e^{l₁} + e^{l₂})"),
    ("layout", "copy", "copy(x) = x, packed as the kernel wants it"),
    ("schedule", "program order", "any order in which values are computed before they are read gives the same result"),
    ("schedule", "depth first", "any order in which values are computed before they are read gives the same result"),
];
