//! Where the body of an answer ends (RFC 9112, section 6). Pure.

use std::ops::Range;

/// Bytes of a line between two chunks, and of all lines after the last.
const LINE_BYTES_MAX: usize = 8 << 10;

/// How much of a body is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// Where in a chunked body we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Before the line that says its size.
    Size,
    /// Inside, with so many bytes to come.
    Data(u64),
    /// Before the line end that follows its data.
    DataEnd,
    /// After the last, with so many bytes of fields gone by.
    Fields(usize),
    Ended,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These of them belong to the body; all up to their end are done with.
    Data(Range<usize>),
    /// So many are done with, and the rest is too short to say.
    More(usize),
    /// So many are done with, and the body has ended.
    End(usize),
}

impl Framing {
    pub(super) const fn of_length(length: u64) -> Self {
        Self::Length(length)
    }

    pub(super) const fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    pub(super) const fn until_close() -> Self {
        Self::UntilClose
    }

    /// Looks at the bytes that have come.
    ///
    /// # Errors
    /// They are no chunk.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, String> {
        match self {
            Self::Length(0) => Ok(Step::End(0)),
            Self::Length(left) => Ok(some(left, 0, bytes)),
            Self::UntilClose if bytes.is_empty() => Ok(Step::More(0)),
            Self::UntilClose => Ok(Step::Data(0..bytes.len())),
            Self::Chunked(chunk) => chunk.step(bytes),
        }
    }

    /// Whether the body may end as the connection does.
    pub(super) fn ends_with_connection(&self) -> bool {
        *self == Self::UntilClose
    }
}

/// As many bytes of what is `left` as there are, from `start` on.
fn some(left: &mut u64, start: usize, bytes: &[u8]) -> Step {
    let n_here = bytes.len() - start;
    if n_here == 0 {
        return Step::More(start);
    }
    let n = usize::try_from(*left).map_or(n_here, |left| left.min(n_here));
    *left -= n as u64;
    Step::Data(start..start + n)
}

impl Chunk {
    fn step(&mut self, bytes: &[u8]) -> Result<Step, String> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match self {
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(left) => return Ok(some(left, at, bytes)),
                Self::Ended => return Ok(Step::End(at)),
                Self::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(Step::More(at)),
                    _ => return Err("a chunk that is longer than it says".to_owned()),
                },
                Self::Size => match httparse::parse_chunk_size(rest) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        at += length;
                        *self = match size {
                            0 => Self::Fields(0),
                            size => Self::Data(size),
                        };
                    }
                    Ok(httparse::Status::Partial) if rest.len() <= LINE_BYTES_MAX => {
                        return Ok(Step::More(at));
                    }
                    _ => return Err("a chunk without a size".to_owned()),
                },
                Self::Fields(gone) => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        return match *gone + rest.len() <= LINE_BYTES_MAX {
                            true => Ok(Step::More(at)),
                            false => Err("too much after its last chunk".to_owned()),
                        };
                    };
                    *gone += end + 1;
                    if *gone > LINE_BYTES_MAX {
                        return Err("too much after its last chunk".to_owned());
                    }
                    at += end + 1;
                    if matches!(&rest[..end], b"" | b"\r") {
                        *self = Self::Ended;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body of `bytes`, which come in pieces of these lengths, and what is left of them.
    fn body(
        mut framing: Framing,
        bytes: &[u8],
        pieces: &[usize],
    ) -> Result<(Vec<u8>, usize), String> {
        let (mut body, mut start, mut end) = (Vec::new(), 0, 0);
        let mut pieces = pieces.iter().cycle();
        loop {
            match framing.step(&bytes[start..end])? {
                Step::Data(range) => {
                    body.extend_from_slice(&bytes[start..end][range.clone()]);
                    start += range.end;
                }
                Step::End(done) => return Ok((body, bytes.len() - start - done)),
                Step::More(done) => {
                    start += done;
                    if end == bytes.len() {
                        return Err("it stops".to_owned());
                    }
                    end = bytes.len().min(end + pieces.next().unwrap());
                }
            }
        }
    }

    #[test]
    fn bodies_are_read_however_they_come() {
        let chunked = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nx: y\r\n\r\nHTTP";
        for n in 1..chunked.len() {
            let read = body(Framing::chunked(), chunked, &[n]);
            assert_eq!(read, Ok((b"hello world".to_vec(), 4)), "{n}");
            let read = body(Framing::of_length(3), b"hello", &[n]);
            assert_eq!(read, Ok((b"hel".to_vec(), 2)), "{n}");
        }
        assert_eq!(body(Framing::of_length(0), b"", &[1]), Ok((Vec::new(), 0)));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let long = [b"0\r\n".as_slice(), &[b'a'; LINE_BYTES_MAX + 1]].concat();
        let size = [b"1;".as_slice(), &[b'a'; LINE_BYTES_MAX + 1]].concat();
        for bytes in [
            b"x\r\n".as_slice(),
            b"1\r\nabc",
            b"fffffffffffffffff\r\n",
            &long,
            &size,
        ] {
            let read = body(Framing::chunked(), bytes, &[bytes.len()]);
            assert!(read.is_err_and(|error| error != "it stops"));
        }
        let cut = body(Framing::chunked(), b"5\r\nhel", &[2]);
        assert_eq!(cut, Err("it stops".to_owned()));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            pieces in proptest::collection::vec(1_usize..40, 1..5),
        ) {
            let _ = body(Framing::chunked(), &bytes, &pieces);
        }

        #[test]
        fn chunks_come_out_as_they_went_in(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..6),
            pieces in proptest::collection::vec(1_usize..40, 1..5),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            prop_assert_eq!(body(Framing::chunked(), &bytes, &pieces), Ok((chunks.concat(), 0)));
        }
    }
}
