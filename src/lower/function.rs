//! Modules and computations in the making.

use crate::hlo::{
    HloComputationProto, HloInstructionProto, OpMetadata, ShapeProto, literal_of, program_shape, shape_of,
    tuple_shape,
};
use crate::ir::{DType, Literal, Reducer, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

/// Finished computations, callees first.
#[derive(Default)]
pub(super) struct Module {
    computations: Vec<HloComputationProto>,
    next_id: i64,
    reducers: HashMap<(Option<Reducer>, DType, usize), i64>,
}

impl Module {
    pub fn next_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn finish(self) -> Vec<HloComputationProto> {
        self.computations
    }

    /// The computation that combines `count` scalars with as many others; `None` keeps the others.
    pub fn reducer(&mut self, reducer: Option<Reducer>, dtype: DType, count: usize) -> i64 {
        if let Some(&id) = self.reducers.get(&(reducer, dtype, count)) {
            return id;
        }
        let (mut f, shape) = (Function::default(), shape_of(&TensorType::scalar(dtype)));
        let scalars: Vec<Inst> = (0..2 * count).map(|_| f.parameter(self, shape.clone())).collect();
        let (old, new) = scalars.split_at(count);
        let name = reducer.map_or("assign", |reducer| reducer.binary().opcode());
        let combine = |(old, new): (&Inst, &Inst)| match reducer {
            Some(_) => f.emit(self, name, shape.clone(), &[old, new], |_| ()),
            None => *new,
        };
        let combined: Vec<Inst> = old.iter().zip(new).map(combine).collect();
        let root = if let [one] = combined[..] { one } else { f.tuple(self, &combined) };
        let id = f.finish(self, name, &root);
        self.reducers.insert((reducer, dtype, count), id);
        id
    }
}

/// A value in a computation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inst {
    id: i64,
    /// Its place in the computation.
    place: usize,
}

/// One computation in the making.
#[derive(Default)]
pub(super) struct Function {
    instructions: Vec<HloInstructionProto>,
    parameters: Vec<(String, ShapeProto)>,
    /// Becomes `op_name` of what is emitted.
    pub scope: Arc<str>,
}

impl Function {
    /// Appends an instruction; `attributes` fills what its opcode needs.
    pub fn emit(
        &mut self,
        module: &mut Module,
        opcode: &str,
        shape: ShapeProto,
        operands: &[&Inst],
        attributes: impl FnOnce(&mut HloInstructionProto),
    ) -> Inst {
        let id = module.next_id();
        let mut proto = HloInstructionProto {
            name: format!("{opcode}.{id}"),
            opcode: opcode.into(),
            shape: Some(shape),
            id,
            operand_ids: operands.iter().map(|o| o.id).collect(),
            ..Default::default()
        };
        if !self.scope.is_empty() {
            let metadata = OpMetadata { op_name: self.scope.to_string(), ..Default::default() };
            proto.metadata = Some(Box::new(metadata));
        }
        attributes(&mut proto);
        self.instructions.push(proto);
        Inst { id, place: self.instructions.len() - 1 }
    }

    pub fn shape(&self, inst: &Inst) -> ShapeProto {
        self.instructions[inst.place].shape.clone().unwrap_or_default()
    }

    pub fn parameter(&mut self, module: &mut Module, shape: ShapeProto) -> Inst {
        let number = self.parameters.len();
        self.parameters.push((format!("p{number}"), shape.clone()));
        self.emit(module, "parameter", shape, &[], |p| p.parameter_number = number as i64)
    }

    pub fn constant(&mut self, module: &mut Module, literal: &Literal) -> Inst {
        let proto = literal_of(literal);
        self.emit(module, "constant", shape_of(literal.ty()), &[], |p| p.literal = Some(Box::new(proto)))
    }

    pub fn scalar(&mut self, module: &mut Module, dtype: DType, value: f64) -> Inst {
        self.constant(module, &Literal::scalar_of(dtype, value))
    }

    /// Zeros of this type, as a broadcast scalar.
    pub fn zeros(&mut self, module: &mut Module, ty: &TensorType) -> Inst {
        let zero = self.scalar(module, ty.dtype, 0.0);
        if ty.rank() == 0 {
            return zero;
        }
        self.emit(module, "broadcast", shape_of(ty), &[&zero], |_| ())
    }

    pub fn reshape(&mut self, module: &mut Module, x: &Inst, ty: &TensorType) -> Inst {
        self.emit(module, "reshape", shape_of(ty), &[x], |_| ())
    }

    pub fn tuple(&mut self, module: &mut Module, elements: &[Inst]) -> Inst {
        let shape = tuple_shape(elements.iter().map(|e| self.shape(e)).collect());
        let operands: Vec<&Inst> = elements.iter().collect();
        self.emit(module, "tuple", shape, &operands, |_| ())
    }

    /// All elements of a tuple.
    pub fn untuple(&mut self, module: &mut Module, tuple: &Inst) -> Vec<Inst> {
        let shapes = self.shape(tuple).tuple_shapes;
        let element = |(i, shape): (usize, ShapeProto)| {
            self.emit(module, "get-tuple-element", shape, &[tuple], |p| p.tuple_index = i as i64)
        };
        shapes.into_iter().enumerate().map(element).collect()
    }

    /// Closes the computation and returns its id.
    pub fn finish(self, module: &mut Module, name: &str, root: &Inst) -> i64 {
        let id = module.next_id();
        let shape = self.shape(root);
        let name = if name == "main" { name.into() } else { format!("{name}.{id}") };
        module.computations.push(HloComputationProto {
            name,
            program_shape: Some(program_shape(self.parameters, shape)),
            instructions: self.instructions,
            id,
            root_id: root.id,
            ..Default::default()
        });
        id
    }
}
