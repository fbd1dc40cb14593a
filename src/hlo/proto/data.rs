//! Messages of `xla_data.proto`: shapes, layouts, literals and the attributes of operations.

super::messages! {
    /// Element type, dimensions and layout of an array, or the shapes of a tuple.
    ShapeProto ("ShapeProto") {
        /// A number of [`crate::hlo::PRIMITIVES`].
        [int32] element_type: i32 = 2;
        [int64, repeated] dimensions: Vec<i64> = 3;
        [message, repeated] tuple_shapes: Vec<ShapeProto> = 4;
        [message, optional, boxed] layout: Option<Box<LayoutProto>> = 5;
        [bool, repeated] is_dynamic_dimension: Vec<bool> = 6;
    }
    /// Order of the dimensions in memory, fastest first, with tiles.
    LayoutProto ("LayoutProto") {
        [int64, repeated] minor_to_major: Vec<i64> = 1;
        [message, repeated] tiles: Vec<TileProto> = 6;
        [int64] element_size_in_bits: i64 = 7;
        [int64] memory_space: i64 = 8;
        [int64] tail_padding_alignment_in_elements: i64 = 16;
    }
    /// One level of tiling.
    TileProto ("TileProto") {
        [int64, repeated] dimensions: Vec<i64> = 1;
    }
    /// Shapes and names of the parameters of a program, and the shape of its result.
    ProgramShapeProto ("ProgramShapeProto") {
        [message, repeated] parameters: Vec<ShapeProto> = 1;
        [message, optional] result: Option<ShapeProto> = 2;
        [string, repeated] parameter_names: Vec<String> = 3;
    }
    /// A constant. Only the field of its element type is filled; `bytes` fields are little-endian.
    LiteralProto ("LiteralProto") {
        [message, optional] shape: Option<ShapeProto> = 1;
        [bool, repeated] preds: Vec<bool> = 2;
        [bytes = "vec"] u8s: Vec<u8> = 3;
        [int32, repeated] s32s: Vec<i32> = 4;
        [int64, repeated] s64s: Vec<i64> = 5;
        [uint32, repeated] u32s: Vec<u32> = 6;
        [uint64, repeated] u64s: Vec<u64> = 7;
        [float, repeated] f32s: Vec<f32> = 8;
        [double, repeated] f64s: Vec<f64> = 9;
        [message, repeated] tuple_literals: Vec<LiteralProto> = 10;
        [bytes = "vec"] f16s: Vec<u8> = 11;
        [bytes = "vec"] bf16s: Vec<u8> = 13;
        [bytes = "vec"] s8s: Vec<u8> = 15;
        [bytes = "vec"] u16s: Vec<u8> = 16;
        [bytes = "vec"] s16s: Vec<u8> = 17;
    }
    /// Contracted and batch dimensions of a `dot`.
    DotDimensionNumbers ("DotDimensionNumbers") {
        [int64, repeated] lhs_contracting_dimensions: Vec<i64> = 1;
        [int64, repeated] rhs_contracting_dimensions: Vec<i64> = 2;
        [int64, repeated] lhs_batch_dimensions: Vec<i64> = 3;
        [int64, repeated] rhs_batch_dimensions: Vec<i64> = 4;
    }
    /// Meaning of the dimensions of a `gather`.
    GatherDimensionNumbers ("GatherDimensionNumbers") {
        [int64, repeated] offset_dims: Vec<i64> = 1;
        [int64, repeated] collapsed_slice_dims: Vec<i64> = 2;
        [int64, repeated] start_index_map: Vec<i64> = 3;
        [int64] index_vector_dim: i64 = 4;
        [int64, repeated] operand_batching_dims: Vec<i64> = 5;
        [int64, repeated] start_indices_batching_dims: Vec<i64> = 6;
    }
    /// Meaning of the dimensions of a `scatter`.
    ScatterDimensionNumbers ("ScatterDimensionNumbers") {
        [int64, repeated] update_window_dims: Vec<i64> = 1;
        [int64, repeated] inserted_window_dims: Vec<i64> = 2;
        [int64, repeated] scatter_dims_to_operand_dims: Vec<i64> = 3;
        [int64] index_vector_dim: i64 = 4;
        [int64, repeated] input_batching_dims: Vec<i64> = 5;
        [int64, repeated] scatter_indices_batching_dims: Vec<i64> = 6;
    }
    /// Precision of each operand (0 default, 1 high, 2 highest) and the algorithm of a `dot`.
    PrecisionConfig ("PrecisionConfig") {
        [int32, repeated] operand_precision: Vec<i32> = 1;
        [int32] algorithm: i32 = 2;
    }
    /// Padding of each dimension.
    PaddingConfig ("PaddingConfig") {
        [message, repeated] dimensions: Vec<PaddingConfigDimension> = 1;
    }
    /// Padding of one dimension, in elements; negative edges cut.
    PaddingConfigDimension ("PaddingConfig_PaddingConfigDimension") {
        [int64] edge_padding_low: i64 = 1;
        [int64] edge_padding_high: i64 = 2;
        [int64] interior_padding: i64 = 3;
    }
    /// The window of `reduce-window`, `select-and-scatter` and `convolution`.
    Window ("Window") {
        [message, repeated] dimensions: Vec<WindowDimension> = 1;
    }
    /// The window along one dimension; strides and dilations are at least 1.
    WindowDimension ("WindowDimension") {
        [int64] size: i64 = 1;
        [int64] stride: i64 = 2;
        [int64] padding_low: i64 = 3;
        [int64] padding_high: i64 = 4;
        [int64] window_dilation: i64 = 5;
        [int64] base_dilation: i64 = 6;
        [bool] window_reversal: bool = 7;
    }
    /// Where an instruction comes from; `op_name` is the path of the layer.
    OpMetadata ("OpMetadata") {
        [string] op_type: String = 1;
        [string] op_name: String = 2;
        [string] source_file: String = 3;
        [int32] source_line: i32 = 4;
        [string] scheduling_name: String = 16;
        [int32] source_end_line: i32 = 17;
        [int32] source_column: i32 = 18;
        [int32] source_end_column: i32 = 19;
    }
    /// Devices that take part in one instance of a collective.
    ReplicaGroup ("ReplicaGroup") {
        [int64, repeated] replica_ids: Vec<i64> = 1;
    }
    /// Replica groups as a reshaped and transposed iota.
    IotaReplicaGroupListProto ("IotaReplicaGroupListProto") {
        [int64] num_replica_groups: i64 = 1;
        [int64] num_devices_per_group: i64 = 2;
        [int64, repeated] iota_reshape_dims: Vec<i64> = 3;
        [int32, repeated] iota_transpose_perm: Vec<i32> = 4;
    }
    /// Replica groups in either form.
    CollectiveDeviceListProto ("CollectiveDeviceListProto") {
        [message, repeated] replica_groups: Vec<ReplicaGroup> = 1;
        [message, optional] iota_replica_group_list: Option<IotaReplicaGroupListProto> = 2;
    }
    /// One edge of a `collective-permute`.
    SourceTarget ("SourceTarget") {
        [int64] source: i64 = 1;
        [int64] target: i64 = 2;
    }
    /// A channel of communication between devices.
    ChannelHandle ("ChannelHandle") {
        [int64] handle: i64 = 1;
        [int32] r#type: i32 = 2;
    }
    /// Free key-value pairs, kept in order of their keys.
    FrontendAttributes ("FrontendAttributes") {
        [btree_map = "string, string"] map: std::collections::BTreeMap<String, String> = 1;
    }
    /// How a value is laid over devices; types are 0 replicated, 1 maximal, 2 tuple, 3 tiled, 4 manual, 5 unknown.
    OpSharding ("OpSharding") {
        [int32] r#type: i32 = 1;
        [int64, repeated] tile_assignment_dimensions: Vec<i64> = 3;
        [int64, repeated] tile_assignment_devices: Vec<i64> = 4;
        [message, repeated] tuple_shardings: Vec<OpSharding> = 5;
        [bool] replicate_on_last_tile_dim: bool = 6;
        [int32, repeated] last_tile_dims: Vec<i32> = 8;
        [int64, repeated] iota_reshape_dims: Vec<i64> = 9;
        [int32, repeated] iota_transpose_perm: Vec<i32> = 10;
    }
    /// An output of a custom call that shares the buffer of an operand.
    OutputOperandAliasing ("OutputOperandAliasing") {
        [int64, repeated] output_shape_index: Vec<i64> = 1;
        [int64] operand_index: i64 = 2;
        [int64, repeated] operand_shape_index: Vec<i64> = 3;
    }
}
