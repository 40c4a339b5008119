//! The roofline: work for a byte against work a second, both logarithmic.

use ccl_ir::{Binding, Plan};
use maud::{Markup, html};

use super::super::cost::Machine;
use super::super::kernels::{Kernel, kernels};
use super::super::trace::Trace;
use super::super::units::{human_rate, human_seconds, percent};
use super::Section;
use super::kernels::estimates;
use super::parts::{kind, legend};

/// A dot.
struct Dot {
    kernel: Kernel,
    /// FLOPs a byte.
    intensity: f64,
    /// FLOPs a second.
    rate: f64,
    seconds: f64,
    share: f64,
    measured: bool,
}

/// The section.
pub fn section(plan: &Plan, machine: &Machine, trace: Option<&Trace>) -> Section {
    let lead = html! {
        "How much a kernel computes for each byte it moves, and how fast. The roof is what " (machine.spec.name) " can do: "
        (human_rate(machine.bytes_per_s(), "B/s")) " on the slope, " (human_rate(machine.flops_per_s(), "FLOP/s")) " on the flat. "
        "A dot's area is its share of the time; filled is the step, open what runs once. "
        @if trace.is_some() {
            "Measured kernels lie where the trace puts them; the roof is the target's, which may not be the machine that ran it."
        } @else {
            "Without measured times (" code { "ccl bench step --trace F" } ", " code { "ccl explain --trace F" }
            ") the estimate puts every dot just under the roof."
        }
    };
    let (dots, without, rest) = dots(plan, machine, trace);
    let body = html! {
        @if dots.is_empty() { p.empty { "No kernel of this plan does counted work." } }
        @else {
            (plot(&dots, machine))
            (legend(dots.iter().map(|d| d.kernel.name.as_str())))
        }
        @if !without.is_empty() {
            p.note {
                "Not on the plot, for their FLOPs are not counted: " (without.join(", ")) "; " (percent(rest))
                " of the step's time."
            }
        }
    };
    Section { id: "roofline", title: "Roofline", lead, body }
}

/// Dots, names of the step's kernels without counted work, and their share of its time.
fn dots(plan: &Plan, machine: &Machine, trace: Option<&Trace>) -> (Vec<Dot>, Vec<String>, f64) {
    let (mut dots, mut without, mut rest) = (Vec::new(), Vec::new(), 0.0);
    for entry in [Binding::Prologue, Binding::Step] {
        let estimates = estimates(plan, entry, machine);
        let here: Vec<Kernel> = kernels(plan).into_iter().filter(|k| k.entry == entry).collect();
        let time = |k: &Kernel| match trace.and_then(|t| t.seconds(entry, &k.name)) {
            Some(s) => (s, true),
            None => (estimates.get(k.name.as_str()).map_or(0.0, |e| e.0), false),
        };
        let total: f64 = here.iter().map(|k| time(k).0).sum();
        for kernel in here {
            let (seconds, measured) = time(&kernel);
            let share = if total > 0.0 { seconds / total } else { 0.0 };
            if kernel.flops > 0 && seconds > 0.0 {
                let intensity = kernel.flops as f64 / kernel.bytes.max(1) as f64;
                let rate = kernel.flops as f64 / seconds;
                dots.push(Dot { kernel, intensity, rate, seconds, share, measured });
            } else if entry == Binding::Step {
                without.push(kernel.name);
                rest += share;
            }
        }
    }
    (dots, without, rest)
}

/// Whole powers of ten around some numbers.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (low, high.max(low + 1))
}

fn plot(dots: &[Dot], machine: &Machine) -> Markup {
    let ridge = machine.ridge();
    let x = decades(dots.iter().map(|d| d.intensity).chain([ridge / 20.0, ridge * 20.0]));
    let low = 10f64.powi(x.0) * machine.bytes_per_s();
    let y = decades(dots.iter().map(|d| d.rate).chain([low, 1.2 * machine.flops_per_s()]));
    let place = |v: f64, (low, high): (i32, i32)| 100.0 * (v.log10() - f64::from(low)) / f64::from(high - low);
    let across = |v: f64| format!("{:.2}%", place(v, x));
    let up = |v: f64| format!("{:.2}%", 100.0 - place(v, y));
    let tick = |range: (i32, i32)| (range.0..=range.1).map(|p| 10f64.powi(p));
    html! {
        figure.roofline {
            div.plot {
                svg role="img" aria-label="roofline" {
                    @for v in tick(x) { line.grid x1=(across(v)) x2=(across(v)) y1="0" y2="100%" {} }
                    @for v in tick(y) { line.grid x1="0" x2="100%" y1=(up(v)) y2=(up(v)) {} }
                    line.roof x1="0" y1=(up(low)) x2=(across(ridge)) y2=(up(machine.flops_per_s())) {}
                    line.roof x1=(across(ridge)) y1=(up(machine.flops_per_s())) x2="100%" y2=(up(machine.flops_per_s())) {}
                    @for d in dots {
                        circle class={ (kind(&d.kernel.name).0) @if d.kernel.entry != Binding::Step { " open" } }
                            cx=(across(d.intensity)) cy=(up(d.rate)) r=(format!("{:.1}", radius(d))) { title { (describe(d)) } }
                    }
                    @for d in dots.iter().filter(|d| d.kernel.entry == Binding::Step) {
                        @let (anchor, dx) = beside(d, place(d.intensity, x));
                        text x=(across(d.intensity)) y=(up(d.rate)) dx=(dx) dy=(if d.measured { "4" } else { "18" }) text-anchor=(anchor) { (d.kernel.name.replace('_', " ")) }
                    }
                }
                @for v in tick(y) { span.ylabel style={ "top:" (up(v)) } { (human_rate(v, "FLOP/s")) } }
                @for v in tick(x) { span.xlabel style={ "left:" (across(v)) } { (axis(v)) } }
            }
            figcaption { output.tip aria-live="polite" { "FLOP for each byte" } }
        }
    }
}

/// Which end of a label is at its dot, and how many pixels from it: to the right, where there is room. Labels of dots on the
/// roof, the estimated ones, are a little lower, so that the line does not run through them.
fn beside(d: &Dot, percent: f64) -> (&'static str, String) {
    let away = radius(d) + 5.0;
    if percent < 60.0 { ("start", format!("{away:.0}")) } else { ("end", format!("-{away:.0}")) }
}

/// Radius of a dot in pixels: the area grows with the share of the time.
fn radius(d: &Dot) -> f64 {
    4.0 + 14.0 * d.share.sqrt()
}

/// A power of ten on the axis.
fn axis(v: f64) -> String {
    if v >= 1000.0 { format!("{:.0}k", v / 1000.0) } else { format!("{v}") }
}

fn describe(d: &Dot) -> String {
    let how = if d.measured { "measured" } else { "about" };
    format!(
        "{} {} · {:.0} FLOP/B · {} · {how} {} · {} of the {}",
        d.kernel.entry,
        d.kernel.name,
        d.intensity,
        human_rate(d.rate, "FLOP/s"),
        human_seconds(d.seconds),
        percent(d.share),
        d.kernel.entry
    )
}
