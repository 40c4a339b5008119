//! Descriptions of tensors for bulk copies. Real drivers keep their layout secret; this is this crate's own.

/// Marks the words of a description.
const MAGIC: u64 = 0x50f7_7e50;

/// How rows of a tile are swizzled in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

/// A tiled tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorMap {
    /// Bytes of an element.
    pub element: u32,
    /// `CUtensorMapDataType`.
    pub data_type: u32,
    pub address: u64,
    /// Elements along each axis, the innermost first.
    pub dims: Vec<u64>,
    /// Bytes between neighbours along each axis but the innermost.
    pub strides: Vec<u64>,
    /// Elements of a tile along each axis.
    pub tile: Vec<u32>,
    /// Steps along each axis.
    pub steps: Vec<u32>,
    pub swizzle: Swizzle,
    /// Out-of-bounds elements are NaN instead of zero.
    pub fill_nan: bool,
}

/// Bytes of an element of a `CUtensorMapDataType`.
pub(crate) fn element_size(data_type: u32) -> Option<u32> {
    Some(match data_type {
        0 => 1,
        1 | 6 | 9 => 2,
        2 | 3 | 7 | 10 | 11 | 12 => 4,
        4 | 5 | 8 => 8,
        _ => return None,
    })
}

/// What `cuTensorMapEncodeTiled` makes of a matrix of half precision at an address: elements of a row and rows, bytes between rows, elements of a
/// row and rows of a box, which lies swizzled by 128 bytes in shared memory.
pub fn matrix_map(address: u64, extents: [u64; 2], stride: u64, tile: [u32; 2]) -> [u64; 16] {
    let map = TensorMap {
        element: 2,
        data_type: 9,
        address,
        dims: extents.to_vec(),
        strides: vec![stride],
        tile: tile.to_vec(),
        steps: vec![1, 1],
        swizzle: Swizzle::B128,
        fill_nan: false,
    };
    map.encode()
}

impl TensorMap {
    /// The 128 bytes that programs carry around.
    pub fn encode(&self) -> [u64; 16] {
        let mut words = [0u64; 16];
        let swizzle = match self.swizzle {
            Swizzle::None => 0u64,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        words[0] = MAGIC << 32
            | u64::from(self.data_type) << 24
            | (self.dims.len() as u64) << 16
            | swizzle << 8
            | u64::from(self.fill_nan);
        words[1] = self.address;
        words[2..2 + self.dims.len()].copy_from_slice(&self.dims);
        words[7..7 + self.strides.len()].copy_from_slice(&self.strides);
        for (i, (tile, step)) in self.tile.iter().zip(&self.steps).enumerate() {
            words[11 + i] = u64::from(*step) << 32 | u64::from(*tile);
        }
        words
    }

    /// Reads the words back; `None` when they are no description.
    pub fn decode(words: &[u64; 16]) -> Option<TensorMap> {
        if words[0] >> 32 != MAGIC {
            return None;
        }
        let rank = (words[0] >> 16 & 0xff) as usize;
        let data_type = (words[0] >> 24 & 0xff) as u32;
        let swizzle = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
        Some(TensorMap {
            element: element_size(data_type)?,
            data_type,
            address: words[1],
            dims: words[2..].get(..rank)?.to_vec(),
            strides: words[7..].get(..rank.checked_sub(1)?)?.to_vec(),
            tile: words[11..].get(..rank)?.iter().map(|w| *w as u32).collect(),
            steps: words[11..].get(..rank)?.iter().map(|w| (*w >> 32) as u32).collect(),
            swizzle: *swizzle.get((words[0] >> 8 & 0xff) as usize)?,
            fill_nan: words[0] & 1 != 0,
        })
    }
}
