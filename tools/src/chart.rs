//! Percentile curves as SVG or PNG: time over the rarity of a value, both logarithmic.
//!
//! Needs no font of the system and no display. Knows no file.

use std::fmt::Write as _;
use std::io::Write;

use font8x8::legacy::BASIC_LEGACY;
use hdrhistogram::Histogram;
use quorate::metrics::Nanos;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;
/// The PNG is drawn this much larger and averaged, which smooths its lines.
const OVERSAMPLE: usize = 2;
/// Told apart also by those who see few colours, and in grey.
const COLORS: [Color; 8] = [
    Color(0x00, 0x72, 0xb2),
    Color(0xd5, 0x5e, 0x00),
    Color(0x00, 0x9e, 0x73),
    Color(0xcc, 0x79, 0xa7),
    Color(0xe6, 0x9f, 0x00),
    Color(0x56, 0xb4, 0xe9),
    Color(0x66, 0x66, 0x66),
    Color(0x8c, 0x51, 0x0a),
];
const INK: Color = Color(0x33, 0x33, 0x33);
const GRID: Color = Color(0xdd, 0xdd, 0xdd);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Color(u8, u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Clone, Debug)]
enum Shape {
    Line {
        points: Vec<(f64, f64)>,
        color: Color,
        width: f64,
    },
    /// The point is the text's middle in height.
    Text {
        at: (f64, f64),
        anchor: Anchor,
        text: String,
    },
}

/// A drawing of one or more histograms of nanoseconds.
#[derive(Clone, Debug)]
pub struct Chart {
    shapes: Vec<Shape>,
}

/// Where a percentile and a time stand in the drawing.
#[derive(Clone, Copy, Debug)]
struct Axes {
    /// How many nines the right edge has: 3 is 99.9 %.
    nines: f64,
    low: f64,
    high: f64,
}

impl Axes {
    fn of(curves: &[(String, Histogram<u64>)]) -> Self {
        let filled = || curves.iter().map(|(_, h)| h).filter(|h| !h.is_empty());
        let most = filled().map(|h| h.len()).max().unwrap_or(1);
        let min = filled().map(|h| h.value_at_quantile(0.0)).min().unwrap_or(1).max(1);
        let max = filled().map(|h| h.max()).max().unwrap_or(10).max(min + 1);
        Self {
            nines: (most as f64).log10().ceil().clamp(2.0, 6.0),
            low: (min as f64).log10().floor(),
            high: (max as f64).log10().ceil(),
        }
    }

    fn x(self, quantile: f64) -> f64 {
        let nines = (-(1.0 - quantile).max(1e-12).log10()).min(self.nines);
        LEFT + nines / self.nines * (WIDTH - LEFT - RIGHT)
    }

    fn y(self, nanos: f64) -> f64 {
        let part = (nanos.max(1.0).log10() - self.low) / (self.high - self.low).max(1.0);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }

    fn curve(self, histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
        // Each recorded value spans the quantiles from those below it to its own.
        let total = histogram.len() as f64;
        let mut points = Vec::new();
        let (mut below, mut last_x) = (0, f64::MIN);
        for value in histogram.iter_recorded() {
            let y = self.y(value.value_iterated_to().min(histogram.max()) as f64);
            let (from, to) =
                (below as f64 / total, (below + value.count_since_last_iteration()) as f64 / total);
            below += value.count_since_last_iteration();
            // A point for each half a pixel is enough.
            for x in [self.x(from), self.x(to)] {
                if x - last_x >= 0.5 || to >= 1.0 {
                    points.push((x, y));
                    last_x = x;
                }
            }
        }
        points
    }
}

/// The curve's colour; past the eighth they come again, lighter.
fn color(at: usize) -> Color {
    let Color(r, g, b) = COLORS[at % COLORS.len()];
    let lighter = |part: u8| match at / COLORS.len() {
        0 => part,
        _ => part / 2 + 0x70,
    };
    Color(lighter(r), lighter(g), lighter(b))
}

impl Chart {
    /// Curves with their names, below a title.
    pub fn percentiles(title: &str, curves: &[(String, Histogram<u64>)]) -> Self {
        let axes = Axes::of(curves);
        let mut chart = Self { shapes: Vec::new() };
        chart.text((LEFT, TOP / 2.0), Anchor::Start, title);
        chart.grid(axes);
        for (at, (name, histogram)) in curves.iter().enumerate() {
            let color = color(at);
            if !histogram.is_empty() {
                chart.line(axes.curve(histogram), color, 2.0);
            }
            let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 10.0 + at as f64 * 18.0);
            chart.line(vec![(x, y), (x + 20.0, y)], color, 3.0);
            chart.text((x + 28.0, y), Anchor::Start, name);
        }
        chart
    }

    fn grid(&mut self, axes: Axes) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for decade in axes.low as u32..=axes.high as u32 {
            let nanos = 10_u64.saturating_pow(decade);
            let y = axes.y(nanos as f64);
            self.line(vec![(LEFT, y), (right, y)], GRID, 1.0);
            self.text((LEFT - 8.0, y), Anchor::End, &Nanos(nanos).to_string());
        }
        for nines in 0..=axes.nines as i32 {
            let quantile = 1.0 - 10_f64.powi(-nines);
            let x = axes.x(quantile);
            self.line(vec![(x, TOP), (x, bottom)], GRID, 1.0);
            let label = format!("{:.*}%", (nines - 2).max(0) as usize, quantile * 100.0);
            self.text((x, bottom + 14.0), Anchor::Middle, &label);
        }
        self.line(vec![(LEFT, TOP), (LEFT, bottom), (right, bottom)], INK, 1.0);
        self.text((f64::midpoint(LEFT, right), bottom + 36.0), Anchor::Middle, "percentile");
    }

    fn line(&mut self, points: Vec<(f64, f64)>, color: Color, width: f64) {
        self.shapes.push(Shape::Line { points, color, width });
    }

    fn text(&mut self, at: (f64, f64), anchor: Anchor, text: &str) {
        self.shapes.push(Shape::Text { at, anchor, text: text.to_owned() });
    }

    /// The drawing as SVG.
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        for shape in &self.shapes {
            // Writing to a String cannot fail.
            let _ = match shape {
                Shape::Line { points, color: Color(r, g, b), width } => {
                    let points: Vec<String> =
                        points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                    writeln!(
                        svg,
                        "<polyline points=\"{}\" fill=\"none\" stroke=\"#{r:02x}{g:02x}{b:02x}\" \
                         stroke-width=\"{width}\"/>",
                        points.join(" ")
                    )
                }
                Shape::Text { at: (x, y), anchor, text } => {
                    let anchor = match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    };
                    let text = escaped(text);
                    writeln!(
                        svg,
                        "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>",
                        y + 4.0
                    )
                }
            };
        }
        svg + "</svg>\n"
    }

    /// Writes the drawing as PNG.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_png(&self, out: impl Write) -> std::io::Result<()> {
        let mut canvas = Canvas::new();
        for shape in &self.shapes {
            match shape {
                Shape::Line { points, color, width } => canvas.polyline(points, *color, *width),
                Shape::Text { at, anchor, text } => canvas.text(*at, *anchor, text),
            }
        }
        let mut encoder = png::Encoder::new(out, WIDTH as u32, HEIGHT as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&canvas.averaged())?;
        Ok(writer.finish()?)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The points of a square.
fn square(side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..side).flat_map(move |dx| (0..side).map(move |dy| (dx, dy)))
}

/// Pixels, [`OVERSAMPLE`] times as many in each direction as in the result.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Color>,
}

impl Canvas {
    fn new() -> Self {
        let (width, height) = (WIDTH as usize * OVERSAMPLE, HEIGHT as usize * OVERSAMPLE);
        Self { width, height, pixels: vec![Color(0xff, 0xff, 0xff); width * height] }
    }

    fn set(&mut self, x: f64, y: f64, color: Color) {
        if (0.0..self.width as f64).contains(&x) && (0.0..self.height as f64).contains(&y) {
            self.pixels[y as usize * self.width + x as usize] = color;
        }
    }

    /// A square of the line's width at every step of half a pixel.
    fn polyline(&mut self, points: &[(f64, f64)], color: Color, width: f64) {
        let scale = OVERSAMPLE as f64;
        let side = (width * scale).round().max(1.0) as usize;
        let half = side as f64 / 2.0;
        for pair in points.windows(2) {
            let [(x0, y0), (x1, y1)] = [pair[0], pair[1]].map(|(x, y)| (x * scale, y * scale));
            let steps = ((x1 - x0).abs().max((y1 - y0).abs()) * 2.0).ceil().max(1.0);
            for step in 0..=steps as u32 {
                let part = f64::from(step) / steps;
                let (x, y) = (x0 + (x1 - x0) * part, y0 + (y1 - y0) * part);
                for (dx, dy) in square(side) {
                    self.set(x + dx as f64 - half, y + dy as f64 - half, color);
                }
            }
        }
    }

    /// Letters of eight by eight points, each a pixel of the result.
    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let width = text.chars().count() as f64 * 8.0;
        let left = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x - width / 2.0,
            Anchor::End => x - width,
        };
        let (left, top) = (left.round() * OVERSAMPLE as f64, (y - 4.0).round() * OVERSAMPLE as f64);
        for (at, letter) in text.chars().enumerate() {
            let glyph = BASIC_LEGACY.get(letter as usize).unwrap_or(&BASIC_LEGACY['?' as usize]);
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..8).filter(|column| bits & (1 << column) != 0) {
                    let (cell_x, cell_y) = ((at * 8 + column) * OVERSAMPLE, row * OVERSAMPLE);
                    for (dx, dy) in square(OVERSAMPLE) {
                        self.set(left + (cell_x + dx) as f64, top + (cell_y + dy) as f64, INK);
                    }
                }
            }
        }
    }

    fn averaged(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.pixels.len() * 3 / (OVERSAMPLE * OVERSAMPLE));
        for y in (0..self.height).step_by(OVERSAMPLE) {
            for x in (0..self.width).step_by(OVERSAMPLE) {
                let mut sum = [0_usize; 3];
                for (dx, dy) in square(OVERSAMPLE) {
                    let Color(r, g, b) = self.pixels[(y + dy) * self.width + x + dx];
                    sum =
                        [sum[0] + usize::from(r), sum[1] + usize::from(g), sum[2] + usize::from(b)];
                }
                out.extend(sum.map(|part| (part / (OVERSAMPLE * OVERSAMPLE)) as u8));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        for micros in 1..=10_000 {
            histogram.record(micros * 1_000).unwrap();
        }
        let empty = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        let curves = [("write <&>".to_owned(), histogram), ("none".to_owned(), empty)];
        Chart::percentiles("run.hlog", &curves)
    }

    #[test]
    fn the_svg_has_title_axes_and_escaped_names() {
        let svg = chart().svg();
        for text in ["run.hlog", "99.9%", "99.99%", "1.00 ms", "write &lt;&amp;&gt;", "percentile"]
        {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_curve_rises_from_the_left_edge_to_the_right_one() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        for micros in 1..=10_000 {
            histogram.record(micros * 1_000).unwrap();
        }
        let axes = Axes::of(&[("a".to_owned(), histogram.clone())]);
        let curve = axes.curve(&histogram);
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 >= pair[1].1));
        assert!((curve[0].0 - LEFT).abs() < 1.0);
        assert!((curve.last().unwrap().0 - (WIDTH - RIGHT)).abs() < 1.0);
        assert!(curve.len() < 3 * WIDTH as usize);
    }

    #[test]
    fn the_png_decodes_to_a_drawing_of_its_size() {
        let mut bytes = Vec::new();
        chart().write_png(&mut bytes).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((frame.width, frame.height), (WIDTH as u32, HEIGHT as u32));
        let Color(r, g, b) = COLORS[0];
        let curve = pixels.chunks(3).filter(|pixel| **pixel == [r, g, b]).count();
        assert!(curve > 500, "{curve} pixels of the curve's colour");
        let white = pixels.chunks(3).filter(|pixel| **pixel == [255; 3]).count();
        assert!(white > pixels.len() / 3 * 8 / 10);
    }
}
