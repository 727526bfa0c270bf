//! Frames: a big-endian `u32` length, then that many bytes of JSON.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Longest body of a frame, in bytes. A `Gc` that names 4,000 attachments is
/// below a third of it.
pub const MAX_FRAME: usize = 1 << 20;

/// Bytes before the body: its length as a big-endian `u32`.
pub const HEADER_LEN: usize = 4;

/// A frame that cannot be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The length in the header, or of the value to send, is above [`MAX_FRAME`].
    #[error("frame of {len} bytes, the limit is {MAX_FRAME}")]
    TooLong {
        /// Bytes announced or needed.
        len: usize,
    },
    /// The body is not the JSON that was expected, or cannot be written as JSON.
    #[error("frame is not a message that this version knows")]
    Json(#[source] serde_json::Error),
}

/// Header and body of `value`, ready to be written.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_LEN];
    serde_json::to_writer(&mut bytes, value).map_err(FrameError::Json)?;
    let len = bytes.len() - HEADER_LEN;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong { len });
    }
    let header = u32::try_from(len).map_err(|_| FrameError::TooLong { len })?;
    bytes[..HEADER_LEN].copy_from_slice(&header.to_be_bytes());
    Ok(bytes)
}

/// Length of the body that follows `header`, checked against [`MAX_FRAME`]
/// before anything is allocated for it.
pub fn frame_len(header: [u8; HEADER_LEN]) -> Result<usize, FrameError> {
    let len = u32::from_be_bytes(header) as usize;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong { len });
    }
    Ok(len)
}

/// The value in `body` (without its header).
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Json)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in ".{0,200}", number: u64) {
            let bytes = encode(&(&text, number)).expect("short");
            let len = frame_len(bytes[..HEADER_LEN].try_into().expect("four bytes")).expect("short");
            prop_assert_eq!(len, bytes.len() - HEADER_LEN);
            let back: (String, u64) = decode(&bytes[HEADER_LEN..]).expect("own bytes");
            prop_assert_eq!(back, (text, number));
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<crate::Envelope>(&body);
            let _ = crate::accept(&body);
        }
    }

    #[test]
    fn too_long_is_refused_on_both_sides() {
        assert!(matches!(frame_len([0, 0x10, 0, 1]), Err(FrameError::TooLong { len: 1_048_577 })));
        assert_eq!(frame_len([0, 0x10, 0, 0]).expect("at the limit"), MAX_FRAME);
        assert!(matches!(encode(&"x".repeat(MAX_FRAME)), Err(FrameError::TooLong { .. })));
    }
}
