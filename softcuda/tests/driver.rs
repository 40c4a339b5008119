//! The driver, loaded as programs load it: by name, from the dynamic library.

use std::ffi::{CString, c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard};

use libloading::{Library, Symbol};

struct Driver {
    library: Library,
}

macro_rules! cu {
    ($driver:expr, $name:ident, $($arg:expr => $ty:ty),*) => {{
        // SAFETY: the types are those of the driver's interface.
        unsafe {
            let f: Symbol<unsafe extern "C" fn($($ty),*) -> u32> = $driver.library.get(stringify!($name).as_bytes()).unwrap();
            f($($arg),*)
        }
    }};
}

macro_rules! ok {
    ($driver:expr, $name:ident, $($arg:expr => $ty:ty),*) => {
        assert_eq!(cu!($driver, $name, $($arg => $ty),*), 0, stringify!($name))
    };
}

/// The tests share one device: they run one after another.
fn driver() -> (MutexGuard<'static, ()>, Driver) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let path = std::env::current_exe().unwrap().with_file_name("libsoftcuda.so");
    // SAFETY: the library has no initialisers.
    let driver = Driver { library: unsafe { Library::new(path).unwrap() } };
    ok!(driver, cuInit, 0 => c_uint);
    let mut context = 0usize;
    ok!(driver, cuDevicePrimaryCtxRetain, &mut context => *mut usize, 0 => c_int);
    ok!(driver, cuCtxSetCurrent, context => usize);
    (turn, driver)
}

impl Driver {
    fn alloc(&self, bytes: usize) -> u64 {
        let mut at = 0u64;
        ok!(self, cuMemAlloc_v2, &mut at => *mut u64, bytes => usize);
        at
    }

    fn function(&self, fixture: &str, name: &str) -> usize {
        let path = format!("{}/tests/ptx/{fixture}.ptx", env!("CARGO_MANIFEST_DIR"));
        let text = CString::new(std::fs::read_to_string(path).unwrap()).unwrap();
        let (mut module, mut function) = (0usize, 0usize);
        ok!(self, cuModuleLoadData, &mut module => *mut usize, text.as_ptr().cast() => *const c_void);
        let name = CString::new(name).unwrap();
        ok!(self, cuModuleGetFunction, &mut function => *mut usize, module => usize, name.as_ptr() => *const std::ffi::c_char);
        function
    }

    fn stream(&self) -> usize {
        let mut stream = 0usize;
        ok!(self, cuStreamCreate, &mut stream => *mut usize, 1 => c_uint);
        stream
    }

    fn upload(&self, at: u64, values: &[f32], stream: usize) {
        let bytes = std::mem::size_of_val(values);
        ok!(self, cuMemcpyHtoDAsync_v2, at => u64, values.as_ptr().cast() => *const c_void, bytes => usize, stream => usize);
    }

    fn download(&self, at: u64, len: usize) -> Vec<f32> {
        let mut out = vec![0f32; len];
        ok!(self, cuMemcpyDtoH_v2, out.as_mut_ptr().cast() => *mut c_void, at => u64, len * 4 => usize);
        out
    }

    fn vadd(&self, function: usize, [mut a, mut b, mut c]: [u64; 3], mut n: i32, stream: usize) -> u32 {
        let mut params: [*mut c_void; 4] =
            [(&raw mut a).cast(), (&raw mut b).cast(), (&raw mut c).cast(), (&raw mut n).cast()];
        cu!(self, cuLaunchKernel, function => usize, 2 => c_uint, 1 => c_uint, 1 => c_uint, 32 => c_uint, 1 => c_uint,
            1 => c_uint, 0 => c_uint, stream => usize, params.as_mut_ptr() => *mut *mut c_void,
            std::ptr::null_mut() => *mut *mut c_void)
    }
}

#[test]
fn device() {
    let (_turn, d) = driver();
    let (mut count, mut version, mut major) = (0 as c_int, 0 as c_int, 0 as c_int);
    ok!(d, cuDeviceGetCount, &mut count => *mut c_int);
    ok!(d, cuDriverGetVersion, &mut version => *mut c_int);
    ok!(d, cuDeviceGetAttribute, &mut major => *mut c_int, 75 => c_uint, 0 => c_int);
    assert_eq!((count, version, major), (1, 13000, 9));
    let mut name = [0u8; 64];
    ok!(d, cuDeviceGetName, name.as_mut_ptr() => *mut u8, 64 => c_int, 0 => c_int);
    assert!(name.starts_with(b"softcuda (PTX interpreter)\0"));
    let mut module = 0usize;
    assert_eq!(cu!(d, cuModuleLoadData, &mut module => *mut usize, b"\x7fELF\0".as_ptr() => *const u8), 209);
}

#[test]
fn streams_run_late() {
    let (_turn, d) = driver();
    let f = d.function("basic", "vadd");
    let [a, b, c] = [d.alloc(256), d.alloc(256), d.alloc(256)];
    let (one, two) = (d.stream(), d.stream());
    // Pageable memory is read at once: the values may go away.
    d.upload(a, &[1.0; 64], one);
    d.upload(b, &[2.0; 64], one);
    assert_eq!(d.vadd(f, [a, b, c], 64, one), 0);
    // Nothing waited: the result isn't there.
    assert!(d.download(c, 64).iter().all(|x| x.is_nan()));
    // Another stream that doesn't wait sees garbage; after a wait it sees the sum.
    assert_eq!(d.vadd(f, [c, c, b], 64, two), 0);
    ok!(d, cuStreamSynchronize, two => usize);
    assert!(d.download(b, 64).iter().all(|x| x.is_nan()));
    let mut event = 0usize;
    ok!(d, cuEventCreate, &mut event => *mut usize, 0 => c_uint);
    ok!(d, cuEventRecord, event => usize, one => usize);
    assert_eq!(cu!(d, cuEventQuery, event => usize), 600);
    ok!(d, cuStreamWaitEvent, two => usize, event => usize, 0 => c_uint);
    assert_eq!(d.vadd(f, [c, c, a], 64, two), 0);
    ok!(d, cuStreamSynchronize, two => usize);
    assert_eq!(d.download(c, 64), [3.0; 64]);
    assert_eq!(d.download(a, 64), [6.0; 64]);
    assert_eq!(cu!(d, cuEventQuery, event => usize), 0);
    ok!(d, cuMemFree_v2, a => u64);
}

#[test]
fn graphs() {
    let (_turn, d) = driver();
    let f = d.function("basic", "vadd");
    let [a, b] = [d.alloc(256), d.alloc(256)];
    let stream = d.stream();
    d.upload(a, &[1.0; 64], stream);
    d.upload(b, &[10.0; 64], stream);
    ok!(d, cuStreamBeginCapture_v2, stream => usize, 0 => c_uint);
    assert_eq!(d.vadd(f, [a, b, b], 64, stream), 0);
    let mut at = 0u64;
    assert_eq!(cu!(d, cuMemAlloc_v2, &mut at => *mut u64, 4 => usize), 900);
    // A capture of this thread alone leaves others be.
    let (second, mut graph) = (d.stream(), 0usize);
    ok!(d, cuStreamEndCapture, stream => usize, &mut graph => *mut usize);
    ok!(d, cuGraphDestroy, graph => usize);
    ok!(d, cuStreamBeginCapture_v2, second => usize, 1 => c_uint);
    assert_eq!(cu!(d, cuMemAlloc_v2, &mut at => *mut u64, 4 => usize), 900);
    let elsewhere = || {
        let (mut context, mut at) = (0usize, 0u64);
        ok!(d, cuDevicePrimaryCtxRetain, &mut context => *mut usize, 0 => c_int);
        ok!(d, cuCtxSetCurrent, context => usize);
        let mut x = [0.0f32; 64];
        let copied = cu!(d, cuMemcpyDtoH_v2, x.as_mut_ptr() => *mut f32, a => u64, 256 => usize);
        [cu!(d, cuMemAlloc_v2, &mut at => *mut u64, 4 => usize), copied]
    };
    assert_eq!(std::thread::scope(|scope| scope.spawn(elsewhere).join().unwrap()), [0, 0]);
    let mut x = [0.0f32; 64];
    assert_eq!(cu!(d, cuMemcpyDtoH_v2, x.as_mut_ptr() => *mut f32, a => u64, 256 => usize), 900);
    ok!(d, cuStreamEndCapture, second => usize, &mut graph => *mut usize);
    ok!(d, cuGraphDestroy, graph => usize);
    ok!(d, cuStreamBeginCapture_v2, stream => usize, 0 => c_uint);
    assert_eq!(d.vadd(f, [a, b, b], 64, stream), 0);
    let (mut graph, mut executable, mut nodes) = (0usize, 0usize, 0usize);
    ok!(d, cuStreamEndCapture, stream => usize, &mut graph => *mut usize);
    ok!(d, cuGraphGetNodes, graph => usize, std::ptr::null_mut() => *mut usize, &mut nodes => *mut usize);
    assert_eq!(nodes, 1);
    ok!(d, cuGraphInstantiateWithFlags, &mut executable => *mut usize, graph => usize, 0 => u64);
    ok!(d, cuGraphDestroy, graph => usize);
    for _ in 0..3 {
        ok!(d, cuGraphLaunch, executable => usize, stream => usize);
    }
    ok!(d, cuStreamSynchronize, stream => usize);
    assert_eq!(d.download(b, 64), [13.0; 64]);
    ok!(d, cuGraphExecDestroy, executable => usize);
}

/// `CUlaunchConfig`, with at most one attribute: the size of clusters.
#[repr(C)]
struct LaunchConfig {
    cubes: [c_uint; 3],
    units: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: usize,
    attributes: *const LaunchAttribute,
    count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C, align(8))]
struct LaunchAttribute {
    id: c_uint,
    pad: [u8; 4],
    value: [u32; 16],
}

#[test]
fn clusters() {
    let (_turn, d) = driver();
    let (sums, alone) = (d.function("clusters", "sums"), d.function("basic", "vadd"));
    let (mut at, mut n) = (d.alloc(4096), 0i32);
    let mut params: [*mut c_void; 4] =
        [(&raw mut at).cast(), (&raw mut at).cast(), (&raw mut at).cast(), (&raw mut n).cast()];
    let mut launch = |function: usize, blocks: u32, cluster: Option<[u32; 3]>| {
        let mut value = [0; 16];
        value[..3].copy_from_slice(&cluster.unwrap_or_default());
        let attribute = LaunchAttribute { id: 4, pad: [0; 4], value };
        let config = LaunchConfig {
            cubes: [blocks, 1, 1],
            units: [64, 1, 1],
            dynamic_shared: 0,
            stream: 0,
            attributes: &attribute,
            count: u32::from(cluster.is_some()),
        };
        cu!(d, cuLaunchKernelEx, &config => *const LaunchConfig, function => usize,
            params.as_mut_ptr() => *mut *mut c_void, std::ptr::null_mut() => *mut *mut c_void)
    };
    // The attribute has to agree with the kernel, and the grid with the clusters.
    assert_eq!(launch(sums, 8, Some([4, 1, 1])), 0);
    assert_eq!(launch(sums, 8, None), 0);
    assert_eq!(launch(sums, 8, Some([2, 1, 1])), 801);
    assert_eq!(launch(sums, 8, Some([1, 1, 1])), 801);
    assert_eq!(launch(sums, 8, Some([4, 2, 1])), 801);
    assert_eq!(launch(sums, 6, None), 1);
    assert_eq!(launch(alone, 2, Some([1, 1, 1])), 0);
    assert_eq!(launch(alone, 2, Some([2, 1, 1])), 801);
    ok!(d, cuCtxSynchronize,);
    assert_eq!(d.download(at, 1)[0].to_bits(), (0..4).map(|rank| rank * 64).sum::<u32>());
}

/// A kernel that fails takes the context with it, which must not happen to the other tests: this one runs its body in a
/// process of its own.
#[test]
fn failures_stick() {
    if std::env::var_os("SOFTCUDA_TEST_FAILURE").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["failures_stick", "--exact"])
            .env("SOFTCUDA_TEST_FAILURE", "1")
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&status.stdout), String::from_utf8_lossy(&status.stderr));
        assert!(status.status.success(), "{out}{err}");
        return;
    }
    let (_turn, d) = driver();
    let f = d.function("basic", "vadd");
    let a = d.alloc(64);
    assert_eq!(d.vadd(f, [a, a, a], 64, 0), 0);
    assert_eq!(cu!(d, cuCtxSynchronize,), 700);
    assert_eq!(cu!(d, cuCtxSynchronize,), 700);
    assert_eq!(d.vadd(f, [a, a, a], 1, 0), 700);
}
