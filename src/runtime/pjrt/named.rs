//! Named values: options given to a plugin, and attributes that it gives.

use super::ffi::NamedValue;
use super::plugin::{slice_of, text_of};
use std::collections::BTreeMap;
use std::fmt;
use std::ptr;

/// The value of an attribute or option.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Attribute {
    Text(String),
    Integer(i64),
    Integers(Vec<i64>),
    Float(f32),
    Bool(bool),
}

/// Attributes by name.
pub type Attributes = BTreeMap<String, Attribute>;

impl Attribute {
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(n) => Some(*n),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some((*x).into()),
            _ => None,
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Integers(list) => write!(f, "{list:?}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
        }
    }
}

/// An option for a plugin; name and value must outlive the result.
pub fn option(name: &str, value: &Attribute) -> NamedValue {
    let (r#type, value, value_size) = match value {
        Attribute::Text(text) => return text_option(name, text),
        Attribute::Integer(n) => (1, n.to_ne_bytes(), 1),
        Attribute::Integers(list) => (2, (list.as_ptr() as u64).to_ne_bytes(), list.len()),
        Attribute::Float(x) => (3, padded(&x.to_ne_bytes()), 1),
        Attribute::Bool(b) => (4, padded(&[u8::from(*b)]), 1),
    };
    NamedValue { r#type, value: u64::from_ne_bytes(value), value_size, ..text_option(name, "") }
}

/// The first bytes of a union of eight.
fn padded(bytes: &[u8]) -> [u8; 8] {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    all
}

/// A name and text for a plugin; both must outlive the result.
pub fn text_option(name: &str, value: &str) -> NamedValue {
    NamedValue {
        struct_size: size_of::<NamedValue>(),
        extension_start: ptr::null_mut(),
        name: name.as_ptr().cast(),
        name_size: name.len(),
        r#type: 0,
        value: value.as_ptr() as u64,
        value_size: value.len(),
    }
}

/// Copies a plugin's array of named values; those of unknown types are left out.
///
/// # Safety
/// `count` values from `start`, as the plugin returned them.
pub unsafe fn attributes_of(start: *const NamedValue, count: usize) -> Attributes {
    let mut out = Attributes::new();
    let mut at = start;
    for _ in 0..if start.is_null() { 0 } else { count } {
        // SAFETY: one of the values; a plugin with a longer struct says so in each.
        let value = unsafe { at.read() };
        // SAFETY: names and values live as long as the array.
        if let (name, Some(attribute)) =
            unsafe { (text_of(value.name, value.name_size), attribute_of(&value)) }
        {
            out.insert(name, attribute);
        }
        // SAFETY: the next value, or the end.
        at = unsafe { at.byte_add(value.struct_size.max(size_of::<NamedValue>())) };
    }
    out
}

/// # Safety
/// A value that the plugin made.
unsafe fn attribute_of(value: &NamedValue) -> Option<Attribute> {
    let bytes = value.value.to_ne_bytes();
    let pointer = value.value as usize;
    Some(match value.r#type {
        // SAFETY: the caller's promise.
        0 => Attribute::Text(unsafe { text_of(pointer as *const _, value.value_size) }),
        1 => Attribute::Integer(i64::from_ne_bytes(bytes)),
        // SAFETY: the caller's promise.
        2 => Attribute::Integers(unsafe { slice_of(pointer as *const i64, value.value_size) }.to_vec()),
        3 => Attribute::Float(f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        4 => Attribute::Bool(bytes[0] != 0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &'static str, r#type: i32, value: u64, value_size: usize) -> NamedValue {
        NamedValue { r#type, value, value_size, ..text_option(name, "") }
    }

    #[test]
    fn values_of_every_type_are_copied_and_unknown_ones_left_out() {
        let given = [
            ("text", Attribute::Text("v5e".into())),
            ("integer", Attribute::Integer(-7)),
            ("list", Attribute::Integers(vec![2, 3])),
            ("float", Attribute::Float(2.5)),
            ("bool", Attribute::Bool(true)),
        ];
        let mut values: Vec<NamedValue> = given.iter().map(|(name, value)| option(name, value)).collect();
        values.push(value("unknown", 9, 0, 1));
        // SAFETY: an array of this length.
        let found = unsafe { attributes_of(values.as_ptr(), values.len()) };
        let shown: Vec<String> = found.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["bool=true", "float=2.5", "integer=-7", "list=[2, 3]", "text=v5e"]);
        assert_eq!(found["integer"].as_integer(), Some(-7));
        assert_eq!(found["float"].as_float(), Some(2.5));
    }

    #[test]
    fn values_of_a_longer_struct_are_walked_by_their_own_size() {
        #[repr(C)]
        struct Longer(NamedValue, u64);
        let longer = |name, n| {
            Longer(NamedValue { struct_size: size_of::<Longer>(), ..value(name, 1, n, 1) }, u64::MAX)
        };
        let values = [longer("a", 1), longer("b", 2)];
        // SAFETY: an array of this length, whose values say how long they are.
        let found = unsafe { attributes_of(values.as_ptr().cast(), 2) };
        assert_eq!((found["a"].as_integer(), found["b"].as_integer()), (Some(1), Some(2)));
    }
}
