//! How a generated kernel takes its arguments.
//!
//! `universal_e_f32_4b87daf3(buffer, ..., map, ..., info)`: a pointer for each buffer, in the order of the launch, a description of each matrix that the
//! copy engine brings, and one struct by value. The struct holds the
//! launch's sizes and then the number of elements of each buffer, both padded to whole pairs of words. The sizes of the struct are read off
//! the text that is compiled, so that a generator that lays it out in another way is noticed when a kernel is loaded.

/// What every kernel's name starts with.
const ENTRY: &str = "universal";

/// The name and the arguments of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Name of the entry.
    pub entry: String,
    /// Buffers.
    pub buffers: usize,
    /// Matrices that the copy engine brings.
    pub maps: usize,
    /// Words for the sizes, and for numbers of elements.
    words: [usize; 2],
}

impl Arguments {
    /// Reads a text's.
    ///
    /// # Errors
    /// When it takes others than those that are passed.
    pub(super) fn of(text: &str) -> Result<Self, String> {
        let unknown = || "the kernel's text takes other arguments than this program passes".to_owned();
        let (_, rest) = text.split_once(&format!(" {ENTRY}")).ok_or_else(unknown)?;
        let (name, rest) = rest.split_once('(').ok_or_else(unknown)?;
        let (parameters, _) = rest.split_once(") {").ok_or_else(unknown)?;
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(unknown());
        }
        let parameters: Vec<&str> = parameters.split(", ").collect();
        let (info, rest) = parameters.split_last().ok_or_else(unknown)?;
        let maps = rest.iter().filter(|p| p.starts_with("__grid_constant__ TensorMap const ")).count();
        let (buffers, _) = rest.split_at(rest.len() - maps);
        if !info.contains("__grid_constant__ info_st const ") || !buffers.iter().all(|b| b.contains('*')) {
            return Err(unknown());
        }
        let (_, rest) = text.split_once("struct info_st {").ok_or_else(unknown)?;
        let (fields, _) = rest.split_once("};").ok_or_else(unknown)?;
        let mut words = [0, 0];
        for field in fields.split(';').map(str::trim).filter(|f| !f.is_empty()) {
            let place = [("uint32_t scalars_u32[", 0), ("uint32_t static_meta[", 1)];
            let known = place.iter().find_map(|(name, i)| Some((field.strip_prefix(name)?.strip_suffix(']')?, *i)));
            let (count, i) = known.ok_or_else(unknown)?;
            words[i] = count.parse().map_err(|_| unknown())?;
        }
        Ok(Self { entry: format!("{ENTRY}{name}"), buffers: buffers.len(), maps, words })
    }

    /// The struct for these sizes and numbers of elements.
    ///
    /// # Errors
    /// When there are more, or fewer, than the kernel takes.
    pub(super) fn info(&self, sizes: &[u32], elements: &[u64]) -> Result<Vec<u32>, String> {
        let padded = |n: usize| n.next_multiple_of(2);
        let [most, lengths] = self.words;
        let fits = padded(sizes.len()) == most && elements.len() == self.buffers;
        if !fits || (lengths > 0 && padded(elements.len()) != lengths) {
            return Err(format!(
                "the kernel takes {} buffers and {most} sizes, not {} and {}",
                self.buffers,
                elements.len(),
                sizes.len()
            ));
        }
        let mut info = vec![0; most + lengths];
        info[..sizes.len()].copy_from_slice(sizes);
        for (word, &n) in info[most..].iter_mut().zip(elements) {
            *word = u32::try_from(n).unwrap_or(u32::MAX);
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "struct info_st {\n    uint32_t scalars_u32[4];uint32_t static_meta[2];\n};\nextern \"C\" __global__ void \
                        __launch_bounds__(64)  universal_e__9(float const* const __restrict__ v0, float * const __restrict__ v1, \
                        __grid_constant__ info_st const info_v9) {\n}";

    #[test]
    fn the_struct_is_as_the_text_says() {
        let arguments = Arguments::of(TEXT).unwrap();
        let entry = "universal_e__9".to_owned();
        assert_eq!(arguments, Arguments { entry, buffers: 2, maps: 0, words: [4, 2] });
        assert_eq!(arguments.info(&[7, 8, 9], &[100, 1 << 40]), Ok(vec![7, 8, 9, 0, 100, u32::MAX]));
        assert!(arguments.info(&[7, 8], &[1, 2]).unwrap_err().contains("2 buffers and 4 sizes, not 2 and 2"));
        assert!(arguments.info(&[7, 8, 9], &[1]).is_err() && arguments.info(&[7; 5], &[1, 2]).is_err());
    }

    #[test]
    fn matrices_of_the_copy_engine_come_behind_the_buffers() {
        let info = "__grid_constant__ info_st";
        let text = TEXT.replace(
            info,
            &format!("__grid_constant__ TensorMap const a, __grid_constant__ TensorMap const b, {info}"),
        );
        let arguments = Arguments::of(&text).unwrap();
        assert_eq!((arguments.buffers, arguments.maps), (2, 2));
    }

    #[test]
    fn other_arguments_are_refused() {
        for other in [
            TEXT.replace("scalars_u32", "scalars_f32"),
            TEXT.replace("scalars_u32[4]", "scalars_u32[n]"),
            TEXT.replace("__grid_constant__ info_st const", "info_st const* const"),
            TEXT.replace("universal", "other"),
            TEXT.replace("_e__9", " x"),
            TEXT.replace("float * const", "CUtensorMap const"),
            TEXT.replace("float const* const __restrict__ v0", "__grid_constant__ TensorMap const v0"),
            String::new(),
        ] {
            assert!(Arguments::of(&other).unwrap_err().contains("other arguments"), "{other}");
        }
    }
}
