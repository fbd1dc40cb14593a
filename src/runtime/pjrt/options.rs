//! `CompileOptionsProto`: the few fields that this package gives, written as XLA's protobuf messages.

use prost::Message;

macro_rules! messages {
    ($( $(#[$meta:meta])* $name:ident { $( [$($attr:tt)*] $field:ident : $ty:ty = $tag:tt; )* } )*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, PartialEq, Message)]
            struct $name { $( #[prost($($attr)*, tag = $tag)] $field: $ty, )* }
        )*
        /// Message, field and number of every field.
        #[cfg(test)]
        const FIELDS: &[(&str, &str, u32)] = &[$( $( (stringify!($name), stringify!($field), $tag), )* )*];
    };
}

messages! {
    CompileOptionsProto {
        [message, optional] executable_build_options: Option<ExecutableBuildOptionsProto> = 3;
    }
    ExecutableBuildOptionsProto {
        [int64] device_ordinal: i64 = 1;
        [int64] num_replicas: i64 = 4;
        [int64] num_partitions: i64 = 5;
        [message, optional] device_assignment: Option<DeviceAssignmentProto> = 9;
    }
    DeviceAssignmentProto {
        [int32] replica_count: i32 = 1;
        [int32] computation_count: i32 = 2;
        [message, repeated] computation_devices: Vec<ComputationDevice> = 3;
    }
    ComputationDevice {
        [int64, repeated] replica_device_ids: Vec<i64> = 1;
    }
}

/// The options for one program whose replica `r` runs on the device with id `device_ids[r]`.
pub fn replicas_on(device_ids: &[i64]) -> Vec<u8> {
    let count = device_ids.len();
    CompileOptionsProto {
        executable_build_options: Some(ExecutableBuildOptionsProto {
            device_ordinal: -1,
            num_replicas: count as i64,
            num_partitions: 1,
            device_assignment: Some(DeviceAssignmentProto {
                replica_count: count as i32,
                computation_count: 1,
                computation_devices: vec![ComputationDevice { replica_device_ids: device_ids.to_vec() }],
            }),
        }),
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn field_numbers_are_those_of_the_generated_headers() {
        let root = std::env::var_os("XLA_EXTENSION_DIR").map_or(".runtime".into(), PathBuf::from);
        let headers = ["pjrt/proto/compile_options.pb.h", "xla_data.pb.h"];
        let texts: Vec<_> = headers
            .iter()
            .filter_map(|h| std::fs::read_to_string(root.join("include/xla").join(h)).ok())
            .collect();
        if texts.len() < headers.len() {
            eprintln!("skipped: no XLA headers (XLA_EXTENSION_DIR or .runtime)");
            return;
        }
        for (message, field, number) in FIELDS {
            let camel: String =
                field.split('_').map(|w| w[..1].to_uppercase() + &w[1..]).collect::<Vec<_>>().concat();
            let constant = format!("k{camel}FieldNumber = {number},");
            assert!(texts.iter().any(|t| t.contains(&constant)), "{message}.{field} = {number}");
        }
    }
}
