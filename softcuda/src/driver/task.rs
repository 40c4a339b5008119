//! What streams and graphs are made of.

use std::sync::Arc;

use crate::module::{Grid, Module};

/// One piece of work of a stream.
#[derive(Clone)]
pub(crate) enum Task {
    Kernel {
        module: Arc<Module>,
        name: Arc<str>,
        grid: Grid,
        params: Vec<u8>,
        /// It may begin while earlier kernels run. Here it never does.
        early: bool,
    },
    /// A product of matrices that cuBLASLt was asked for.
    Product(Box<super::blas::Product>),
    /// Rows of bytes from one address to another. Sides that are device memory are checked.
    Copy {
        dst: u64,
        src: u64,
        width: usize,
        height: usize,
        dst_pitch: usize,
        src_pitch: usize,
        dst_device: bool,
        src_device: bool,
    },
    /// Bytes that were read when the copy was issued.
    Upload {
        dst: u64,
        bytes: Arc<[u8]>,
    },
    Fill {
        dst: u64,
        pattern: u32,
        size: usize,
        count: usize,
    },
    Free {
        at: u64,
    },
    /// A node that takes part in graphs only.
    Alloc,
    Record {
        event: usize,
        generation: u64,
    },
    Wait {
        stream: usize,
        until: u64,
    },
    Host {
        function: unsafe extern "C" fn(*mut std::ffi::c_void),
        data: usize,
    },
}

impl Task {
    /// Whether it is a kernel of a module with the text in it that this variable names: for tests of what programs do then.
    pub fn is_told(&self, variable: &str) -> bool {
        let Task::Kernel { module, .. } = self else { return false };
        std::env::var(variable).is_ok_and(|part| !part.is_empty() && module.text().contains(&part))
    }

    /// `CUgraphNodeType`.
    pub fn node_type(&self) -> u32 {
        match self {
            Task::Kernel { .. } | Task::Product(_) => 0,
            Task::Copy { .. } | Task::Upload { .. } => 1,
            Task::Fill { .. } => 2,
            Task::Host { .. } => 3,
            Task::Wait { .. } => 6,
            Task::Record { .. } => 7,
            Task::Alloc => 10,
            Task::Free { .. } => 11,
        }
    }
}
