//! What a person sees of a long fetch: a bar on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress goes.
pub struct Progress(Sink);

enum Sink {
    Bar(ProgressBar),
    Lines(Mutex<Box<dyn Write + Send>>),
}

impl Progress {
    /// A bar if standard error is a terminal, lines on standard error if not.
    pub fn on_stderr() -> Self {
        if !io::stderr().is_terminal() {
            return Self::lines(Box::new(io::stderr()));
        }
        let bar = ProgressBar::new(0);
        let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(Sink::Bar(bar))
    }

    /// A line for each step.
    pub fn lines(out: Box<dyn Write + Send>) -> Self {
        Self(Sink::Lines(Mutex::new(out)))
    }

    /// A step of so many bytes begins.
    pub(super) fn start(&self, message: &str, bytes: u64) {
        match &self.0 {
            Sink::Bar(bar) => {
                bar.reset();
                bar.set_length(bytes);
                bar.set_message(message.to_owned());
            }
            Sink::Lines(_) => self.line(&format!("{message} ({})", megabytes(bytes))),
        }
    }

    pub(super) fn advance(&self, bytes: u64) {
        if let Sink::Bar(bar) = &self.0 {
            bar.inc(bytes);
        }
    }

    pub(super) fn set(&self, bytes: u64) {
        if let Sink::Bar(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }

    /// A sentence that stays on the screen.
    pub(super) fn note(&self, text: &str) {
        match &self.0 {
            Sink::Bar(bar) => bar.suspend(|| self.write(&mut io::stderr(), text)),
            Sink::Lines(_) => self.line(text),
        }
    }

    fn line(&self, text: &str) {
        if let Sink::Lines(out) = &self.0 {
            self.write(&mut *out.lock().unwrap_or_else(std::sync::PoisonError::into_inner), text);
        }
    }

    // A reader that has gone is no reason to stop fetching.
    fn write(&self, out: &mut dyn Write, text: &str) {
        let _ = writeln!(out, "{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Sink::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Bytes as people read them.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
pub(super) struct Recorded(std::sync::Arc<Mutex<Vec<u8>>>);

#[cfg(test)]
impl Progress {
    /// Lines that a test can read.
    pub(super) fn recorded() -> (Self, Recorded) {
        #[derive(Clone)]
        struct Shared(std::sync::Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let shared = std::sync::Arc::<Mutex<Vec<u8>>>::default();
        (Self::lines(Box::new(Shared(std::sync::Arc::clone(&shared)))), Recorded(shared))
    }
}

#[cfg(test)]
impl Recorded {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}
