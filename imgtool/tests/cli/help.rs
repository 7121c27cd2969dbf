//! Help texts, completions and manual pages.

use crate::bench::Bench;
use clap::{Command, CommandFactory as _};

fn every(command: &Command, seen: &mut Vec<(String, String)>, path: &str) {
    let path = format!("{path} {}", command.get_name());
    let help = command.clone().term_width(80).render_help().to_string();
    seen.push((path.clone(), help));
    for inner in command.get_subcommands() {
        every(inner, seen, &path);
    }
}

#[test]
fn help_texts_are_one_line_that_fits_80_columns() {
    let mut seen = Vec::new();
    let mut root = cairn_imgtool::cli::Cli::command();
    root.build();
    every(&root, &mut seen, "");
    assert!(seen.len() > 15);
    for (command, help) in seen {
        // The usage line is clap's own.
        for line in help.lines().filter(|line| !line.starts_with("Usage:")) {
            assert!(line.chars().count() <= 80, "{command}: {line}");
        }
    }
    for command in root.get_subcommands() {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            (1..=66).contains(&about.chars().count()),
            "{}: {about}",
            command.get_name()
        );
    }
}

#[test]
fn completions_are_scripts_that_the_shell_accepts() {
    let bench = Bench::new();
    let script = bench.ok(&["completions", "bash"]);
    let script = bench.write("imgtool.bash", script);
    bench.tool("bash", &["-n", script.to_str().unwrap()]);
    for shell in ["zsh", "fish"] {
        assert!(
            bench.ok(&["completions", shell]).contains("keygen"),
            "{shell}"
        );
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let bench = Bench::new();
    bench.ok(&["man", "--out", "man"]);
    let names = bench.names("man");
    for page in ["imgtool.1", "imgtool-trust-init.1", "imgtool-publish.1"] {
        assert!(names.iter().any(|name| name == page), "{page} in {names:?}");
    }
    let page = std::fs::read_to_string(bench.path("man/imgtool-trust-init.1")).unwrap();
    assert!(page.contains("root\\-threshold"), "{page}");
}

#[test]
fn man_into_a_file_is_one_clear_error() {
    let bench = Bench::new();
    bench.write("taken", "");
    insta::assert_snapshot!(bench.run(&["man", "--out", "taken"]));
}
