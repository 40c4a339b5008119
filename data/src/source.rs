//! Where samples come from: a dataset on disk, or a program that makes them.

use std::collections::BTreeMap;

use ccl_runtime::HostTensor;

use crate::error::DataError;
use crate::schema::Schema;

/// The tensors of one sample by name, without a batch.
pub type Sample = BTreeMap<String, HostTensor>;

/// A numbered collection of samples. A sample depends on its number alone, whoever asks in which order.
pub trait Source: Send + Sync {
    /// Number of samples, at least 1.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensors of every sample.
    fn schema(&self) -> &Schema;

    /// Reads the tensors `names` of sample `index`.
    ///
    /// # Errors
    /// When there is no such sample or tensor, or its data is broken.
    fn sample(&self, index: usize, names: &[String]) -> Result<Sample, DataError>;
}
