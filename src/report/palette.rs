//! Colours of the picture.

use plotters::style::RGBColor;

/// Okabe and Ito's palette: its colours differ for every kind of colour vision.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const VERMILLION: RGBColor = RGBColor(213, 94, 0);
pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
pub(super) const GREY: RGBColor = RGBColor(105, 105, 105);
pub(super) const GRID: RGBColor = RGBColor(228, 228, 228);
const EXPERTS: [RGBColor; 8] = [
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(240, 228, 66),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(170, 170, 170),
];
/// Ends and middles of the viridis map, for more experts than [`EXPERTS`] has colours.
const RAMP: [RGBColor; 5] = [
    RGBColor(68, 1, 84),
    RGBColor(59, 82, 139),
    RGBColor(33, 145, 140),
    RGBColor(94, 201, 98),
    RGBColor(253, 231, 37),
];

/// A colour with some white, opaque: large areas then leave the lines before them visible.
pub(super) fn pale(colour: RGBColor) -> RGBColor {
    let mix = |part: u8| (0.85 * f64::from(part) + 0.15 * 255.0).round() as u8;
    RGBColor(mix(colour.0), mix(colour.1), mix(colour.2))
}

/// The colour of an expert among this many.
pub(super) fn expert_colour(expert: usize, num_experts: usize) -> RGBColor {
    if let Some(colour) = EXPERTS.get(expert).filter(|_| num_experts <= EXPERTS.len()) {
        return *colour;
    }
    let place = expert as f64 / (num_experts.max(2) - 1) as f64 * (RAMP.len() - 1) as f64;
    let from = (place as usize).min(RAMP.len() - 2);
    let part = (place - from as f64).clamp(0.0, 1.0);
    let mix = |a: u8, b: u8| (f64::from(a) + part * (f64::from(b) - f64::from(a))).round() as u8;
    let (a, b) = (RAMP[from], RAMP[from + 1]);
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plotters::style::Color;

    #[test]
    fn each_expert_has_a_colour_of_its_own() {
        for num_experts in [1, 8, 9, 64] {
            let mut colours: Vec<_> = (0..num_experts).map(|i| expert_colour(i, num_experts).rgb()).collect();
            colours.sort_unstable();
            colours.dedup();
            assert_eq!(colours.len(), num_experts);
        }
    }
}
