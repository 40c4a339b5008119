//! Which kernels there are: plans of models, lowered for targets; each kernel emitted once.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;

use ccl::error::Error;
use ccl::ir::{DType, Plan, TensorType};
use ccl::model::{Config, Guidance, Task, tensors};
use ccl::planning::{Algebra, Request, RuleSet, plan};
use ccl::training::loss::{LossRequest, plan_loss};
use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::{Blueprint, Language, Launch, Lowered, Target, lower_in};
use ccl_passes::{Optimiser, Training};

/// The released sizes, 14B for video and 1.3B for audio, with this many of their 40 layers; every other field has its default.
pub fn released(layers: usize) -> Config {
    let text = format!(
        r#"{{"video": {{"dim": 5120, "ffn_dim": 13824, "heads": 40, "in_channels": 16, "out_channels": 16, "patch": [1, 2, 2]}},
            "audio": {{"dim": 1536, "ffn_dim": 8960, "heads": 12, "in_channels": 20, "out_channels": 20, "patch": [1]}},
            "layers": {layers}}}"#
    );
    Config::from_json(&text).unwrap()
}

/// A kernel's text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    /// The source.
    pub text: String,
    /// Where it was first met: plan, operator, model path.
    pub first: String,
    /// Whether it works on half precision.
    pub half: bool,
    /// Compute capabilities, times ten, of the targets that have it.
    pub capabilities: Vec<u32>,
}

/// A model and a clip for it.
struct Model {
    name: &'static str,
    config: Config,
    clip: &'static str,
}

fn models() -> Vec<Model> {
    let case = |name, clip| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name).join("config.json");
        Model { name, config: Config::from_json(&std::fs::read_to_string(file).unwrap()).unwrap(), clip }
    };
    vec![
        case("small", "5x4x4@21"),
        case("image", "3x4x4@13"),
        case("head128", "3x4x4@13"),
        case("shifted", "4x4x4@15"),
        // Layers differ in their weights' names only: `depth_adds_no_kernel`. Planning all 40 for every route takes minutes.
        Model { name: "14B", config: released(2), clip: "21x44x80@158" },
    ]
}

/// What a kernel's text depends on.
fn identity(launch: &Launch) -> (Blueprint, [usize; 6]) {
    let counts = [
        launch.halves.len(),
        launch.floats.len(),
        launch.ints.len(),
        launch.half_outs.len(),
        launch.float_outs.len(),
        launch.sizes.len(),
    ];
    (launch.blueprint.clone(), counts)
}

/// What a plan is for: a run of a task, or its training.
#[derive(Clone, Copy)]
enum Job {
    Run(Guidance, DType),
    Train(RuleSet, Option<DType>),
}

/// The plan of a step of training and its update, where everything is trained.
fn training(config: &Config, task: Task, clip: &str, rules: RuleSet, half: Option<DType>) -> Result<Plan, Error> {
    let parameters: BTreeMap<_, _> =
        tensors(config).into_iter().map(|t| (t.name, (TensorType::f32(t.shape), 0))).collect();
    let mut states: Vec<_> = parameters.iter().map(|(name, (ty, _))| (name.clone(), ty.clone())).collect();
    let (average, accumulate) = (true, true);
    let optimiser =
        Optimiser { beta1: 0.9, beta2: 0.999, eps: 1e-8, decays: vec![0.01], parameters, average, accumulate };
    states.extend(optimiser.states());
    let request = LossRequest {
        task,
        clip: clip.parse().unwrap(),
        batch: 2,
        text_tokens: 16,
        image_tokens: if config.image_dim > 0 { 4 } else { 0 },
        training: Some(Training { optimiser: Some(optimiser), half, ..Training::default() }),
        states,
        algebra: Algebra { rules, ..Algebra::default() },
        validate: false,
    };
    plan_loss(config, &request)
}

/// Every kernel that a plan of any model, task and precision launches, with every guidance where that matters, on targets that have the same plans, and every kernel of
/// training, in the order of their texts.
pub fn of_models(targets: &[Target]) -> Vec<Text> {
    let models = models();
    let mut jobs = Vec::new();
    for model in &models {
        for task in Task::ALL {
            // Forms of guidance differ in few kernels, which a small model shows.
            let all = model.name == "small";
            for guidance in Guidance::ALL.into_iter().filter(|g| all || *g == Guidance::TwoPass) {
                let types = std::iter::once(DType::F32).chain(targets[0].halves.iter().copied());
                jobs.extend(types.map(|dtype| (model, task, Job::Run(guidance, dtype))));
            }
            jobs.push((model, task, Job::Train(RuleSet::All, None)));
        }
        // Small models are too small for most rules to pay.
        jobs.push((model, Task::Joint, Job::Train(RuleSet::Always, None)));
        let halves = targets[0].halves.iter().map(|half| Job::Train(RuleSet::All, Some(*half)));
        jobs.extend(halves.map(|job| (model, Task::Joint, job)));
    }
    let found: Vec<Mutex<HashMap<_, Text>>> = targets.iter().map(|_| Mutex::default()).collect();
    let wrong = super::for_each(&jobs, |&(model, task, job)| {
        let (what, plan) = match job {
            Job::Run(guidance, dtype) => {
                let mut request = Request::new(&model.config, task, guidance, model.clip.parse().unwrap());
                (request.dtype, request.gpu) = (dtype, Some(targets[0].clone()));
                (format!("{} {task} {guidance} {dtype}", model.name), plan(&model.config, &request))
            }
            Job::Train(rules, half) => {
                let what = format!("training {} {task} {rules:?} {half:?}", model.name);
                (what, training(&model.config, task, model.clip, rules, half))
            }
        };
        let plan = plan.map_err(|e| format!("{what}: {e}"))?;
        for (target, found) in targets.iter().zip(&found) {
            for call in plan.entries.values().flatten() {
                let lowered = lower_in(&plan, call, target).map_err(|e| format!("{what}: {e}"))?;
                let Lowered::Device(launches) = lowered else { continue };
                for launch in launches {
                    let key = identity(&launch);
                    if found.lock().unwrap().contains_key(&key) {
                        continue;
                    }
                    let first = format!("{what}: {} at {}", call.op.name(), call.at);
                    let text = emit(&launch, target).map_err(|e| format!("{first}: {e}"))?.text;
                    let half = launch.blueprint.half != DType::F32;
                    let capabilities = match target.language {
                        Language::Cuda(n) => vec![n],
                        Language::Wgsl => Vec::new(),
                    };
                    found.lock().unwrap().insert(key, Text { text, first, half, capabilities });
                }
            }
        }
        Ok(())
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut texts: Vec<Text> = found.into_iter().flat_map(|f| f.into_inner().unwrap().into_values()).collect();
    texts.sort();
    texts.dedup_by(|again, first| {
        let same = again.text == first.text;
        if same {
            first.capabilities.append(&mut again.capabilities);
        }
        same
    });
    texts
}
