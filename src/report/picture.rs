//! One SVG of a run: the loss above, the load of the experts below.

use super::legend::{Legend, font, text};
use super::metrics::{names, read_metrics};
use super::palette::{BLUE, GREY, GRID, INK, VERMILLION, expert_colour, pale};
use super::series::{self, Curve, Load};
use super::{Record, ReportError};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::fmt::Display;
use std::path::Path;

/// Width and height of the picture in pixels.
const SIZE: (u32, u32) = (1200, 900);
const TITLE_HEIGHT: u32 = 56;
const LOSS_HEIGHT: u32 = 480;
/// The column at the right that holds the legends.
const LEGEND_WIDTH: u32 = 236;
const MAX_LEGEND_EXPERTS: usize = 12;

/// What the picture shows and under which names it finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureOptions {
    pub title: String,
    /// Entropy of the text's single tokens, in nats per token: drawn as a line to compare with.
    pub unigram_entropy: Option<f64>,
    /// Vector of the layer whose experts are shown; the mean of all MoE layers if `None`.
    pub layer: Option<String>,
    pub loss: String,
    pub held_out_loss: String,
    pub dropped_share: String,
    /// End of the names of the vectors with expert loads.
    pub expert_load: String,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self {
            title: "Training".to_string(),
            unigram_entropy: None,
            layer: None,
            loss: names::LOSS.to_string(),
            held_out_loss: names::HELD_OUT_LOSS.to_string(),
            dropped_share: names::DROPPED_SHARE.to_string(),
            expert_load: names::EXPERT_LOAD.to_string(),
        }
    }
}

/// Draws the records of a metrics file into an SVG file.
///
/// Errors: those of [`read_metrics`]; [`ReportError::Io`]; [`ReportError::Draw`].
pub fn write_picture(metrics: &Path, svg: &Path, options: &PictureOptions) -> Result<(), ReportError> {
    let text = draw_picture(&read_metrics(metrics)?, options)?;
    std::fs::write(svg, text).map_err(ReportError::io("write", svg))
}

/// Draws records as an SVG of 1200 x 900 pixels; what they do not hold is left out.
///
/// Errors: [`ReportError::Draw`].
pub fn draw_picture(records: &[Record], options: &PictureOptions) -> Result<String, ReportError> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (head, panels) = root.split_vertically(TITLE_HEIGHT);
        text(&head, &options.title, (28, TITLE_HEIGHT as i32 / 2 + 4), &font(30, &INK).into_bold())?;
        let (upper, lower) = panels.split_vertically(LOSS_HEIGHT);
        let steps = step_range(records);
        loss_panel(&upper, records, options, steps.clone())?;
        load_panel(&lower, records, options, steps)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

pub(super) type Svg<'a> = SVGBackend<'a>;
pub(super) type Area<'a> = DrawingArea<Svg<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'b, Svg<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Points as the chart takes them: plotters' axis of whole numbers cannot do without finer grid lines.
fn drawn(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    points.iter().map(|&(step, value)| (step as f64, value)).collect()
}

pub(super) fn failed(error: impl Display) -> ReportError {
    ReportError::Draw { message: error.to_string() }
}

/// From the first to the last step; never empty, since an axis cannot be.
fn step_range(records: &[Record]) -> std::ops::Range<u64> {
    let first = records.first().map_or(0, |record| record.step);
    let last = records.last().map_or(1, |record| record.step);
    match last > first {
        true => first..last,
        false => first.saturating_sub(1)..first.saturating_add(1),
    }
}

/// Values that an axis shows: those of the curves with some room around.
fn value_range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let room = (0.06 * (high - low)).max(1e-3 * high.abs()).max(1e-6);
    low - room..high + room
}

fn loss_panel(
    area: &Area,
    records: &[Record],
    options: &PictureOptions,
    steps: std::ops::Range<u64>,
) -> Result<(), ReportError> {
    let raw = series::curve(records, &options.loss);
    let held_out = series::curve(records, &options.held_out_loss);
    let unigram = options.unigram_entropy.filter(|entropy| entropy.is_finite());
    let shown = raw.iter().chain(&held_out).map(|point| point.1).chain(unigram);
    let values = value_range(shown);
    let decimals = if values.end - values.start > 2.0 { 1 } else { 2 };
    let (plot, legend) = panel(area, "Loss")?;
    let mut chart =
        chart(&plot, steps.clone(), values, "loss (nats per token)", &|y| format!("{y:.decimals$}"))?;
    let smooth = series::smoothed(&raw);
    let mut key = Legend::new(&legend);
    if let Some((_, last)) = smooth.last() {
        line(&mut chart, &series::thinned(&raw), BLUE.mix(0.5).stroke_width(1))?;
        line(&mut chart, &series::thinned(&smooth), BLUE.stroke_width(3))?;
        key.stroke(BLUE.mix(0.5).stroke_width(1), "train, each step")?;
        key.stroke(BLUE.stroke_width(3), &format!("train, smoothed: {last:.3}"))?;
    }
    if let Some((_, last)) = held_out.last() {
        line(&mut chart, &series::thinned(&held_out), VERMILLION.stroke_width(2))?;
        dots(&mut chart, &series::thinned(&held_out))?;
        key.dotted_stroke(VERMILLION.stroke_width(2), &format!("held-out: {last:.3}"))?;
    }
    if let Some(entropy) = unigram {
        dashes(&mut chart, &[(steps.start, entropy), (steps.end, entropy)], GREY.stroke_width(2))?;
        key.dashes(GREY.stroke_width(2), &format!("unigram entropy: {entropy:.3}"))?;
    }
    if raw.is_empty() && held_out.is_empty() {
        text(&plot, "no loss recorded", (450, 200), &font(20, &GREY))?;
    }
    Ok(())
}

fn load_panel(
    area: &Area,
    records: &[Record],
    options: &PictureOptions,
    steps: std::ops::Range<u64>,
) -> Result<(), ReportError> {
    let load = series::load(records, &options.expert_load, options.layer.as_deref());
    let of = match (&options.layer, load.num_layers) {
        (Some(layer), _) => format!("Expert load of {layer}"),
        (None, 0 | 1) => "Expert load".to_string(),
        (None, n) => format!("Expert load, mean of {n} MoE layers"),
    };
    let (plot, legend) = panel(area, &of)?;
    let mut chart = chart(&plot, steps, 0.0..100.0, "share of tokens (%)", &|y| format!("{y:.0}"))?;
    let mut key = Legend::new(&legend);
    bands(&mut chart, &load)?;
    let dropped: Curve = series::curve(records, &options.dropped_share);
    let smooth = series::smoothed(&dropped).into_iter();
    let percent: Curve = smooth.map(|(step, share)| (step, 100.0 * share)).collect();
    if let Some((_, last)) = percent.last() {
        // White below black: the line is seen on every colour of the bands.
        line(&mut chart, &series::thinned(&percent), WHITE.stroke_width(6))?;
        line(&mut chart, &series::thinned(&percent), BLACK.stroke_width(3))?;
        key.stroke(BLACK.stroke_width(3), &format!("dropped: {last:.1} %"))?;
    }
    if load.shares.is_empty() {
        text(&plot, "no MoE layer recorded", (430, 140), &font(20, &GREY))?;
    }
    expert_key(&mut key, &load)
}

/// A panel's heading, drawn, with the area of its plot and that of its legend.
fn panel<'a>(area: &Area<'a>, heading: &str) -> Result<(Area<'a>, Area<'a>), ReportError> {
    let (plot, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    text(&plot, heading, (92, 14), &font(21, &INK).into_bold())?;
    Ok((plot, legend))
}

fn chart<'a, 'b>(
    area: &'b Area<'a>,
    steps: std::ops::Range<u64>,
    values: std::ops::Range<f64>,
    value_label: &str,
    format: &dyn Fn(&f64) -> String,
) -> Result<Chart<'a, 'b>, ReportError> {
    let mut builder = ChartBuilder::on(area);
    builder.margin_top(32).margin_bottom(14).margin_left(16).margin_right(8);
    builder.x_label_area_size(50).y_label_area_size(76);
    let num_labels = steps.end.saturating_sub(steps.start).min(10) as usize + 1;
    let mut chart =
        builder.build_cartesian_2d(steps.start as f64..steps.end as f64, values).map_err(failed)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("step").y_desc(value_label).x_labels(num_labels).y_labels(7);
    mesh.x_label_formatter(&|step| format!("{step:.0}"));
    mesh.y_label_formatter(format).max_light_lines(0);
    mesh.bold_line_style(GRID)
        .axis_style(GREY)
        .label_style(font(17, &INK).style())
        .axis_desc_style(font(19, &INK).style());
    mesh.draw().map_err(failed)?;
    Ok(chart)
}

/// The share of each expert as a band, stacked in the order of the experts from below.
///
/// Each is painted down to zero, the uppermost first, so that rounding to pixels leaves no gap between two.
fn bands(chart: &mut Chart, load: &Load) -> Result<(), ReportError> {
    let points = series::averaged(&load.shares);
    let num_experts = load.num_experts();
    for expert in (0..num_experts).rev() {
        let up_to = |shares: &[f64]| 100.0 * shares.iter().take(expert + 1).sum::<f64>();
        let edge: Curve = points.iter().map(|(step, shares)| (*step, up_to(shares))).collect();
        let area = AreaSeries::new(drawn(&edge), 0.0, pale(expert_colour(expert, num_experts)).filled());
        chart.draw_series(area).map_err(failed)?;
        if expert + 1 < num_experts && num_experts <= 32 {
            line(chart, &edge, WHITE.stroke_width(1))?;
        }
    }
    Ok(())
}

/// One entry per expert with its last share, the uppermost band first; of many experts some stand for all.
fn expert_key(key: &mut Legend, load: &Load) -> Result<(), ReportError> {
    let points = series::averaged(&load.shares);
    let Some((_, last)) = points.last() else { return Ok(()) };
    let stride = last.len().div_ceil(MAX_LEGEND_EXPERTS).max(1);
    for (expert, share) in last.iter().enumerate().rev().filter(|(expert, _)| expert % stride == 0) {
        let colour = expert_colour(expert, last.len());
        key.block(pale(colour).filled(), &format!("expert {expert}: {:.1} %", 100.0 * share))?;
    }
    Ok(())
}

fn line(chart: &mut Chart, points: &[(u64, f64)], style: ShapeStyle) -> Result<(), ReportError> {
    chart.draw_series([PathElement::new(drawn(points), style)]).map_err(failed).map(|_| ())
}

fn dots(chart: &mut Chart, points: &[(u64, f64)]) -> Result<(), ReportError> {
    let dot = |point| Circle::new(point, 4, VERMILLION.filled());
    chart.draw_series(drawn(points).into_iter().map(dot)).map_err(failed).map(|_| ())
}

fn dashes(chart: &mut Chart, points: &[(u64, f64)], style: ShapeStyle) -> Result<(), ReportError> {
    let dashed = DashedLineSeries::new(drawn(points), 9, 6, style);
    chart.draw_series(dashed).map_err(failed).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of this many steps whose experts drift apart; every number is made from the step alone.
    fn run(num_steps: u64, num_experts: usize) -> Vec<Record> {
        let record = |step: u64| {
            let t = step as f64 / num_steps as f64;
            let wobble = ((step * 7919 % 101) as f64 / 101.0 - 0.5) * 0.3;
            let mut record = Record::new(step);
            record.push(names::LOSS, 1.9 + 3.6 * (-5.0 * t).exp() + wobble);
            record.push(names::DROPPED_SHARE, 0.03 + 0.2 * (-8.0 * t).exp() + wobble.abs() * 0.02);
            if step.is_multiple_of((num_steps / 8).max(1)) {
                record.push(names::HELD_OUT_LOSS, 2.05 + 3.5 * (-5.0 * t).exp());
            }
            for layer in 0..4 {
                let load = |expert: usize| {
                    let phase = (expert + layer) as f64 * 1.7 + wobble;
                    1.0 + (1.0 - 0.7 * t) * (phase + 9.0 * t).sin()
                };
                let name = format!("encoder/block_{layer}/expert_load");
                record.push_layer(name, (0..num_experts).map(load).collect());
            }
            record
        };
        (1..=num_steps).map(record).collect()
    }

    fn options() -> PictureOptions {
        let title = "Switch Transformer <demo>, 8 experts".to_string();
        PictureOptions { title, unigram_entropy: Some(3.31), ..PictureOptions::default() }
    }

    /// Checks that each tag is closed in turn and that text holds no bare mark; returns the names of the tags.
    fn tags(svg: &str) -> Vec<String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a tag must end");
            assert!(!text.contains('>'), "bare mark in {text}");
            assert_eq!(tag.matches('"').count() % 2, 0, "open quote in {tag}");
            let name = tag.trim_matches('/').split_whitespace().next().unwrap().to_string();
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) => assert_eq!(open.pop(), Some(name)),
                (_, true) => all.push(name),
                _ => {
                    open.push(name.clone());
                    all.push(name);
                }
            }
        }
        assert!(open.is_empty(), "never closed: {open:?}");
        all
    }

    #[test]
    fn the_picture_is_well_formed_and_has_all_series() {
        let svg = draw_picture(&run(400, 8), &options()).unwrap();
        let tags = tags(&svg);
        let count = |name: &str| tags.iter().filter(|tag| *tag == name).count();
        assert!(svg.starts_with("<svg width=\"1200\" height=\"900\""));
        assert_eq!(count("polygon"), 8);
        // Eight held-out points and one in the legend.
        assert_eq!(count("circle"), 9);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let labels =
            ["train, smoothed: ", "train, each step", "held-out: ", "unigram entropy: 3.310", "dropped: "];
        let axes =
            ["loss (nats per token)", "share of tokens (%)", "step", "mean of 4 MoE layers", "&lt;demo&gt;"];
        for label in labels.into_iter().chain(axes).chain(["expert 0: ", "expert 7: "]) {
            assert!(svg.contains(label), "{label}");
        }
        if let Some(folder) = std::env::var_os("SWITCHYARD_PICTURES") {
            std::fs::write(
                Path::new(&folder).join("many.svg"),
                draw_picture(&run(3000, 64), &options()).unwrap(),
            )
            .unwrap();
            std::fs::write(Path::new(&folder).join("demo.svg"), svg).unwrap();
        }
    }

    #[test]
    fn empty_short_and_odd_runs_are_drawn_as_well() {
        let mut odd = Record::new(u64::MAX);
        odd.push(names::LOSS, f64::NAN).push_layer("x/expert_load", vec![f64::NAN, 1.0]);
        for records in [vec![], vec![Record::new(0)], run(1, 1), run(2, 300), vec![Record::new(3), odd]] {
            tags(&draw_picture(&records, &PictureOptions::default()).unwrap());
        }
    }

    #[test]
    fn a_picture_is_drawn_from_a_metrics_file() {
        let folder = tempfile::tempdir().unwrap();
        let (metrics, svg) = (folder.path().join("m.jsonl"), folder.path().join("m.svg"));
        let mut writer = super::super::MetricsWriter::create(&metrics).unwrap();
        run(10, 4).iter().for_each(|record| writer.write(record).unwrap());
        write_picture(&metrics, &svg, &options()).unwrap();
        tags(&std::fs::read_to_string(svg).unwrap());
    }
}
