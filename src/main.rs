//! The `ccl` program.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    cli::log::start(cli.verbose);
    match cli::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            cli::log::error(&e.to_string());
            ExitCode::from(e.exit_code())
        }
    }
}

/// Help and version go to standard output; wrong usage is one line.
fn usage(e: &clap::Error) -> ExitCode {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = e.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            ExitCode::from(2)
        }
        _ => {
            cli::log::error(&usage_line(&e.render().to_string()));
            ExitCode::from(2)
        }
    }
}

/// What is wrong, in one line, from clap's text: its first paragraph says it, and a `tip:` may follow.
fn usage_line(text: &str) -> String {
    let mut paragraphs = text.split("\n\n").map(|p| p.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    let what = paragraphs.next().unwrap_or_default();
    let what = what.trim().trim_start_matches("error: ");
    match paragraphs.find_map(|p| p.trim().strip_prefix("tip: ").map(str::to_owned)) {
        Some(tip) => format!("{what}; {tip} (see --help)"),
        None => format!("{what} (see --help)"),
    }
}

#[cfg(test)]
mod tests {
    use super::usage_line;

    #[test]
    fn usage_is_one_line() {
        let text =
            "error: unexpected argument '--step' found\n\n  tip: a similar argument exists: '--steps'\n\nUsage: x\n";
        let want = "unexpected argument '--step' found; a similar argument exists: '--steps' (see --help)";
        assert_eq!(usage_line(text), want);
        let text = "error: these are missing:\n  --inputs <F>\n  --output <F>\n\nUsage: x\n";
        assert_eq!(usage_line(text), "these are missing: --inputs <F> --output <F> (see --help)");
    }
}
