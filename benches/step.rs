//! The training step beside its matrix products: median step time over the time that the products alone would take at the
//! machine's peak, measured in the same process as a float32 product of 2048 x 2048 matrices.

use std::time::Instant;
use switchyard::artifact::{self, Artifact};
use switchyard::build::Builder;
use switchyard::config::RunConfig;
use switchyard::inspect;
use switchyard::ir::{DType, Literal, TensorType};
use switchyard::runtime::{Argument, Backend, CompileOptions, cpu};
use switchyard::train::{Named, Session};

const SIZE: usize = 2048;
const STEPS: usize = 9;

fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches too; they measure nothing there.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    println!(
        "config  products GFLOP  peak GFLOP/s  products s  step s (min, max)      step / products  compile s"
    );
    for name in ["demo", "small"] {
        row(name)?;
    }
    Ok(())
}

fn row(name: &str) -> anyhow::Result<()> {
    let config = RunConfig::load(format!("graphs/{name}.json"))?;
    let artifact = artifact::compile_programs(&config, &["init", "train_step"])?;
    let flops = dot_flops(&artifact)?;
    let mut session = Session::new(cpu::open_dyn(1)?, artifact);
    session.init(0)?;
    session.prepare("train_step")?;
    let mut steps = vec![];
    let mut peaks = vec![];
    for step in 0..STEPS {
        // In turns, so that both see the same machine.
        peaks.push(peak(&*cpu::open_dyn(1)?)?);
        let batch = batch(&config, step as u64)?;
        let start = Instant::now();
        session.run("train_step", batch)?;
        steps.push(start.elapsed().as_secs_f64());
    }
    let (peak, step) = (median(&mut peaks), median(&mut steps));
    println!(
        "{name:<7} {:>14.1} {:>13.1} {:>11.3}  {step:.3} ({:.3}, {:.3}) {:>17.2} {:>10.1}",
        flops / 1e9,
        peak / 1e9,
        flops / peak,
        steps[0],
        steps[STEPS - 1],
        step / (flops / peak),
        session.compile_time().as_secs_f64(),
    );
    Ok(())
}

fn dot_flops(artifact: &Artifact) -> anyhow::Result<f64> {
    let (_, module) = artifact.program("train_step").ok_or_else(|| anyhow::anyhow!("no train_step"))?;
    Ok(inspect::inspect(module)?.flops.dot as f64)
}

/// Random tokens.
fn batch(config: &RunConfig, seed: u64) -> anyhow::Result<Named> {
    let sizes = &config.batch;
    let mut state = seed + 1;
    let mut tokens = |length: usize| {
        let count = sizes.sequences * length;
        let draw = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            3 + ((state >> 33) % (config.model.vocab_size as u64 - 3)) as i32
        };
        let data: Vec<i32> = (0..count).map(draw).collect();
        Literal::new([sizes.sequences, length], &data)
    };
    Ok(vec![("inputs".into(), tokens(sizes.input_length)?), ("targets".into(), tokens(sizes.target_length)?)])
}

/// FLOP/s of one large product, the best of three.
fn peak(backend: &dyn Backend) -> anyhow::Result<f64> {
    let ty = TensorType::new(DType::F32, [SIZE, SIZE]);
    let graph = Builder::graph(&[ty.clone(), ty], |b, x| Ok(vec![b.einsum("mk,kn->mn", x[0], x[1])?]))?;
    let module = switchyard::lower::lower("peak", &graph, &[], &[]);
    let executable = backend.compile(&switchyard::hlo::encode(&module), &CompileOptions::default())?;
    let data: Vec<f32> = (0..SIZE * SIZE).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
    let matrix = backend.upload(&Literal::new([SIZE, SIZE], &data)?, 0)?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        executable.run(vec![Argument::from(&matrix), Argument::from(&matrix)])?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIZE as f64).powi(3) / best)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
