//! Batches in shuffled order, prefetched.
//!
//! A batch is a function of the source, the options and its position alone. Prefetching on a thread, stopping and going on elsewhere,
//! or asking for one batch with [`Batches::batch_at`] never changes what is in it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use ccl_runtime::{HostData, HostTensor};

use crate::error::DataError;
use crate::order::Order;
use crate::source::Source;

/// Largest position; so many samples nobody reads.
const MAX_POSITION: u64 = 1 << 60;

/// What to stream, and how.
#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// Samples of a batch, at least 1. Batches go on over the end of an epoch, so that all have the same size and every sample
    /// comes once in every epoch.
    pub batch: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Shuffle; otherwise samples come in order of number.
    pub shuffle: bool,
    /// Samples that came before, through all epochs: 0 at first, [`Batch::end`] of the last batch to go on.
    pub position: u64,
    /// Batches that a thread makes ahead; 0 makes every batch when it is asked for.
    pub prefetch: usize,
    /// The tensors to read; all where empty.
    pub tensors: Vec<String>,
    /// The samples to use, to keep some of a dataset for validation; all where `None`. An epoch is one pass over these.
    pub samples: Option<Range<usize>>,
}

impl BatchOptions {
    /// Shuffled batches of all samples from the beginning, two of them prefetched.
    pub fn new(batch: usize, seed: u64) -> Self {
        Self { batch, seed, shuffle: true, position: 0, prefetch: 2, tensors: Vec::new(), samples: None }
    }
}

/// Some samples, stacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Samples that came before this batch, through all epochs.
    pub position: u64,
    /// The epoch of its first sample.
    pub epoch: u64,
    /// Numbers of its samples.
    pub samples: Vec<usize>,
    /// Every tensor with the batch as first axis, floats as `f32` and integers as `i32`.
    pub tensors: BTreeMap<String, HostTensor>,
}

impl Batch {
    /// The position after this batch: the next one's.
    pub fn end(&self) -> u64 {
        self.position + self.samples.len() as u64
    }
}

/// An endless stream of batches. Dropping it ends its thread.
pub struct Batches {
    maker: Maker,
    position: u64,
    ahead: Option<Ahead>,
}

impl Batches {
    /// Begins a stream.
    ///
    /// # Errors
    /// When the batch is 0, the range of samples is empty or beyond the source, a tensor is not in the source, the position is absurd or
    /// no thread can be started.
    pub fn new(source: Arc<dyn Source>, options: BatchOptions) -> Result<Self, DataError> {
        if options.batch == 0 {
            return Err(DataError::option("batch", "a batch has at least 1 sample"));
        }
        if options.position > MAX_POSITION {
            return Err(DataError::option("position", format!("{} is beyond {MAX_POSITION}", options.position)));
        }
        let samples = options.samples.unwrap_or(0..source.len());
        if samples.is_empty() || samples.end > source.len() {
            let problem = format!("{} to {} are not in a source of {}", samples.start, samples.end, source.len());
            return Err(DataError::option("samples", problem));
        }
        let names = if options.tensors.is_empty() { source.schema().names() } else { options.tensors };
        if let Some(name) = names.iter().find(|name| source.schema().get(name).is_none()) {
            let problem = format!("there is no `{name}`, only {}", source.schema().names().join(", "));
            return Err(DataError::option("tensors", problem));
        }
        let order = match options.shuffle {
            true => Order::shuffled(samples.len(), options.seed),
            false => Order::in_order(samples.len()),
        };
        let maker = Maker { source, order, first: samples.start, batch: options.batch, names };
        let position = options.position;
        let ahead = match options.prefetch {
            0 => None,
            depth => Some(Ahead::start(maker.clone(), position, depth)?),
        };
        Ok(Self { maker, position, ahead })
    }

    /// The position of the next batch.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The order of the samples; its numbers count from the first sample of the range in use.
    pub fn order(&self) -> Order {
        self.maker.order
    }

    /// The batch at any position, made now. The stream stays where it is.
    ///
    /// # Errors
    /// When a sample is broken.
    pub fn batch_at(&self, position: u64) -> Result<Batch, DataError> {
        self.maker.make(position)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, DataError>;

    /// The next batch; never `None`. After an error the stream goes on with the batch after the broken one.
    fn next(&mut self) -> Option<Self::Item> {
        let batch = match &self.ahead {
            None => self.maker.make(self.position),
            Some(ahead) => ahead.next(),
        };
        self.position += self.maker.batch as u64;
        Some(batch)
    }
}

/// Makes the batch at a position.
#[derive(Clone)]
struct Maker {
    source: Arc<dyn Source>,
    order: Order,
    first: usize,
    batch: usize,
    names: Vec<String>,
}

impl Maker {
    fn make(&self, position: u64) -> Result<Batch, DataError> {
        let samples: Vec<usize> =
            (0..self.batch as u64).map(|i| self.first + self.order.at(position.saturating_add(i))).collect();
        let mut tensors: BTreeMap<String, HostTensor> = BTreeMap::new();
        for &number in &samples {
            for (name, tensor) in self.source.sample(number, &self.names)? {
                match tensors.get_mut(&name) {
                    Some(stack) => push(stack, &tensor).map_err(|p| DataError::sample(number, &name, p))?,
                    None => drop(tensors.insert(name, begin(tensor, self.batch))),
                }
            }
        }
        Ok(Batch { position, epoch: self.order.epoch(position), samples, tensors })
    }
}

/// A stack with its first tensor, and room for `batch` in all.
fn begin(tensor: HostTensor, batch: usize) -> HostTensor {
    let shape = [&[1], tensor.shape.as_slice()].concat();
    let mut data = tensor.data;
    match &mut data {
        HostData::F32(data) => data.reserve_exact(data.len() * (batch - 1)),
        HostData::I32(data) => data.reserve_exact(data.len() * (batch - 1)),
    }
    HostTensor { shape, data }
}

/// Puts one more tensor on a stack; the error is the rest of a sentence about it.
fn push(stack: &mut HostTensor, tensor: &HostTensor) -> Result<(), String> {
    if stack.shape[1..] != tensor.shape {
        return Err(format!("has shape {:?}, others in the batch {:?}", tensor.shape, &stack.shape[1..]));
    }
    match (&mut stack.data, &tensor.data) {
        (HostData::F32(stack), HostData::F32(data)) => stack.extend_from_slice(data),
        (HostData::I32(stack), HostData::I32(data)) => stack.extend_from_slice(data),
        _ => return Err("holds whole numbers in some samples and real ones in others".into()),
    }
    stack.shape[0] += 1;
    Ok(())
}

/// Batches that a thread makes ahead.
struct Ahead {
    /// `None` only while the value is dropped.
    made: Option<Receiver<Result<Batch, DataError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    fn start(maker: Maker, mut position: u64, depth: usize) -> Result<Self, DataError> {
        let (send, made) = sync_channel(depth);
        let work = move || {
            // Ends when nobody takes batches any more.
            while send.send(maker.make(position)).is_ok() {
                position += maker.batch as u64;
            }
        };
        let thread = std::thread::Builder::new()
            .name("ccl-data".into())
            .spawn(work)
            .map_err(|e| DataError::option("prefetch", format!("no thread can be started: {e}")))?;
        Ok(Self { made: Some(made), thread: Some(thread) })
    }

    fn next(&self) -> Result<Batch, DataError> {
        self.made.as_ref().and_then(|made| made.recv().ok()).unwrap_or(Err(DataError::Prefetch))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // First the queue: a thread that waits for room in it is let go.
        self.made = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
