//! Where NVIDIA's libraries may be: the CUDA toolkit, or NVIDIA's packages for Python.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use libloading::Library;

/// Directories to look in, and whether nothing else is to be looked at: where `CCL_NVRTC_DIR` names one, it is meant.
pub(super) fn roots() -> (Vec<PathBuf>, bool) {
    if let Some(root) = named("CCL_NVRTC_DIR") {
        return (vec![root], true);
    }
    (toolkits().collect(), false)
}

/// Directories of the CUDA toolkit.
pub(super) fn toolkits() -> impl Iterator<Item = PathBuf> {
    let usual = (!cfg!(windows)).then(|| PathBuf::from("/usr/local/cuda"));
    ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(named).chain(usual)
}

/// A directory that the environment names.
pub(super) fn named(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|n| !n.is_empty()).map(PathBuf::from)
}

/// The directories of a root that libraries may be in.
pub(super) fn folders(root: &Path) -> [PathBuf; 3] {
    ["lib64", "lib", "bin"].map(|d| root.join(d))
}

/// Loads one of NVIDIA's libraries.
///
/// # Errors
/// When it is not there or cannot be loaded: the system's reason.
pub(super) fn open(name: &OsStr) -> Result<Library, String> {
    // SAFETY: NVIDIA's libraries have no initialiser that asks anything of the caller.
    unsafe { Library::new(name) }.map_err(|e| e.to_string())
}

/// A function of one of NVIDIA's libraries, by name and of the type that is wanted; returns the system's reason where it lacks it.
macro_rules! function {
    ($library:expr, $name:literal) => {
        // SAFETY: whoever names the type takes it from the library's header, and keeps the library as long as the function.
        *unsafe { $library.get($name) }.map_err(|e| e.to_string())?
    };
}
pub(super) use function;
