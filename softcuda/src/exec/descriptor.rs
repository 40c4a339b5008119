//! Where the elements of a factor of `wgmma` lie in shared memory.
//!
//! A descriptor has the start address in bits 0 to 13, the leading dimension byte offset (LBO) in bits 16 to 29 and the
//! stride dimension byte offset (SBO) in bits 32 to 45, each divided by 16; a base offset in bits 49 to 51; the swizzle
//! in bits 62 and 63: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32 (PTX ISA, "Matrix Descriptor Format" of wgmma; CUTLASS,
//! `cute/arch/mma_sm90_desc.hpp`).
//!
//! Elements come in chunks of 16 bytes along the axis that is contiguous. With `W` chunks in the width of a swizzle (1
//! without one), CUTLASS gives these canonical layouts (`cute/atom/mma_traits_sm90_gmma.hpp`, `make_gmma_desc`):
//!
//! - K-major, swizzled: row `r`, chunk `h` of the depth's two at `r % 8 * 16 W + r / 8 * SBO + h * 16`; LBO unused;
//! - K-major, not swizzled: `r % 8 * 16 + r / 8 * SBO + h * LBO`;
//! - MN-major, swizzled: chunk `c` along M or N, depth `k` at `c % W * 16 + c / W * LBO + k % 8 * 16 W + k / 8 * SBO`;
//! - MN-major, not swizzled: `c * SBO + k % 8 * 16 + k / 8 * LBO`: the offsets change their roles.
//!
//! The tables of the PTX ISA ("Leading Dimension Byte Offset", "Stride Dimension Byte Offset" of wgmma) say the same, and
//! ThunderKittens fills its descriptors so (`st_descriptor`: MN-major of 128 bytes with 1024 as SBO, K-major with any LBO). Swizzles exchange bits of the address itself (`Swizzle<3,4,3>`:
//! bits 4 to 6 are XORed with bits 7 to 9; two bits for 64 bytes, one for 32), after all offsets were added: that is why a
//! start address advanced by 32 bytes within a row of 128 finds the next 16 of the depth (CUTLASS, `DescriptorIterator`).

/// How wide the pattern of a swizzle is, and where its rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    /// Chunks of 16 bytes in the width of the swizzle.
    width: u32,
}

impl Descriptor {
    /// Reads the bits.
    pub fn new(bits: u64) -> Result<Descriptor, String> {
        let field = |shift: u32| ((bits >> shift & 0x3fff) << 4) as u32;
        if bits >> 49 & 7 != 0 {
            return Err("matrix descriptors with a base offset aren't supported".into());
        }
        let width = match bits >> 62 {
            0 => 1,
            1 => 8,
            2 => 4,
            _ => 2,
        };
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), width })
    }

    /// The bank of each chunk depends on the row of eight that it is in.
    fn swizzled(self, at: u32) -> u32 {
        at ^ (at >> 3 & (self.width - 1) << 4)
    }

    /// The chunk `half` (0 or 1) of the depth of row (or column) `row`, K-major.
    pub fn along(self, row: u32, half: u32) -> u32 {
        let step = if self.width == 1 { self.leading } else { 16 };
        let offset = row % 8 * (16 * self.width) + row / 8 * self.stride + half * step;
        self.swizzled(self.start + offset)
    }

    /// The chunk `chunk` of eight rows (or columns) at depth `k`, MN-major.
    pub fn across(self, chunk: u32, k: u32) -> u32 {
        let offset = if self.width == 1 {
            chunk * self.stride + k % 8 * 16 + k / 8 * self.leading
        } else {
            let (w, row) = (self.width, k % 8 * (16 * self.width));
            chunk % w * 16 + chunk / w * self.leading + row + k / 8 * self.stride
        };
        self.swizzled(self.start + offset)
    }

    /// The chunks of `count` rows (or columns) from `first` on, both multiples of eight: in order of row and half, or of
    /// depth and chunk.
    pub fn chunks(self, turned: bool, first: u32, count: u32) -> Vec<u32> {
        if turned {
            let chunks = first / 8..(first + count) / 8;
            (0..16).flat_map(|k| chunks.clone().map(move |c| self.across(c, k))).collect()
        } else {
            (first..first + count).flat_map(|r| [self.along(r, 0), self.along(r, 1)]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Descriptor;

    fn descriptor(at: u64, leading: u64, stride: u64, swizzle: u64) -> Descriptor {
        Descriptor::new(at >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | swizzle << 62).unwrap()
    }

    #[test]
    fn k_major() {
        let d = descriptor(2048 + 64, 16, 1024, 1);
        // Row 3 of the second atom: chunks 4 and 5 of the row, turned by 3.
        assert_eq!(d.along(11, 0), 2048 + 1024 + 3 * 128 + (4 ^ 3) * 16);
        assert_eq!(d.along(11, 1), 2048 + 1024 + 3 * 128 + (5 ^ 3) * 16);
        let d = descriptor(512, 16, 512, 2);
        // Rows of 64 bytes: the turn is of half the row.
        assert_eq!(d.along(7, 1), 512 + 7 * 64 + (1 ^ 3) * 16);
        let d = descriptor(0, 256, 128, 0);
        assert_eq!(d.along(9, 1), 128 + 16 + 256);
    }

    #[test]
    fn mn_major() {
        let d = descriptor(4096, 8192, 1024, 1);
        assert_eq!(d.across(9, 10), 4096 + 8192 + 1024 + 2 * 128 + (1 ^ 2) * 16);
        let d = descriptor(0, 256, 128, 0);
        assert_eq!(d.across(3, 9), 3 * 128 + 16 + 256);
        assert_eq!(d.chunks(true, 8, 8).len(), 16);
    }
}
