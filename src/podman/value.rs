//! Fields of podman's JSON, tolerantly: what is missing or of another type is simply not there.

use miniserde::json::{Number, Value};

/// Parses a JSON text; miniserde bounds the recursion.
pub fn parse(bytes: &[u8]) -> Option<Value> {
    miniserde::json::from_str(std::str::from_utf8(bytes).ok()?).ok()
}

/// The value at a path of object keys.
pub fn get<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Object(object) => object.get(*key),
        _ => None,
    })
}

/// The non-empty text at a path.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    match get(value, path)? {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// The boolean at a path.
pub fn boolean(value: &Value, path: &[&str]) -> Option<bool> {
    match get(value, path)? {
        Value::Bool(b) => Some(*b),
        _ => None,
    }
}

/// The non-negative number at a path.
pub fn number(value: &Value, path: &[&str]) -> Option<u64> {
    match get(value, path)? {
        Value::Number(Number::U64(n)) => Some(*n),
        Value::Number(Number::I64(n)) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// The items of the list at a path; none where there is no list.
pub fn list<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> {
    let array = match get(value, path) {
        Some(Value::Array(array)) => Some(array),
        _ => None,
    };
    array.into_iter().flat_map(|array| array.iter())
}
