//! Kernels that may begin while earlier ones run: they wait before they touch anything and before they end.

use std::ffi::{CString, c_int, c_uint, c_void};

use crate::common::{Arg, download, launch, module, upload};
use libloading::{Library, Symbol};
use softcuda::{FaultKind, Memory};

#[test]
fn what_is_done_before_the_wait_is_refused() {
    let (m, memory) = (module("depend"), Memory::new());
    let at = upload(&memory, &[21f32]);
    let run = |kernel: &str| launch(&m, &memory, kernel, [1, 1, 1], [2, 1, 1], 0, &[Arg::Pointer(at)]);
    launch(&m, &memory, "twice", [1, 1, 1], [1, 1, 1], 0, &[Arg::Pointer(at)]).unwrap();
    assert_eq!(download::<f32>(at, 1), [42.0]);
    for (kernel, words) in [("early", "read before `griddepcontrol.wait`"), ("leaves", "thread [1, 0, 0]")] {
        let error = run(kernel).unwrap_err();
        assert_eq!(error.fault(), Some(FaultKind::Dependency));
        assert!(error.to_string().contains(words), "{error}");
    }
    run("never").unwrap();
}

#[test]
fn what_is_asked_for_ahead_is_somebodys() {
    let (m, memory) = (module("depend"), Memory::new());
    let at = upload(&memory, &[1f32; 64]);
    let run = |n: i32| launch(&m, &memory, "foresees", [1, 1, 1], [1, 1, 1], 0, &[Arg::Pointer(at), Arg::Int(n)]);
    run(63).unwrap();
    let error = run(64).unwrap_err();
    assert!(error.fault() == Some(FaultKind::IllegalAddress) && error.to_string().contains("prefetch at"), "{error}");
}

/// `CUlaunchAttribute` and `CUlaunchConfig`.
#[repr(C, align(8))]
struct Attribute {
    id: c_uint,
    value: [u32; 17],
}

#[repr(C)]
struct Config {
    sizes: [c_uint; 7],
    stream: usize,
    attributes: *const Attribute,
    count: c_uint,
}

macro_rules! cu {
    ($library:expr, $name:ident, $($arg:expr => $ty:ty),*) => {{
        // SAFETY: the types are those of the driver's interface.
        unsafe {
            let f: Symbol<unsafe extern "C" fn($($ty),*) -> u32> = $library.get(stringify!($name).as_bytes()).unwrap();
            f($($arg),*)
        }
    }};
}

#[test]
fn a_kernel_that_waits_for_none_may_not_begin_early() {
    let path = std::env::current_exe().unwrap().with_file_name("libsoftcuda.so");
    // SAFETY: the library has no initialisers.
    let library = unsafe { Library::new(path).unwrap() };
    let (mut context, mut module, mut at) = (0usize, 0usize, 0u64);
    assert_eq!(cu!(library, cuInit, 0 => c_uint), 0);
    assert_eq!(cu!(library, cuDevicePrimaryCtxRetain, &mut context => *mut usize, 0 => c_int), 0);
    assert_eq!(cu!(library, cuCtxSetCurrent, context => usize), 0);
    assert_eq!(cu!(library, cuMemAlloc_v2, &mut at => *mut u64, 4 => usize), 0);
    let text = std::fs::read_to_string(format!("{}/tests/ptx/depend.ptx", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let text = CString::new(text).unwrap();
    assert_eq!(cu!(library, cuModuleLoadData, &mut module => *mut usize, text.as_ptr().cast() => *const c_void), 0);
    let mut value = [0u32; 17];
    // Behind four bytes that align it.
    value[1] = 1;
    let early = Attribute { id: 6, value };
    // The first comes behind nothing, the last behind a copy.
    for (name, attributes, want) in
        [("twice", 1, 1), ("twice", 0, 0), ("twice", 1, 0), ("never", 1, 1), ("twice", 1, 1)]
    {
        if (name, attributes, want) == ("never", 1, 1) {
            let mut number = 0f32;
            let copied = cu!(library, cuMemcpyDtoHAsync_v2, (&raw mut number).cast() => *mut c_void, at => u64, 4 => usize, 0 => usize);
            assert_eq!(copied, 0);
        }
        let (mut function, name) = (0usize, CString::new(name).unwrap());
        let found = cu!(library, cuModuleGetFunction, &mut function => *mut usize, module => usize,
            name.as_ptr() => *const std::ffi::c_char);
        assert_eq!(found, 0);
        let config =
            Config { sizes: [1, 1, 1, 1, 1, 1, 0], stream: 0, attributes: &raw const early, count: attributes };
        let mut arguments: [*mut c_void; 1] = [(&raw mut at).cast()];
        let launched = cu!(library, cuLaunchKernelEx, &config => *const Config, function => usize,
            arguments.as_mut_ptr() => *mut *mut c_void, std::ptr::null_mut() => *mut *mut c_void);
        assert_eq!(launched, want, "{name:?}");
    }
    assert_eq!(cu!(library, cuStreamSynchronize, 0 => usize), 0);
}
