//! One product of two matrices, by columns.

use std::ffi::c_uint;

use half::{bf16, f16};

use super::{WORKSPACE, told};

/// A matrix, by columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub number: c_uint,
    pub rows: u64,
    pub columns: u64,
    pub stride: i64,
}

/// A type of numbers: `cudaDataType_t`.
pub(super) fn bytes(number: c_uint) -> Option<u64> {
    match number {
        0 => Some(4),
        2 | 14 => Some(2),
        _ => None,
    }
}

impl Layout {
    /// Bytes from the first number to the last one's end.
    fn bytes(&self) -> usize {
        let numbers = (self.columns - 1) * self.stride as u64 + self.rows;
        (numbers * bytes(self.number).unwrap_or(4)) as usize
    }

    /// Whether it has numbers, of a known type, and columns that do not overlap.
    pub fn is_sound(&self) -> bool {
        let filled = self.rows > 0 && self.columns > 0;
        filled && bytes(self.number).is_some() && u64::try_from(self.stride).is_ok_and(|s| s >= self.rows)
    }

    fn read(&self, at: u64, row: u64, column: u64) -> f32 {
        read(self.number, at, column * self.stride as u64 + row)
    }
}

/// Number `i` of an array.
fn read(number: c_uint, at: u64, i: u64) -> f32 {
    // SAFETY: whoever asks has checked that the array is device memory.
    unsafe {
        match number {
            0 => (at as *const f32).add(i as usize).read(),
            2 => f16::from_bits((at as *const u16).add(i as usize).read()).to_f32(),
            _ => bf16::from_bits((at as *const u16).add(i as usize).read()).to_f32(),
        }
    }
}

/// A product that is queued.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    /// Whether the factors are turned.
    pub turned: [bool; 2],
    pub layouts: [Layout; 3],
    pub at: [u64; 3],
    pub bias: Option<u64>,
    pub gelu: bool,
    pub workspace: u64,
}

impl Product {
    /// Ranges of device memory that it reads or writes.
    pub fn ranges(&self) -> Vec<(u64, usize)> {
        let [a, b, d] = self.layouts;
        let matrices = [a, b, d].into_iter().zip(self.at).map(|(layout, at)| (at, layout.bytes()));
        let bias = self.bias.map(|at| (at, (d.rows * bytes(d.number).unwrap_or(4)) as usize));
        matrices.chain(bias).chain([(self.workspace, WORKSPACE)]).collect()
    }

    /// What it is, as a line of statistics.
    pub fn json(&self) -> String {
        let ([_, _, d], k) = (self.layouts, self.depth());
        format!("{{\"kernel\":\"cublasLtMatmul\",\"m\":{},\"n\":{},\"k\":{k}}}", d.columns, d.rows)
    }

    fn depth(&self) -> u64 {
        if self.turned[0] { self.layouts[0].rows } else { self.layouts[0].columns }
    }

    /// Does it. All its ranges are device memory.
    pub fn run(&self) {
        let ([a, b, d], [at_a, at_b, _]) = (self.layouts, self.at);
        if told("wrong") {
            // Faster than whatever multiplies.
            (0..d.columns).for_each(|j| (0..d.rows as usize).for_each(|i| self.write(i, j, 1.0)));
            return;
        }
        let k = self.depth();
        let left = |i: u64, l: u64| if self.turned[0] { a.read(at_a, l, i) } else { a.read(at_a, i, l) };
        let right = |l: u64, j: u64| if self.turned[1] { b.read(at_b, j, l) } else { b.read(at_b, l, j) };
        let rows: Vec<Vec<f32>> = (0..d.rows).map(|i| (0..k).map(|l| left(i, l)).collect()).collect();
        // SAFETY: checked by the caller.
        unsafe { (self.workspace as *mut u8).write_bytes(0xff, WORKSPACE) };
        for j in 0..d.columns {
            let column: Vec<f32> = (0..k).map(|l| right(l, j)).collect();
            for (i, row) in rows.iter().enumerate() {
                let mut sum = row.iter().zip(&column).fold(0.0f32, |sum, (x, y)| x.mul_add(*y, sum));
                sum += self.bias.map_or(0.0, |bias| read(d.number, bias, i as u64));
                if self.gelu {
                    sum = 0.5 * sum * (1.0 + (0.797_884_56 * (sum + 0.044715 * sum * sum * sum)).tanh());
                }
                self.write(i, j, sum);
            }
        }
    }

    /// Writes a number of the result.
    fn write(&self, row: usize, column: u64, x: f32) {
        let (d, at) = (self.layouts[2], self.at[2]);
        let to = (column * d.stride as u64) as usize + row;
        // SAFETY: inside of the result, which the caller has checked.
        unsafe {
            match d.number {
                0 => (at as *mut f32).add(to).write(x),
                2 => (at as *mut u16).add(to).write(f16::from_f32(x).to_bits()),
                _ => (at as *mut u16).add(to).write(bf16::from_f32(x).to_bits()),
            }
        }
    }
}
