//! The table at the end of a run.

use comfy_table::{CellAlignment, Table, presets};

/// How a MoE layer fared.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRow {
    pub name: String,
    /// Share of tokens that found no room in their expert, 0 to 1.
    pub dropped_share: f64,
    /// Share of tokens (or their count) per expert.
    pub expert_load: Vec<f64>,
}

/// The result of a run: labelled values, then one row per MoE layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub rows: Vec<(String, String)>,
    pub layers: Vec<LayerRow>,
}

impl Summary {
    /// Adds a labelled value.
    pub fn row(&mut self, label: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.rows.push((label.into(), value.into()));
        self
    }

    /// Adds a MoE layer.
    pub fn layer(&mut self, layer: LayerRow) -> &mut Self {
        self.layers.push(layer);
        self
    }

    /// The tables as text without an end of line; the second is left out where there are no MoE layers.
    pub fn render(&self) -> String {
        let mut values = table();
        for (label, value) in &self.rows {
            values.add_row([label, value]);
        }
        if self.layers.is_empty() {
            return values.to_string();
        }
        let layers = self.layer_table();
        if self.rows.is_empty() { layers.to_string() } else { format!("{values}\n{layers}") }
    }

    fn layer_table(&self) -> Table {
        let mut table = table();
        table.set_header(["MoE layer", "dropped", "expert load min", "mean", "max"]);
        for layer in &self.layers {
            let [min, mean, max] = load_text(&layer.expert_load);
            table.add_row([layer.name.clone(), percent(layer.dropped_share), min, mean, max]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Least, mean and greatest load as shares of the total; dashes where no token was routed.
fn load_text(load: &[f64]) -> [String; 3] {
    let total: f64 = load.iter().sum();
    if !total.is_finite() || total <= 0.0 {
        return ["-".into(), "-".into(), "-".into()];
    }
    let min = load.iter().copied().fold(f64::INFINITY, f64::min);
    let max = load.iter().copied().fold(0.0, f64::max);
    [percent(min / total), percent(1.0 / load.len() as f64), percent(max / total)]
}

/// A size such as `1.50 GiB`.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    format!("{size:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_reads_as_two_tables() {
        let mut summary = Summary::default();
        summary.row("held-out loss", "2.104").row("tokens/s", "12.3 k");
        // Counts 1, 2, 5 of 8: 12.5 %, mean 33.3 %, 62.5 %.
        let expert_load = vec![1.0, 2.0, 5.0];
        summary.layer(LayerRow { name: "encoder/block_1".into(), dropped_share: 0.0525, expert_load });
        let expected = "\
┌───────────────┬────────┐
│ held-out loss ┆ 2.104  │
│ tokens/s      ┆ 12.3 k │
└───────────────┴────────┘
┌─────────────────┬─────────┬─────────────────┬─────────┬─────────┐
│ MoE layer       ┆ dropped ┆ expert load min ┆ mean    ┆ max     │
╞═════════════════╪═════════╪═════════════════╪═════════╪═════════╡
│ encoder/block_1 ┆  5.25 % ┆         12.50 % ┆ 33.33 % ┆ 62.50 % │
└─────────────────┴─────────┴─────────────────┴─────────┴─────────┘";
        let text = summary.render();
        let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
        // Headers of right-aligned columns are right-aligned as well.
        assert_eq!(trimmed.join("\n"), expected.replace("mean   ", "   mean").replace("max    ", "    max"));
    }

    #[test]
    fn without_layers_there_is_one_table_and_without_tokens_no_load() {
        let mut summary = Summary::default();
        summary.row("a", "b");
        assert!(!summary.render().contains("MoE"));
        assert_eq!(load_text(&[]), ["-", "-", "-"]);
        assert_eq!(load_text(&[0.0, f64::NAN]), ["-", "-", "-"]);
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        let sizes = [1023, 1024, 1_610_612_736, 1 << 52];
        assert_eq!(sizes.map(bytes_text), ["1023 bytes", "1.00 KiB", "1.50 GiB", "4096.00 TiB"]);
    }
}
