//! States: tensors that outlive a plan, that calls update in place, and that several plans share.

use std::sync::Arc;

use crate::common::*;
use ccl_ir::ops::AdamW;
use ccl_ir::{Binding, Op, Plan, Tensor, TensorType};
use ccl_runtime::HostTensor;
use ccl_runtime::learner::Learner;
use ccl_runtime::weights::WeightStore;

/// Elements of the parameter: more than one cube of a GPU, and no multiple of anything.
const N: usize = 301;

fn adam() -> AdamW {
    AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.1, group: 1 }
}

/// The table of states: what one plan updates, what both read, what one has for itself.
fn table() -> [(&'static str, TensorType); 6] {
    let of = || TensorType::f32([N]);
    [("first", of()), ("p", of()), ("m", of()), ("v", of()), ("average", of()), ("count", TensorType::f32([]))]
}

/// The step gives `g = x p`; the epilogue counts, and updates `p` and its average by it.
fn learning() -> Arc<Plan> {
    let mut b = Builder::new();
    let [first, rest @ ..] = table();
    b.skip_state(&first.1);
    let [p, m, v, average, count] = rest.map(|(name, ty)| b.state(name, ty));
    let x = b.input("x", TensorType::f32([N]), Binding::Step);
    let rates = b.input("rates", TensorType::f32([2]), Binding::Epilogue);
    let scale = b.input("scale", TensorType::f32([]), Binding::Epilogue);
    let [way, one] = ["way", "one"].map(|name| b.input(name, TensorType::f32([]), Binding::Epilogue));
    let g = b.call(Binding::Step, true, "g", mul(), &[&x, &p]);
    b.output("g", &g, Binding::Step);
    let t = b.update(Binding::Epilogue, "count", add(), &[&count, &one]).remove(0);
    b.update(Binding::Epilogue, "adam/p", adam(), &[&p, &m, &v, &t, &g, &rates, &scale, &average, &way]);
    b.build()
}

/// The step gives `first + p`.
fn reading() -> Arc<Plan> {
    let mut b = Builder::new();
    let [first, p, rest @ ..] = table();
    let [first, p] = [first, p].map(|(name, ty)| b.state(name, ty));
    rest.iter().for_each(|(_, ty)| b.skip_state(ty));
    let sum = b.call(Binding::Step, false, "sum", add(), &[&first, &p]);
    b.output("sum", &sum, Binding::Step);
    b.build()
}

fn plans() -> Vec<(String, Arc<Plan>)> {
    vec![("learn".into(), learning()), ("read".into(), reading())]
}

fn close(have: &HostTensor, want: &[f64], what: &str) {
    let have = have.as_f32().unwrap_or_default();
    assert_eq!(have.len(), want.len(), "{what}");
    for (h, w) in have.iter().zip(want) {
        assert!((f64::from(*h) - w).abs() <= 2e-6 * (1.0 + w.abs()), "{what}: {h} is not {w}");
    }
}

#[test]
fn what_one_plan_updates_another_reads() -> Outcome {
    let number = |x: f32| HostTensor::f32([], vec![x]);
    let rates = HostTensor::f32([2], vec![0.5, 0.01]);
    let settings = tensors(&[("rates", rates), ("scale", number(0.25)), ("way", number(0.5)), ("one", number(1.0))]);
    let x = ramp(&[N]);
    for backend in backends()? {
        let mut learner = Learner::new(backend.as_ref(), plans())?;
        for (name, ty) in table() {
            let zeros = vec![0.0; ty.elements() as usize];
            assert_eq!(learner.read_state(name)?.as_f32(), Some(zeros.as_slice()), "{name}");
        }
        let start: Vec<f32> = (0..N).map(|i| (i as f32 * 0.3).cos()).collect();
        learner.write_state("p", &HostTensor::f32([N], start.clone()))?;
        learner.write_state("first", &HostTensor::f32([N], vec![2.0; N]))?;

        let double = |t: &HostTensor| t.as_f32().unwrap_or_default().iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let vector = |data: Vec<f64>| Tensor { shape: vec![data.len()], data };
        let scalar = |x: f64| Tensor { shape: Vec::new(), data: vec![x] };
        let p = vector(start.iter().map(|&x| f64::from(x)).collect());
        let mut want = vec![p, vector(vec![0.0; N]), vector(vec![0.0; N]), vector(vec![0.0; N])];
        let (rates, scale, way) = (vector(double(&settings["rates"])), scalar(0.25), scalar(0.5));
        for step in 1..=3 {
            let out = learner.step("learn", &tensors(&[("x", x.clone())]))?;
            let g = vector(double(&x).iter().zip(&want[0].data).map(|(x, p)| x * p).collect());
            close(&out["g"], &g.data, "g");
            learner.update("learn", &settings)?;
            let t = scalar(f64::from(step));
            let [p, m, v, average] = &want[..] else { unreachable!() };
            let inputs = [p, m, v, &t, &g, &rates, &scale, average, &way];
            want = Op::from(adam()).eval(&inputs).map_err(|p| p.0)?;
            let sum = learner.step("read", &tensors(&[]))?;
            close(&sum["sum"], &want[0].data.iter().map(|p| p + 2.0).collect::<Vec<_>>(), "sum");
        }
        want.push(scalar(3.0));
        for ((name, _), want) in table()[1..].iter().zip(&want) {
            close(&learner.read_state(name)?, &want.data, name);
        }
    }
    Ok(())
}

#[test]
fn a_state_outlives_the_plan_that_made_it() -> Outcome {
    let none = WeightStore::random(&[], 0);
    for backend in backends()? {
        let mut first = backend.instantiate(reading(), &none)?;
        first.write_state(1, &ramp(&[N]))?;
        let state = first.state().ok_or("the plan has a state")?;
        drop(first);
        let mut second = backend.instantiate_with(learning(), &none, Some(&state))?;
        assert_eq!(second.read_state(0)?, ramp(&[N]));
        // Without it the plan has one of its own.
        let mut own = backend.instantiate(learning(), &none)?;
        assert_eq!(own.read_state(0)?, HostTensor::f32([N], vec![0.0; N]));
    }
    Ok(())
}

#[test]
fn states_that_do_not_fit_are_refused() -> Outcome {
    let none = WeightStore::random(&[], 0);
    let mut b = Builder::new();
    let p = b.state("p", TensorType::f32([4]));
    let twice = b.call(Binding::Step, false, "twice", add(), &[&p, &p]);
    b.output("twice", &twice, Binding::Step);
    let small = b.build();
    let all = backends()?;
    for backend in &all {
        let instance = backend.instantiate(learning(), &none)?;
        let state = instance.state().ok_or("the plan has a state")?;
        says(backend.instantiate_with(Arc::clone(&small), &none, Some(&state)).map(|_| ()), &["bytes of state"]);
        for other in all.iter().filter(|o| o.name() != backend.name()) {
            let shared = other.instantiate_with(learning(), &none, Some(&state)).map(|_| ());
            says(shared, &["state: the memory belongs to another"]);
        }
        let mut instance = backend.instantiate(learning(), &none)?;
        says(instance.write_state(0, &ramp(&[N + 1])), &["`p`"]);
        says(instance.read_state(9).map(|_| ()), &["state 9 was asked for, the plan has 5"]);
        assert!(backend.instantiate(field(1), &none)?.state().is_none());
    }
    Ok(())
}
