//! A graph in the making whose values are known.

use super::bounds;
use super::dice::Dice;
use super::values;
use switchyard::build::Builder;
use switchyard::eval::evaluate_replicas;
use switchyard::ir::{Graph, Literal, Op, TensorType, Value};

/// A value of the graph.
#[derive(Clone, Debug)]
pub struct Known {
    pub value: Value,
    pub ty: TensorType,
    /// What it is on each replica.
    pub rows: Vec<Literal>,
    /// How far another implementation may be from `rows`; 0: it must be equal.
    pub error: f64,
    /// The greatest magnitude of a finite element.
    pub magnitude: f64,
    /// The least magnitude of an element, infinite where there is none.
    pub least: f64,
    /// No element is NaN or infinite.
    pub finite: bool,
    /// Some element is NaN.
    pub nan: bool,
    /// Later operations may read it.
    pub usable: bool,
}

impl Known {
    pub fn exact(&self) -> bool {
        self.error == 0.0
    }

    fn new(value: Value, ty: TensorType, rows: Vec<Literal>) -> Self {
        let elements: Vec<f64> = rows.iter().flat_map(Literal::to_f64).collect();
        let sizes = || elements.iter().map(|x| x.abs());
        Self {
            value,
            ty,
            error: 0.0,
            magnitude: sizes().filter(|x| x.is_finite()).fold(0.0, f64::max),
            least: sizes().fold(f64::INFINITY, f64::min),
            nan: elements.iter().any(|x| x.is_nan()),
            finite: elements.iter().all(|x| x.is_finite()),
            usable: true,
            rows,
        }
    }
}

/// A finished graph with its inputs, and for every output the value and its error bound.
pub struct Case {
    pub seed: u64,
    pub graph: Graph,
    /// `[replica][input]`
    pub inputs: Vec<Vec<Literal>>,
    pub outputs: Vec<Known>,
}

pub struct Sketch {
    pub dice: Dice,
    pub replicas: usize,
    seed: u64,
    builder: Builder,
    inputs: Vec<Vec<Literal>>,
    pub known: Vec<Known>,
}

impl Sketch {
    pub fn new(seed: u64, replicas: usize) -> Self {
        Self {
            dice: Dice::new(seed),
            replicas,
            seed,
            builder: Builder::new(),
            inputs: vec![vec![]; replicas],
            known: vec![],
        }
    }

    /// A new input of the graph with a value per replica.
    pub fn input(&mut self, rows: Vec<Literal>) -> usize {
        let ty = rows[0].ty().clone();
        let value = self.builder.parameter(ty.clone()).unwrap();
        self.inputs.iter_mut().zip(&rows).for_each(|(inputs, row)| inputs.push(row.clone()));
        self.known.push(Known::new(value, ty, rows));
        self.known.len() - 1
    }

    /// A new input with random values.
    pub fn random_input(&mut self, ty: &TensorType) -> usize {
        let rows = (0..self.replicas).map(|_| values::literal(&mut self.dice, ty)).collect();
        self.input(rows)
    }

    /// A new input with integers in `low..=high`.
    pub fn position_input(&mut self, ty: &TensorType, low: i64, high: i64) -> usize {
        let rows = (0..self.replicas).map(|_| values::positions(&mut self.dice, ty, low, high)).collect();
        self.input(rows)
    }

    pub fn ty(&self, index: usize) -> TensorType {
        self.known[index].ty.clone()
    }

    /// A usable value for which `fits` holds: an old one, or a new input of a random type.
    pub fn any(&mut self, fits: impl Fn(&TensorType) -> bool) -> usize {
        let old = self.usable(&fits);
        if !old.is_empty() && self.dice.chance(75) {
            return self.dice.pick(&old);
        }
        loop {
            let ty = values::tensor_type(&mut self.dice);
            if fits(&ty) {
                return self.random_input(&ty);
            }
        }
    }

    /// A usable value of this type, old or new.
    pub fn of_type(&mut self, ty: &TensorType) -> usize {
        let old = self.usable(&|other: &TensorType| other == ty);
        if !old.is_empty() && self.dice.chance(60) {
            return self.dice.pick(&old);
        }
        self.random_input(ty)
    }

    fn usable(&self, fits: &impl Fn(&TensorType) -> bool) -> Vec<usize> {
        (0..self.known.len()).filter(|&i| self.known[i].usable && fits(&self.known[i].ty)).collect()
    }

    /// Appends an operation, unless its results could not be compared (then nothing happens and there are none).
    ///
    /// The operation is valid: it panics where inference or evaluation refuses it.
    pub fn apply(&mut self, op: Op, operands: &[usize]) -> Option<Vec<usize>> {
        let x: Vec<&Known> = operands.iter().map(|&i| &self.known[i]).collect();
        let types: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
        let single = Builder::graph(&types, |b, values| b.insert(op.clone(), values));
        let single = single.unwrap_or_else(|error| panic!("seed {}: {error}: {op:?}", self.seed));
        let inputs: Vec<Vec<Literal>> =
            (0..self.replicas).map(|r| x.iter().map(|x| x.rows[r].clone()).collect()).collect();
        let results = evaluate_replicas(&single, &inputs);
        let results = results.unwrap_or_else(|error| panic!("seed {}: {error}: {op:?}", self.seed));

        let mut made = vec![];
        for (k, ty) in single.output_types().into_iter().enumerate() {
            let rows: Vec<Literal> = results.iter().map(|row| row[k].clone()).collect();
            // The value is set below, when the operation is in the graph.
            let mut known = Known::new(single.outputs()[k], ty, rows);
            known.error = bounds::error(&op, &x, &known)?;
            known.usable = bounds::usable(&op, &known);
            made.push(known);
        }
        let values: Vec<Value> = x.iter().map(|x| x.value).collect();
        let inserted = self.builder.insert(op, &values).unwrap();
        let first = self.known.len();
        for (mut known, value) in made.into_iter().zip(inserted) {
            known.value = value;
            self.known.push(known);
        }
        Some((first..self.known.len()).collect())
    }

    /// Closes the graph: everything is an output, or a random half, so that there is dead and fusible code.
    pub fn finish(mut self) -> Case {
        let all = self.dice.chance(50);
        let last = self.known.len().saturating_sub(1);
        let mut outputs = vec![];
        for (i, known) in self.known.iter().enumerate() {
            if all || i == last || self.dice.chance(50) {
                outputs.push(known.clone());
            }
        }
        let values: Vec<Value> = outputs.iter().map(|known| known.value).collect();
        Case { seed: self.seed, graph: self.builder.finish(&values), inputs: self.inputs, outputs }
    }
}

/// Prints a graph for a message: one line per node.
pub fn listing(graph: &Graph) -> String {
    let mut text = String::new();
    for node in graph.nodes() {
        let types: Vec<String> = graph.types(&node.results).iter().map(TensorType::to_string).collect();
        let names = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
        text += &format!("  {}: {} = ", names(&node.results), types.join(", "));
        text += &format!("{}({})  {:?}\n", node.op.name(), names(&node.operands), node.op);
    }
    text
}
