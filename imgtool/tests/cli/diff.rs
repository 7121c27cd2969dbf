//! `imgtool diff`.

use crate::bench::Bench;
use crate::release::Plan;
use cairn_release::BLOCK;

fn two(bench: &Bench) {
    Plan::new("1.0", 1).write(bench, "old");
    let mut plan = Plan::new("1.1", 2);
    // One block stays, one moves, one comes from the old kernel, one is new.
    plan.root = [[1; BLOCK], [3; BLOCK], [0x4b; BLOCK], [9; BLOCK]].concat();
    plan.packages = vec![("bash", "5.3-1"), ("nftables", "1.1-1")];
    plan.files = vec![("/usr/bin/bash", b"bash 5.3!"), ("/usr/bin/nft", b"nft")];
    plan.write(bench, "new");
}

#[test]
fn shows_packages_files_sizes_and_the_cost_of_an_update() {
    let bench = Bench::new();
    two(&bench);
    insta::assert_snapshot!("diff", bench.run(&["diff", "old", "new"]));
    insta::assert_snapshot!("diff_files", bench.run(&["diff", "old", "new", "--files"]));
    insta::assert_snapshot!("diff_json", bench.run(&["diff", "old", "new", "--json"]));
    insta::assert_snapshot!("diff_same", bench.run(&["diff", "old", "old"]));
}

#[test]
fn lists_only_the_largest_files_unless_told_otherwise() {
    let bench = Bench::new();
    Plan::new("1.0", 1).write(&bench, "old");
    let mut plan = Plan::new("1.1", 2);
    let names: Vec<String> = (0..30).map(|i| format!("/f{i:02}")).collect();
    let content = [0; 30];
    let leaked: Vec<(&'static str, &'static [u8])> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (&*name.clone().leak(), &*content[..i].to_vec().leak()))
        .collect();
    plan.files = leaked;
    plan.write(&bench, "new");
    insta::assert_snapshot!("diff_many", bench.run(&["diff", "old", "new"]));
    assert_eq!(
        bench
            .ok(&["diff", "old", "new", "--files"])
            .matches("  + root")
            .count(),
        30
    );
}

#[test]
fn a_release_that_cannot_be_read_is_named() {
    let bench = Bench::new();
    two(&bench);
    std::fs::write(bench.path("new/contents.jsonl.zst"), "").unwrap();
    insta::assert_snapshot!("diff_contents", bench.run(&["diff", "old", "new"]));
    std::fs::write(bench.path("new/sbom.cdx.json"), "[]").unwrap();
    insta::assert_snapshot!("diff_sbom", bench.run(&["diff", "old", "new"]));
    std::fs::write(bench.path("new/root.erofs.index"), "odd").unwrap();
    insta::assert_snapshot!("diff_absent", bench.run(&["diff", "old", "no"]));
}
