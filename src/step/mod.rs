//! The programs of a model, beside those of a distillation: `init`, `train_step`, `eval_step`, `forward`, `gradients`,
//! `prefill`, `decode_step`; and `derive`, where a target keeps more beside the state than a checkpoint has.

mod bias;
mod derive;
mod evaluate;
mod generate;
mod init;
mod loss;
mod program;
mod state;
mod teacher;
mod train;

pub use generate::decoding;
pub use init::fresh;
pub use program::{DERIVE, DISTILL_STEP, PROGRAMS, Port, Program, Role, build, programs};
pub use state::{StateTensor, is_parameter, layout};
pub use teacher::{PREFIX as TEACHER_PREFIX, SCOPE as TEACHER_SCOPE};
