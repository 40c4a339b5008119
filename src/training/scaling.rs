//! The factor that keeps small gradients above what `f16` can hold.
//!
//! Gradients are computed times a power of two and divided by it before they are used. Where the product overflows the update is left out
//! and the factor halved; after many good steps it is doubled (Micikevicius et al., "Mixed precision training", 2018, section 3.2).

use ccl_ir::DType;
use serde::{Deserialize, Serialize};

/// First factor, and the largest.
const FIRST: f32 = 65_536.0;
const MOST: f32 = 16_777_216.0;
/// Good steps until the factor is doubled.
const PATIENCE: u32 = 1000;

/// The factor and how long it has been good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    factor: f32,
    good: u32,
}

impl Scaling {
    /// Of a training whose gradients are stored as `half`; `None`: in `f32`. `bf16` has the range of `f32` and needs no factor.
    pub fn new(half: Option<DType>) -> Self {
        Self { factor: if half == Some(DType::F16) { FIRST } else { 1.0 }, good: 0 }
    }

    /// The factor.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Whether a gradient that is not finite may be the factor's fault.
    pub fn explains_overflow(&self) -> bool {
        self.factor > 1.0
    }

    /// What the next step is multiplied by.
    pub fn after(self, applied: bool) -> Self {
        match (self.explains_overflow(), applied) {
            (false, _) => self,
            (true, false) => Self { factor: self.factor / 2.0, good: 0 },
            (true, true) if self.good + 1 == PATIENCE => Self { factor: (self.factor * 2.0).min(MOST), good: 0 },
            (true, true) => Self { good: self.good + 1, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_falls_at_once_and_grows_with_patience() {
        let mut s = Scaling::new(Some(DType::F16));
        s = s.after(false).after(false);
        assert_eq!(s.factor(), FIRST / 4.0);
        for _ in 0..PATIENCE {
            assert_eq!(s.factor(), FIRST / 4.0);
            s = s.after(true);
        }
        assert_eq!(s.factor(), FIRST / 2.0);
        for _ in 0..40 {
            s = s.after(false);
        }
        // At 1 it is no longer the factor's fault.
        assert_eq!((s.factor(), s.explains_overflow()), (1.0, false));
        for half in [None, Some(DType::Bf16)] {
            assert_eq!(Scaling::new(half).after(false).factor(), 1.0);
        }
    }
}
