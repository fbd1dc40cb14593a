//! The entry signature of a serialized HLO module, read without XLA.

use super::RuntimeError;
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
        let module = ModuleProto::decode(bytes).map_err(|e| RuntimeError::Module(e.to_string()))?;
        Self::from_module(&module).map_err(RuntimeError::Module)
    }

    fn from_module(module: &ModuleProto) -> Result<Self, String> {
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
    let elements =
        if root.element_type == TUPLE { &root.tuple_shapes[..] } else { std::slice::from_ref(root) };
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

const TUPLE: i32 = 13;

/// `xla.PrimitiveType` (xla_data.proto).
fn dtype(element_type: i32) -> Result<DType, String> {
    Ok(match element_type {
        1 => DType::Pred,
        2 => DType::S8,
        4 => DType::S32,
        5 => DType::S64,
        6 => DType::U8,
        8 => DType::U32,
        9 => DType::U64,
        10 => DType::F16,
        11 => DType::F32,
        12 => DType::F64,
        16 => DType::Bf16,
        TUPLE => return Err("a tuple inside the signature is not supported".into()),
        other => return Err(format!("element type number {other} is not supported")),
    })
}

// The few fields of hlo.proto and xla_data.proto that a signature needs; others are skipped.

#[derive(Clone, PartialEq, Message)]
struct ModuleProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    host_program_shape: Option<ProgramShapeProto>,
    #[prost(message, optional, tag = "8")]
    input_output_alias: Option<AliasTableProto>,
}

#[derive(Clone, PartialEq, Message)]
struct ProgramShapeProto {
    #[prost(message, repeated, tag = "1")]
    parameters: Vec<ShapeProto>,
    #[prost(message, optional, tag = "2")]
    result: Option<ShapeProto>,
    #[prost(string, repeated, tag = "3")]
    parameter_names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ShapeProto {
    #[prost(int32, tag = "2")]
    element_type: i32,
    #[prost(int64, repeated, tag = "3")]
    dimensions: Vec<i64>,
    #[prost(message, repeated, tag = "4")]
    tuple_shapes: Vec<ShapeProto>,
    #[prost(message, optional, tag = "5")]
    layout: Option<LayoutProto>,
    #[prost(bool, repeated, tag = "6")]
    is_dynamic_dimension: Vec<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct LayoutProto {
    #[prost(int64, repeated, tag = "1")]
    minor_to_major: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct AliasTableProto {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<AliasEntryProto>,
}

#[derive(Clone, PartialEq, Message)]
struct AliasEntryProto {
    #[prost(int64, repeated, tag = "1")]
    output_shape_index: Vec<i64>,
    #[prost(int64, tag = "2")]
    parameter_number: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[i64]) -> ShapeProto {
        ShapeProto { element_type: 11, dimensions: dims.to_vec(), ..Default::default() }
    }

    fn module(parameters: Vec<ShapeProto>, results: Vec<ShapeProto>) -> ModuleProto {
        let result = Some(ShapeProto { element_type: TUPLE, tuple_shapes: results, ..Default::default() });
        let program = ProgramShapeProto { parameters, result, parameter_names: vec!["w".into()] };
        ModuleProto { name: "m".into(), host_program_shape: Some(program), input_output_alias: None }
    }

    fn read(module: &ModuleProto) -> Result<Signature, String> {
        Signature::from_hlo_proto(&module.encode_to_vec()).map_err(|e| e.to_string())
    }

    fn alias(result: i64, parameter: i64) -> Option<AliasTableProto> {
        let entry = AliasEntryProto { output_shape_index: vec![result], parameter_number: parameter };
        Some(AliasTableProto { entries: vec![entry] })
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
        column_major.layout = Some(LayoutProto { minor_to_major: vec![0, 1] });
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
