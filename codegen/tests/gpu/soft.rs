//! CUDA kernels on softcuda's interpreter: a text is compiled to PTX by NVRTC, and that is run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use ccl_codegen::gpu::emit::emit;
use ccl_codegen::gpu::text::maps;
use ccl_codegen::gpu::{Launch, Lowered, Ref, Target, lower};
use ccl_ir::plan::{Call, Operand};
use softcuda::{Grid, Memory, Module, Stats, matrix_map};

use crate::common::{Buffer, decode, encode};
use crate::nvrtc::Nvrtc;

/// A device that interprets.
pub struct Soft {
    nvrtc: Nvrtc,
    modules: Mutex<HashMap<String, std::sync::Arc<Module>>>,
}

impl Soft {
    /// Loads NVRTC.
    pub fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let nvrtc = Nvrtc::load(&root).unwrap_or_else(|e| panic!("{e}"));
        Self { nvrtc, modules: Mutex::default() }
    }

    fn module(&self, text: &str) -> std::sync::Arc<Module> {
        let known = self.modules.lock().unwrap().get(text).cloned();
        known.unwrap_or_else(|| {
            let ptx = self.nvrtc.ptx(text, "sm_90a").unwrap_or_else(|e| panic!("{e}"));
            let module = std::sync::Arc::new(Module::parse(&ptx).unwrap_or_else(|e| panic!("{e}")));
            self.modules.lock().unwrap().insert(text.into(), module.clone());
            module
        })
    }

    /// Runs a call and returns its outputs and what the launches did; `None` where the host is to run it. Outputs start as NaN, save
    /// those in place.
    pub fn run(
        &self,
        target: &Target,
        call: &Call,
        inputs: &[Buffer],
    ) -> Option<(Vec<Vec<f64>>, Vec<(Launch, Stats)>)> {
        let launches = match lower(call, target).unwrap_or_else(|e| panic!("{e}")) {
            Lowered::Host => return None,
            Lowered::Device(launches) => launches,
        };
        let memory = Memory::new();
        let create = |bytes: &[u8]| {
            let at = memory.alloc(bytes.len().max(1)).unwrap();
            // SAFETY: allocated with that many bytes, on this machine's own heap.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
            at
        };
        let ins: Vec<u64> = inputs.iter().map(|b| create(&b.bytes())).collect();
        let over = |o: &Operand| call.inputs.iter().position(|i| i.place == o.place);
        let poisoned =
            |o: &Operand| create(&encode(o.ty.dtype, &vec![f64::NAN; (o.offset + o.ty.elements()) as usize]));
        let outs: Vec<u64> = call.outputs.iter().map(|o| over(o).map_or_else(|| poisoned(o), |i| ins[i])).collect();
        let mut done = Vec::new();
        for launch in launches {
            let text = emit(&launch, target).unwrap();
            let buffers = [&launch.halves, &launch.floats, &launch.ints, &launch.half_outs, &launch.float_outs];
            let mut params: Vec<Vec<u8>> = Vec::new();
            for r in buffers.into_iter().flatten() {
                let at = match *r {
                    Ref::In(i) => ins[i as usize],
                    Ref::Out(i) => outs[i as usize],
                };
                params.push(at.to_le_bytes().into());
            }
            for map in maps(&launch.blueprint) {
                let size = |i: usize| u64::from(launch.sizes[i]);
                let at = u64::from_le_bytes(params[map.buffer][..].try_into().unwrap());
                let words = matrix_map(at + 2 * size(map.first), map.extents.map(size), 2 * size(map.stride), map.tile);
                params.push(words.iter().flat_map(|w| w.to_le_bytes()).collect());
            }
            let module = self.module(&text.text);
            let mut info: Vec<u8> = launch.sizes.iter().flat_map(|n| n.to_le_bytes()).collect();
            let (_, size) = *module.params("universal").unwrap().last().unwrap();
            info.resize(size as usize, 0);
            params.push(info);
            let params: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
            let grid = Grid { cubes: launch.cubes, units: text.units, dynamic_shared: text.shared_bytes as u32 };
            let stats = module.launch("universal", grid, &params, &memory).unwrap_or_else(|e| panic!("{e}"));
            done.push((launch, stats));
        }
        let read = |(&at, o): (&u64, &Operand)| {
            let end = (o.offset + o.ty.elements()) as usize * o.ty.dtype.bytes() as usize;
            // SAFETY: allocated with as many bytes as the operand ends behind, or those of an input of its type at the same place.
            let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, end) };
            decode(o.ty.dtype, bytes).split_off(o.offset as usize)
        };
        Some((outs.iter().zip(&call.outputs).map(read).collect(), done))
    }
}
