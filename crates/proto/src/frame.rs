//! Length-prefixed JSON frames: a little-endian `u32` byte count, then that many
//! bytes of JSON.
//!
//! JSON because a frame can be read by a person while debugging and because
//! requests carry JSON Schemas anyway; at token rates its cost is microseconds.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes one frame may hold. The gateway's body limit is well below it.
pub const FRAME_BYTES_MAX: u32 = 64 << 20;

#[derive(Debug, Error)]
pub enum FrameError {
    #[error("frame of {len} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge { len: u64 },
    #[error("frame is not a message of this protocol: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("connection ended inside a frame")]
    Truncated,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The bytes of one frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let len = frame.len() - 4;
    let prefix = u32::try_from(len)
        .ok()
        .filter(|len| *len <= FRAME_BYTES_MAX)
        .ok_or(FrameError::TooLarge { len: len as u64 })?;
    frame[..4].copy_from_slice(&prefix.to_le_bytes());
    Ok(frame)
}

/// The first message in `bytes` and how many bytes it took; `None` if more are needed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len = checked_len(*prefix)?;
    match rest.get(..len) {
        Some(body) => Ok(Some((serde_json::from_slice(body)?, 4 + len))),
        None => Ok(None),
    }
}

/// Reads one message; `None` when the peer closed between frames.
pub async fn read<T, R>(reader: &mut R) -> Result<Option<T>, FrameError>
where
    T: DeserializeOwned,
    R: AsyncRead + Unpin,
{
    let mut prefix = [0; 4];
    match reader.read(&mut prefix).await? {
        0 => return Ok(None),
        n => read_exactly(reader, &mut prefix[n..]).await?,
    }
    let mut body = vec![0; checked_len(prefix)?];
    read_exactly(reader, &mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes one message. The caller flushes if its writer buffers.
pub async fn write<T, W>(writer: &mut W, message: &T) -> Result<(), FrameError>
where
    T: Serialize,
    W: AsyncWrite + Unpin,
{
    writer.write_all(&encode(message)?).await?;
    Ok(())
}

fn checked_len(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let len = u32::from_le_bytes(prefix);
    if len > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge {
            len: u64::from(len),
        });
    }
    Ok(len as usize)
}

async fn read_exactly<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut [u8],
) -> Result<(), FrameError> {
    match reader.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(FrameError::Truncated)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, FailureKind, FromWorker, JobFailure, JobId, ToWorker};

    fn sample() -> FromWorker {
        FromWorker::Event {
            id: JobId(7),
            event: Event::Failed(JobFailure {
                kind: FailureKind::ContextExceeded {
                    prompt_tokens: 9000,
                    context: 8192,
                },
                message: "too long".into(),
                param: Some("messages".into()),
            }),
        }
    }

    #[test]
    fn a_message_survives_the_trip() {
        let frame = encode(&sample()).unwrap();
        let (back, used) = decode::<FromWorker>(&frame).unwrap().unwrap();
        assert_eq!((back, used), (sample(), frame.len()));
    }

    #[test]
    fn every_cut_asks_for_more_bytes() {
        let frame = encode(&sample()).unwrap();
        for cut in 0..frame.len() {
            assert!(
                decode::<FromWorker>(&frame[..cut]).unwrap().is_none(),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn an_oversized_prefix_is_refused_before_any_allocation() {
        let error = decode::<ToWorker>(&u32::MAX.to_le_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "frame of 4294967295 bytes is over the limit of 67108864"
        );
    }

    #[tokio::test]
    async fn the_reader_tells_a_clean_end_from_a_cut() {
        let frame = encode(&sample()).unwrap();
        let mut whole = frame.as_slice();
        assert_eq!(
            read::<FromWorker, _>(&mut whole).await.unwrap(),
            Some(sample())
        );
        assert_eq!(read::<FromWorker, _>(&mut whole).await.unwrap(), None);
        let mut cut = &frame[..frame.len() - 1];
        let error = read::<FromWorker, _>(&mut cut).await.unwrap_err();
        assert!(matches!(error, FrameError::Truncated));
    }
}
