//! `imgtool site`.

use crate::bench::Bench;

#[test]
fn checks_a_site_and_what_it_names() {
    let bench = Bench::new();
    bench.write("ca.pem", b"CA");
    let site = "format = 1\nhostname = \"edge-{machine-id}\"\n\
                control-plane = { address = \"https://control.example\", ca = \"ca.pem\" }\n";
    bench.write("good.toml", site.as_bytes());
    insta::assert_snapshot!("good", bench.run(&["site", "check", "good.toml"]));
    for (name, text) in [
        ("unknown_key", "format = 1\ncolour = \"red\"\n"),
        ("format", "format = 2\n"),
        (
            "missing_file",
            "format = 1\nfile = [{ source = \"nosuch\", path = \"/etc/a\" }]\n",
        ),
        (
            "leaves_the_folder",
            "format = 1\nfile = [{ source = \"../a\", path = \"/etc/a\" }]\n",
        ),
        ("not_toml", "format 1\n"),
    ] {
        bench.write("bad.toml", text.as_bytes());
        insta::assert_snapshot!(name, bench.run(&["site", "check", "bad.toml"]));
    }
}

#[test]
fn the_schema_names_every_section() {
    let bench = Bench::new();
    let schema = bench.run(&["site", "schema"]);
    for section in [
        "hostname",
        "timezone",
        "packages",
        "control-plane",
        "network",
        "file",
        "cache-disk",
    ] {
        assert!(schema.contains(&format!("\"{section}\"")), "{section}");
    }
}
