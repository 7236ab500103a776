//! Printing results to a reader that may have gone (`stateplane show … | head`).

use std::fmt;
use std::io::{self, Write};

/// Prints one line to standard output. A closed pipe is not an error: whoever read has
/// seen enough, and what the command still has to tidy up goes on.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("stateplane: cannot write the result: {error}");
        }
        _ => {}
    }
}

/// Like `println!`, but does not panic when nobody reads any more.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
pub(crate) use say;
