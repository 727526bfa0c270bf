//! Progress on standard error, so that standard output stays for results.

use std::io::IsTerminal;

/// A step that begins.
pub(crate) fn step(text: &str) {
    eprintln!("{} {text}", paint("1;36", "==>"));
}

/// Something below a step that is worth a line.
pub(crate) fn detail(text: &str) {
    eprintln!("    {text}");
}

/// A whole command that ended well.
pub(crate) fn done(text: &str) {
    eprintln!("{} {text}", paint("1;32", "ok:"));
}

/// Something that the user should know although it goes on.
pub(crate) fn warning(text: &str) {
    eprintln!("{} {text}", paint("1;33", "warning:"));
}

/// Red on a terminal.
pub(crate) fn red(text: &str) -> String {
    paint("1;31", text)
}

fn paint(style: &str, text: &str) -> String {
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{style}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
