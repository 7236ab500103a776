//! What commands say, as RESP3; where RESP2 has a null array and RESP3 but one null, as `*-1`.

use alloc::vec::Vec;

/// Writes replies.
pub(super) struct Out<'a>(pub(super) &'a mut Vec<u8>);

impl Out<'_> {
    fn line(&mut self, kind: u8, text: &[u8]) {
        self.0.push(kind);
        self.0.extend_from_slice(text);
        self.0.extend_from_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, number: i64) {
        self.line(kind, itoa::Buffer::new().format(number).as_bytes());
    }

    pub(super) fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    pub(super) fn ok(&mut self) {
        self.0.extend_from_slice(b"+OK\r\n");
    }

    /// An error; a line's end within it is written as a space.
    pub(super) fn error(&mut self, text: &str) {
        self.0.push(b'-');
        let line_ends = |byte: u8| byte == b'\r' || byte == b'\n';
        let bytes = text.bytes();
        self.0
            .extend(bytes.map(|byte| if line_ends(byte) { b' ' } else { byte }));
        self.0.extend_from_slice(b"\r\n");
    }

    pub(super) fn int(&mut self, number: i64) {
        self.number(b':', number);
    }

    pub(super) fn count(&mut self, number: usize) {
        self.int(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(super) fn flag(&mut self, yes: bool) {
        self.int(yes.into());
    }

    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.number(b'$', bytes.len() as i64);
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
    }

    pub(super) fn bulk_or_nil(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.nil(),
        }
    }

    pub(super) fn bulk_number(&mut self, number: u64) {
        self.bulk(itoa::Buffer::new().format(number).as_bytes());
    }

    pub(super) fn nil(&mut self) {
        self.0.extend_from_slice(b"_\r\n");
    }

    pub(super) fn nil_array(&mut self) {
        self.0.extend_from_slice(b"*-1\r\n");
    }

    pub(super) fn array(&mut self, len: usize) {
        self.number(b'*', len as i64);
    }

    pub(super) fn map(&mut self, pairs: usize) {
        self.number(b'%', pairs as i64);
    }

    pub(super) fn set(&mut self, len: usize) {
        self.number(b'~', len as i64);
    }
}
