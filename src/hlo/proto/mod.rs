//! The messages of XLA's `hlo.proto` and `xla_data.proto` that this package writes and inspects.
//!
//! Declared by hand, so that no protocol compiler is needed. Enumerations are plain `i32`: numbers unknown
//! to this package survive reading and writing. Fields that are not declared here are skipped when read.

mod data;
mod module;

pub use data::*;
pub use module::*;

/// Declares messages and, for tests, the table of their field numbers.
///
/// A row is `[prost attributes] field: type = number;`. The literal after the name is the C++ class.
macro_rules! messages {
    ($( $(#[$meta:meta])* $name:ident ($cpp:literal) {
        $( $(#[$field_meta:meta])* [$($attr:tt)*] $field:ident : $ty:ty = $tag:tt; )*
    } )*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, PartialEq, ::prost::Message)]
            pub struct $name {
                $( $(#[$field_meta])* #[prost($($attr)*, tag = $tag)] pub $field: $ty, )*
            }
        )*
        /// C++ class, field and number of every declared field.
        #[cfg(test)]
        pub(crate) const FIELDS: &[(&str, &str, u32)] = &[$( $( ($cpp, stringify!($field), $tag), )* )*];
    };
}
use messages;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::path::PathBuf;

    /// The folder of XLA headers, where there is one.
    fn headers() -> Option<PathBuf> {
        let roots =
            [std::env::var_os("XLA_EXTENSION_DIR").map(PathBuf::from), Some(PathBuf::from(".runtime"))];
        roots.into_iter().flatten().map(|r| r.join("include/xla")).find(|p| p.join("xla_data.pb.h").is_file())
    }

    /// `(class, FieldInCamelCase) -> number` of all `kXxxFieldNumber` constants of a generated header.
    fn constants(header: &str) -> HashMap<(String, String), u32> {
        let mut class = String::new();
        let mut found = HashMap::new();
        for line in header.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first() == Some(&"class") && words.contains(&"final") {
                let name = words.iter().skip(1).find(|w| !w.starts_with("PROTOBUF")).unwrap_or(&"");
                class = (*name).to_string();
            }
            let Some((name, number)) = line.trim().split_once("FieldNumber = ") else { continue };
            if let (Some(name), Ok(number)) =
                (name.strip_prefix('k'), number.trim_end_matches([',', ';']).parse())
            {
                found.insert((class.clone(), name.to_string()), number);
            }
        }
        found
    }

    /// `f32s` to `F32S`, `tuple_shapes` to `TupleShapes`, as the protocol compiler does it.
    fn camel(name: &str) -> String {
        let mut upper = true;
        let mut out = String::new();
        for c in name.chars() {
            match c {
                '_' => upper = true,
                c if upper => {
                    out.push(c.to_ascii_uppercase());
                    upper = c.is_ascii_digit();
                }
                c => {
                    out.push(c);
                    upper = c.is_ascii_digit();
                }
            }
        }
        out
    }

    #[test]
    fn field_numbers_are_those_of_the_generated_headers() {
        let Some(folder) = headers() else {
            eprintln!("skipped: no XLA headers (XLA_EXTENSION_DIR or .runtime)");
            return;
        };
        let mut expected = HashMap::new();
        for file in ["xla_data.pb.h", "service/hlo.pb.h"] {
            expected.extend(constants(&std::fs::read_to_string(folder.join(file)).unwrap()));
        }
        for (class, field, number) in data::FIELDS.iter().chain(module::FIELDS) {
            let key = (class.to_string(), camel(field.trim_start_matches("r#")));
            assert_eq!(expected.get(&key), Some(number), "{class}.{field}");
        }
    }

    #[test]
    fn unknown_enum_numbers_survive_a_round_trip() {
        use prost::Message;
        let shape = ShapeProto { element_type: 9999, dimensions: vec![2], ..Default::default() };
        assert_eq!(ShapeProto::decode(shape.encode_to_vec().as_slice()), Ok(shape));
    }
}
