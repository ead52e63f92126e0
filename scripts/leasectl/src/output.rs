// SPDX-License-Identifier: GPL-2.0
//! Standard output that cannot stop a command.
//!
//! A command that changes disks or gives a verdict must do so even if nobody reads its output:
//! `leasectl format ... | true` formats, and `leasectl check ... | head -n 1` keeps its verdict.
//! [`Output`] remembers the first error of its writer and discards the text that follows.

use std::io::{self, ErrorKind, Write};

/// A writer whose writes always succeed.
pub struct Output<W> {
    writer: W,
    error: Option<io::Error>,
}

impl<W: Write> Output<W> {
    /// An output to `writer`, until the writer fails.
    pub fn new(writer: W) -> Self {
        Output {
            writer,
            error: None,
        }
    }

    /// Writes what is still buffered.
    ///
    /// # Errors
    ///
    /// The first error of the writer, unless its reader closed the pipe: a reader may stop early.
    pub fn finish(mut self) -> io::Result<()> {
        let _ = self.flush();
        match self.error {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    fn note<T>(&mut self, result: io::Result<T>, otherwise: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.error = Some(error);
                Ok(otherwise)
            }
            done => done,
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.error.is_some() {
            return Ok(text.len());
        }
        let written = self.writer.write(text);
        self.note(written, text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.error.is_some() {
            return Ok(());
        }
        let flushed = self.writer.flush();
        self.note(flushed, ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then fails with `kind`.
    struct Full {
        room: usize,
        kind: ErrorKind,
    }

    impl Write for Full {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let taken = text.len().min(self.room);
            self.room -= taken;
            match taken {
                0 => Err(self.kind.into()),
                taken => Ok(taken),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written_to(room: usize, kind: ErrorKind) -> io::Result<()> {
        let mut out = Output::new(Full { room, kind });
        for _ in 0..3 {
            writeln!(out, "a line")?;
        }
        out.finish()
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        written_to(10, ErrorKind::BrokenPipe).unwrap();
    }

    #[test]
    fn a_full_device_is_reported_at_the_end() {
        let error = written_to(10, ErrorKind::StorageFull).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        written_to(100, ErrorKind::StorageFull).unwrap();
    }
}
