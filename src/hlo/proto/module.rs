//! Messages of `hlo.proto`: modules, computations and instructions.

use super::data::*;

super::messages! {
    /// A whole program. Computations stand before those that call them.
    HloModuleProto ("HloModuleProto") {
        [string] name: String = 1;
        [string] entry_computation_name: String = 2;
        [message, repeated] computations: Vec<HloComputationProto> = 3;
        /// Parameters and result of the entry computation as the host sees them.
        [message, optional] host_program_shape: Option<ProgramShapeProto> = 4;
        [int64] id: i64 = 5;
        [int64] entry_computation_id: i64 = 6;
        [message, optional] input_output_alias: Option<HloInputOutputAliasProto> = 8;
        [bool] is_dynamic: bool = 11;
        [message, optional] spmd_output_sharding: Option<OpSharding> = 12;
        [message, repeated] spmd_parameters_shardings: Vec<OpSharding> = 14;
        [bool] use_auto_spmd_partitioning: bool = 16;
        [message, optional] buffer_donor: Option<HloBufferDonorProto> = 18;
        [message, optional] frontend_attributes: Option<FrontendAttributes> = 19;
    }
    /// A function: instructions, operands before their users.
    HloComputationProto ("HloComputationProto") {
        [string] name: String = 1;
        [message, repeated] instructions: Vec<HloInstructionProto> = 2;
        [message, optional] program_shape: Option<ProgramShapeProto> = 4;
        [int64] id: i64 = 5;
        [int64] root_id: i64 = 6;
        [bool] is_fusion_computation: bool = 7;
        /// `main`, or empty for the same.
        [string] execution_thread: String = 8;
    }
    /// One operation. Fields that do not belong to its opcode are empty; rare ones are boxed.
    HloInstructionProto ("HloInstructionProto") {
        [string] name: String = 1;
        [string] opcode: String = 2;
        [message, optional] shape: Option<ShapeProto> = 3;
        [message, optional, boxed] metadata: Option<Box<OpMetadata>> = 7;
        [message, optional, boxed] literal: Option<Box<LiteralProto>> = 8;
        [int64] parameter_number: i64 = 9;
        /// `kLoop`, `kInput`, `kOutput` or `kCustom`.
        [string] fusion_kind: String = 11;
        [int64] tuple_index: i64 = 13;
        [int64, repeated] dimensions: Vec<i64> = 14;
        [message, optional, boxed] window: Option<Box<Window>> = 15;
        [message, repeated] slice_dimensions: Vec<SliceDimensions> = 17;
        [int32] exponent_bits: i32 = 18;
        [int32] mantissa_bits: i32 = 19;
        [int64, repeated] dynamic_slice_sizes: Vec<i64> = 20;
        [message, optional, boxed] padding_config: Option<Box<PaddingConfig>> = 21;
        /// Of `rng`: 1 uniform, 2 normal.
        [int32] distribution: i32 = 23;
        [float] epsilon: f32 = 24;
        [int64] feature_index: i64 = 25;
        /// At least 1 where the instruction has a channel.
        [int64] channel_id: i64 = 26;
        [string] custom_call_target: String = 28;
        [message, optional, boxed] dot_dimension_numbers: Option<Box<DotDimensionNumbers>> = 30;
        [message, optional, boxed] gather_dimension_numbers: Option<Box<GatherDimensionNumbers>> = 33;
        [int64, repeated] gather_slice_sizes: Vec<i64> = 34;
        [int64] id: i64 = 35;
        [int64, repeated] operand_ids: Vec<i64> = 36;
        [int64, repeated] control_predecessor_ids: Vec<i64> = 37;
        /// Of `while`: body, then condition.
        [int64, repeated] called_computation_ids: Vec<i64> = 38;
        [message, optional, boxed] sharding: Option<Box<OpSharding>> = 40;
        [bytes = "vec"] backend_config: Vec<u8> = 43;
        [message, optional, boxed] scatter_dimension_numbers: Option<Box<ScatterDimensionNumbers>> = 48;
        [message, repeated] replica_groups: Vec<ReplicaGroup> = 49;
        [int64] feature_group_count: i64 = 50;
        [message, optional, boxed] precision_config: Option<Box<PrecisionConfig>> = 51;
        [message, repeated] source_target_pairs: Vec<SourceTarget> = 52;
        [bool] constrain_layout: bool = 56;
        [message, repeated] operand_shapes_with_layout: Vec<ShapeProto> = 57;
        [int64] batch_group_count: i64 = 58;
        [bool] is_stable: bool = 60;
        /// `EQ`, `NE`, `GE`, `GT`, `LE` or `LT`.
        [string] comparison_direction: String = 63;
        [bool] custom_call_has_side_effect: bool = 65;
        [int64] delta: i64 = 66;
        [bool] indices_are_sorted: bool = 67;
        [message, optional, boxed] frontend_attributes: Option<Box<FrontendAttributes>> = 68;
        [bool] unique_indices: bool = 69;
        /// 0 default, 1 three-fry, 2 philox.
        [int32] rng_algorithm: i32 = 70;
        [bool] use_global_device_ids: bool = 71;
        /// `FLOAT`, `TOTALORDER`, `SIGNED`, `UNSIGNED`, or empty for the default of the operand type.
        [string] comparison_type: String = 72;
        [message, repeated] output_operand_aliasing: Vec<OutputOperandAliasing> = 74;
        [int32] custom_call_api_version: i32 = 77;
        [string] async_execution_thread: String = 79;
        [int64] k: i64 = 81;
        [bool] largest: bool = 85;
        [message, optional, boxed] collective_device_list: Option<Box<CollectiveDeviceListProto>> = 87;
        [message, optional, boxed] iota_collective_device_list: Option<Box<IotaReplicaGroupListProto>> = 92;
    }
    /// Range of a `slice` along one dimension.
    SliceDimensions ("HloInstructionProto_SliceDimensions") {
        [int64] start: i64 = 1;
        [int64] limit: i64 = 2;
        [int64] stride: i64 = 3;
    }
    /// Outputs that share the buffer of a parameter (donation).
    HloInputOutputAliasProto ("HloInputOutputAliasProto") {
        [message, repeated] entries: Vec<AliasEntryProto> = 1;
    }
    /// One output that shares the buffer of one parameter.
    AliasEntryProto ("HloInputOutputAliasProto_AliasEntryProto") {
        [int64, repeated] output_shape_index: Vec<i64> = 1;
        [int64] parameter_number: i64 = 2;
        [int64, repeated] parameter_shape_index: Vec<i64> = 3;
        /// 1 may alias, 2 must alias.
        [int32] kind: i32 = 4;
    }
    /// Parameters whose buffers the compiler may reuse.
    HloBufferDonorProto ("HloBufferDonorProto") {
        [message, repeated] entries: Vec<BufferDonorEntryProto> = 1;
    }
    /// One parameter whose buffer the compiler may reuse.
    BufferDonorEntryProto ("HloBufferDonorProto_BufferDonorEntryProto") {
        [int64] parameter_number: i64 = 1;
        [int64, repeated] parameter_shape_index: Vec<i64> = 2;
    }
    /// What XLA writes when it dumps a module: the module inside one more message.
    HloProto ("HloProto") {
        [message, optional] hlo_module: Option<HloModuleProto> = 1;
    }
}

impl HloInstructionProto {
    /// The path of the layer in the metadata, or the empty string.
    pub fn op_name(&self) -> &str {
        self.metadata.as_ref().map_or("", |m| &m.op_name)
    }
}

impl HloModuleProto {
    /// The computation that is run, if its id is there.
    pub fn entry(&self) -> Option<&HloComputationProto> {
        self.computations.iter().find(|c| c.id == self.entry_computation_id)
    }
}

impl HloComputationProto {
    /// The instruction that is the result, if its id is there.
    pub fn root(&self) -> Option<&HloInstructionProto> {
        self.instructions.iter().rev().find(|i| i.id == self.root_id)
    }
}
