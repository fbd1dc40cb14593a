//! The programs of a model: `init`, `train_step`, `eval_step`, `forward`, `next_token`.

mod bias;
mod evaluate;
mod init;
mod loss;
mod program;
mod state;
mod train;

pub use program::{PROGRAMS, Port, Program, Role, build};
pub use state::{StateTensor, is_parameter, layout};
