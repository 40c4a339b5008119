//! Elementwise functions and sums over slices.
//!
//! Branch-free Rust that the compiler vectorises, compiled for the host's best instructions by
//! [`vectorised`]. Each function is within 1e-6 relative of the same function in f64 where it is not tiny: everywhere but
//! for GELU below -3, which stays within 1e-8 absolute. NaN stays NaN, and a result does not depend on where a slice is
//! cut (sums excepted).

use ccl_ir::ops::{BinaryKind, UnaryKind};

pub(super) use super::simd::vectorised;
pub(super) use super::softmax_math::exp;

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU, tanh form. `(1 + tanh u) / 2 = 1 / (1 + e^-2u)`, which does not cancel for negative `x`.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    // 2 sqrt(2 / pi), and 0.044715 times that.
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    x / (1.0 + exp(-x * (CUBIC * x).mul_add(x, LINEAR)))
}

/// GELU, exact form, through `erfc(|x| / sqrt 2)`, which does not cancel for negative `x`.
#[inline(always)]
pub(super) fn gelu_erf(x: f32) -> f32 {
    let lower = 0.5 * erfc(x.abs() * std::f32::consts::FRAC_1_SQRT_2, 0.5 * x * x);
    x * if x < 0.0 { lower } else { 1.0 - lower }
}

/// Complementary error function of `z >= 0`, 1.2e-7 relative before rounding: the Chebyshev fit of Press et al.,
/// Numerical Recipes in C, 2nd edition, section 6.2. `square` is `z^2`, which the caller knows more exactly.
#[inline(always)]
fn erfc(z: f32, square: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77f32;
    let p = p.mul_add(t, -0.822_152_23);
    let p = p.mul_add(t, 1.488_515_9);
    let p = p.mul_add(t, -1.135_204);
    let p = p.mul_add(t, 0.278_868_07);
    let p = p.mul_add(t, -0.186_288_06);
    let p = p.mul_add(t, 0.096_784_18);
    let p = p.mul_add(t, 0.374_091_96);
    let p = p.mul_add(t, 1.000_023_7);
    let p = p.mul_add(t, -1.265_512_2);
    // e^(-z^2 + p) in two factors: near 0 the sum would lose the low bits of p.
    t * exp(p) * exp(-square)
}

/// `1 / (1 + e^-x)` and 1 minus it, both without cancellation.
#[inline(always)]
fn sigmoid(x: f32) -> (f32, f32) {
    let small = exp(-x.abs());
    let large = 1.0 / (1.0 + small);
    let small = small * large;
    if x < 0.0 { (small, large) } else { (large, small) }
}

/// `x` between `-20` and `20`, beyond which the derivatives of GELU are 0 and 1; NaN stays.
#[inline(always)]
fn near(x: f32) -> f32 {
    let x = if x < -20.0 { -20.0 } else { x };
    if x > 20.0 { 20.0 } else { x }
}

/// Derivative of [`silu`].
#[inline(always)]
pub(super) fn silu_grad(x: f32) -> f32 {
    let (s, rest) = sigmoid(x);
    s * (x * rest + 1.0)
}

/// Derivative of [`gelu_tanh`], which is `x s(2 u)` with the sigmoid `s`: `s (1 + x (1 - s) 2 u')`.
#[inline(always)]
pub(super) fn gelu_tanh_grad(x: f32) -> f32 {
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    let x = near(x);
    let (s, rest) = sigmoid(x * (CUBIC * x).mul_add(x, LINEAR));
    s * (x * rest * (3.0 * CUBIC * x).mul_add(x, LINEAR) + 1.0)
}

/// Derivative of [`gelu_erf`]: the normal distribution function and `x` times its density.
#[inline(always)]
pub(super) fn gelu_erf_grad(x: f32) -> f32 {
    /// `1 / sqrt(2 pi)`.
    const DENSITY: f32 = 0.398_942_3;
    let x = near(x);
    let square = 0.5 * x * x;
    let lower = 0.5 * erfc(x.abs() * std::f32::consts::FRAC_1_SQRT_2, square);
    let below = if x < 0.0 { lower } else { 1.0 - lower };
    (DENSITY * x).mul_add(exp(-square), below)
}

/// An operand of an elementwise step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operand<'a> {
    /// One number for all elements.
    Scalar(f32),
    /// One number per element.
    Slice(&'a [f32]),
}

/// `out[i] = kind(a[i])`. A slice has the length of `out`.
pub(super) fn unary(kind: UnaryKind, a: Operand<'_>, out: &mut [f32]) {
    match a {
        Operand::Scalar(a) => {
            let mut one = [0.0];
            unary(kind, Operand::Slice(&[a]), &mut one);
            out.fill(one[0]);
        }
        Operand::Slice(a) => match kind {
            UnaryKind::Neg => map(a, out, |x| -x),
            UnaryKind::Silu => map(a, out, silu),
            UnaryKind::GeluTanh => map(a, out, gelu_tanh),
            UnaryKind::GeluErf => map(a, out, gelu_erf),
            UnaryKind::Exp => map(a, out, exp),
            UnaryKind::SiluGrad => map(a, out, silu_grad),
            UnaryKind::GeluTanhGrad => map(a, out, gelu_tanh_grad),
            UnaryKind::GeluErfGrad => map(a, out, gelu_erf_grad),
        },
    }
}

/// `out[i] = kind(a[i], b[i])`. Slices have the length of `out`.
pub(super) fn binary(kind: BinaryKind, a: Operand<'_>, b: Operand<'_>, out: &mut [f32]) {
    match kind {
        BinaryKind::Add => zip(a, b, out, |x, y| x + y),
        BinaryKind::Sub => zip(a, b, out, |x, y| x - y),
        BinaryKind::Mul => zip(a, b, out, |x, y| x * y),
    }
}

#[inline(always)]
fn map(a: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    vectorised(
        #[inline(always)]
        || {
            for (o, &x) in out.iter_mut().zip(a) {
                *o = f(x);
            }
        },
    );
}

#[inline(always)]
fn zip(a: Operand<'_>, b: Operand<'_>, out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Operand::Slice(a), Operand::Slice(b)) => vectorised(
            #[inline(always)]
            || {
                for ((o, &x), &y) in out.iter_mut().zip(a).zip(b) {
                    *o = f(x, y);
                }
            },
        ),
        (Operand::Slice(a), Operand::Scalar(y)) => map(a, out, |x| f(x, y)),
        (Operand::Scalar(x), Operand::Slice(b)) => map(b, out, |y| f(x, y)),
        (Operand::Scalar(x), Operand::Scalar(y)) => out.fill(f(x, y)),
    }
}

/// Sum of `f(x)` in 32 lanes and then over the lanes in pairs: the rounding error grows with a 32nd of the length.
/// To be called under [`vectorised`].
#[inline(always)]
pub(super) fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum_pairs(row, row, |x, _| f(x))
}

/// [`sum`] of `f(x, y)` over two slices of equal length.
#[inline(always)]
pub(super) fn sum_pairs(row: &[f32], other: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 32;
    let mut lanes = [0.0f32; LANES];
    let ((blocks, tail), (others, other_tail)) = (row.as_chunks::<LANES>(), other.as_chunks::<LANES>());
    for (block, other) in blocks.iter().zip(others) {
        for i in 0..LANES {
            lanes[i] += f(block[i], other[i]);
        }
    }
    if !tail.is_empty() {
        // Apart from the others, which stay in registers because nothing indexes them by a length.
        let mut rest = [0.0f32; LANES];
        for ((lane, &x), &y) in rest.iter_mut().zip(tail).zip(other_tail) {
            *lane = f(x, y);
        }
        for i in 0..LANES {
            lanes[i] += rest[i];
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Largest element; `-inf` for none, NaN is passed over. To be called under [`vectorised`].
#[inline(always)]
pub(super) fn max(row: &[f32]) -> f32 {
    const LANES: usize = 32;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, tail) = row.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, x);
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GELU, tanh form, without the cancellation of the plain formula.
    fn gelu_tanh_f64(x: f64) -> f64 {
        x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).exp())
    }

    /// `erfc(z)` in f64, `z >= 0`: the Taylor series of erf near 0, a continued fraction beyond.
    fn erfc_f64(z: f64) -> f64 {
        if z < 2.5 {
            let (mut term, mut sum) = (z, z);
            for k in 1..120 {
                term *= -z * z / f64::from(k);
                sum += term / f64::from(2 * k + 1);
            }
            return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let tail = (1..200).rev().fold(0.0, |tail, k| f64::from(k) / 2.0 / (z + tail));
        (-z * z).exp() * std::f64::consts::FRAC_2_SQRT_PI / 2.0 / (z + tail)
    }

    fn exact(kind: UnaryKind, x: f64) -> f64 {
        let lower = 0.5 * erfc_f64(x.abs() * std::f64::consts::FRAC_1_SQRT_2);
        match kind {
            UnaryKind::GeluErf => x * if x < 0.0 { lower } else { 1.0 - lower },
            UnaryKind::GeluTanh => gelu_tanh_f64(x),
            UnaryKind::GeluErfGrad => {
                let below = if x < 0.0 { lower } else { 1.0 - lower };
                below + x * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
            }
            _ => kind.apply(x),
        }
    }

    /// Checks a function on a grid over a range.
    fn check(kind: UnaryKind, from: f32, to: f32, fits: impl Fn(f64, f64) -> bool) {
        const POINTS: usize = 200_001;
        let at = |i| from + (to - from) * (i as f32 / (POINTS - 1) as f32);
        let x: Vec<f32> = (0..POINTS).map(at).collect();
        let mut got = vec![f32::NAN; POINTS];
        unary(kind, Operand::Slice(&x), &mut got);
        for (x, got) in x.iter().zip(got) {
            let want = exact(kind, f64::from(*x));
            assert!(fits(f64::from(got), want), "{kind:?}({x}) = {got:e}, want {want:e}");
        }
    }

    #[test]
    fn functions_are_accurate() {
        let relative = |got: f64, want: f64| (got - want).abs() <= 1e-6 * want.abs();
        check(UnaryKind::Neg, -10.0, 10.0, |got, want| got == want);
        check(UnaryKind::Silu, -80.0, 80.0, relative);
        check(UnaryKind::Exp, -87.0, 88.0, relative);
        // Derivatives cross zero: an absolute error there, a relative one where they are large.
        for kind in [UnaryKind::SiluGrad, UnaryKind::GeluTanhGrad, UnaryKind::GeluErfGrad] {
            check(kind, -30.0, 30.0, |got, want| (got - want).abs() <= 6e-7 * want.abs().max(0.5));
        }
        for kind in [UnaryKind::GeluTanh, UnaryKind::GeluErf] {
            check(kind, -3.0, 20.0, relative);
            check(kind, -20.0, -3.0, |got, want| (got - want).abs() <= 1e-8);
        }
    }

    #[test]
    fn far_values_fade_out_and_nan_stays() {
        for kind in [UnaryKind::Silu, UnaryKind::GeluTanh, UnaryKind::GeluErf] {
            let mut out = [1.0; 4];
            unary(kind, Operand::Slice(&[-1e4, 1e4, 0.0, f32::NAN]), &mut out);
            assert_eq!(out[..3], [0.0, 1e4, 0.0], "{kind:?}");
            assert!(out[3].is_nan(), "{kind:?}");
        }
        for kind in [UnaryKind::SiluGrad, UnaryKind::GeluTanhGrad, UnaryKind::GeluErfGrad] {
            let mut out = [7.0; 6];
            unary(kind, Operand::Slice(&[-1e4, 1e4, 0.0, f32::MIN, f32::MAX, f32::NAN]), &mut out);
            assert_eq!(out[..5], [0.0, 1.0, 0.5, 0.0, 1.0], "{kind:?}");
            assert!(out[5].is_nan(), "{kind:?}");
        }
    }

    #[test]
    fn sums_and_maxima_take_every_element() {
        for n in [0, 1, 31, 32, 33, 1000] {
            let row: Vec<f32> = (0..n).map(|i| (i % 17) as f32 - 20.0).collect();
            let want: f32 = row.iter().sum();
            assert_eq!(sum(&row, |x| x), want, "{n}");
            assert_eq!(max(&row), row.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{n}");
        }
    }
}
