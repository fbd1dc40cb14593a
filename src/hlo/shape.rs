//! Making and measuring [`ShapeProto`].

use super::primitive::{TUPLE, dtype_of, primitive, primitive_of};
use super::proto::{LayoutProto, ProgramShapeProto, ShapeProto};
use crate::ir::TensorType;

/// The shape of an array in the default layout: row-major, last dimension fastest.
pub fn shape_of(ty: &TensorType) -> ShapeProto {
    array_shape(primitive_of(ty.dtype), ty.shape.iter().map(|&d| d as i64).collect())
}

/// The shape of an array of this element type number in the default layout.
pub fn array_shape(element_type: i32, dimensions: Vec<i64>) -> ShapeProto {
    let rank = dimensions.len();
    ShapeProto {
        element_type,
        dimensions,
        layout: Some(Box::new(default_layout(rank))),
        is_dynamic_dimension: vec![false; rank],
        ..Default::default()
    }
}

/// Row-major order for this many dimensions.
pub fn default_layout(rank: usize) -> LayoutProto {
    LayoutProto {
        minor_to_major: (0..rank as i64).rev().collect(),
        tail_padding_alignment_in_elements: 1,
        ..Default::default()
    }
}

/// The shape of a tuple.
pub fn tuple_shape(elements: Vec<ShapeProto>) -> ShapeProto {
    ShapeProto { element_type: TUPLE, tuple_shapes: elements, ..Default::default() }
}

/// The signature of a computation.
pub fn program_shape(parameters: Vec<(String, ShapeProto)>, result: ShapeProto) -> ProgramShapeProto {
    let (parameter_names, parameters) = parameters.into_iter().unzip();
    ProgramShapeProto { parameters, result: Some(result), parameter_names }
}

impl ShapeProto {
    /// Whether this is a tuple.
    pub fn is_tuple(&self) -> bool {
        self.element_type == TUPLE
    }

    /// Element type and dimensions, where this is a static array of a type that this package computes with.
    pub fn tensor_type(&self) -> Option<TensorType> {
        let dims: Option<Vec<usize>> = self.dimensions.iter().map(|&d| usize::try_from(d).ok()).collect();
        Some(TensorType::new(dtype_of(self.element_type)?, dims?))
    }

    /// Number of elements of an array; negative (unbounded) dimensions count as 0; saturates.
    pub fn elements(&self) -> u64 {
        self.dimensions.iter().fold(1u64, |n, &d| n.saturating_mul(u64::try_from(d).unwrap_or(0)))
    }

    /// Dense size in bytes of an array, or of all arrays of a tuple; saturates.
    pub fn bytes(&self) -> u64 {
        if self.is_tuple() {
            return self.tuple_shapes.iter().fold(0u64, |n, s| n.saturating_add(s.bytes()));
        }
        let bits = primitive(self.element_type).map_or(0, |p| p.bits);
        match bits {
            0 => 0,
            8.. => self.elements().saturating_mul(bits / 8),
            _ => self.elements().saturating_mul(bits).div_ceil(8),
        }
    }

    /// Size in bytes of an array, or of all arrays of a tuple, in the tiles of its layout; saturates.
    ///
    /// The first tile decides: `f32[3,200]{1,0:T(8,128)}` takes 8 x 256 elements. Later ones only order what is inside.
    pub fn padded_bytes(&self) -> u64 {
        if self.is_tuple() {
            return self.tuple_shapes.iter().fold(0u64, |n, s| n.saturating_add(s.padded_bytes()));
        }
        let Some(layout) = self.layout.as_ref().filter(|layout| !layout.tiles.is_empty()) else {
            return self.bytes();
        };
        let sizes =
            layout.minor_to_major.iter().filter_map(|&d| self.dimensions.get(usize::try_from(d).ok()?));
        let mut sizes: Vec<u64> = sizes.map(|&d| u64::try_from(d).unwrap_or(0)).collect();
        let tile = &layout.tiles[0].dimensions;
        sizes.resize(sizes.len().max(tile.len()), 1);
        for (size, &tile) in sizes.iter_mut().zip(tile.iter().rev()) {
            *size =
                size.checked_next_multiple_of(u64::try_from(tile).unwrap_or(1).max(1)).unwrap_or(u64::MAX);
        }
        let elements = sizes.into_iter().fold(1u64, u64::saturating_mul);
        let bits = primitive(self.element_type).map_or(0, |p| p.bits);
        (u128::from(elements) * u128::from(bits)).div_ceil(8).try_into().unwrap_or(u64::MAX)
    }

    /// Whether no dimension is dynamic or unbounded, in any array of it.
    pub fn is_static(&self) -> bool {
        !self.is_dynamic_dimension.contains(&true)
            && self.dimensions.iter().all(|&d| d >= 0)
            && self.tuple_shapes.iter().all(ShapeProto::is_static)
    }

    /// The arrays of this shape in order, tuples flattened.
    pub fn leaves(&self) -> Vec<&ShapeProto> {
        let mut out = Vec::new();
        self.push_leaves(&mut out);
        out
    }

    fn push_leaves<'a>(&'a self, out: &mut Vec<&'a ShapeProto>) {
        if self.is_tuple() {
            self.tuple_shapes.iter().for_each(|s| s.push_leaves(out));
        } else {
            out.push(self);
        }
    }

    /// The part of a tuple at this path, or `None` where there is none.
    pub fn at(&self, index: &[i64]) -> Option<&ShapeProto> {
        index.iter().try_fold(self, |s, &i| s.tuple_shapes.get(usize::try_from(i).ok()?))
    }

    /// Whether element types and dimensions agree; layouts are ignored.
    pub fn same_dimensions(&self, other: &ShapeProto) -> bool {
        self.element_type == other.element_type
            && self.dimensions == other.dimensions
            && self.tuple_shapes.len() == other.tuple_shapes.len()
            && self.tuple_shapes.iter().zip(&other.tuple_shapes).all(|(a, b)| a.same_dimensions(b))
    }

    /// `f32[8,128]`, without layout.
    pub fn brief(&self) -> String {
        super::text::shape_text(self, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    #[test]
    fn the_default_layout_has_the_last_dimension_fastest() {
        let shape = shape_of(&TensorType::new(DType::Bf16, [2, 3, 4]));
        assert_eq!(shape.layout.as_ref().map(|l| l.minor_to_major.clone()), Some(vec![2, 1, 0]));
        assert_eq!((shape.elements(), shape.bytes(), shape.is_static()), (24, 48, true));
        assert_eq!(shape.tensor_type(), Some(TensorType::new(DType::Bf16, [2, 3, 4])));
    }

    #[test]
    fn sizes_saturate_and_dynamic_dimensions_are_seen_inside_tuples() {
        let huge = array_shape(11, vec![i64::MAX, i64::MAX]);
        assert_eq!(tuple_shape(vec![huge.clone(), huge]).bytes(), u64::MAX);
        let mut dynamic = array_shape(11, vec![4]);
        dynamic.is_dynamic_dimension = vec![true];
        assert!(!tuple_shape(vec![array_shape(4, vec![]), dynamic]).is_static());
        assert_eq!(array_shape(21, vec![3]).bytes(), 2); // three 4-bit elements in two bytes
    }

    #[test]
    fn arrays_in_tiles_are_padded_to_whole_tiles() {
        let padded = |shape: &str| {
            let text = format!("HloModule m\nENTRY e {{ ROOT p = {shape} parameter(0) }}");
            let module = crate::hlo::parse(&text).unwrap();
            module.computations[0].instructions[0].shape.as_ref().unwrap().padded_bytes()
        };
        assert_eq!(padded("f32[3,200]{1,0}"), 3 * 200 * 4);
        assert_eq!(padded("f32[3,200]{1,0:T(8,128)}"), 8 * 256 * 4);
        // Column-major: the first dimension is the fastest.
        assert_eq!(padded("f32[200,3]{0,1:T(8,128)}"), 8 * 256 * 4);
        assert_eq!(padded("bf16[2,16,128]{2,1,0:T(8,128)(2,1)}"), 2 * 16 * 128 * 2);
        assert_eq!(padded("f32[100]{0:T(256)}"), 256 * 4);
        assert_eq!(padded("(f32[1]{0:T(256)}, pred[])"), 1025);
    }

    #[test]
    fn paths_lead_into_tuples_or_nowhere() {
        let t = tuple_shape(vec![array_shape(4, vec![]), tuple_shape(vec![array_shape(11, vec![2])])]);
        assert_eq!(t.at(&[1, 0]).map(ShapeProto::brief).as_deref(), Some("f32[2]"));
        assert_eq!((t.at(&[2]), t.at(&[-1]), t.at(&[0, 0])), (None, None, None));
        assert_eq!(t.leaves().len(), 2);
    }
}
