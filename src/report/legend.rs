//! Text and legends of the picture.

use super::ReportError;
use super::palette::INK;
use super::picture::{Area, failed};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A text style of normal weight.
pub(super) fn font(size: i32, colour: &'static RGBColor) -> Font {
    Font { size, colour, bold: false }
}

/// Size in plotters' units (the SVG's are smaller by 1.24), colour and weight of a text.
#[derive(Clone, Copy)]
pub(super) struct Font {
    size: i32,
    colour: &'static RGBColor,
    bold: bool,
}

impl Font {
    pub fn into_bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub fn style(self) -> TextStyle<'static> {
        let weight = if self.bold { FontStyle::Bold } else { FontStyle::Normal };
        TextStyle::from(("sans-serif", self.size).into_font().style(weight)).color(self.colour)
    }
}

/// Writes a text whose left end, in the middle of its height, is at this pixel of the area.
pub(super) fn text(area: &Area, text: &str, at: (i32, i32), font: &Font) -> Result<(), ReportError> {
    let style = font.style().pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(text.to_string(), at, style)).map_err(failed)
}

/// Entries below each other in the column beside a plot.
pub(super) struct Legend<'a, 'b> {
    area: &'b Area<'a>,
    y: i32,
}

impl<'a, 'b> Legend<'a, 'b> {
    const LEFT: i32 = 8;
    const RIGHT: i32 = 38;

    pub fn new(area: &'b Area<'a>) -> Self {
        Self { area, y: 44 }
    }

    pub fn stroke(&mut self, style: ShapeStyle, label: &str) -> Result<(), ReportError> {
        let path = PathElement::new(vec![(Self::LEFT, self.y), (Self::RIGHT, self.y)], style);
        self.area.draw(&path).map_err(failed)?;
        self.label(label)
    }

    pub fn dotted_stroke(&mut self, style: ShapeStyle, label: &str) -> Result<(), ReportError> {
        let middle = ((Self::LEFT + Self::RIGHT) / 2, self.y);
        self.area.draw(&Circle::new(middle, 4, style.color.filled())).map_err(failed)?;
        self.stroke(style, label)
    }

    pub fn dashes(&mut self, style: ShapeStyle, label: &str) -> Result<(), ReportError> {
        for left in [Self::LEFT, Self::LEFT + 21] {
            let dash = PathElement::new(vec![(left, self.y), (left + 9, self.y)], style);
            self.area.draw(&dash).map_err(failed)?;
        }
        self.label(label)
    }

    pub fn block(&mut self, style: ShapeStyle, label: &str) -> Result<(), ReportError> {
        let corners = [(Self::LEFT + 6, self.y - 7), (Self::RIGHT - 6, self.y + 7)];
        self.area.draw(&Rectangle::new(corners, style)).map_err(failed)?;
        self.label(label)
    }

    fn label(&mut self, label: &str) -> Result<(), ReportError> {
        text(self.area, label, (Self::RIGHT + 8, self.y), &font(17, &INK))?;
        self.y += 24;
        Ok(())
    }
}
