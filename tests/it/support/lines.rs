//! What a child process prints, a line at a time.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::{Receiver, channel};

use super::PATIENCE;

/// Lines as they come. The pipe is always emptied, so the child never waits for the test to read.
pub struct Lines(Receiver<String>);

impl Lines {
    pub fn of(pipe: impl Read + Send + 'static) -> Lines {
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { return };
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Lines(lines)
    }

    /// The next line.
    pub fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("another line in time")
    }

    /// The next line, if it is here already.
    pub fn next_now(&self) -> Option<String> {
        self.0.try_recv().ok()
    }

    /// Everything until the child ends.
    pub fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.0.recv_timeout(PATIENCE).ok()).collect()
    }
}
