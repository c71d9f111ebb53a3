//! Where a frame of WebSocket may stand among the bytes that a service sends (RFC 6455 §5.2).
//!
//! ```text
//! frame = %x00-FF (mask-bit length7) [ length16 | length64 ] [ masking-key ] payload
//! ```
//!
//! The bytes are not judged: they are between the client and the service. It is only known where one
//! frame has ended, so that a Close of the gateway's is not written into another one.

/// Follows the frames of one direction.
#[derive(Debug, Default)]
pub struct Frames {
    /// Bytes of the head that have come, as far as it is not whole.
    head: [u8; 10],
    come: usize,
    /// Bytes of the frame that are still to come, after its length.
    left: u64,
}

impl Frames {
    /// Takes what came next.
    pub fn pass(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&first, others)) = rest.split_first() {
            if self.left > 0 {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                self.left -= here as u64;
                rest = rest.get(here..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.come) {
                *place = first;
            }
            self.come += 1;
            rest = others;
            if let Some(left) = self.length() {
                (self.come, self.left) = (0, left);
            }
        }
    }

    /// Whether a frame has ended and none has begun.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        self.come == 0 && self.left == 0
    }

    /// What follows the head, once that is whole: the masking key and the payload.
    fn length(&self) -> Option<u64> {
        let [_, second, long @ ..] = self.head;
        let [high, low, ..] = long;
        let key = if second & 0x80 == 0 { 0 } else { 4 };
        let (wanted, payload) = match second & 0x7f {
            126 => (4, u64::from(u16::from_be_bytes([high, low]))),
            127 => (10, u64::from_be_bytes(long)),
            short => (2, u64::from(short)),
        };
        (self.come >= wanted).then(|| payload.saturating_add(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_ends_where_its_length_says_however_its_bytes_are_cut() {
        let frame = |head: &[u8], payload: usize| [head.to_vec(), vec![0xff; payload]].concat();
        for frame in [
            frame(&[0x81, 0], 0),
            frame(&[0x81, 5], 5),
            frame(&[0x82, 125], 125),
            frame(&[0x82, 126, 0, 0], 0),
            frame(&[0x82, 126, 0, 200], 200),
            frame(&[0x82, 126, 2, 1], 513),
            frame(&[0x82, 127, 0, 0, 0, 0, 0, 0, 1, 1], 257),
            frame(&[0x81, 0x85], 9),
            frame(&[0x81, 0xfe, 0, 3], 7),
        ] {
            for size in 1..=frame.len() {
                let mut frames = Frames::default();
                let pieces: Vec<&[u8]> = frame.chunks(size).collect();
                for (number, piece) in pieces.iter().enumerate() {
                    assert!(number == 0 || !frames.is_between(), "{frame:?}");
                    frames.pass(piece);
                }
                assert!(frames.is_between(), "{frame:?}");
                frames.pass(&[frame.as_slice(), &frame].concat());
                assert!(frames.is_between(), "{frame:?}");
            }
        }
    }
}
