//! What a run tells people: metrics on disk, TensorBoard events, a picture, a progress bar, a summary table.
//!
//! - [`MetricsWriter`] appends one [`Record`] per step to a JSONL file; [`read_metrics`] reads it.
//! - [`EventWriter`] writes scalars for TensorBoard.
//! - [`draw_picture`] and [`write_picture`] draw loss and expert load as one SVG.
//! - [`Progress`] shows a bar on a terminal and plain lines elsewhere; [`Summary`] is the table at the end.
//! - [`peak_resident_bytes`] is the peak memory of this process, [`resident_bytes`] that of now.

mod error;
mod legend;
mod memory;
mod metrics;
mod palette;
mod picture;
mod progress;
mod series;
mod table;
mod tensorboard;

pub use error::ReportError;
pub use memory::{peak_resident_bytes, resident_bytes, restart_peak};
pub use metrics::{MetricsWriter, Record, names, read_metrics};
pub use picture::{PictureOptions, draw_picture, write_picture};
pub use progress::{Progress, Status};
pub use table::{LayerRow, Summary, bytes_text};
pub use tensorboard::EventWriter;
