//! Objects in Kubernetes' protobuf encoding, as Go clients send the built-in
//! kinds (kubectl's `create` subcommands since 1.33, controllers for years).
//!
//! Only requests are decoded; answers are JSON, which every client that sends
//! protobuf accepts too.

mod schema;
mod wire;

use base64::Engine as _;
use serde_json::{Map, Number, Value, json};

use super::clock;
use schema::{Field, Scalar, Shape};
use wire::{Fields, Raw};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// In front of every encoded object.
const MAGIC: &[u8] = b"k8s\0";

/// Objects contain each other some ten levels deep.
const DEEPEST: usize = 40;

/// A body that cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ProtobufError {
    #[error("the body does not begin with the prefix of Kubernetes protobuf")]
    NoMagic,
    #[error("the protobuf message is cut off or malformed")]
    Malformed,
    #[error("kind {kind:?} of {api_version:?} cannot be read from protobuf")]
    UnknownKind { api_version: String, kind: String },
}

/// Decodes an object with its type into the form that it has in JSON.
///
/// # Errors
/// If the body is malformed or of a kind that is not built in.
pub(super) fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields::of(envelope) {
        match field? {
            (1, Raw::Bytes(meta)) => {
                for field in Fields::of(meta) {
                    match field? {
                        (1, Raw::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Raw::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name =
        if api_version.starts_with("events.k8s.io/") && kind == "Event" { "events.Event" } else { &kind };
    let fields = schema::message(name)
        .ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() })?;
    let mut object = Map::new();
    object.insert("kind".into(), json!(kind));
    object.insert("apiVersion".into(), json!(api_version));
    read_message(raw, fields, &mut object, DEEPEST)?;
    Ok(Value::Object(object))
}

fn read_message(
    bytes: &[u8],
    fields: &'static [Field],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Malformed)?;
    for entry in Fields::of(bytes) {
        let (number, raw) = entry?;
        // Fields of newer versions are skipped, as JSON's unknown fields are.
        let Some(field) = fields.iter().find(|field| field.number == number) else { continue };
        match field.shape {
            Shape::One if field.name.is_empty() => {
                if let (Scalar::Message(name), Raw::Bytes(bytes)) = (field.scalar, raw) {
                    let inner = schema::message(name).ok_or(ProtobufError::Malformed)?;
                    read_message(bytes, inner, object, depth)?;
                }
            }
            Shape::One => {
                let value = read_scalar(raw, field.scalar, depth)?;
                if field.may_be_zero || !is_zero(&value) {
                    object.insert(field.name.into(), value);
                }
            }
            Shape::List => {
                let value = read_scalar(raw, field.scalar, depth)?;
                let list = object.entry(field.name).or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.push(value);
                }
            }
            Shape::Map => {
                let Raw::Bytes(bytes) = raw else { return Err(ProtobufError::Malformed) };
                let (mut key, mut value) = (String::new(), None);
                for entry in Fields::of(bytes) {
                    match entry? {
                        (1, Raw::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
                        (2, raw) => value = Some(read_scalar(raw, field.scalar, depth)?),
                        _ => {}
                    }
                }
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                if let Value::Object(map) = map {
                    map.insert(key, value.unwrap_or_else(|| json!("")));
                }
            }
        }
    }
    Ok(())
}

/// What Go leaves out of JSON (`omitempty`) though protobuf carries it.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn read_scalar(raw: Raw<'_>, scalar: Scalar, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match (scalar, raw) {
        (Scalar::Text, Raw::Bytes(bytes)) => json!(String::from_utf8_lossy(bytes)),
        (Scalar::Bytes, Raw::Bytes(bytes)) => {
            json!(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
        (Scalar::Integer, Raw::Varint(bits)) => json!(bits.cast_signed()),
        (Scalar::Boolean, Raw::Varint(bits)) => json!(bits != 0),
        (Scalar::Double, Raw::Fixed64(bits)) => {
            Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
        }
        (Scalar::Time, Raw::Bytes(bytes)) => match read_time(bytes)? {
            Some((seconds, _)) => json!(clock::stamp(seconds)),
            None => Value::Null,
        },
        (Scalar::MicroTime, Raw::Bytes(bytes)) => match read_time(bytes)? {
            Some((seconds, nanoseconds)) => json!(clock::micro_stamp(seconds, nanoseconds)),
            None => Value::Null,
        },
        (Scalar::Quantity, Raw::Bytes(bytes)) => {
            let mut text = json!("0");
            for entry in Fields::of(bytes) {
                if let (1, Raw::Bytes(bytes)) = entry? {
                    text = json!(String::from_utf8_lossy(bytes));
                }
            }
            text
        }
        (Scalar::IntOrString, Raw::Bytes(bytes)) => {
            let (mut is_text, mut integer, mut text) = (false, json!(0), json!(""));
            for entry in Fields::of(bytes) {
                match entry? {
                    (1, Raw::Varint(kind)) => is_text = kind == 1,
                    (2, Raw::Varint(bits)) => integer = json!(bits.cast_signed()),
                    (3, Raw::Bytes(bytes)) => text = json!(String::from_utf8_lossy(bytes)),
                    _ => {}
                }
            }
            if is_text { text } else { integer }
        }
        (Scalar::Json, Raw::Bytes(bytes)) => {
            let mut value = Value::Null;
            for entry in Fields::of(bytes) {
                if let (1, Raw::Bytes(bytes)) = entry? {
                    value = serde_json::from_slice(bytes).map_err(|_| ProtobufError::Malformed)?;
                }
            }
            value
        }
        (Scalar::Message(name), Raw::Bytes(bytes)) => {
            let fields = schema::message(name).ok_or(ProtobufError::Malformed)?;
            let mut object = Map::new();
            read_message(bytes, fields, &mut object, depth)?;
            Value::Object(object)
        }
        _ => return Err(ProtobufError::Malformed),
    })
}

/// Seconds and nanoseconds; `None` for the zero time, which is encoded as nothing.
fn read_time(bytes: &[u8]) -> Result<Option<(i64, i32)>, ProtobufError> {
    let (mut seconds, mut nanoseconds) = (0_i64, 0_i32);
    for entry in Fields::of(bytes) {
        match entry? {
            (1, Raw::Varint(bits)) => seconds = bits.cast_signed(),
            (2, Raw::Varint(bits)) => {
                nanoseconds = i32::try_from(bits.cast_signed()).map_err(|_| ProtobufError::Malformed)?;
            }
            _ => {}
        }
    }
    Ok((!bytes.is_empty()).then_some((seconds, nanoseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).expect("short in tests");
        let mut out = vec![number << 3 | 2, length];
        out.extend_from_slice(bytes);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw), field(3, b""), field(4, b"")].concat()
    }

    #[test]
    fn a_config_map() {
        let meta = [field(1, b"cm"), field(2, b""), field(8, b"")].concat();
        let entry = [field(1, b"key"), field(2, b"value")].concat();
        let binary = [field(1, b"raw"), field(2, &[0, 255])].concat();
        let body =
            envelope("v1", "ConfigMap", &[field(1, &meta), field(2, &entry), field(3, &binary)].concat());
        let expected = json!({
            "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "cm"},
            "data": {"key": "value"}, "binaryData": {"raw": "AP8="},
        });
        assert_eq!(decode(&body).expect("well formed"), expected);
    }

    #[test]
    fn a_service_port() {
        // port 80 (varint field 3), targetPort "web".
        let target = [vec![8, 1], field(3, b"web")].concat();
        let port = [field(1, b""), vec![0x18, 80], field(4, &target)].concat();
        let body = envelope("v1", "Service", &field(2, &field(1, &port)));
        let expected = json!({
            "kind": "Service", "apiVersion": "v1", "spec": {"ports": [{"port": 80, "targetPort": "web"}]},
        });
        assert_eq!(decode(&body).expect("well formed"), expected);
    }

    #[test]
    fn what_cannot_be_read() {
        let unknown = envelope("example.com/v1", "Widget", b"");
        assert!(matches!(decode(&unknown), Err(ProtobufError::UnknownKind { .. })));
        assert_eq!(decode(b"{}"), Err(ProtobufError::NoMagic));
        let mut cut = envelope("v1", "ConfigMap", &field(1, b"\x0a\x05ab"));
        assert_eq!(decode(&cut), Err(ProtobufError::Malformed));
        cut.truncate(9);
        assert_eq!(decode(&cut), Err(ProtobufError::Malformed));
    }
}
