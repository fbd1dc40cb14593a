//! Runs graphs by way of XLA.

use super::compare::difference;
use super::sketch::{Case, listing};
use switchyard::build::{BuildError, Builder};
use switchyard::hlo;
use switchyard::ir::{self, Graph, Literal, TensorType, Value};
use switchyard::lower::lower;
use switchyard::runtime::cpu::CpuBackend;
use switchyard::runtime::{Argument, Backend, CompileOptions, DeviceBuffer, RuntimeError};

/// The ways a graph comes to XLA.
#[derive(Clone, Copy)]
pub enum Route {
    /// As it is, as proto.
    Plain,
    /// Through all passes and our text form.
    OptimizedText,
}

/// The outputs per replica of the compiled graph.
pub fn outputs(
    backend: &CpuBackend,
    graph: &Graph,
    inputs: &[Vec<Literal>],
    route: Route,
) -> Result<Vec<Vec<Literal>>, RuntimeError> {
    let module = match route {
        Route::Plain => hlo::encode(&lower("test", graph, &[], &[])),
        Route::OptimizedText => {
            backend.parse_hlo_text(&hlo::print(&lower("test", &ir::optimize(graph), &[], &[])))?
        }
    };
    let program = backend.compile(&module, &CompileOptions { num_replicas: inputs.len() })?;
    let mut buffers: Vec<Vec<DeviceBuffer>> = vec![];
    for (replica, row) in inputs.iter().enumerate() {
        buffers.push(row.iter().map(|x| backend.upload(x, replica)).collect::<Result<_, _>>()?);
    }
    let arguments = buffers.iter().map(|row| row.iter().map(Argument::from).collect()).collect();
    let results = program.execute(arguments)?;
    results.iter().map(|row| row.iter().map(|buffer| buffer.download()).collect()).collect()
}

/// One graph of several, so that they share the cost of a compilation.
pub fn joined(graphs: &[&Graph]) -> Result<Graph, BuildError> {
    let inputs: Vec<TensorType> = graphs.iter().flat_map(|graph| graph.input_types()).collect();
    Builder::graph(&inputs, |b, values| {
        let (mut rest, mut outputs): (&[Value], Vec<Value>) = (values, vec![]);
        for graph in graphs {
            let (own, others) = rest.split_at(graph.inputs().len());
            outputs.extend(b.inline(graph, own)?);
            rest = others;
        }
        Ok(outputs)
    })
}

/// What XLA does otherwise than was expected of these cases, one message per case.
pub fn disagreements(backend: &CpuBackend, cases: &[Case]) -> Vec<String> {
    // Either route for half of the groups of cases.
    let odd = cases[0].seed / cases.len() as u64 % 2 == 1;
    by_route(backend, cases, if odd { Route::OptimizedText } else { Route::Plain })
}

fn by_route(backend: &CpuBackend, cases: &[Case], route: Route) -> Vec<String> {
    let graphs: Vec<&Graph> = cases.iter().map(|case| &case.graph).collect();
    let replicas = cases[0].inputs.len();
    let inputs: Vec<Vec<Literal>> =
        (0..replicas).map(|r| cases.iter().flat_map(|case| case.inputs[r].clone()).collect()).collect();
    match outputs(backend, &joined(&graphs).unwrap(), &inputs, route) {
        Ok(found) => {
            let mut next = 0;
            let mut messages = vec![];
            for case in cases {
                let own = next..next + case.outputs.len();
                next = own.end;
                let rows: Vec<&[Literal]> = found.iter().map(|row| &row[own.clone()]).collect();
                messages.extend(wrong_output(case, &rows));
            }
            messages
        }
        Err(error) if cases.len() == 1 => {
            vec![format!("seed {}: {error}\n{}", cases[0].seed, listing(&cases[0].graph))]
        }
        // Which one was it?
        Err(_) => cases.chunks(1).flat_map(|case| by_route(backend, case, route)).collect(),
    }
}

/// The first output of a case that is not as expected.
fn wrong_output(case: &Case, found: &[&[Literal]]) -> Option<String> {
    for (index, known) in case.outputs.iter().enumerate() {
        for (replica, row) in found.iter().enumerate() {
            if let Some(difference) = difference(&known.rows[replica], &row[index], known.error) {
                let at = format!("seed {}, {}, replica {replica}", case.seed, known.value);
                return Some(format!("{at}: {difference}\n{}", listing(&case.graph)));
            }
        }
    }
    None
}
