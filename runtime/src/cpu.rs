//! The CPU backend: native kernels on a pool of threads.
//!
//! An instance holds one block of memory per region, as large as the plan says. Weights of linear maps are brought into the
//! order that products read them in when they are loaded, for all entry points; others are read where their files are
//! mapped. A step allocates nothing but the kernels' own small work areas. Results do not depend on the number of threads.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ccl_codegen::cpu::view::View;
use ccl_codegen::cpu::{self, KernelError, weight};
use ccl_ir::plan::{ALIGNMENT, Operand, Place, PlanWeight, Region};
use ccl_ir::{Binding, DType, Plan};
use memmap2::{MmapMut, MmapRaw};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::backend::{Backend, Instance, StateMemory, check_memory, port, refuse_memory, state_port};
use crate::device::{DeviceInfo, cpu_name, cpu_simd, host_memory};
use crate::error::RuntimeError;
use crate::host::HostTensor;
use crate::profile::{CallTime, Profiler};
use crate::weights::{WeightBytes, WeightSource};

/// Most threads of one pool: more than any machine has, few enough to start.
const MAX_THREADS: usize = 4096;

/// Environment variable: the highest level of vector instructions that kernels use.
const SIMD: &str = "CCL_SIMD";

/// The host's processor.
pub struct CpuBackend {
    pool: Arc<ThreadPool>,
}

impl CpuBackend {
    /// A backend with its own pool; `None` takes all hardware threads. The environment variable `CCL_SIMD` may name the highest
    /// level of vector instructions that kernels use.
    ///
    /// # Errors
    /// When `threads` is 0 or absurd, the system refuses to start them, or there is no such level.
    pub fn new(threads: Option<usize>) -> Result<Self, RuntimeError> {
        let threads = threads.unwrap_or_else(hardware_threads);
        if threads == 0 || threads > MAX_THREADS {
            let problem =
                format!("{threads} threads; give 1 to {MAX_THREADS}, or leave the option out to use all cores");
            return Err(RuntimeError::option("--threads", problem));
        }
        if let Some(level) = std::env::var_os(SIMD) {
            let level = level.to_string_lossy();
            let problem = |levels| format!("`{level}` is no level of vector instructions here; there are {levels}");
            cpu::simd::limit(&level).map_err(|levels| RuntimeError::option(SIMD, problem(levels)))?;
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("ccl-cpu-{i}")).build();
        let pool = pool.map_err(|e| RuntimeError::Backend {
            backend: "cpu",
            problem: format!("cannot start {threads} threads: {e}; try --threads 1"),
        })?;
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Number of threads of the pool.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

fn hardware_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS)
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn describe(&self) -> DeviceInfo {
        DeviceInfo {
            backend: self.name().into(),
            name: cpu_name(),
            kind: "cpu".into(),
            threads: Some(self.threads()),
            cores: Some(hardware_threads()),
            simd: cpu_simd(),
            memory: host_memory(),
            element_types: vec![DType::F32, DType::F16, DType::Bf16, DType::I32],
            limits: Vec::new(),
        }
    }

    fn instantiate_with(
        &self,
        plan: Arc<Plan>,
        weights: &dyn WeightSource,
        state: Option<&StateMemory>,
    ) -> Result<Box<dyn Instance>, RuntimeError> {
        plan.check()?;
        let state = state.map(|s| s.of::<HostState>(&plan)).transpose()?;
        let memory = Memory::allocate(&plan, state)?;
        // In the pool, because a source may convert in parallel.
        let weights = self.pool.install(|| Weights::load(&plan, weights))?;
        Ok(Box::new(CpuInstance { plan, pool: Arc::clone(&self.pool), memory, weights, profiler: Profiler::default() }))
    }
}

/// A plan's weights as its calls read them.
struct Weights {
    /// Those that lie in panels, in one piece.
    panels: MmapRaw,
    list: Vec<Loaded>,
}

/// Where a weight is.
enum Loaded {
    Rows(WeightBytes),
    /// So many bytes behind the start of the panels.
    Panels(usize),
}

impl Weights {
    /// Loads a plan's weights, one after the other.
    fn load(plan: &Plan, weights: &dyn WeightSource) -> Result<Self, RuntimeError> {
        let mut bytes = 0;
        let mut places = Vec::with_capacity(plan.weights.len());
        for (w, panels) in plan.weights.iter().zip(in_panels(plan)) {
            places.push(panels.then_some(bytes));
            if panels {
                bytes += weight::panels_bytes(&w.ty).next_multiple_of(ALIGNMENT as usize);
            }
        }
        let mut memory = MmapMut::map_anon(bytes.max(1))
            .map_err(|e| refuse_memory(plan, format!("which the system refuses ({e})")))?;
        let load = |(w, place): (&PlanWeight, Option<usize>)| {
            let rows = weights.load(&w.name, &w.ty)?;
            Ok(match place {
                None => Loaded::Rows(rows),
                Some(at) => {
                    weight::to_panels(&w.ty, &rows, &mut memory[at..at + weight::panels_bytes(&w.ty)]);
                    Loaded::Panels(at)
                }
            })
        };
        let list = plan.weights.iter().zip(places).map(load).collect::<Result<_, RuntimeError>>()?;
        Ok(Self { panels: memory.into(), list })
    }

    /// First byte of a weight, and whether it lies in panels.
    fn place(&self, weight: u32) -> (*mut u8, bool) {
        match &self.list[weight as usize] {
            Loaded::Rows(bytes) => (bytes.as_ptr().cast_mut(), false),
            Loaded::Panels(at) => (self.panels.as_mut_ptr().wrapping_add(*at), true),
        }
    }

    fn bytes(&self) -> usize {
        let rows = |w: &Loaded| if let Loaded::Rows(bytes) = w { bytes.len() } else { 0 };
        self.panels.len() + self.list.iter().map(rows).sum::<usize>()
    }
}

/// Which weights are read in panels: those that every call takes as a whole, and takes in panels.
fn in_panels(plan: &Plan) -> Vec<bool> {
    let mut panels = vec![true; plan.weights.len()];
    for call in plan.entries.values().flatten() {
        for (i, operand) in call.inputs.iter().enumerate() {
            if let Place::Weight(w) = operand.place {
                let whole = operand.ty == plan.weights[w as usize].ty && operand.offset == 0 && operand.is_dense();
                panels[w as usize] &= whole && weight::takes_panels(&call.op, i);
            }
        }
    }
    for port in &plan.outputs {
        if let Place::Weight(w) = port.operand.place {
            panels[w as usize] = false;
        }
    }
    panels
}

/// The memory of all regions, zero at first, its pages only taken when they are touched.
struct Memory {
    persistent: MmapRaw,
    scratch: MmapRaw,
    state: Arc<HostState>,
}

/// The memory of a state. Instances that share it take turns.
struct HostState {
    bytes: MmapRaw,
    turn: Mutex<()>,
}

impl HostState {
    /// Waits until no other instance uses the memory. A kernel that panicked has left numbers behind, not broken memory.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn allocate(plan: &Plan, state: Option<Arc<HostState>>) -> Result<Self, RuntimeError> {
        check_memory(plan)?;
        let region = |bytes: u64| {
            let bytes =
                usize::try_from(bytes).map_err(|_| refuse_memory(plan, "more than this machine can address".into()))?;
            MmapMut::map_anon(bytes.max(1))
                .map(MmapRaw::from)
                .map_err(|e| refuse_memory(plan, format!("which the system refuses ({e})")))
        };
        let state = match state {
            Some(state) => state,
            None => Arc::new(HostState { bytes: region(plan.state_bytes)?, turn: Mutex::new(()) }),
        };
        Ok(Self { persistent: region(plan.persistent_bytes)?, scratch: region(plan.scratch_bytes)?, state })
    }

    fn base(&self, region: Region) -> *mut u8 {
        match region {
            Region::Persistent => self.persistent.as_mut_ptr(),
            Region::Scratch => self.scratch.as_mut_ptr(),
            Region::State => self.state.bytes.as_mut_ptr(),
        }
    }
}

/// A plan in the host's memory.
struct CpuInstance {
    plan: Arc<Plan>,
    pool: Arc<ThreadPool>,
    memory: Memory,
    weights: Weights,
    profiler: Profiler,
}

/// Resolves operands to memory.
#[derive(Clone, Copy)]
struct Resolver<'a> {
    plan: &'a Plan,
    memory: &'a Memory,
    weights: &'a Weights,
}

impl<'a> Resolver<'a> {
    fn view(&self, o: &'a Operand) -> View<'a> {
        let (base, panels) = match o.place {
            Place::Weight(w) => self.weights.place(w),
            Place::Buffer(b) => {
                let buffer = &self.plan.buffers[b as usize];
                (self.memory.base(buffer.region).wrapping_add(buffer.offset as usize), false)
            }
        };
        let ptr = base.wrapping_add((o.offset * o.ty.dtype.bytes()) as usize);
        View { panels, ..View::new(ptr, &o.ty, &o.strides) }
    }
}

impl CpuInstance {
    fn resolver(&self) -> Resolver<'_> {
        Resolver { plan: &self.plan, memory: &self.memory, weights: &self.weights }
    }
}

impl Instance for CpuInstance {
    fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn write(&mut self, input: usize, tensor: &HostTensor) -> Result<(), RuntimeError> {
        let port = port(&self.plan.inputs, input, "input")?;
        tensor.check(&port.name, &port.operand.ty)?;
        let view = self.resolver().view(&port.operand);
        // SAFETY: `Plan::check` proved that ports are dense and lie inside their region, which lives as long as `self`;
        // `&mut self` keeps kernels and other accesses away while the slice lives.
        let bytes = unsafe { std::slice::from_raw_parts_mut(view.ptr, port.operand.ty.bytes() as usize) };
        tensor.encode(port.operand.ty.dtype, bytes);
        Ok(())
    }

    fn run(&mut self, entry: Binding) -> Result<(), RuntimeError> {
        let resolver = Resolver { plan: &self.plan, memory: &self.memory, weights: &self.weights };
        let _turn = self.memory.state.turn();
        let profiler = &mut self.profiler;
        let calls = self.plan.calls(entry);
        self.pool.install(|| {
            let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
            for (index, call) in calls.iter().enumerate() {
                inputs.clear();
                inputs.extend(call.inputs.iter().map(|o| resolver.view(o)));
                outputs.clear();
                outputs.extend(call.outputs.iter().map(|o| resolver.view(o)));
                let start = profiler.start();
                // SAFETY: `Plan::check` proved for every call that its operands have the types that the operator infers,
                // lie inside their buffers, that outputs are dense and share no byte with other operands except where
                // the operator allows it; instantiation proved that weights have the bytes of their types. The memory
                // lives as long as `self`; `&mut self` keeps everybody else away, and the turn other instances from the state.
                let done = unsafe { cpu::run(&call.op, &inputs, &outputs) };
                done.map_err(|e| RuntimeError::Kernel {
                    entry,
                    op: call.op.name(),
                    at: call.at.clone(),
                    problem: match e {
                        KernelError::BadValue { reason, .. } => reason,
                        unsupported => unsupported.to_string(),
                    },
                })?;
                profiler.stop(start, entry, index, call);
            }
            Ok(())
        })
    }

    fn read(&mut self, output: usize) -> Result<HostTensor, RuntimeError> {
        let port = port(&self.plan.outputs, output, "output")?;
        let view = self.resolver().view(&port.operand);
        // SAFETY: as in `write`; nothing writes while the slice lives.
        let bytes = unsafe { std::slice::from_raw_parts(view.ptr, port.operand.ty.bytes() as usize) };
        Ok(HostTensor::decode(&port.operand.ty, bytes))
    }

    fn state(&self) -> Option<StateMemory> {
        let bytes = self.plan.state_bytes;
        (bytes > 0).then(|| StateMemory::new(bytes, Arc::clone(&self.memory.state)))
    }

    fn read_state(&mut self, state: usize) -> Result<HostTensor, RuntimeError> {
        let (_, operand) = state_port(&self.plan, state)?;
        let view = self.resolver().view(&operand);
        let _turn = self.memory.state.turn();
        // SAFETY: `Plan::check` proved that states fill their buffers; the turn keeps other instances away.
        let bytes = unsafe { std::slice::from_raw_parts(view.ptr, operand.ty.bytes() as usize) };
        Ok(HostTensor::decode(&operand.ty, bytes))
    }

    fn write_state(&mut self, state: usize, tensor: &HostTensor) -> Result<(), RuntimeError> {
        let (named, operand) = state_port(&self.plan, state)?;
        tensor.check(&named.name, &operand.ty)?;
        let view = self.resolver().view(&operand);
        let _turn = self.memory.state.turn();
        // SAFETY: as in `read_state`, and `&mut self` keeps kernels of this instance away.
        let bytes = unsafe { std::slice::from_raw_parts_mut(view.ptr, operand.ty.bytes() as usize) };
        tensor.encode(operand.ty.dtype, bytes);
        Ok(())
    }

    fn resident_bytes(&self) -> u64 {
        self.plan.persistent_bytes + self.plan.scratch_bytes + self.plan.state_bytes + self.weights.bytes() as u64
    }

    fn set_profiling(&mut self, on: bool) {
        self.profiler.set(on);
    }

    fn take_profile(&mut self) -> Vec<CallTime> {
        self.profiler.take()
    }
}
