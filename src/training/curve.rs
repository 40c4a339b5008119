//! Curves as a picture: a small SVG with axes, a grid and a legend.

use std::fmt::Write;

/// Width and height of the picture.
const SIZE: (f64, f64) = (860.0, 420.0);
/// Room left, above, right (for the legend) and below.
const ROOM: [f64; 4] = [60.0, 16.0, 190.0, 44.0];
/// Colours that are told apart with most kinds of sight (Okabe and Ito).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999"];

/// A line through points.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Name, for the legend.
    pub name: String,
    /// The points, which all are finite.
    pub points: Vec<(f64, f64)>,
    /// How far the value at each point may be off, drawn as a band; empty where there is nothing to say.
    pub spread: Vec<f64>,
}

impl Line {
    /// Lowest and highest value at each point.
    fn edges(&self) -> impl DoubleEndedIterator<Item = (f64, f64, f64)> + '_ {
        let spread = |i: usize| self.spread.get(i).copied().unwrap_or(0.0);
        self.points.iter().enumerate().map(move |(i, p)| (p.0, p.1 - spread(i), p.1 + spread(i)))
    }
}

/// A picture of lines.
pub fn svg(lines: &[Line], x_name: &str, y_name: &str) -> String {
    let edges = || lines.iter().flat_map(Line::edges);
    let (x_ticks, y_ticks) = (ticks(edges().map(|p| p.0)), ticks(edges().flat_map(|p| [p.1, p.2])));
    let (left, top, right, bottom) = (ROOM[0], ROOM[1], SIZE.0 - ROOM[2], SIZE.1 - ROOM[3]);
    let place = |v: f64, ticks: &[f64], from: f64, to: f64| {
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        from + (to - from) * (v - low) / (high - low)
    };
    let (x, y) = (|v| place(v, &x_ticks, left, right), |v| place(v, &y_ticks, bottom, top));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        SIZE.0, SIZE.1
    );
    for &v in &x_ticks {
        let _ = writeln!(out, "<path d=\"M{0:.1} {top}V{bottom}\" stroke=\"#ddd\"/>", x(v));
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(v),
            bottom + 16.0,
            number(v)
        );
    }
    for &v in &y_ticks {
        let _ = writeln!(out, "<path d=\"M{left} {0:.1}H{right}\" stroke=\"#ddd\"/>", y(v));
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y(v) + 4.0,
            number(v)
        );
    }
    let middle = (top + bottom) / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{x_name}</text>",
        (left + right) / 2.0,
        SIZE.1 - 8.0
    );
    let _ = writeln!(
        out,
        "<text x=\"14\" y=\"{middle}\" transform=\"rotate(-90 14 {middle})\" text-anchor=\"middle\">{y_name}</text>"
    );
    for (i, line) in lines.iter().enumerate() {
        let Line { name, points, spread } = line;
        let colour = COLOURS[i % COLOURS.len()];
        // What comes after as many lines as there are colours is dashed, then dotted.
        let dash = ["", " stroke-dasharray=\"6 3\"", " stroke-dasharray=\"2 2\""][(i / COLOURS.len()).min(2)];
        if !spread.is_empty() {
            let low = line.edges().map(|(at, low, _)| (at, low));
            let band = low.chain(line.edges().rev().map(|(at, _, high)| (at, high)));
            let band: Vec<String> = band.map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
            let _ = writeln!(out, "<polygon points=\"{}\" fill=\"{colour}\" opacity=\"0.18\"/>", band.join(" "));
        }
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"{dash}/>",
            path.join(" ")
        );
        let at = top + 10.0 + 18.0 * i as f64;
        let _ = writeln!(out, "<path d=\"M{} {at}h18\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>", right + 10.0);
        let last = points.last().map_or(String::new(), |p| format!(" {:.3}", p.1));
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">{name}{last}</text>", right + 34.0, at + 4.0);
    }
    out + "</svg>\n"
}

/// Round numbers that enclose all values, two at least.
fn ticks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if !(low.is_finite() && high.is_finite()) {
        (low, high) = (0.0, 1.0);
    }
    if high - low < 1e-9 * high.abs().max(1.0) {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|s| s * power >= rough).unwrap_or(10.0) * power;
    let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A tick's number without the noise of binary fractions.
fn number(v: f64) -> String {
    let text = format!("{v:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose() {
        let of = |v: &[f64]| ticks(v.iter().copied()).into_iter().map(number).collect::<Vec<_>>();
        assert_eq!(of(&[0.31, 1.9]), ["0", "0.5", "1", "1.5", "2"]);
        assert_eq!(of(&[50.0, 2600.0]), ["0", "1000", "2000", "3000"]);
        assert_eq!(of(&[2.0, 2.0]).len(), 7);
        assert!(of(&[]).len() > 1);
    }

    #[test]
    fn every_line_is_drawn_inside() {
        let line = |name: &str, points, spread| Line { name: name.into(), points, spread };
        let lines = [line("a", vec![(1.0, 2.0), (2.0, 1.0)], vec![0.1, 0.5]), line("b", vec![(1.5, 1.5)], vec![])];
        let svg = svg(&lines, "step", "loss");
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<polygon").count()), (2, 1));
        assert!(svg.contains(">a 1.000<") && !svg.contains("NaN"));
    }
}
