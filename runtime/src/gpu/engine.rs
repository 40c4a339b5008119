//! What drives a device: memory, launches and clocks, below plans and instances.
//!
//! [`super::instance`] runs plans on anything that is an [`Engine`]. An engine belongs to one instance: work of two
//! instances is ordered by whoever needs it to be, not by the engine.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use ccl_codegen::gpu::{Ref, Target};
use ccl_ir::{Binding, Plan};

use super::fault::Fault;
use super::residency::Residency;
use crate::device::DeviceInfo;
use crate::error::RuntimeError;
use crate::profile::Copies;
use crate::weights::WeightSource;

/// Which interface drives a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Cuda,
    Wgpu,
}

impl Api {
    /// Name as on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        }
    }

    /// Whether weights can come to the device while a plan runs.
    pub(crate) fn streams(self) -> bool {
        self == Self::Cuda
    }

    /// Why there may be no device, and what to do.
    pub(crate) fn absent(self) -> &'static str {
        match self {
            Self::Cuda => "no NVIDIA GPU with a driver (libcuda) was found",
            Self::Wgpu => {
                "no adapter with a Vulkan, Metal or DirectX 12 driver was found (a software one: mesa-vulkan-drivers)"
            }
        }
    }
}

/// What is known of a device that is ready.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// What drives it.
    pub api: Api,
    /// Whether it only imitates a GPU on the processor.
    pub software: bool,
    /// What kernels are lowered for.
    pub target: Target,
    /// What it says of itself.
    pub info: DeviceInfo,
}

/// How a call runs, ready to run.
pub(crate) enum Step<L> {
    /// On the host, by the operator's own evaluation.
    Host,
    /// As launches, in order.
    Device(Vec<L>),
}

/// The calls of each entry.
pub(crate) type Steps<L> = BTreeMap<Binding, Vec<Step<L>>>;

/// The memory under an operand of a call, whole, and how many of the operand's elements it has room for.
pub(crate) struct Bound<S> {
    /// The memory.
    pub span: S,
    /// Elements.
    pub elements: u64,
}

/// A device's own part of running plans.
///
/// Work is done in the order in which it is asked for, and may be done later; [`Engine::settle`] waits for it.
pub(crate) trait Engine: Sized + Send + Sync + 'static {
    /// Bytes on the device. Clones are the same bytes, which stay allocated as long as any of them is there.
    type Span: Clone + Send + Sync + 'static;
    /// Bytes that were read back.
    type Bytes: Deref<Target = [u8]>;
    /// A plan's launches before their kernels are compiled.
    type Lowered;
    /// A launch, ready but for its buffers.
    type Launch: Send;
    /// The launches of an entry as one.
    type Graph: Send;
    /// A stretch of work that is being timed, and one that ends.
    type Window: Send;
    /// See [`Engine::Window`].
    type Timed: Send;
    /// What a plan keeps for weights that are brought to the device while it runs.
    type Flow: Send;

    /// What is known of the device.
    fn facts(&self) -> &Facts;

    /// Whether another engine drives the same device.
    fn same_device(&self, other: &Self) -> bool;

    /// Starts to watch for failures, with so much work before the device.
    fn watch(&self, work: Duration) -> Watch;

    /// Lowers a plan's calls for the device.
    ///
    /// # Errors
    /// When a call cannot run there.
    fn lower(&self, plan: &Plan) -> Result<Self::Lowered, RuntimeError>;

    /// Makes the launches ready.
    ///
    /// # Errors
    /// When a kernel cannot be compiled or loaded.
    fn ready(&self, plan: &Plan, lowered: Self::Lowered) -> Result<Steps<Self::Launch>, RuntimeError>;

    /// New memory, whatever is in it.
    ///
    /// # Errors
    /// When the device has no room.
    fn allocate(&self, bytes: u64) -> Result<Self::Span, Fault>;

    /// A part of some memory.
    fn part(whole: &Self::Span, start: u64, bytes: u64) -> Self::Span;

    /// Size of some memory.
    fn bytes(span: &Self::Span) -> u64;

    /// Copies bytes to the device. They may be forgotten when it returns.
    ///
    /// # Errors
    /// The device's.
    fn upload(&self, to: &Self::Span, bytes: &[u8], watch: &Watch) -> Result<(), Fault>;

    /// Copies bytes from the device, once everything before is done.
    ///
    /// # Errors
    /// The device's, or that of the work that should have written them.
    fn download(&self, from: &Self::Span, watch: &Watch) -> Result<Self::Bytes, Fault>;

    /// Waits until everything is done; `written` is what it should have written.
    ///
    /// # Errors
    /// When something failed, or the device is lost.
    fn settle(&self, written: &[Self::Span], watch: &Watch) -> Result<(), Fault>;

    /// Launches a kernel. Outputs share no byte with inputs, and everything that the launch reaches is inside its buffers.
    ///
    /// # Errors
    /// When it cannot be launched; that it fails later is told by [`Engine::check`] or [`Engine::settle`].
    ///
    /// # Safety
    /// What the launch's sizes, strides and first elements reach is inside the buffers, and was lowered for this device; outputs
    /// overlap no other buffer.
    unsafe fn launch(&self, launch: &Self::Launch, buffer: &dyn Fn(Ref) -> Bound<Self::Span>) -> Result<(), Fault>;

    /// Whether a library of the device's maker does a launch.
    fn by_library(_launch: &Self::Launch) -> bool {
        false
    }

    /// Succeeds where the launches so far will have written `outputs`.
    ///
    /// # Errors
    /// When one failed.
    fn check(&self, outputs: Vec<Self::Span>, watch: &Watch) -> Result<(), Fault>;

    /// Times what is asked for from now on.
    ///
    /// # Errors
    /// The device's.
    fn begin(&self, written: &[Self::Span], watch: &Watch) -> Result<Self::Window, Fault>;

    /// Ends a stretch of work with what was asked for so far.
    ///
    /// # Errors
    /// The device's.
    fn end(&self, window: Self::Window, written: &[Self::Span], watch: &Watch) -> Result<Self::Timed, Fault>;

    /// Seconds of a stretch of work, once everything is done.
    ///
    /// # Errors
    /// The device's.
    fn seconds(&self, timed: Self::Timed, watch: &Watch) -> Result<f64, Fault>;

    /// Records launches instead of running them; `None`, without calling `launches`, where the device cannot.
    ///
    /// # Errors
    /// When a launch fails, or what was recorded cannot be run.
    fn record(&self, launches: &mut dyn FnMut() -> Result<(), Fault>) -> Result<Option<Self::Graph>, Fault>;

    /// Runs what was recorded.
    ///
    /// # Errors
    /// When it cannot be started.
    ///
    /// # Safety
    /// The memory of the launches is still there, and nobody else uses it before the replay is done.
    unsafe fn replay(&self, graph: &Self::Graph) -> Result<(), Fault>;

    /// Loads weights that do not stay on the device into memory of the host, and prepares bringing them to `slots`. Every copy of an entry is
    /// waited for by some call of it, so that the end of its calls is the end of its copies.
    ///
    /// # Errors
    /// When the device cannot, a weight is missing, or memory does not suffice.
    fn flow(
        &self,
        plan: &Plan,
        residency: &Residency,
        slots: &[Self::Span],
        source: &dyn WeightSource,
    ) -> Result<Self::Flow, RuntimeError>;

    /// Starts an entry's copies.
    ///
    /// # Errors
    /// The device's.
    fn flow_begin(&self, _flow: &Self::Flow, _entry: Binding, _timed: bool) -> Result<(), Fault> {
        Ok(())
    }

    /// Lets call number `index` wait for the weights that it reads.
    ///
    /// # Errors
    /// The device's.
    fn flow_before(&self, _flow: &Self::Flow, _entry: Binding, _index: usize) -> Result<(), Fault> {
        Ok(())
    }

    /// Starts copies over weights that call number `index` was the last to read.
    ///
    /// # Errors
    /// The device's.
    fn flow_after(&self, _flow: &Self::Flow, _entry: Binding, _index: usize) -> Result<(), Fault> {
        Ok(())
    }

    /// What the copies of a timed entry took, once everything is done.
    ///
    /// # Errors
    /// The device's.
    fn flow_copies(&self, _flow: &Self::Flow, _entry: Binding) -> Result<Copies, Fault> {
        Ok(Copies::default())
    }

    /// Gives memory that nobody has any more back to the system.
    fn give_back(&self) {}

    /// Asks nothing more of a device that is lost: it might never answer.
    fn abandon(&self) {}
}

pub(crate) use super::fault::Watch;
