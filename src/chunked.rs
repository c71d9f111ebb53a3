//! The chunked coding (RFC 9112 §7.1), read strictly.
//!
//! ```text
//! chunked-body = *chunk last-chunk trailer-section CRLF
//! chunk        = 1*HEXDIG [ chunk-ext ] CRLF chunk-data CRLF
//! ```
//!
//! Stricter than readers that are known to be fooled: a size has at most 16 digits and no sign, every
//! line ends in CRLF, no bare CR or LF stands in an extension. Extensions and trailers are passed over
//! and bounded; trailers are dropped (RFC 9110 §6.5.1 allows it), since they could carry fields past
//! the head's checks.
//!
//! Both sides are read with it: what clients send and what services answer.

/// Most bytes of one chunk's extensions, and of all trailers.
const MAX_PASSED: u32 = 16 * 1024;

/// These are no chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Where the reader is inside a chunked body.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    passed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Inside a size that has so many digits and this value.
    Size(u8, u64),
    /// Past a size, inside an extension; the size is kept.
    Extension(u64),
    /// At the LF that ends a size's line.
    SizeEnd(u64),
    /// Inside a chunk of which so many bytes are left.
    Data(u64),
    /// At the CR after a chunk.
    DataCr,
    /// At the LF after a chunk.
    DataLf,
    /// At the beginning of a trailer line, or of the empty line.
    Trailer,
    /// Inside a trailer line.
    TrailerLine,
    /// At the LF that ends a trailer line.
    TrailerEnd,
    /// At the LF of the empty line.
    LastLf,
    Over,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { state: State::Size(0, 0), passed: 0 }
    }
}

impl Chunks {
    /// Reads framing up to the next data, or to the body's end; how many of these bytes it was.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn framing(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut read = 0;
        for &byte in bytes {
            if matches!(self.state, State::Data(_) | State::Over) {
                break;
            }
            self.state = self.step(byte)?;
            read += 1;
        }
        Ok(read)
    }

    /// Takes data: how many of so many bytes are of the chunk under way.
    pub fn data(&mut self, available: usize) -> usize {
        let State::Data(left) = self.state else { return 0 };
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(available);
        let left = left - here as u64;
        self.state = if left == 0 { State::DataCr } else { State::Data(left) };
        here
    }

    /// How many bytes are left of the chunk under way.
    #[must_use]
    pub const fn left_of_chunk(&self) -> u64 {
        if let State::Data(left) = self.state { left } else { 0 }
    }

    /// Whether the body has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        match (self.state, byte) {
            (State::Size(16, _), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => Err(Malformed),
            (State::Size(digits, size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                Ok(State::Size(digits + 1, (size << 4) | u64::from(digit)))
            }
            (State::Size(1.., size) | State::Extension(size), b'\r') => Ok(State::SizeEnd(size)),
            (State::Size(1.., size), b';' | b' ' | b'\t') => self.passed(State::Extension(size)),
            (State::Extension(size), _) if is_text(byte) => self.passed(State::Extension(size)),
            (State::SizeEnd(0), b'\n') => Ok(State::Trailer),
            (State::SizeEnd(size), b'\n') => {
                self.passed = 0;
                Ok(State::Data(size))
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size(0, 0)),
            (State::Trailer, b'\r') => Ok(State::LastLf),
            (State::TrailerLine, b'\r') => Ok(State::TrailerEnd),
            (State::Trailer | State::TrailerLine, _) if is_text(byte) => self.passed(State::TrailerLine),
            (State::TrailerEnd, b'\n') => Ok(State::Trailer),
            (State::LastLf, b'\n') => Ok(State::Over),
            _ => Err(Malformed),
        }
    }

    const fn passed(&mut self, state: State) -> Result<State, Malformed> {
        self.passed += 1;
        if self.passed > MAX_PASSED { Err(Malformed) } else { Ok(state) }
    }
}

/// Whether a byte may stand in an extension or a trailer: visible, blank, or beyond ASCII.
const fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
