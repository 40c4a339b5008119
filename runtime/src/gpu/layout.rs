//! Where things lie on a device: many items in few allocations.
//!
//! A device bounds the size of a buffer, and allocating is slow, so items (a plan's buffers, weights) are placed in
//! *blocks* no larger than that bound. Items of a region keep their plan's distances, because those that are never
//! needed at the same time share bytes.

use ccl_ir::plan::ALIGNMENT;

/// Largest block of independent items: few enough allocations, and small enough to find room for.
const BLOCK: u64 = 1 << 30;

/// The place of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Index of the block.
    pub block: usize,
    /// First byte in the block, a multiple of [`ALIGNMENT`].
    pub start: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Blocks and what lies where in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Size of each block in bytes.
    pub blocks: Vec<u64>,
    /// Place of each item.
    pub spans: Vec<Span>,
}

impl Layout {
    /// Independent items of these sizes.
    ///
    /// # Errors
    /// The index of an item that is larger than `limit`.
    pub(super) fn packed(sizes: &[u64], limit: u64) -> Result<Self, usize> {
        let mut layout = Self::default();
        for (i, &bytes) in sizes.iter().enumerate() {
            if bytes > limit {
                return Err(i);
            }
            let start = layout.blocks.last().map_or(0, |end| end.next_multiple_of(ALIGNMENT));
            if layout.blocks.is_empty() || start + bytes > limit.min(BLOCK) {
                layout.blocks.push(0);
                layout.push(0, bytes);
            } else {
                layout.push(start, bytes);
            }
        }
        Ok(layout)
    }

    /// Items of a region, each `(first byte, bytes)`. Where the region is larger than `limit` it is cut between
    /// items, never through one or through items that share bytes.
    ///
    /// # Errors
    /// The size of a part that cannot be cut.
    pub(super) fn of_region(items: &[(u64, u64)], limit: u64) -> Result<Self, u64> {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&i| items[i]);
        let mut layout = Self { blocks: Vec::new(), spans: vec![Span { block: 0, start: 0, bytes: 0 }; items.len()] };
        // First byte of the region in the current block.
        let mut base = 0;
        let mut next = 0;
        while next < order.len() {
            // Items that cannot be parted: each begins before those before it end.
            let from = items[order[next]].0;
            let (mut last, mut end) = (next, from);
            while last < order.len() && (last == next || items[order[last]].0 < end) {
                let (start, bytes) = items[order[last]];
                end = end.max(start + bytes);
                last += 1;
            }
            if end - from > limit {
                return Err(end - from);
            }
            if layout.blocks.is_empty() || end - base > limit {
                layout.blocks.push(0);
                base = from;
            }
            let block = layout.blocks.len() - 1;
            layout.blocks[block] = end - base;
            for &i in &order[next..last] {
                layout.spans[i] = Span { block, start: items[i].0 - base, bytes: items[i].1 };
            }
            next = last;
        }
        Ok(layout)
    }

    /// Bytes of all blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.iter().sum()
    }

    /// Puts an item into the last block.
    fn push(&mut self, start: u64, bytes: u64) {
        if let Some(end) = self.blocks.last_mut() {
            *end = start + bytes;
        }
        self.spans.push(Span { block: self.blocks.len() - 1, start, bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(block: usize, start: u64, bytes: u64) -> Span {
        Span { block, start, bytes }
    }

    #[test]
    fn items_are_packed_up_to_the_limit() {
        let layout = Layout::packed(&[10, 300, 600, 1000, 4], 1024);
        let spans = vec![span(0, 0, 10), span(0, 256, 300), span(1, 0, 600), span(2, 0, 1000), span(2, 1024, 4)];
        // The last would end at 1028.
        let spans = [&spans[..4], &[span(3, 0, 4)]].concat();
        assert_eq!(layout, Ok(Layout { blocks: vec![556, 600, 1000, 4], spans }));
        assert_eq!(Layout::packed(&[10, 1025], 1024), Err(1));
        assert_eq!(Layout::packed(&[], 1), Ok(Layout::default()));
    }

    #[test]
    fn a_region_that_fits_is_one_block() {
        let items = [(512, 100), (0, 300), (512, 256)];
        let layout = Layout::of_region(&items, 768);
        assert_eq!(layout, Ok(Layout { blocks: vec![768], spans: items.map(|(s, b)| span(0, s, b)).to_vec() }));
    }

    #[test]
    fn a_region_is_cut_between_items_only() {
        // Three parts: [0, 512) of one item, [512, 1280) of two that share bytes, [1280, 1536).
        let items = [(512, 512), (768, 512), (1280, 256), (0, 512)];
        let layout = Layout::of_region(&items, 1024);
        let spans = vec![span(1, 0, 512), span(1, 256, 512), span(1, 768, 256), span(0, 0, 512)];
        assert_eq!(layout, Ok(Layout { blocks: vec![512, 1024], spans }));
        assert_eq!(Layout::of_region(&items, 767), Err(768));
        assert_eq!(Layout::of_region(&[], 1), Ok(Layout::default()));
    }
}
