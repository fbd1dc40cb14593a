//! Drives training from the library: a config in code, text files as data, a loop of twenty steps.
//!
//! cargo run --example train_from_library -- [FILE OR FOLDER ..]

use switchyard::artifact;
use switchyard::config::RunConfig;
use switchyard::data::Corpus;
use switchyard::runtime::cpu;
use switchyard::train::{Session, batch_inputs, data_spec};

fn main() -> anyhow::Result<()> {
    let mut paths: Vec<std::path::PathBuf> = std::env::args().skip(1).map(Into::into).collect();
    if paths.is_empty() {
        paths.push(concat!(env!("CARGO_MANIFEST_DIR"), "/src").into());
    }
    let mut config = RunConfig { name: "example".into(), ..RunConfig::default() };
    config.model.d_model = 32;
    config.model.d_ff = 64;
    config.model.num_encoder_layers = 2;
    config.model.num_decoder_layers = 2;
    config.model.moe.num_experts = 4;
    config.batch.sequences = 4;
    config.batch.input_length = 64;
    // Fills in what follows from the rest, such as the target length, and refuses what cannot be.
    let config = config.resolved()?;

    let corpus = Corpus::open(&data_spec(&config, &paths, config.batch.sequences))?;
    let artifact = artifact::compile_programs(&config, &["init", "train_step"])?;
    let mut session = Session::new(cpu::open_dyn(1)?, artifact);
    session.init(config.seed)?;
    for (step, batch) in corpus.train(&corpus.start())?.take(20).enumerate() {
        // The state stays on the device; only the metrics come back.
        let metrics = session.run("train_step", batch_inputs(batch?)?)?;
        let find = |name: &str| metrics.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_f64());
        let loss = find("loss").unwrap_or_default();
        let dropped = find("layers/dropped").unwrap_or_default();
        println!("step {:>2}  loss {:.4}  dropped per layer {dropped:.3?}", step + 1, loss[0]);
    }
    Ok(())
}
