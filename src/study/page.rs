//! The study as one page.

use std::collections::BTreeMap;

use ccl_model::Task;
use maud::{Markup, PreEscaped, html};

use super::arms::Arm;
use super::compare::{By, Claim, ENOUGH, Estimate, METRICS, Verdict, claims, over_seeds};
use super::figures::{GAIN, LOSS, MAP};
use super::results::Results;
use super::{Study, TASKS};
use crate::attention::{Look, Region};
use crate::page::{Section, shell, table};

/// Pictures by file name.
type Figures = BTreeMap<&'static str, String>;

/// The page, of whatever has been found so far.
pub fn page(study: &Study, results: &Results, figures: &Figures) -> String {
    let claims = claims(study, results);
    let sections = [
        arms(study),
        findings(study, &claims),
        sync(study, results),
        losses(study, results, figures),
        attention(results, figures),
        about(study),
    ];
    let head = html! {
        p.kicker { "ccl study" }
        h1 { "What each part teaches the model" }
        p.sentence { (summary(study, results, &claims)) }
    };
    shell("The ablation – ccl study", &head, &sections)
}

fn summary(study: &Study, results: &Results, claims: &[Claim]) -> Markup {
    let (done, of) = (results.measured(), study.arms.len() * study.seeds.len() * TASKS.len());
    let count = |v: Verdict| claims.iter().filter(|c| c.verdict == v).count();
    html! {
        (study.arms.len()) " arms, " (study.seeds.len()) " paired seeds, " (study.clips) " clips sampled for each task. "
        @if done < of { b { (done) " of " (of) " measurements" } " are there; the rest is still to come. " }
        "Of " (claims.len()) " comparisons, " b { (count(Verdict::Shown)) " show the paper's order" }
        " beyond two standard errors, " (count(Verdict::Open)) " are open, "
        (count(Verdict::Reversed)) " show the reverse."
        @if study.seeds.len() < ENOUGH { " With fewer than " (ENOUGH) " seeds nothing is claimed." }
    }
}

fn arms(study: &Study) -> Section {
    let body = table(
        html! { th { "Arm" } th { "What is special" } th { "Model" } },
        html! { @for arm in &study.arms {
            tr { th { (arm.title) } td.why { (arm.about) } td { code { (arm.cross.name()) } } }
        } },
    );
    Section { id: "arms", title: "Arms", lead: html! { "Each adds a part to the one before." }, body }
}

/// One sentence for each comparison.
fn findings(study: &Study, claims: &[Claim]) -> Section {
    let title = |key: &str| study.arms.iter().find(|a| a.key == key).map_or(key.to_owned(), |a| a.title.to_owned());
    let body = table(
        html! { th { "The paper has" } th { "ahead of" } th { "Compared by" } th.n { "Gain" } th { "Verdict" } },
        html! { @for c in claims {
            tr {
                th { (title(c.ahead)) }
                td { (title(c.behind)) }
                td { (c.by) }
                td.n { (signed(&c.gain)) }
                td { (verdict(c)) }
            }
        } },
    );
    let lead = html! {
        "Gains within pairs of one seed: mean ± standard error. An order is claimed from " (ENOUGH)
        " seeds on and beyond two standard errors; where it does not show, this table says so."
    };
    Section { id: "findings", title: "Findings", lead, body }
}

fn verdict(c: &Claim) -> Markup {
    match c.verdict {
        Verdict::Shown => html! { span.good { "shown" } },
        Verdict::Reversed => html! { span.bad { "the reverse shows" } },
        Verdict::Open if c.gain.n < ENOUGH => html! { span.soft { "too few seeds" } },
        Verdict::Open => html! { span.soft { "does not show" } },
    }
}

fn sync(study: &Study, results: &Results) -> Section {
    let body = html! { @for task in TASKS {
        h3 { (task.name()) " " span.soft { (what(task)) } }
        (table(
            html! { th { "Arm" } @for m in &METRICS { th.n { (m.name) } } },
            html! { @for arm in &study.arms { (sync_row(study, results, arm, task)) } },
        ))
    } };
    let lead = html! {
        "Sampled clips that no training saw, measured without any network: impacts of the ball against onsets of its sound. Mean ± standard error "
        "over seeds; below, in small, what pairing every picture with the sound of other clips gives."
    };
    Section { id: "sync", title: "Sync", lead, body }
}

fn what(task: Task) -> &'static str {
    match task {
        Task::Joint => "picture and sound from noise",
        Task::A2v => "picture for a given sound",
        Task::V2a => "sound for a given picture",
        _ => "",
    }
}

fn sync_row(study: &Study, results: &Results, arm: &'static Arm, task: Task) -> Markup {
    html! { tr {
        th { (arm.title) }
        @for m in &METRICS {
            td.n {
                @match over_seeds(study, |seed| (m.value)(results.measures(arm, seed, task)?)) {
                    Some(e) => { (plain(&e)) }
                    None => { span.soft { "–" } }
                }
                @if let Some(e) = over_seeds(study, |seed| (m.chance)(results.measures(arm, seed, task)?)) { small.soft { (format!("{:.3}", e.mean)) } }
            }
        }
    } }
}

/// Tasks whose losses are shown; the last is a control, in which no arm reads the other stream.
const LOSSES: [Task; 4] = [Task::Joint, Task::A2v, Task::V2a, Task::T2av];

fn losses(study: &Study, results: &Results, figures: &Figures) -> Section {
    let trained = |c| study.arms.iter().copied().find(|a| a.cross == c);
    let arms: Vec<&Arm> = study.trained().into_iter().filter_map(trained).collect();
    let rows = |by: fn(Task) -> By| {
        html! { @for arm in &arms { tr {
            th { (arm.title) }
            @for task in LOSSES { td.n {
                @match over_seeds(study, |seed| results.number(arm, seed, by(task))) {
                    Some(e) => { (plain(&e)) }
                    None => { span.soft { "–" } }
                }
            } }
        } } }
    };
    let head = html! { th { "Model of arm" } @for task in LOSSES { th.n { (task.name()) } } };
    let body = html! {
        @if !figures.is_empty() {
            h3 { "In training, last sixth of the steps" }
            (table(head.clone(), rows(By::Loss)))
            h3 { "On held-out clips, averaged parameters" }
            (table(head, rows(By::Held)))
            p.note { "t2av is a control: no arm reads the other stream there, and losses should be equal." }
            (figure(figures, LOSS, "Joint loss, both streams, averaged over steps as the trainer does; band: standard error over seeds."))
            (figure(figures, GAIN, "The same beside arm 1, step by step and seed by seed; below zero is better."))
        } @else { p.empty { "Nothing has been measured yet." } }
    };
    let lead = html! { "Figure 5 of the paper: the joint task's training loss. What the arms of a seed draw alike cancels out in the difference." };
    Section { id: "losses", title: "Losses", lead, body }
}

fn attention(results: &Results, figures: &Figures) -> Section {
    let all = results.attention();
    let of = |region: Region| Estimate::of(&all.values().map(|a| a.mean(region)).collect::<Vec<_>>());
    let body = html! {
        @if all.is_empty() { p.empty { "No model with context tokens has been trained yet." } } @else {
            (table(
                html! { th { "Tokens" } th { "Stream" } th.n { "Share on context" } },
                html! { @for (region, e) in Region::ALL.into_iter().filter_map(|r| Some((r, of(r)?))) {
                    tr { th { (region.name()) } td { (region.stream().name()) } td.n { (plain(&e)) } }
                } },
            ))
            (figure(figures, MAP, &format!("Share of the cross attention's weight on context tokens, of one unseen clip at noise level {}. Above, the clip; triangles mark impacts.", Look::default().level)))
        }
    };
    let lead = html! {
        "Figure 6 of the paper: what has nothing to do with the other stream looks at the learned context, what has, at the other stream. Averages "
        "over heads, blocks and clips."
    };
    Section { id: "attention", title: "Attention", lead, body }
}

fn figure(figures: &Figures, name: &str, caption: &str) -> Markup {
    html! { @if let Some(svg) = figures.get(name) {
        figure.picture { (PreEscaped(svg)) figcaption.soft { (caption) " " code { (name) } } }
    } }
}

fn about(study: &Study) -> Section {
    let t = &study.base.train;
    let o = &study.base.optimiser;
    let seeds: Vec<String> = study.seeds.iter().map(u64::to_string).collect();
    let how = study.evaluation(study.arms[0], Task::Joint);
    let body = html! {
        dl.names {
            dt { "Configuration" } dd { code { (study.file) } }
            dt { "Parameters" } dd { (study.model.parameters()) " with context tokens" }
            dt { "Training" } dd { (t.steps) " steps of " (t.batch) " clips, rate " (o.lr) }
            dt { "Seeds" } dd { (seeds.join(", ")) }
            dt { "Samples" } dd {
                (how.clips) " clips of " (how.rate) " audio tokens, " (how.steps) " Euler steps at shift " (how.shift) ", guidance scale " (how.scale)
            }
        }
        pre { "ccl study --config " (study.file) " --seeds " (study.seeds.len()) " --clips " (study.clips) " --sample-steps " (study.sample_steps) }
    };
    Section { id: "about", title: "About", lead: html! { "How these numbers came to be." }, body }
}

/// `0.953 ± 0.004`.
fn plain(e: &Estimate) -> String {
    let error = e.error.map_or(String::new(), |x| format!(" ± {x:.3}"));
    format!("{:.3}{error}", e.mean)
}

/// The same with a sign.
fn signed(e: &Estimate) -> String {
    let error = e.error.map_or(String::new(), |x| format!(" ± {x:.4}"));
    format!("{:+.4}{error}", e.mean)
}
