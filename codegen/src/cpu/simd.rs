//! Which vector instructions kernels use: the best that the machine has, or fewer where [`limit`] says so.

use std::sync::atomic::{AtomicU8, Ordering};

use pulp::{Scalar, Simd, WithSimd};

/// The levels by name, the lowest first; each is used where the machine has it.
const LEVELS: &[&str] = &[
    "scalar",
    #[cfg(target_arch = "x86_64")]
    "avx2",
    #[cfg(target_arch = "x86_64")]
    "avx512",
    #[cfg(target_arch = "aarch64")]
    "neon",
];

/// The highest level that may be used.
static LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

/// Lets kernels of this process use no higher level than this, for comparisons and tests. Results depend on the level, so set it
/// before anything runs.
///
/// # Errors
/// The names of the levels, where this is none of them.
pub fn limit(level: &str) -> Result<(), String> {
    let at = LEVELS.iter().position(|name| *name == level).ok_or_else(|| LEVELS.join(", "))?;
    LIMIT.store(at as u8, Ordering::Relaxed);
    Ok(())
}

/// Runs a kernel with the vector instructions that may be used.
#[inline(always)]
pub(super) fn dispatch<K: WithSimd>(kernel: K) -> K::Output {
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == u8::MAX { pulp::Arch::new().dispatch(kernel) } else { below(limit, kernel) }
}

#[cold]
fn below<K: WithSimd>(limit: u8, kernel: K) -> K::Output {
    let may = |level: &str| LEVELS.iter().position(|name| *name == level).is_some_and(|at| at <= usize::from(limit));
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new().filter(|_| may("avx512")) {
            return Simd::vectorize(simd, kernel);
        }
        if let Some(simd) = pulp::x86::V3::try_new().filter(|_| may("avx2")) {
            return Simd::vectorize(simd, kernel);
        }
    }
    if may("neon") { pulp::Arch::new().dispatch(kernel) } else { Simd::vectorize(Scalar, kernel) }
}

/// Runs `body` compiled for the best vector instructions that may be used.
///
/// The body and all that it calls must be `#[inline(always)]`, otherwise it stays scalar.
#[inline(always)]
pub(super) fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    dispatch(Body(body))
}

struct Body<F>(F);

impl<R, F: FnOnce() -> R> WithSimd for Body<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> R {
        (self.0)()
    }
}
