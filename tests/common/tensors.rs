//! Tensors in safetensors files, and files that lie.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// A tensor of real numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Values, last axis fastest.
    pub data: Vec<f32>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

impl Tensor {
    /// A tensor of one value.
    pub fn full(shape: &[usize], value: f32) -> Self {
        Self { shape: shape.to_vec(), data: vec![value; shape.iter().product()] }
    }
}

/// Reads a file of f32 tensors.
pub fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let tensor = |view: TensorView| {
        assert_eq!(view.dtype(), Dtype::F32, "{}", path.display());
        let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Tensor { shape: view.shape().to_vec(), data }
    };
    file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect()
}

/// Writes tensors as f32, f16 or bf16, rounded to nearest.
pub fn write(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let bytes = |t: &Tensor| -> Vec<u8> {
        match dtype {
            Dtype::BF16 => t.data.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::F16 => t.data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            _ => t.data.iter().flat_map(|&x| x.to_le_bytes()).collect(),
        }
    };
    let stored: Vec<(&String, &Tensor, Vec<u8>)> = tensors.iter().map(|(n, t)| (n, t, bytes(t))).collect();
    let views = stored.iter().map(|(name, t, bytes)| {
        (name.as_str(), TensorView::new(dtype, t.shape.clone(), bytes).expect("sizes that agree"))
    });
    fs::write(path, safetensors::serialize(views, None).expect("a safetensors file")).expect("a written file");
}

/// Rounds every value to bf16.
pub fn round_to_bf16(tensors: &mut Tensors) {
    for x in tensors.values_mut().flat_map(|t| &mut t.data) {
        *x = bf16::from_f32(*x).to_f32();
    }
}

/// Writes a copy of a file of f32 tensors after a change.
pub fn edit(from: &Path, to: &Path, change: impl FnOnce(&mut Tensors)) {
    let mut tensors = read(from);
    change(&mut tensors);
    write(to, &tensors, Dtype::F32);
}

/// Writes a file with this header, true or not, and data.
pub fn write_raw(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    fs::write(path, bytes).expect("a written file");
}

/// Relative L2 difference of two tensors of one shape.
pub fn relative_l2(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.shape, want.shape);
    let square = |x: f64| x * x;
    let (mut difference, mut size) = (0.0, 0.0);
    for (&g, &w) in got.data.iter().zip(&want.data) {
        difference += square(f64::from(g) - f64::from(w));
        size += square(f64::from(w));
    }
    (difference / size).sqrt()
}
