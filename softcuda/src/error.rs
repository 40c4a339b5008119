//! Errors: a text that cannot be read, a launch that cannot start, and a kernel that broke a rule.

/// What a kernel did wrong. The driver turns it into a CUDA error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A global access outside of every live allocation.
    IllegalAddress,
    /// An access whose address is no multiple of its size.
    Misaligned,
    /// A shared (or local, or parameter) access out of its range.
    SharedRange,
    /// A read of shared memory that nothing in this block wrote.
    Uninitialised,
    /// Two warps touched the same shared byte with no barrier between, and one of them wrote it. Between blocks of a
    /// cluster it takes the cluster's barrier; the end of a block is as good as a write.
    Race,
    /// A byte of shared memory was touched while an asynchronous copy into it was pending.
    PendingCopy,
    /// Registers or shared memory of an asynchronous product were touched before it was waited for, or accumulators
    /// were changed without a `wgmma.fence`.
    PendingProduct,
    /// An asynchronous reader saw shared memory that its writer didn't show with `fence.proxy.async`.
    ProxyFence,
    /// A kernel that waits for earlier ones itself (`griddepcontrol.wait`) touched global memory or ended before it did.
    Dependency,
    /// Every thread that is left waits for a barrier that can't complete.
    Deadlock,
    /// A `.sync` instruction ran without all the lanes that its mask names.
    MissingLanes,
    /// `trap`, or an instruction used in a way that hardware leaves undefined.
    Trap,
}

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text isn't PTX that the interpreter knows.
    #[error("PTX line {line}: {message}: `{text}`")]
    Parse {
        /// One-based line in the text.
        line: u32,
        /// What is wrong.
        message: String,
        /// The line itself.
        text: String,
    },
    /// The launch doesn't fit the kernel.
    #[error("launch of `{kernel}`: {message}")]
    Launch {
        /// Name of the kernel.
        kernel: String,
        /// What is wrong.
        message: String,
    },
    /// The kernel broke a rule.
    #[error(
        "kernel `{kernel}`, block {block:?}, thread {thread:?}, PTX line {line} (source line {source_line}) `{text}`: {message}"
    )]
    Fault {
        /// Which rule.
        kind: FaultKind,
        /// Name of the kernel.
        kernel: String,
        /// Index of the block.
        block: [u32; 3],
        /// Index of the thread in the block.
        thread: [u32; 3],
        /// One-based line in the PTX text.
        line: u32,
        /// Line of the CUDA source by the nearest `.loc`; 0 when there is none.
        source_line: u32,
        /// The PTX line itself.
        text: String,
        /// What happened.
        message: String,
    },
}

impl Error {
    /// The rule that was broken, when it was a kernel that did it.
    pub fn fault(&self) -> Option<FaultKind> {
        match self {
            Error::Fault { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

/// A fault before the kernel, block and line are known.
#[derive(Debug)]
pub(crate) struct Fault {
    pub kind: FaultKind,
    pub lane: u32,
    pub message: String,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, lane: u32, message: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { kind, lane, message: message.into() })
    }
}
