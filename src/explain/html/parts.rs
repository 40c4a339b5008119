//! Small pieces that several sections use.

use ccl_ir::Binding;
use maud::{Markup, html};

use super::super::units::{change, human_flops, ranges};
pub(crate) use crate::page::{short, table};

/// A text that may break after each separator of a path or a name.
pub fn path(text: &str) -> Markup {
    html! {
        @for (i, piece) in text.split_inclusive(['.', '/', '_']).enumerate() {
            @if i > 0 { wbr; }
            (piece)
        }
    }
}

/// The change between two numbers: less is good.
pub fn delta(before: u64, after: u64) -> Markup {
    let text = change(before, after);
    let class = match after < before {
        _ if text == super::super::units::NEARLY => "soft",
        true => "good",
        false => "bad",
    };
    html! { @if !text.is_empty() { small class=(class) { (text) } } }
}

/// FLOPs, a dash for none.
pub fn flops(n: u64) -> Markup {
    html! { @if n == 0 { span.soft { "–" } } @else { (human_flops(n)) } }
}

/// A signed number that is good when it is negative.
pub fn gain(delta: i64, human: fn(u64) -> String) -> Markup {
    html! {
        @if delta < 0 { span.good { "−" (human(delta.unsigned_abs())) } }
        @else if delta > 0 { span.bad { "+" (human(delta.unsigned_abs())) } }
        @else { span.soft { "–" } }
    }
}

/// The mark of a binding time.
pub fn mark(binding: Binding) -> Markup {
    let (text, why) = match binding {
        Binding::Load => ("once per model", "depends on weights alone"),
        Binding::Prologue => ("once per clip", "does not change from step to step"),
        Binding::Step => ("every step", "depends on the noisy latents"),
        Binding::Epilogue => ("after the loop", "depends on the last step"),
    };
    html! { span class={ "mark " (binding.name()) } title=(why) { (text) } }
}

/// Block numbers: `blocks 0–38`.
pub fn blocks(numbers: &[usize]) -> String {
    match numbers {
        [] => String::new(),
        [n] => format!("block {n}"),
        list => format!("blocks {}", ranges(list)),
    }
}

/// What an operator does, for colours: class of the style sheet and name.
pub fn kind(op: &str) -> (&'static str, &'static str) {
    match op {
        "linear" | "mat_mul" => KINDS[0],
        "attention" | "partitioned_context_attention" | "merge_attention" | "softmax" => KINDS[1],
        "layer_norm" | "rms_norm" | "norm_modulate" | "rms_norm_rope" | "rope" => KINDS[2],
        "unary" | "binary" | "fused" => KINDS[3],
        "copy" | "cast" | "concat" | "index" | "window_gather" | "patchify" | "unpatchify" => KINDS[4],
        _ => KINDS[5],
    }
}

/// Kinds of operators: class and name.
pub const KINDS: [(&str, &str); 6] = [
    ("k0", "products"),
    ("k1", "attention"),
    ("k2", "norms and rotations"),
    ("k3", "elementwise"),
    ("k4", "moves"),
    ("k5", "other"),
];

/// The colours of kinds that occur.
pub fn legend<'a>(ops: impl Iterator<Item = &'a str>) -> Markup {
    let there: std::collections::BTreeSet<_> = ops.map(kind).collect();
    html! {
        ul.legend { @for (class, name) in there { li { i class=(class) {} (name) } } }
    }
}
