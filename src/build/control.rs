//! Operations with subgraphs: bodies are closures over a fresh builder.

use super::{BuildError, Builder};
use crate::ir::*;
use std::sync::Arc;

/// The operands of a scan.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanInputs<'a> {
    /// The same in every iteration.
    pub consts: &'a [Value],
    /// Initial values of what is handed from iteration to iteration.
    pub carry: &'a [Value],
    /// `[length, ..]`: iteration i sees element i.
    pub xs: &'a [Value],
    /// Needed where `xs` is empty.
    pub length: usize,
    pub remat: RematPolicy,
}

/// The operands of an unrolled scan.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnrolledInputs<'a> {
    /// The same in every iteration.
    pub consts: &'a [Value],
    /// Initial values of what is handed from iteration to iteration.
    pub carry: &'a [Value],
    /// What each iteration sees, of the same types in all.
    pub rows: &'a [Vec<Value>],
    pub remat: RematPolicy,
}

/// Carries and stacked ys.
type ScanResults = (Vec<Value>, Vec<Value>);

impl Builder {
    /// Loops over the leading axis of `xs`: `body(consts, carry, x) -> (carry, y)`; returns the last carry and the stacked ys.
    #[track_caller]
    pub fn scan(
        &mut self,
        inputs: ScanInputs,
        body: impl FnOnce(&mut Builder, &[Value], &[Value], &[Value]) -> Result<ScanResults, BuildError>,
    ) -> Result<ScanResults, BuildError> {
        let graph = self.scan_body(inputs, body)?;
        let length = self.scan_length(inputs);
        let (num_consts, num_carry) = (inputs.consts.len(), inputs.carry.len());
        let scan = Scan {
            body: Arc::new(graph),
            length,
            num_consts,
            num_carry,
            reverse: false,
            remat: inputs.remat,
        };
        let mut results = self.insert(Op::Scan(scan), &[inputs.consts, inputs.carry, inputs.xs].concat())?;
        let ys = results.split_off(num_carry);
        Ok((results, ys))
    }

    /// The same as [`Builder::scan`] with one copy of the body per iteration: iteration i sees row i of `rows`, which are no stacks.
    #[track_caller]
    pub fn unrolled_scan(
        &mut self,
        inputs: UnrolledInputs,
        body: impl FnOnce(&mut Builder, &[Value], &[Value], &[Value]) -> Result<ScanResults, BuildError>,
    ) -> Result<ScanResults, BuildError> {
        let Some(first) = inputs.rows.first() else {
            return Err(BuildError::Invalid("unrolled_scan: no iteration".into()));
        };
        let types = self.types(&[inputs.consts, inputs.carry, first].concat());
        let graph = Arc::new(self.body_graph(&types, (inputs.consts.len(), inputs.carry.len()), body)?);
        let mut carry = inputs.carry.to_vec();
        let mut ys: Vec<Vec<Value>> = vec![vec![]; graph.outputs().len() - carry.len()];
        for xs in inputs.rows {
            let operands = [inputs.consts, &carry, xs].concat();
            let mut results = self.call_graph("block", graph.clone(), inputs.remat, &operands)?;
            for (stack, y) in ys.iter_mut().zip(results.split_off(carry.len())) {
                stack.push(y);
            }
            carry = results;
        }
        let ys = ys.iter().map(|y| self.stack(y)).collect::<Result<_, _>>()?;
        Ok((carry, ys))
    }

    fn scan_length(&self, inputs: ScanInputs) -> usize {
        inputs.xs.first().and_then(|&x| self.ty(x).shape.first().copied()).unwrap_or(inputs.length)
    }

    fn scan_body(
        &self,
        inputs: ScanInputs,
        body: impl FnOnce(&mut Builder, &[Value], &[Value], &[Value]) -> Result<ScanResults, BuildError>,
    ) -> Result<Graph, BuildError> {
        let mut types = self.types(&[inputs.consts, inputs.carry].concat());
        for &x in inputs.xs {
            let ty = self.ty(x);
            let element = ty.shape.get(1..).ok_or_else(|| {
                BuildError::Invalid(format!("scan: stacked operand {ty} must have a leading axis"))
            })?;
            types.push(TensorType::new(ty.dtype, element));
        }
        self.body_graph(&types, (inputs.consts.len(), inputs.carry.len()), body)
    }

    fn body_graph(
        &self,
        types: &[TensorType],
        (consts, carry): (usize, usize),
        body: impl FnOnce(&mut Builder, &[Value], &[Value], &[Value]) -> Result<ScanResults, BuildError>,
    ) -> Result<Graph, BuildError> {
        self.subgraph(types, |b, values| {
            let (carry, ys) =
                body(b, &values[..consts], &values[consts..consts + carry], &values[consts + carry..])?;
            Ok([carry, ys].concat())
        })
    }

    /// A call of `graph`, differentiated through its body under a rematerialisation policy.
    #[track_caller]
    pub fn call_graph(
        &mut self,
        name: &str,
        body: Arc<Graph>,
        remat: RematPolicy,
        operands: &[Value],
    ) -> Result<Vec<Value>, BuildError> {
        let call = Call { name: name.into(), body, derivative: Derivative::Body(remat) };
        self.insert(Op::Call(call), operands)
    }

    /// A call with a derivative of its own, see [`Derivative::Custom`]. `body` returns the primal outputs and the residuals.
    #[track_caller]
    pub fn custom_vjp(
        &mut self,
        name: &str,
        operands: &[Value],
        body: impl FnOnce(&mut Builder, &[Value]) -> Result<(Vec<Value>, Vec<Value>), BuildError>,
        vjp: impl FnOnce(&mut Builder, VjpArgs) -> Result<Vec<Value>, BuildError>,
    ) -> Result<Vec<Value>, BuildError> {
        let inputs = self.types(operands);
        let mut num_primals = 0;
        let body = self.subgraph(&inputs, |b, values| {
            let (primals, residuals) = body(b, values)?;
            num_primals = primals.len();
            Ok([primals, residuals].concat())
        })?;
        let outputs = body.output_types();
        let cotangents = outputs[..num_primals].iter().filter(|ty| ty.dtype.is_float()).cloned().collect();
        let (n, m) = (inputs.len(), outputs.len());
        let vjp = self.subgraph(&[inputs, outputs.clone(), cotangents].concat(), |b, values| {
            let (inputs, rest) = values.split_at(n);
            let (outputs, cotangents) = rest.split_at(m);
            vjp(b, VjpArgs { inputs, outputs, cotangents })
        })?;
        let derivative = Derivative::Custom { vjp: Arc::new(vjp), num_primals };
        let call = Call { name: name.into(), body: Arc::new(body), derivative };
        let mut results = self.insert(Op::Call(call), operands)?;
        results.truncate(num_primals);
        Ok(results)
    }

    /// `while cond(state) { state = body(state) }`. Has no reverse-mode derivative.
    #[track_caller]
    pub fn while_loop(
        &mut self,
        state: &[Value],
        cond: impl FnOnce(&mut Builder, &[Value]) -> Result<Value, BuildError>,
        body: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, BuildError>,
    ) -> Result<Vec<Value>, BuildError> {
        let types = self.types(state);
        let cond = Arc::new(self.subgraph(&types, |b, s| Ok(vec![cond(b, s)?]))?);
        let body = Arc::new(self.subgraph(&types, body)?);
        self.insert(Op::While { cond, body }, state)
    }

    /// `branches[index](operands)`; the index is clamped to the last branch.
    #[track_caller]
    pub fn conditional(
        &mut self,
        index: Value,
        branches: Vec<Arc<Graph>>,
        operands: &[Value],
    ) -> Result<Vec<Value>, BuildError> {
        self.insert(Op::Conditional { branches }, &[&[index], operands].concat())
    }

    /// Sorts `keys` ascending or descending along `dim`, stably, and moves `values` with them.
    #[track_caller]
    pub fn sort_by_key(
        &mut self,
        key: Value,
        values: &[Value],
        dim: usize,
        descending: bool,
    ) -> Result<Vec<Value>, BuildError> {
        let operands = [&[key], values].concat();
        let scalars: Vec<TensorType> = operands
            .iter()
            .flat_map(|&v| [TensorType::scalar(self.dtype(v)), TensorType::scalar(self.dtype(v))])
            .collect();
        let direction = if descending { Direction::Gt } else { Direction::Lt };
        let comparator =
            Arc::new(self.subgraph(&scalars, |b, s| Ok(vec![b.compare(direction, s[0], s[1])?]))?);
        self.insert(Op::Sort { dim, comparator, stable: true }, &operands)
    }

    /// Inserts a copy of the nodes of `graph` here and returns its outputs. The nodes keep their scopes, in a backward pass below those of that.
    pub fn inline(&mut self, graph: &Graph, operands: &[Value]) -> Result<Vec<Value>, BuildError> {
        let (found, expected) = (operands.len(), graph.inputs().len());
        if found != expected {
            return Err(BuildError::Invalid(format!("inline: {found} operands for {expected} inputs")));
        }
        let (place, mut moved) = (self.scope(), scope::Moved::default());
        Ok(self.graph.append_renamed(graph, operands, &mut |path| moved.to(&place, path)))
    }
}

/// What the derivative of a custom call is computed from.
#[derive(Clone, Copy, Debug)]
pub struct VjpArgs<'a> {
    pub inputs: &'a [Value],
    /// Primal outputs, then residuals.
    pub outputs: &'a [Value],
    /// Of the primal outputs that are floats.
    pub cotangents: &'a [Value],
}
