//! `ccl::bisect` on a rule that is deliberately wrong.

use crate::common::{case, clip_of, inputs};
use ccl::Error;
use ccl::bisect::{Results, bisect};
use ccl::model_dir::{FRESH_SEED, ModelDir};
use ccl::passes::algebra::{Choose, Class, Rule, Settings};
use ccl::passes::{DeviceSpec, Options};
use ccl::planning::{Request, plan_some};
use ccl::runtime::inputs::Inputs;
use ccl::runtime::session::{Session, Tensors};
use ccl_ir::Op;

/// `x Wᵀ + b = x Wᵀ`, which it is not.
fn forget_bias() -> Rule {
    Rule {
        name: "forget the bias",
        class: Class::Exact,
        law: "x Wᵀ + b = x Wᵀ, which is wrong",
        root: |op| matches!(op, Op::Linear(l) if l.bias),
        find: |site, root| {
            for (op, c) in site.ops(root) {
                // A few places in the model, of which the video's time embedding is the first.
                if matches!(&op, Op::Linear(l) if l.bias) && site.ty(root).last() == 64 {
                    site.begin(root);
                    if let Some(plain) = site.add(ccl_ir::ops::Linear::plain(), &c[..2]) {
                        site.replace(root, plain);
                    }
                }
            }
        },
    }
}

#[test]
fn the_wrong_rule_is_named_and_no_other() {
    let case = case("small");
    let model = ModelDir::open(&case).unwrap();
    let weights = model.weights(&model.files().unwrap(), FRESH_SEED).unwrap();
    let given = Inputs::open(&inputs(&case)).unwrap();
    let (clip, batch) = clip_of(&case);
    let mut request =
        Request::new(&model.config, "joint".parse().unwrap(), "none".parse().unwrap(), clip.parse().unwrap());
    request.batch = batch;
    let mut settings = Settings { choose: Choose::Always, ..Settings::new(DeviceSpec::for_target("cpu")) };
    // A wrong law makes everything equal to everything: few rules beside it, so that the e-graph stays small.
    settings.rules.retain(|r| r.name == "absorb output");
    settings.rules.push(forget_bias());
    let options = Options { algebra: Some(settings), ..Options::default() };
    let backend = ccl::running::backend("reference", None).unwrap();
    let found = bisect(1e-4, |fuel| -> Result<_, Error> {
        let (plan, spent) = plan_some(&model.config, &request, &options, fuel)?;
        let mut session = Session::new(backend.as_ref(), plan.into(), &weights)?;
        session.prologue(&given)?;
        let outputs = session.step(&Tensors::new(), 0)?;
        let results = outputs.into_iter().map(|(name, t)| (name, t.as_f32().unwrap_or_default().to_vec()));
        Ok((results.collect::<Results>(), spent))
    })
    .unwrap();
    let guilty = found.guilty.clone().unwrap_or_else(|| panic!("{found:?}"));
    assert_eq!((guilty.pass.as_str(), guilty.rule.as_str()), ("algebra", "forget the bias"), "{found:?}");
    assert!(guilty.at.contains("video.time_embedding.0"), "{guilty:?}");
    assert!(found.evaluations < 20, "{found:?}");
}
