//! WebSocket frames (RFC 6455), server side: bytes in, whole text messages out.

use antiphon_xmpp::stream::framing::Outgoing;

/// Why a WebSocket connection fails; the number is the close code (RFC 6455 §7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("websocket close code {0}")]
pub struct WsError(pub u16);

impl WsError {
    const PROTOCOL: Self = Self(1002);
    const UNSUPPORTED: Self = Self(1003);
    const TOO_BIG: Self = Self(1009);
}

/// Something a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum WsEvent {
    /// A whole text message.
    Text(Vec<u8>),
    /// A ping to be answered.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The close frame, its code if any.
    Close(Option<u16>),
}

/// Reassembles masked client frames; holds at most one unfinished message.
#[derive(Debug)]
pub struct Decoder {
    /// Bytes not yet consumed, from `at` on.
    buffer: Vec<u8>,
    at: usize,
    /// Payload of an unfinished fragmented message.
    message: Option<Vec<u8>>,
    max_message: usize,
}

struct Header {
    is_final: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Where the payload begins and ends in the buffer, though it may not be there yet.
    start: usize,
    end: usize,
}

impl Decoder {
    /// A decoder that refuses messages above `max_message` bytes (close code 1009).
    #[must_use]
    pub fn new(max_message: usize) -> Self {
        Self {
            buffer: Vec::new(),
            at: 0,
            message: None,
            max_message,
        }
    }

    /// Other bounds from now on.
    pub fn set_max_message(&mut self, max_message: usize) {
        self.max_message = max_message;
    }

    /// Adds bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes fed and not yet consumed.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.at
    }

    /// The next event, `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`WsError`] ends the connection.
    pub fn next_event(&mut self) -> Result<Option<WsEvent>, WsError> {
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let Some(payload) = self.buffer.get(header.start..header.end) else {
                return Ok(None);
            };
            let mut payload = payload.to_vec();
            self.at = header.end;
            for (byte, key) in payload.iter_mut().zip(header.mask.iter().cycle()) {
                *byte ^= key;
            }
            if self.at == self.buffer.len() {
                self.buffer = Vec::new();
                self.at = 0;
            }
            if let Some(event) = self.frame(&header, payload)? {
                return Ok(Some(event));
            }
        }
    }

    fn header(&self) -> Result<Option<Header>, WsError> {
        let rest = &self.buffer[self.at..];
        let [first, second, ..] = *rest else {
            return Ok(None);
        };
        // Reserved bits mean an extension, and none was agreed on.
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(WsError::PROTOCOL);
        }
        let (opcode, is_final) = (first & 0x0f, first & 0x80 != 0);
        let (len, at) = match second & 0x7f {
            126 => match rest.get(2..4) {
                Some(&[a, b]) => (usize::from(u16::from_be_bytes([a, b])), 4),
                _ => return Ok(None),
            },
            127 => match rest.get(2..10).and_then(|b| <[u8; 8]>::try_from(b).ok()) {
                // RFC 6455 §5.2: the highest bit is 0.
                Some(raw) if raw[0] & 0x80 != 0 => return Err(WsError::PROTOCOL),
                Some(raw) => (
                    usize::try_from(u64::from_be_bytes(raw)).map_err(|_| WsError::TOO_BIG)?,
                    10,
                ),
                None => return Ok(None),
            },
            short => (usize::from(short), 2),
        };
        if opcode >= 8 && (len > 125 || !is_final) {
            return Err(WsError::PROTOCOL);
        }
        if len > self.max_message {
            return Err(WsError::TOO_BIG);
        }
        let Some(mask) = rest.get(at..at + 4).and_then(|m| m.try_into().ok()) else {
            return Ok(None);
        };
        let start = self.at + at + 4;
        Ok(Some(Header {
            is_final,
            opcode,
            mask,
            start,
            // Where nothing bounds a message, the length is whatever the peer says.
            end: start.checked_add(len).ok_or(WsError::TOO_BIG)?,
        }))
    }

    fn frame(&mut self, header: &Header, payload: Vec<u8>) -> Result<Option<WsEvent>, WsError> {
        match header.opcode {
            0 => {
                let mut message = self.message.take().ok_or(WsError::PROTOCOL)?;
                if message.len() + payload.len() > self.max_message {
                    return Err(WsError::TOO_BIG);
                }
                message.extend_from_slice(&payload);
                self.finish(header.is_final, message)
            }
            1 if self.message.is_some() => Err(WsError::PROTOCOL),
            1 => self.finish(header.is_final, payload),
            2 => Err(WsError::UNSUPPORTED),
            8 => match payload.as_slice() {
                [] => Ok(Some(WsEvent::Close(None))),
                [a, b, ..] => Ok(Some(WsEvent::Close(Some(u16::from_be_bytes([*a, *b]))))),
                [_] => Err(WsError::PROTOCOL),
            },
            9 => Ok(Some(WsEvent::Ping(payload))),
            10 => Ok(Some(WsEvent::Pong)),
            _ => Err(WsError::PROTOCOL),
        }
    }

    fn finish(&mut self, is_final: bool, message: Vec<u8>) -> Result<Option<WsEvent>, WsError> {
        if is_final {
            return Ok(Some(WsEvent::Text(message)));
        }
        self.message = Some(message);
        Ok(None)
    }
}

/// Appends one unmasked frame.
pub fn write_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        n @ 0..=125 => out.push(n as u8),
        n @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// The frames of everything a stream wrote.
#[must_use]
pub fn frames(outgoing: &Outgoing) -> Vec<u8> {
    let mut out = Vec::with_capacity(outgoing.bytes.len() + 4 * outgoing.ends.len());
    for message in outgoing.messages() {
        write_frame(1, message, &mut out);
    }
    out
}

/// A close frame with this code.
#[must_use]
pub fn close_frame(code: u16) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(8, &code.to_be_bytes(), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    fn all(decoder: &mut Decoder) -> Vec<WsEvent> {
        std::iter::from_fn(|| decoder.next_event().unwrap()).collect()
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_however_it_is_split() {
        let mut bytes = masked(0x81, b"x");
        bytes.extend([
            0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 1, 2, 3, 4,
        ]);
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::new(usize::MAX);
            decoder.feed(&bytes[..cut]);
            let mut result = decoder.next_event();
            decoder.feed(&bytes[cut..]);
            while let Ok(Some(_)) | Ok(None) = result {
                let is_stuck = matches!(result, Ok(None));
                result = decoder.next_event();
                assert!(!is_stuck || !matches!(result, Ok(None)), "cut at {cut}");
            }
            assert_eq!(result, Err(WsError::PROTOCOL), "cut at {cut}");
        }
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_messages() {
        let mut bytes = masked(0x81, b"<open/>");
        bytes.extend(masked(0x01, b"<a"));
        bytes.extend(masked(0x89, b"?"));
        bytes.extend(masked(0x80, b"/>"));
        bytes.extend(masked(0x81, &[b'x'; 300]));
        let mut whole = Decoder::new(1000);
        whole.feed(&bytes);
        let expected = all(&mut whole);
        assert_eq!(expected.len(), 4);
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::new(1000);
            decoder.feed(&bytes[..cut]);
            let mut events = all(&mut decoder);
            decoder.feed(&bytes[cut..]);
            events.extend(all(&mut decoder));
            assert_eq!(events, expected, "cut at {cut}");
            assert_eq!(decoder.buffered(), 0);
        }
    }

    #[test]
    fn what_rfc_6455_forbids_is_refused() {
        for (bytes, code) in [
            (vec![0x81, 0x01, b'a'], 1002),     // not masked
            (masked(0xc1, b"a"), 1002),         // reserved bit
            (masked(0x82, b"a"), 1003),         // binary
            (masked(0x80, b"a"), 1002),         // continuation of nothing
            (masked(0x09, b"a"), 1002),         // fragmented control frame
            (masked(0x83, b"a"), 1002),         // reserved opcode
            (masked(0x81, &[b'a'; 101]), 1009), // too big
            (masked(0x88, b"a"), 1002),         // close code of one byte
            ([masked(0x01, b"a"), masked(0x81, b"b")].concat(), 1002),
            (
                [masked(0x01, &[b'a'; 60]), masked(0x80, &[b'a'; 60])].concat(),
                1009,
            ),
        ] {
            let mut decoder = Decoder::new(100);
            decoder.feed(&bytes);
            let error = loop {
                match decoder.next_event() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("accepted {bytes:?}"),
                    Err(e) => break e,
                }
            };
            assert_eq!(error.0, code, "{bytes:?}");
        }
    }

    #[test]
    fn lengths_take_the_shortest_form() {
        for (n, header) in [(125, 2), (126, 4), (65535, 4), (65536, 10)] {
            let mut out = Vec::new();
            write_frame(1, &vec![b'x'; n], &mut out);
            assert_eq!(out.len(), n + header);
        }
    }
}
