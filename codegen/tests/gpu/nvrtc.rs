//! NVRTC, the compiler of CUDA texts, without a CUDA toolkit and without a GPU.
//!
//! `./test.sh` puts NVIDIA's packages into a directory of their own; `CCL_NVRTC_DIR` names it, else it is looked for in the target
//! directory. Where it is missing there is a message, never a test that passes for want of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use rayon::prelude::*;

/// Version of NVRTC that texts are held against.
pub const VERSION: (c_int, c_int) = (13, 0);

/// Architectures that every text must compile for, with their compute capabilities times ten.
pub const ARCHITECTURES: [(&str, u32); 3] = [("sm_80", 80), ("sm_90a", 90), ("sm_120", 120)];

/// Where a text of CubeCL's begins that is the kernel's own.
const INFO: &str = "struct info_st {";

/// Texts that begin alike as one: each kernel under a name of its own.
fn together(head: &str, texts: &[&str], part: &[usize]) -> String {
    let mut all = head.to_owned();
    for i in part {
        let own = texts[*i][head.len()..].replacen(" universal", &format!(" k{i}_universal"), 1);
        all.push_str(&format!("namespace k{i} {{\n{own}\n}}\n"));
    }
    all
}

type Program = *mut c_void;
type Strings = *const *const c_char;

/// The library's functions; pointers are good as long as the library is.
pub struct Nvrtc {
    create: unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Strings, Strings) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, Strings) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    binary_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    headers: Vec<String>,
    _libraries: [Library; 2],
}

impl Nvrtc {
    /// Loads the library from `CCL_NVRTC_DIR`, or from where `./test.sh` of the workspace at `root` puts it.
    ///
    /// # Errors
    /// When it is not there, cannot be loaded, or is of another version; the message says what to do.
    pub fn load(root: &Path) -> Result<Self, String> {
        let given = std::env::var_os("CCL_NVRTC_DIR").map(PathBuf::from);
        let dir = given.unwrap_or_else(|| root.join("target/nvrtc/nvidia/cu13"));
        let wrong = |what: String| format!("{}: {what}: run ./test.sh, which installs NVRTC 13.0 there", dir.display());
        let open = |name: &str| {
            // SAFETY: NVIDIA's libraries have no initialiser that asks anything of the caller.
            unsafe { Library::open(Some(dir.join("lib").join(name)), RTLD_NOW | RTLD_GLOBAL) }
        };
        // The compiler looks this one up by name when it is needed: it is found where it is loaded already.
        let builtins = open("libnvrtc-builtins.so.13.0").map_err(|e| wrong(e.to_string()))?;
        let library = open("libnvrtc.so.13").map_err(|e| wrong(e.to_string()))?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the signatures are those of nvrtc.h; the library is kept as long as the pointers.
                *unsafe { library.get($name) }.map_err(|e| wrong(e.to_string()))?
            };
        }
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = function!(b"nvrtcVersion");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two integers to write to.
        unsafe { version(&raw mut major, &raw mut minor) };
        if (major, minor) != VERSION {
            return Err(wrong(format!("is NVRTC {major}.{minor}, not {}.{}", VERSION.0, VERSION.1)));
        }
        let include = |part: &str| format!("--include-path={}", dir.join(part).display());
        Ok(Self {
            create: function!(b"nvrtcCreateProgram"),
            compile: function!(b"nvrtcCompileProgram"),
            log_size: function!(b"nvrtcGetProgramLogSize"),
            log: function!(b"nvrtcGetProgramLog"),
            binary_size: function!(b"nvrtcGetCUBINSize"),
            ptx_size: function!(b"nvrtcGetPTXSize"),
            ptx: function!(b"nvrtcGetPTX"),
            destroy: function!(b"nvrtcDestroyProgram"),
            headers: vec![include("include"), include("include/cccl")],
            _libraries: [builtins, library],
        })
    }

    /// Compiles a text to machine code for an architecture such as `sm_90a`, with the options that the CUDA backend gives. Returns the
    /// code's size in bytes. May be called from many threads.
    ///
    /// # Errors
    /// When it does not compile: the compiler's own log.
    pub fn compile(&self, text: &str, architecture: &str) -> Result<usize, String> {
        self.with_program(text, architecture, &[], |program| self.size(program))
    }

    /// Compiles many texts for an architecture on all cores, and gives the logs of those that do not compile, by their position. CubeCL's texts take
    /// longer to read headers than to compile: those that begin alike are one program.
    pub fn compile_all(&self, texts: &[&str], architecture: &str) -> BTreeMap<usize, String> {
        const TOGETHER: usize = 24;
        let mut alike: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, text) in texts.iter().enumerate() {
            // A text of our own begins with constants that are its own, and reads no header.
            let head = text.split_once(INFO).map(|(head, _)| head).filter(|head| head.contains("#include"));
            alike.entry(head.unwrap_or(text)).or_default().push(i);
        }
        let parts: Vec<(&str, &[usize])> =
            alike.iter().flat_map(|(head, list)| list.chunks(TOGETHER).map(move |part| (*head, part))).collect();
        let alone = |&i: &usize| self.compile(texts[i], architecture).err().map(|log| (i, log));
        let wrong = parts.par_iter().map(|(head, part)| {
            if part.len() > 1 && self.compile(&together(head, texts, part), architecture).is_ok() {
                return Vec::new();
            }
            part.iter().filter_map(alone).collect()
        });
        wrong.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// The text as PTX.
    ///
    /// # Errors
    /// As for [`Nvrtc::compile`].
    pub fn ptx(&self, text: &str, architecture: &str) -> Result<String, String> {
        // Of an architecture that is none of a device nothing is assembled, which takes half of the time.
        let virtual_architecture = architecture.replace("sm_", "compute_");
        self.with_program(text, &virtual_architecture, &[], |program| {
            let mut size = 0;
            // SAFETY: a live program and a number to write to.
            unsafe { (self.ptx_size)(program, &raw mut size) };
            let mut ptx = vec![0u8; size];
            // SAFETY: as many bytes as the text has, its zero included.
            unsafe { (self.ptx)(program, ptx.as_mut_ptr().cast()) };
            let ptx = CStr::from_bytes_until_nul(&ptx).map_err(|e| e.to_string())?;
            let ptx = ptx.to_string_lossy().into_owned();
            // What is read so may be read before the kernel's turn has come.
            assert!(!ptx.contains("ld.global.nc"), "{text}");
            Ok(ptx)
        })
    }

    /// What the assembler says of a text: registers, spills, instructions that it had to put in a row.
    ///
    /// # Errors
    /// As for [`Nvrtc::compile`].
    pub fn assembled(&self, text: &str, architecture: &str) -> Result<String, String> {
        self.with_program(text, architecture, &["--ptxas-options=-v"], |program| Ok(self.log(program)))
    }

    fn with_program<T>(
        &self,
        text: &str,
        architecture: &str,
        more: &[&str],
        of: impl FnOnce(Program) -> Result<T, String>,
    ) -> Result<T, String> {
        let text = CString::new(text).map_err(|e| e.to_string())?;
        let mut options = vec![format!("--gpu-architecture={architecture}"), "-lineinfo".into()];
        options.extend(self.headers.iter().cloned());
        options.extend(more.iter().map(|o| o.to_string()));
        let options: Vec<CString> =
            options.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = null_mut();
        // SAFETY: `text` is a C string; no name and no headers are given.
        let made = unsafe { (self.create)(&raw mut program, text.as_ptr(), null(), 0, null(), null()) };
        if made != 0 {
            return Err(format!("NVRTC makes no program: error {made}"));
        }
        // SAFETY: the program is alive until it is destroyed below, and the options are C strings that outlive the call.
        let code = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let result = if code == 0 { of(program) } else { Err(self.log(program)) };
        // SAFETY: made above, destroyed once.
        unsafe { (self.destroy)(&raw mut program) };
        result
    }

    fn size(&self, program: Program) -> Result<usize, String> {
        let mut size = 0;
        // SAFETY: a live program and a number to write to.
        let code = unsafe { (self.binary_size)(program, &raw mut size) };
        if code == 0 && size > 0 { Ok(size) } else { Err(format!("no machine code: error {code}")) }
    }

    fn log(&self, program: Program) -> String {
        let mut size = 0;
        // SAFETY: a live program and a number to write to.
        unsafe { (self.log_size)(program, &raw mut size) };
        let mut log = vec![0u8; size + 1];
        // SAFETY: as many bytes as the log has, and one more that stays zero.
        unsafe { (self.log)(program, log.as_mut_ptr().cast()) };
        CStr::from_bytes_until_nul(&log).map(|l| l.to_string_lossy().into_owned()).unwrap_or_default()
    }
}
