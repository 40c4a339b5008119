//! Device specifications: the few numbers of a roofline, read from a TOML file.
//!
//! ```
//! use ccl_passes::DeviceSpec;
//!
//! let spec = DeviceSpec::shipped("h200").unwrap();
//! assert!(spec.flops(ccl_ir::DType::Bf16) > spec.flops(ccl_ir::DType::F32));
//! assert_eq!(DeviceSpec::parse(&spec.to_toml()).unwrap(), spec);
//! ```

use std::collections::BTreeMap;

use ccl_ir::DType;
use serde::{Deserialize, Serialize};

/// What the cost model knows of a device. Rates are those that good kernels sustain, not those of a data sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Name for people.
    pub name: String,
    /// Where the numbers come from.
    #[serde(default)]
    pub source: String,
    /// Matrix products, in floating point operations a second, by the element type of their operands. A type that is not listed
    /// runs as `f32` does.
    pub matrix_flops: BTreeMap<String, f64>,
    /// Everything else (attention's softmax is counted with its products), in floating point operations a second.
    pub vector_flops: f64,
    /// Device memory traffic in bytes a second.
    pub bandwidth: f64,
    /// Seconds from one call to the next where both do next to nothing.
    pub call_seconds: f64,
    /// Device memory in bytes.
    pub memory_bytes: u64,
}

/// The shipped specifications, by name.
const SHIPPED: &[(&str, &str)] = &[
    ("apple-m", include_str!("../specs/apple-m.toml")),
    ("cpu", include_str!("../specs/cpu.toml")),
    ("h100", include_str!("../specs/h100.toml")),
    ("h200", include_str!("../specs/h200.toml")),
    ("rtx4090", include_str!("../specs/rtx4090.toml")),
    ("wgpu", include_str!("../specs/wgpu.toml")),
];

/// Parts of devices' names, in small letters, and the specifications that hold for them.
const DEVICES: [(&str, &str); 4] =
    [("h100 80gb hbm3", "h100"), ("h200", "h200"), ("rtx 4090", "rtx4090"), ("apple m", "apple-m")];

impl DeviceSpec {
    /// Names of the shipped specifications.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// The shipped specification with this name.
    pub fn shipped(name: &str) -> Option<Self> {
        let (_, text) = SHIPPED.iter().find(|(n, _)| *n == name)?;
        Self::parse(text).ok()
    }

    /// The specification that plans for a target are made by where none is given.
    pub fn for_target(target: &str) -> Self {
        let name = match target {
            t if t.starts_with("cuda:sm_89") => "rtx4090",
            t if t.starts_with("cuda") => "h200",
            t if t.starts_with("wgpu") => "wgpu",
            _ => "cpu",
        };
        Self::shipped(name).unwrap_or_else(Self::fallback)
    }

    /// The shipped specification of a device by the name that it gives itself, where there is one.
    pub fn for_device(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (_, spec) = DEVICES.iter().find(|(part, _)| name.contains(part))?;
        Self::shipped(spec)
    }

    /// A machine of ordinary balance: the text of a shipped specification is tested, so that this is never needed.
    fn fallback() -> Self {
        Self {
            name: "unknown".into(),
            source: String::new(),
            matrix_flops: BTreeMap::from([("f32".into(), 1e11)]),
            vector_flops: 1e10,
            bandwidth: 1e10,
            call_seconds: 1e-6,
            memory_bytes: 1 << 34,
        }
    }

    /// Reads a specification.
    ///
    /// # Errors
    /// When the text is not TOML, a field is missing or unknown, or a rate is not above zero. The message says which.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spec: Self = toml::from_str(text).map_err(|e| e.message().to_string())?;
        let rates = [("vector_flops", spec.vector_flops), ("bandwidth", spec.bandwidth)];
        let matrix = spec.matrix_flops.iter().map(|(k, v)| (k.as_str(), *v));
        for (field, rate) in rates.into_iter().chain(matrix.clone()) {
            if !rate.is_finite() || rate <= 0.0 {
                return Err(format!("`{field}` must be a number above zero, is {rate}"));
            }
        }
        for (name, _) in matrix {
            if !DType::from_name(name).is_some_and(DType::is_float) {
                return Err(format!("`matrix_flops.{name}`: known element types are f32, bf16 and f16"));
            }
        }
        if !spec.matrix_flops.contains_key("f32") {
            return Err("`matrix_flops` has no `f32`".into());
        }
        if !(0.0..1.0).contains(&spec.call_seconds) {
            return Err(format!("`call_seconds` must be from 0 to 1, is {}", spec.call_seconds));
        }
        Ok(spec)
    }

    /// The specification as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// Seconds of one call: its arithmetic on operands of a type or its traffic, whichever takes longer, and the time between two calls.
    pub fn seconds(&self, flops: f64, bytes: f64, operands: DType) -> f64 {
        (flops / self.flops(operands)).max(bytes / self.bandwidth) + self.call_seconds
    }

    /// Rate of matrix products on operands of a type.
    pub fn flops(&self, dtype: DType) -> f64 {
        let rate = |name| self.matrix_flops.get(name).copied();
        rate(dtype.name()).or_else(|| rate("f32")).unwrap_or(self.vector_flops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_specifications_are_read() {
        for name in DeviceSpec::names() {
            let spec = DeviceSpec::shipped(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(DeviceSpec::parse(&spec.to_toml()), Ok(spec));
        }
        for (target, name) in [("cpu", "cpu"), ("wgpu", "wgpu"), ("cuda:sm_89", "rtx4090"), ("cuda:sm_90a", "h200")] {
            assert_eq!(Some(DeviceSpec::for_target(target)), DeviceSpec::shipped(name));
        }
        for (device, name) in DEVICES {
            assert!(DeviceSpec::for_device(&format!("A {}", device.to_uppercase())) == DeviceSpec::shipped(name));
        }
        assert_eq!(DeviceSpec::for_device("llvmpipe"), None);
    }

    #[test]
    fn wrong_specifications_are_refused_with_the_field() {
        let good = DeviceSpec::for_target("cpu").to_toml();
        let cases = [
            ("bandwidth = ", "bandwith = ", "bandwith"),
            ("call_seconds = ", "call_seconds = 7\n# ", "call_seconds"),
            ("f32 = ", "f32 = -1.0\n# ", "f32"),
            ("f32 = ", "f64 = ", "f64"),
        ];
        for (from, to, field) in cases {
            let error = DeviceSpec::parse(&good.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
