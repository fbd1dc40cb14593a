//! The entry signature of a serialized HLO module, read without XLA.

use super::RuntimeError;
use crate::hlo::{self, AliasEntryProto, HloModuleProto, ShapeProto, TUPLE};
use crate::ir::{DType, TensorType};
use prost::Message;

/// Parameters and results of a module's entry computation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The name of the module.
    pub name: String,
    pub parameters: Vec<Parameter>,
    /// One type per element of a root tuple, or the one of an array root.
    pub results: Vec<TensorType>,
}

/// One parameter of the entry computation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub ty: TensorType,
    /// The result that takes over this parameter's memory (`input_output_alias`).
    pub aliased_result: Option<usize>,
}

impl Signature {
    /// Reads the signature of a serialized `HloModuleProto`.
    ///
    /// Errors: [`RuntimeError::Module`] if the bytes are no such message, or if an entry type is not a static,
    /// row-major array of a known element type, or if the alias table does not fit.
    pub fn from_hlo_proto(bytes: &[u8]) -> Result<Self, RuntimeError> {
        let module = HloModuleProto::decode(bytes).map_err(|e| RuntimeError::Module(e.to_string()))?;
        Self::from_module(&module).map_err(RuntimeError::Module)
    }

    fn from_module(module: &HloModuleProto) -> Result<Self, String> {
        let program = module.host_program_shape.as_ref().ok_or("it has no host_program_shape")?;
        let mut parameters = Vec::with_capacity(program.parameters.len());
        for (i, shape) in program.parameters.iter().enumerate() {
            let name = program.parameter_names.get(i).cloned().unwrap_or_else(|| format!("p{i}"));
            let ty = array_type(shape).map_err(|e| format!("parameter {i} ({name}): {e}"))?;
            parameters.push(Parameter { name, ty, aliased_result: None });
        }
        let results = result_types(program.result.as_ref().ok_or("it has no result type")?)?;
        let mut signature = Self { name: module.name.clone(), parameters, results };
        for entry in module.input_output_alias.iter().flat_map(|table| &table.entries) {
            signature.add_alias(entry)?;
        }
        Ok(signature)
    }

    fn add_alias(&mut self, entry: &AliasEntryProto) -> Result<(), String> {
        let result = match entry.output_shape_index[..] {
            [] => 0,
            [i] => usize::try_from(i).map_err(|_| format!("alias of result {i}"))?,
            _ => return Err("an alias names a nested result".into()),
        };
        let index = entry.parameter_number;
        let parameter =
            usize::try_from(index).ok().and_then(|i| self.parameters.get_mut(i)).ok_or_else(|| {
                format!("the alias of result {result} names parameter {index}, which is missing")
            })?;
        match self.results.get(result) {
            Some(ty) if *ty == parameter.ty && parameter.aliased_result.is_none() => {
                parameter.aliased_result = Some(result);
                Ok(())
            }
            Some(ty) => Err(format!(
                "parameter {index} ({}, {}) cannot alias result {result} ({ty}): the types must agree and \
                 a parameter has one alias",
                parameter.name, parameter.ty
            )),
            None => Err(format!("parameter {index} aliases result {result}, which is missing")),
        }
    }
}

/// The result types of a root: the elements of a tuple, or the array itself.
fn result_types(root: &ShapeProto) -> Result<Vec<TensorType>, String> {
    let elements = if root.is_tuple() { &root.tuple_shapes[..] } else { std::slice::from_ref(root) };
    let typed = |(i, shape)| array_type(shape).map_err(|e| format!("result {i}: {e}"));
    elements.iter().enumerate().map(typed).collect()
}

fn array_type(shape: &ShapeProto) -> Result<TensorType, String> {
    let dtype = dtype(shape.element_type)?;
    if shape.is_dynamic_dimension.contains(&true) {
        return Err("it has a dynamic dimension".into());
    }
    let dims: Result<Vec<usize>, _> = shape.dimensions.iter().map(|&d| usize::try_from(d)).collect();
    let ty = TensorType::new(dtype, dims.map_err(|_| "it has a negative dimension".to_owned())?);
    let bytes = ty.checked_elements().and_then(|n| n.checked_mul(dtype.size_bytes()));
    if bytes.is_none_or(|n| isize::try_from(n).is_err()) {
        return Err(format!("{ty} is too large"));
    }
    let rank = ty.rank() as i64;
    let order = shape.layout.as_ref().map_or(&[][..], |layout| &layout.minor_to_major);
    if !order.is_empty() && !order.iter().copied().eq((0..rank).rev()) {
        return Err(format!("{ty} has layout {order:?}, only row-major entry types are supported"));
    }
    Ok(ty)
}

fn dtype(element_type: i32) -> Result<DType, String> {
    match hlo::dtype_of(element_type) {
        Some(dtype) => Ok(dtype),
        None if element_type == TUPLE => Err("a tuple inside the signature is not supported".into()),
        None => Err(format!("element type number {element_type} is not supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlo::{HloInputOutputAliasProto, LayoutProto, program_shape, tuple_shape};

    fn shape(dims: &[i64]) -> ShapeProto {
        ShapeProto { element_type: 11, dimensions: dims.to_vec(), ..Default::default() }
    }

    fn module(parameters: Vec<ShapeProto>, results: Vec<ShapeProto>) -> HloModuleProto {
        let mut program = program_shape(vec![], tuple_shape(results));
        (program.parameters, program.parameter_names) = (parameters, vec!["w".into()]);
        HloModuleProto { name: "m".into(), host_program_shape: Some(program), ..Default::default() }
    }

    fn read(module: &HloModuleProto) -> Result<Signature, String> {
        Signature::from_hlo_proto(&module.encode_to_vec()).map_err(|e| e.to_string())
    }

    fn alias(result: i64, parameter: i64) -> Option<HloInputOutputAliasProto> {
        let output_shape_index = vec![result];
        let entry = AliasEntryProto { output_shape_index, parameter_number: parameter, ..Default::default() };
        Some(HloInputOutputAliasProto { entries: vec![entry] })
    }

    #[test]
    fn parameters_results_and_aliases_are_read() {
        let mut m = module(vec![shape(&[2, 3]), shape(&[])], vec![shape(&[]), shape(&[2, 3])]);
        m.input_output_alias = alias(1, 0);
        let s = read(&m).unwrap();
        assert_eq!((s.parameters[0].name.as_str(), s.parameters[1].name.as_str()), ("w", "p1"));
        assert_eq!(s.parameters[0].ty.to_string(), "f32[2,3]");
        assert_eq!((s.parameters[0].aliased_result, s.parameters[1].aliased_result), (Some(1), None));
        assert_eq!(s.results.len(), 2);
    }

    #[test]
    fn an_alias_between_different_types_is_refused() {
        let mut m = module(vec![shape(&[2])], vec![shape(&[3])]);
        m.input_output_alias = alias(0, 0);
        assert!(read(&m).unwrap_err().contains("(w, f32[2]) cannot alias result 0 (f32[3])"));
        m.input_output_alias = alias(0, 7);
        assert!(read(&m).unwrap_err().contains("parameter 7, which is missing"));
        m.input_output_alias = alias(-1, 0);
        assert!(read(&m).is_err());
    }

    #[test]
    fn types_that_no_buffer_can_have_are_refused() {
        let mut column_major = shape(&[2, 3]);
        column_major.layout =
            Some(Box::new(LayoutProto { minor_to_major: vec![0, 1], ..Default::default() }));
        let mut dynamic = shape(&[4]);
        dynamic.is_dynamic_dimension = vec![true];
        let huge = shape(&[i64::MAX, 4]);
        let opaque = ShapeProto { element_type: 14, ..Default::default() };
        for (bad, why) in [
            (column_major, "row-major"),
            (dynamic, "dynamic"),
            (shape(&[-1]), "negative"),
            (huge, "too large"),
            (opaque, "number 14"),
        ] {
            let error = read(&module(vec![bad], vec![])).unwrap_err();
            assert!(error.contains(why) && error.contains("parameter 0 (w)"), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_module_are_an_error() {
        for bytes in [&b"\xff\xff\xff"[..], b"hello world", b""] {
            assert!(Signature::from_hlo_proto(bytes).is_err());
        }
    }
}
