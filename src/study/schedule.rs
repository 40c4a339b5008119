//! Training and measuring, several at once; what is done already is not done again.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ccl_model::{CrossAttention, Task};
use ccl_runtime::RuntimeError;

use super::arms::Arm;
use super::measures::{Kept, KeptAttention, KeptMeasures};
use super::{Study, TASKS};
use crate::attention::{Look, look};
use crate::error::Error;
use crate::evaluation::evaluate_world;
use crate::model_dir::{FRESH_SEED, ModelDir};
use crate::running::backend;
use crate::training::checkpoint;
use crate::training::trainer::Trainer;

/// One piece of the work.
#[derive(Clone, Copy, Debug)]
pub enum Item {
    /// Training a model.
    Train(CrossAttention, u64),
    /// Sampling with an arm, and measuring.
    Measure(&'static Arm, u64, Task),
    /// Looking at the cross attention of the model with context tokens.
    Look(u64),
}

impl Item {
    /// Name, for people.
    pub fn name(&self) -> String {
        match self {
            Item::Train(cross, seed) => format!("train {} s{seed}", cross.name()),
            Item::Measure(arm, seed, task) => format!("measure {} s{seed} {task}", arm.key),
            Item::Look(seed) => format!("attention s{seed}"),
        }
    }

    /// The training that must be done first: of itself, none.
    fn model(&self) -> (CrossAttention, u64) {
        match self {
            Item::Train(cross, seed) => (*cross, *seed),
            Item::Measure(arm, seed, _) => (arm.cross, *seed),
            Item::Look(seed) => (CrossAttention::Context, *seed),
        }
    }
}

/// What happens to a piece of work.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// So many steps of so many are done.
    Step(u64, u64),
    /// It is done, in so many seconds; 0 where it had been done before.
    Done(f64),
}

/// Where the pieces run.
#[derive(Clone, Debug)]
pub struct Workers {
    /// How many pieces run at once.
    pub jobs: usize,
    /// Backend of each.
    pub backend: String,
    /// Threads of each, on the cpu.
    pub threads: Option<usize>,
}

/// State of a piece.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Running,
    Done,
}

/// What the workers share.
struct Board {
    states: Vec<State>,
    /// Nothing new is begun.
    stopped: bool,
    failure: Option<Error>,
}

impl Study {
    /// Everything that is to be done, seed by seed, so that whole pairs are there early.
    pub fn items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        for &seed in &self.seeds {
            let trained = self.trained();
            items.extend(trained.iter().rev().map(|cross| Item::Train(*cross, seed)));
            let measured = self.arms.iter().flat_map(|arm| TASKS.map(|task| Item::Measure(arm, seed, task)));
            items.extend(measured);
            if trained.contains(&CrossAttention::Context) {
                items.push(Item::Look(seed));
            }
        }
        items
    }

    /// Does what is left of the work, and says whether all is done. `say` is called by several threads at once; `stop` ends the work as soon
    /// as can be, with what is done kept.
    ///
    /// # Errors
    /// When a piece fails; others that were running have been stopped, and all go on in the next run.
    pub fn run(
        &self,
        workers: &Workers,
        stop: &AtomicBool,
        say: &(dyn Fn(&Item, Event) + Sync),
    ) -> Result<bool, Error> {
        let items = self.items();
        let board = Mutex::new(Board { states: vec![State::Waiting; items.len()], stopped: false, failure: None });
        let changed = Condvar::new();
        std::thread::scope(|scope| {
            for _ in 0..workers.jobs.clamp(1, items.len().max(1)) {
                scope.spawn(|| {
                    while let Some(i) = take(&board, &changed, &items) {
                        let done = self.work(&items[i], workers, stop, say);
                        let mut board = lock(&board);
                        match done {
                            Ok(()) => board.states[i] = State::Done,
                            // What fails after the stop has been stopped.
                            Err(_) if stop.load(Ordering::Relaxed) => board.stopped = true,
                            Err(e) => {
                                stop.store(true, Ordering::Relaxed);
                                board.stopped = true;
                                board.failure = Some(e);
                            }
                        }
                        changed.notify_all();
                    }
                });
            }
        });
        let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
        board.failure.map_or(Ok(!board.stopped), Err)
    }

    fn work(
        &self,
        item: &Item,
        workers: &Workers,
        stop: &AtomicBool,
        say: &(dyn Fn(&Item, Event) + Sync),
    ) -> Result<(), Error> {
        let begin = Instant::now();
        let go_on = || if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let mut step = |done: u64, of: u64| {
            say(item, Event::Step(done, of));
            go_on()
        };
        let did = match *item {
            Item::Train(cross, seed) => self.train(cross, seed, workers, &mut step),
            Item::Measure(arm, seed, task) => self.measure(arm, seed, task, workers, &mut step),
            Item::Look(seed) => self.look(seed, workers),
        };
        let did = did.map_err(|e| Error::Failed(format!("{}: {e}", item.name())))?;
        say(item, Event::Done(if did { begin.elapsed().as_secs_f64() } else { 0.0 }));
        Ok(())
    }

    /// Trains a model to the end; `false` where it was there already.
    fn train(&self, cross: CrossAttention, seed: u64, workers: &Workers, step: &mut Step<'_>) -> Result<bool, Error> {
        let config = self.training(cross, seed)?;
        let steps = config.train.steps;
        std::fs::create_dir_all(&config.train.out)
            .map_err(|e| Error::Failed(format!("{}: {e}", config.train.out.display())))?;
        let device = backend(&workers.backend, workers.threads)?;
        let mut trainer = Trainer::start(config, true, device.as_ref())?;
        if trainer.step() >= steps {
            return Ok(false);
        }
        let done = trainer.run(&mut |p| step(p.step, p.steps))?;
        if done.step < steps {
            Err(RuntimeError::Cancelled { done: done.step as usize, steps: steps as usize }.into())
        } else {
            Ok(true)
        }
    }

    fn measure(
        &self,
        arm: &'static Arm,
        seed: u64,
        task: Task,
        workers: &Workers,
        step: &mut Step<'_>,
    ) -> Result<bool, Error> {
        let how = self.evaluation(arm, task);
        let path = self.measures_file(arm, seed, task);
        let (dir, name) = self.checkpoint(arm.cross, seed)?;
        if KeptMeasures::read(&path, &name, &format!("{how:?}"))?.is_some() {
            return Ok(false);
        }
        let weights = dir.weights(&dir.files()?, FRESH_SEED)?;
        let device = backend(&workers.backend, workers.threads)?;
        let mut progress = |done: usize, of: usize| step(done as u64, of as u64);
        let found = evaluate_world(&dir.config, &weights, device.as_ref(), &how, &mut progress)?;
        Kept { checkpoint: name, how: format!("{how:?}"), found }.write(&path)?;
        Ok(true)
    }

    fn look(&self, seed: u64, workers: &Workers) -> Result<bool, Error> {
        let how = Look { rate: self.rate(), ..Look::default() };
        let path = self.attention_file(seed);
        let (dir, name) = self.checkpoint(CrossAttention::Context, seed)?;
        if KeptAttention::read(&path, &name, &format!("{how:?}"))?.is_some() {
            return Ok(false);
        }
        let weights = dir.weights(&dir.files()?, FRESH_SEED)?;
        let device = backend(&workers.backend, workers.threads)?;
        let found = look(&dir.config, &weights, device.as_ref(), how)?;
        Kept { checkpoint: name, how: format!("{how:?}"), found }.write(&path)?;
        Ok(true)
    }

    /// What a training ended with: the averages of its parameters where it kept some; and what tells it from others.
    pub(super) fn checkpoint(&self, cross: CrossAttention, seed: u64) -> Result<(ModelDir, String), Error> {
        let run = self.run_dir(cross, seed);
        let found = checkpoint::newest(&run)?.filter(|(_, record)| record.step >= self.base.train.steps);
        let (dir, record) =
            found.ok_or_else(|| Error::Failed(format!("{}: the training is not done", run.display())))?;
        let average = dir.join(checkpoint::EMA);
        let model = ModelDir::open(if average.is_dir() { &average } else { &dir })?;
        Ok((model, format!("{} step {}", record.settings_hash, record.step)))
    }
}

/// Told how many steps of how many are done; may stop the work.
type Step<'s> = dyn FnMut(u64, u64) -> ControlFlow<()> + 's;

/// The next piece that can be done; `None` when there is nothing more for this worker to do.
fn take(board: &Mutex<Board>, changed: &Condvar, items: &[Item]) -> Option<usize> {
    let mut board = lock(board);
    loop {
        if board.stopped {
            return None;
        }
        let ready = |i: usize| {
            let needs = items.iter().position(|n| matches!(n, Item::Train(..)) && n.model() == items[i].model());
            needs.is_none_or(|n| n == i || board.states[n] == State::Done)
        };
        let waiting: Vec<usize> = (0..items.len()).filter(|&i| board.states[i] == State::Waiting).collect();
        if waiting.is_empty() {
            return None;
        }
        if let Some(&i) = waiting.iter().find(|&&i| ready(i)) {
            board.states[i] = State::Running;
            return Some(i);
        }
        board = changed.wait(board).unwrap_or_else(PoisonError::into_inner);
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}
