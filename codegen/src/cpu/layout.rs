//! Walking over strided memory in row-major order.

use super::view::View;

/// Sizes and strides of a view with neighbouring dimensions merged where one stride serves both, so that a dense view
/// is one run and a broadcast scalar is one run of stride 0.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Size and stride in elements of each merged dimension, outermost first; at least one.
    dims: Vec<(usize, usize)>,
}

impl Layout {
    /// Merges dimensions given as (size, stride), outermost first.
    pub fn new(dims: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (size, stride) in dims {
            match merged.last_mut() {
                _ if size == 1 => {}
                Some(last) if last.1 == size * stride => *last = (last.0 * size, stride),
                _ => merged.push((size, stride)),
            }
        }
        if merged.is_empty() {
            merged.push((1, 0));
        }
        Self { dims: merged }
    }

    /// All elements of a view.
    pub fn of(view: &View<'_>) -> Self {
        Self::new(dims(view))
    }

    /// The rows of a view: all dimensions but the last, element 0 of each row.
    pub fn rows(view: &View<'_>) -> Self {
        let rank = view.shape().len();
        Self::new(dims(view).take(rank.saturating_sub(1)))
    }

    /// The view as numpy's broadcasting repeats it to `shape`.
    pub fn broadcast(view: &View<'_>, shape: &[usize]) -> Self {
        Self::new(broadcast(view, shape))
    }

    /// The rows of a view as broadcasting repeats them to `shape`: all dimensions but the last.
    pub fn broadcast_rows(view: &View<'_>, shape: &[usize]) -> Self {
        Self::new(broadcast(view, shape).take(shape.len().saturating_sub(1)))
    }

    /// Distance from the first element to the element at a row-major position.
    pub fn offset(&self, mut position: usize) -> usize {
        let mut offset = 0;
        for &(size, stride) in self.dims[1..].iter().rev() {
            offset += position % size * stride;
            position /= size;
        }
        offset + position * self.dims[0].1
    }

    /// A walk that starts at a row-major position.
    pub fn cursor(&self, position: usize) -> Cursor<'_> {
        let mut cursor = Cursor { layout: self, index: vec![0; self.dims.len()], offset: 0 };
        cursor.seek(position);
        cursor
    }
}

/// Sizes and strides of a view.
pub(super) fn dims<'a>(view: &'a View<'_>) -> impl Iterator<Item = (usize, usize)> + 'a {
    view.shape().iter().enumerate().map(|(i, &n)| (n, view.stride(i)))
}

/// Sizes of `shape` and the strides by which broadcasting repeats a view to it.
fn broadcast<'a>(view: &'a View<'_>, shape: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + 'a {
    let skip = shape.len() - view.shape().len();
    shape.iter().enumerate().map(move |(i, &size)| {
        let own = i >= skip && view.shape()[i - skip] != 1;
        (size, if own { view.stride(i - skip) } else { 0 })
    })
}

/// A run of elements with one stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Distance from the view's first element to the run's.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
    /// Distance between neighbours.
    pub stride: usize,
}

/// A place in a row-major walk.
pub(super) struct Cursor<'a> {
    layout: &'a Layout,
    index: Vec<usize>,
    offset: usize,
}

impl Cursor<'_> {
    /// Moves to a row-major position.
    pub fn seek(&mut self, mut position: usize) {
        self.offset = self.layout.offset(position);
        for (i, &(size, _)) in self.layout.dims.iter().enumerate().skip(1).rev() {
            self.index[i] = position % size;
            position /= size;
        }
        self.index[0] = position;
    }

    /// The next run, of at most `most` elements, and moves past it. The caller stays within the view.
    pub fn next(&mut self, most: usize) -> Run {
        let dims = &self.layout.dims;
        let last = dims.len() - 1;
        let (size, stride) = dims[last];
        let run = Run { offset: self.offset, len: most.min(size - self.index[last]), stride };
        self.index[last] += run.len;
        self.offset += run.len * stride;
        for i in (1..=last).rev() {
            if self.index[i] < dims[i].0 {
                break;
            }
            self.offset -= dims[i].0 * dims[i].1;
            self.index[i] = 0;
            self.offset += dims[i - 1].1;
            self.index[i - 1] += 1;
        }
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks a layout in runs of at most `most` and compares with the plain loop.
    fn check(dims: &[(usize, usize)], most: usize) {
        let layout = Layout::new(dims.iter().copied());
        let total: usize = dims.iter().map(|d| d.0).product();
        let want: Vec<usize> = (0..total)
            .map(|mut flat| {
                let mut offset = 0;
                for &(size, stride) in dims.iter().rev() {
                    offset += flat % size * stride;
                    flat /= size;
                }
                offset
            })
            .collect();
        for start in [0, total / 3, total - 1] {
            let mut cursor = layout.cursor(start);
            let mut got = Vec::new();
            while got.len() < total - start {
                let run = cursor.next(most.min(total - start - got.len()));
                got.extend((0..run.len).map(|i| run.offset + i * run.stride));
            }
            assert_eq!(got, want[start..], "{dims:?} from {start}");
        }
        assert!((0..total).all(|i| layout.offset(i) == want[i]), "{dims:?}");
    }

    #[test]
    fn walks_visit_every_element_in_order() {
        for most in [1, 3, 100] {
            check(&[(2, 12), (3, 4), (4, 1)], most);
            check(&[(2, 1), (3, 2), (4, 6)], most);
            check(&[(2, 0), (3, 5), (1, 77), (4, 0)], most);
            check(&[(5, 3)], most);
            check(&[], most);
        }
    }

    #[test]
    fn dense_and_scalar_views_are_one_run() {
        assert_eq!(Layout::new([(2, 12), (3, 4), (4, 1)]).cursor(0).next(99), Run { offset: 0, len: 24, stride: 1 });
        assert_eq!(Layout::new([(2, 0), (3, 0)]).cursor(0).next(99), Run { offset: 0, len: 6, stride: 0 });
    }
}
