//! Numbers for people.

use ccl_runtime::device::human_bytes;

/// FLOPs for people: `12.30 GFLOP`.
pub fn human_flops(flops: u64) -> String {
    let (value, unit) = match flops {
        n if n >= 1_000_000_000_000 => (n as f64 / 1e12, "TFLOP"),
        n if n >= 1_000_000_000 => (n as f64 / 1e9, "GFLOP"),
        n => (n as f64 / 1e6, "MFLOP"),
    };
    format!("{value:.2} {unit}")
}

/// Seconds for people: `1.50 ms`.
pub fn human_seconds(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 120.0 => (s / 60.0, "min"),
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s if s >= 1e-6 => (s * 1e6, "µs"),
        s => (s * 1e9, "ns"),
    };
    let digits = if value >= 100.0 { 0 } else { 2 };
    format!("{value:.digits$} {unit}")
}

/// A rate for people: `1.50 TFLOP/s` for the unit `FLOP/s`.
pub fn human_rate(per_second: f64, unit: &str) -> String {
    let scales = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")];
    match scales.iter().find(|(scale, _)| per_second >= *scale) {
        Some((scale, prefix)) => format!("{} {prefix}{unit}", three_digits(per_second / scale)),
        None => format!("{per_second:.0} {unit}"),
    }
}

/// A number below a thousand with three digits at most: `4.8`, `989`.
fn three_digits(value: f64) -> String {
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').into() }
}

/// A difference with its sign in front; nothing for none.
pub fn signed(delta: i64, human: fn(u64) -> String) -> String {
    match delta {
        0 => String::new(),
        d => format!("{}{}", if d < 0 { "-" } else { "+" }, human(d.unsigned_abs())),
    }
}

/// [`signed`] for FLOPs and bytes.
pub fn signed_work(flops: i64, bytes: i64) -> [String; 2] {
    [signed(flops, human_flops), signed(bytes, human_bytes)]
}

/// A share as `12.3 %`; what is more than nothing is never written as 0.
pub fn percent(share: f64) -> String {
    match 100.0 * share {
        p if !p.is_finite() => "–".into(),
        p if p != 0.0 && p.abs() < 0.05 => format!("{}< 0.1 %", if p < 0.0 { "−" } else { "" }),
        p if p < 0.0 => format!("−{:.1} %", -p),
        p => format!("{p:.1} %"),
    }
}

/// What [`change`] says of a change too small for its digits.
pub const NEARLY: &str = "≈";

/// The change from `before` to `after` as a share of `before`, with its sign; nothing where it rounds to none.
pub fn change(before: u64, after: u64) -> String {
    if before == after {
        return String::new();
    }
    if before == 0 {
        return "new".into();
    }
    let p = 100.0 * (after as f64 / before as f64 - 1.0);
    let sign = if p < 0.0 { "−" } else { "+" };
    match p.abs() {
        p if p < 0.05 => NEARLY.into(),
        p if p >= 1000.0 => format!("×{:.0}", after as f64 / before as f64),
        p => format!("{sign}{p:.1} %"),
    }
}

/// Whole numbers as ranges: `0–3, 5`.
pub fn ranges(numbers: &[usize]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for n in sorted {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == n => *end = n,
            _ => runs.push((n, n)),
        }
    }
    let text = |&(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}–{b}") };
    runs.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(ranges(&[3, 0, 1, 2, 5, 5]), "0–3, 5");
        assert_eq!(ranges(&[]), "");
        assert_eq!([change(10, 5), change(10, 10), change(0, 1)], ["−50.0 %", "", "new"]);
        assert_eq!(change(100_000, 99_999), NEARLY);
        assert_eq!([human_seconds(0.0015), human_seconds(600.0)], ["1.50 ms", "10.00 min"]);
        assert_eq!([2.5e12, 989e12, 1e9].map(|r| human_rate(r, "B/s")), ["2.5 TB/s", "989 TB/s", "1 GB/s"]);
        assert_eq!(
            [percent(0.123), percent(0.0001), percent(0.0), percent(-0.1)],
            ["12.3 %", "< 0.1 %", "0.0 %", "−10.0 %"]
        );
        assert_eq!(signed_work(-2_000_000, 0), ["-2.00 MFLOP", ""]);
    }
}
