//! One case: a graph as a closure, its inputs, and how it is solved.

use std::sync::Arc;
use switchyard::build::{BuildError, Builder};
use switchyard::eval::evaluate_replicas;
use switchyard::grad::vjp;
use switchyard::ir::*;

pub type Built = Result<Vec<Value>, BuildError>;
type Body = Arc<dyn Fn(&mut Builder, &[Value]) -> Built>;

/// A function from tensors to tensors at one point.
#[derive(Clone)]
pub struct Case {
    /// Unique; a path below the rule.
    pub name: String,
    /// The line of the table that this case belongs to.
    pub rule: String,
    /// Per replica.
    pub inputs: Vec<Vec<Literal>>,
    /// Whether JAX too has infinite derivatives or none here.
    pub infinite: bool,
    /// The largest relative difference from JAX.
    pub tolerance: f64,
    body: Body,
}

/// What we say about a case; values are per replica.
pub struct Solved {
    pub graph: Graph,
    pub outputs: Vec<Vec<Literal>>,
    /// Of the float outputs.
    pub cotangents: Vec<Vec<Literal>>,
    /// Of the float inputs.
    pub gradients: Vec<Vec<Literal>>,
}

impl Case {
    /// A case on one replica. The rule is the name up to the first slash.
    pub fn new(
        name: impl Into<String>,
        inputs: impl Into<Vec<Literal>>,
        body: impl Fn(&mut Builder, &[Value]) -> Built + 'static,
    ) -> Self {
        Self::replicated(name, vec![inputs.into()], body)
    }

    pub fn replicated(
        name: impl Into<String>,
        inputs: Vec<Vec<Literal>>,
        body: impl Fn(&mut Builder, &[Value]) -> Built + 'static,
    ) -> Self {
        let name = name.into();
        let rule = name.split('/').next().unwrap_or_default().to_string();
        Self { name, rule, inputs, infinite: false, tolerance: 1e-10, body: Arc::new(body) }
    }

    pub fn infinite(mut self) -> Self {
        self.infinite = true;
        self
    }

    /// For derivatives that are computed in float32 here and in float64 by JAX.
    pub fn single_precision(mut self) -> Self {
        self.tolerance = 1e-6;
        self
    }

    /// Builds the graph and its derivative and evaluates both.
    pub fn solve(&self) -> Result<Solved, Box<dyn std::error::Error>> {
        let types: Vec<TensorType> = self.inputs[0].iter().map(|x| x.ty().clone()).collect();
        let graph = Builder::graph(&types, |b, v| (self.body)(b, v))?;
        let outputs = evaluate_replicas(&graph, &self.inputs)?;
        let float_types: Vec<TensorType> =
            graph.output_types().into_iter().filter(|ty| ty.dtype.is_float()).collect();
        let backward = Builder::graph(&[types.clone(), float_types.clone()].concat(), |b, v| {
            let (inputs, cotangents) = v.split_at(types.len());
            let outputs = (self.body)(b, inputs)?;
            let floats = |b: &Builder, v: &[Value]| -> Vec<Value> {
                v.iter().copied().filter(|&v| b.dtype(v).is_float()).collect()
            };
            let pairs: Vec<_> = floats(b, &outputs).into_iter().zip(cotangents.iter().copied()).collect();
            vjp(b, &pairs, &floats(b, inputs))
        })?;
        verify(&backward)?;
        let cotangents: Vec<Vec<Literal>> =
            (0..self.inputs.len()).map(|r| cotangents(&float_types, r)).collect();
        let joined: Vec<Vec<Literal>> =
            self.inputs.iter().zip(&cotangents).map(|(x, g)| [&x[..], g].concat()).collect();
        let gradients = evaluate_replicas(&backward, &joined)?;
        // What runs on devices is the optimised graph: it must give the same.
        for (a, b) in evaluate_replicas(&optimize(&backward), &joined)?.iter().zip(&gradients) {
            for (a, b) in a.iter().zip(b) {
                assert!(close(a, b), "{}: passes change {b:?} to {a:?}", self.name);
            }
        }
        Ok(Solved { graph, outputs, cotangents, gradients })
    }
}

fn close(a: &Literal, b: &Literal) -> bool {
    let near = |(x, y): (f64, f64)| x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-12 * y.abs();
    a.to_f64().into_iter().zip(b.to_f64()).all(near)
}

/// Weights of no symmetry, so that no error cancels.
fn cotangents(types: &[TensorType], replica: usize) -> Vec<Literal> {
    let one = |(i, ty): (usize, &TensorType)| {
        let data = numbers(ty.elements(), -1.0 - replica as f64, 1.5 + i as f64);
        match ty.dtype {
            DType::F32 => Literal::new(ty.shape.clone(), &data.iter().map(|&x| x as f32).collect::<Vec<_>>()),
            _ => Literal::new(ty.shape.clone(), &data),
        }
        .unwrap()
    };
    types.iter().enumerate().map(one).collect()
}

/// Numbers spread evenly over a range, in no order, no two alike.
pub fn numbers(count: usize, low: f64, high: f64) -> Vec<f64> {
    (1..=count).map(|i| low + (high - low) * (i as f64 * 0.618_033_988_749_894_9).fract()).collect()
}

pub fn floats(shape: &[usize], low: f64, high: f64) -> Literal {
    Literal::new(shape, &numbers(shape.iter().product(), low, high)).unwrap()
}

pub fn f64s(shape: &[usize], data: &[f64]) -> Literal {
    Literal::new(shape, data).unwrap()
}

pub fn ints(shape: &[usize], data: &[i32]) -> Literal {
    Literal::new(shape, data).unwrap()
}
