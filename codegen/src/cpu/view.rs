//! Strided views of memory that a plan owns.

use ccl_ir::{DType, TensorType};

/// A tensor in memory. Copies freely; the caller of a kernel vouches for the memory.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The first element.
    pub ptr: *mut u8,
    /// Element type and shape.
    pub ty: &'a TensorType,
    /// Distance in elements between neighbours of each dimension; 0 repeats.
    pub strides: &'a [u64],
    /// Whether the elements lie in panels instead, as [`to_panels`](super::weight::to_panels) writes them: for the operands that
    /// [`takes_panels`](super::weight::takes_panels) names.
    pub panels: bool,
}

// SAFETY: a view is only used inside a kernel call, whose caller promises that the memory outlives the call and
// that nobody else writes it meanwhile; kernels split their outputs into disjoint parts per task.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// A strided tensor.
    pub fn new(ptr: *mut u8, ty: &'a TensorType, strides: &'a [u64]) -> Self {
        Self { ptr, ty, strides, panels: false }
    }
    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.ty.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.ty.shape.iter().product()
    }

    /// Stride of dimension `axis` in elements.
    pub fn stride(&self, axis: usize) -> usize {
        self.strides[axis] as usize
    }

    /// The view's elements as `f32`.
    ///
    /// # Safety
    /// The view is dense, its type is `f32`, the memory is valid and nobody writes it while the slice lives.
    pub unsafe fn f32s(&self) -> &[f32] {
        debug_assert_eq!(self.ty.dtype, DType::F32);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.elements()) }
    }

    /// The view's elements as mutable `f32`.
    ///
    /// # Safety
    /// As for [`View::f32s`], and nobody else reads or writes the memory while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn f32s_mut(&self) -> &mut [f32] {
        debug_assert_eq!(self.ty.dtype, DType::F32);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.cast(), self.elements()) }
    }
}
