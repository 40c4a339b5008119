//! NVRTC, NVIDIA's run-time compiler: CUDA texts to PTX and machine code, on machines with and without a GPU.
//!
//! It is loaded when the first text has to be compiled. Where it is not installed, plans that carry compiled kernels run all the same.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use libloading::Library;

use super::toolkit::{folders, function, open, roots};

type Program = *mut c_void;
type Strings = *const *const c_char;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// Where the library may be, by name, newest first.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};
/// What the compiler loads by name when it is used.
const BUILTINS: &str = if cfg!(windows) { "nvrtc-builtins64" } else { "libnvrtc-builtins.so" };

/// Machine code for one architecture, and the text that newer ones compile it from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    /// PTX.
    pub ptx: String,
    /// An ELF file.
    pub cubin: Vec<u8>,
}

/// The compiler.
pub(crate) struct Nvrtc {
    create: unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Strings, Strings) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, Strings) -> c_int,
    log_size: Size,
    log: Text,
    ptx_size: Size,
    ptx: Text,
    cubin_size: Size,
    cubin: Text,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    /// Options that name the headers.
    headers: Vec<CString>,
    /// `NVRTC 13.0`.
    version: String,
    major: c_int,
    _libraries: Vec<Library>,
}

impl Nvrtc {
    /// The compiler of this machine.
    ///
    /// # Errors
    /// When there is none, or it cannot be loaded; the message says what to do.
    pub(crate) fn get() -> Result<&'static Self, String> {
        static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
        NVRTC.get_or_init(|| Self::find(c_int::MAX)).as_ref().map_err(Clone::clone)
    }

    /// The compiler of this machine whose code a driver of this CUDA version (13000 is 13.0) takes.
    ///
    /// # Errors
    /// As for [`Nvrtc::get`], and when there are newer ones only.
    pub(crate) fn for_driver(driver: i32) -> Result<&'static Self, String> {
        // A process has one driver.
        static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
        NVRTC.get_or_init(|| Self::find(driver / 1000)).as_ref().map_err(Clone::clone)
    }

    /// Name and version.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The newest of at most this major version.
    fn find(most: c_int) -> Result<Self, String> {
        let mut problems = Vec::new();
        let (roots, only) = roots();
        for root in &roots {
            for lib in folders(root) {
                for path in NAMES.iter().map(|name| lib.join(name)).filter(|path| path.exists()) {
                    match Self::load(path.as_os_str(), Some(&lib), root).and_then(|nvrtc| nvrtc.at_most(most)) {
                        Ok(nvrtc) => return Ok(nvrtc),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
        }
        // Then by what the system's loader knows, with headers from the usual place.
        for name in if only { &[] } else { NAMES } {
            let root = roots.iter().find(|r| r.join("include/cuda_fp16.h").exists());
            // A loader that knows no such name is no problem to speak of.
            let Ok(nvrtc) = Self::load(OsStr::new(name), None, root.map_or(Path::new(""), PathBuf::as_path)) else {
                continue;
            };
            match nvrtc.at_most(most) {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(problem) => problems.push(problem),
            }
        }
        let why = problems.first().map(|p| format!(" ({p})")).unwrap_or_default();
        Err(format!(
            "NVRTC, which compiles CUDA kernels, was not found{why}: install the CUDA toolkit and set CUDA_PATH, or `pip install \
             nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cuda-crt` and set CCL_NVRTC_DIR to their nvidia/cu13; a plan \
             made by `ccl compile --target cuda:sm_90a` on a machine with NVRTC needs none"
        ))
    }

    /// Itself where a driver of this major version takes its code.
    fn at_most(self, most: c_int) -> Result<Self, String> {
        if self.major <= most {
            return Ok(self);
        }
        Err(format!("{} is newer than the driver, of CUDA {most}", self.version))
    }

    fn load(name: &OsStr, folder: Option<&Path>, root: &Path) -> Result<Self, String> {
        let mut libraries = Vec::new();
        // The compiler looks this one up by name when it is used: it is found where it is loaded already.
        for file in folder.into_iter().flat_map(std::fs::read_dir).flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(BUILTINS) {
                libraries.push(open(file.path().as_os_str())?);
                break;
            }
        }
        let library = open(name)?;
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = function!(library, b"nvrtcVersion\0");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two integers to write to.
        unsafe { version(&raw mut major, &raw mut minor) };
        let include = |part: &str| CString::new(format!("--include-path={}", root.join(part).display())).ok();
        let folders = ["include", "include/cccl"].into_iter().filter(|part| root.join(part).is_dir());
        Ok(Self {
            create: function!(library, b"nvrtcCreateProgram\0"),
            compile: function!(library, b"nvrtcCompileProgram\0"),
            log_size: function!(library, b"nvrtcGetProgramLogSize\0"),
            log: function!(library, b"nvrtcGetProgramLog\0"),
            ptx_size: function!(library, b"nvrtcGetPTXSize\0"),
            ptx: function!(library, b"nvrtcGetPTX\0"),
            cubin_size: function!(library, b"nvrtcGetCUBINSize\0"),
            cubin: function!(library, b"nvrtcGetCUBIN\0"),
            destroy: function!(library, b"nvrtcDestroyProgram\0"),
            headers: folders.filter_map(include).collect(),
            version: format!("NVRTC {major}.{minor}"),
            major,
            _libraries: {
                libraries.push(library);
                libraries
            },
        })
    }

    /// Compiles a text for an architecture such as `sm_90a`. May be called from many threads.
    ///
    /// # Errors
    /// When it does not compile: the compiler's own log.
    pub(crate) fn compile(&self, text: &str, architecture: &str) -> Result<Binary, String> {
        let text = CString::new(text).map_err(|e| e.to_string())?;
        let mut options = vec![format!("--gpu-architecture={architecture}"), "-lineinfo".into()]
            .into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| e.to_string())?;
        options.extend_from_slice(&self.headers);
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = null_mut();
        // SAFETY: `text` is a C string; no name and no headers are given.
        let made = unsafe { (self.create)(&raw mut program, text.as_ptr(), null(), 0, null(), null()) };
        if made != 0 {
            return Err(format!("{} makes no program: error {made}", self.version));
        }
        // SAFETY: the program is alive until it is destroyed below, and the options are C strings that outlive the call.
        let code = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let result = match code {
            0 => self.binary(program),
            _ => Err(self.bytes(program, self.log_size, self.log).map_or_else(|e| e, |log| text_of(&log))),
        };
        // SAFETY: made above, destroyed once.
        unsafe { (self.destroy)(&raw mut program) };
        result
    }

    fn binary(&self, program: Program) -> Result<Binary, String> {
        let ptx = text_of(&self.bytes(program, self.ptx_size, self.ptx)?);
        let cubin = self.bytes(program, self.cubin_size, self.cubin)?;
        if cubin.is_empty() || ptx.is_empty() { Err("no code came of it".into()) } else { Ok(Binary { ptx, cubin }) }
    }

    fn bytes(&self, program: Program, size: Size, get: Text) -> Result<Vec<u8>, String> {
        let mut n = 0;
        // SAFETY: a live program and a number to write to.
        let sized = unsafe { size(program, &raw mut n) };
        let mut bytes = vec![0u8; n];
        // SAFETY: a live program and as many bytes as it asks for.
        let got = if n == 0 { 0 } else { unsafe { get(program, bytes.as_mut_ptr().cast()) } };
        if sized == 0 && got == 0 { Ok(bytes) } else { Err(format!("{}: error {sized}, {got}", self.version)) }
    }
}

/// A C string's text, or all bytes where there is no zero.
fn text_of(bytes: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes);
    String::from_utf8_lossy(text).trim_end().to_owned()
}
