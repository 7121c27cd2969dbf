//! At work, where nobody stands beside: a customer's workload and its disk come back by
//! themselves.

use std::fs::File;
use std::path::Path;

use cairn_tests::customer::{self, Client};
use cairn_tests::node::BOOT;
use cairn_tests::operator::items;
use cairn_tests::registry::Registry;
use cairn_tests::site::HOST;
use cairn_tests::vm::VmBuilder;
use serde_json::{Value, json};

use super::*;

/// The port of the node at which the customer's clients ask.
const PORT: u16 = 8001;
/// Where the node's second disk is mounted.
const MOUNT: &str = "/var/mnt/cache";

#[test]
fn after_a_power_cut_a_node_is_at_work_again_without_a_control_plane() -> Result<()> {
    let mut site = Site::start(&Fleet::ensure()?, "work")?;
    let mut node = Node::flash(&site, "work", &[DOCKER])?;
    let dir = tempfile::tempdir()?;
    let disk = dir.path().join("cache.img");
    File::create(&disk)?.set_len(256 << 20)?;
    let here = customer::free_port()?;
    node.forward(here, PORT);
    node.start_with(|machine| with_disk(machine, &disk))?;
    let registry = Registry::start()?;
    let image = registry.publish(HOST, "cdn", &customer::program()?)?;
    node.is_up(DOCKER, "good")?;
    let device = site.online(&node)?;

    // A disk, and a workload that keeps its files on it.
    node.set("60-work", "[workloads]\nhost-paths = [\"/var/mnt\"]")?;
    site.declare(&["device", "disks", &device, "--set"], &layout())?;
    site.declare(&["workload", "set", "cdn"], &workload(&device, &image))?;
    site.eventually("the disk is laid out", BOOT, |site| {
        let disks = site.ctl(&["device", "disks", &device])?;
        ensure!(disks["states"][0]["state"] == "applied", "{disks}");
        Ok(Some(()))
    })?;
    runs(&site, &device)?;
    let mut client = Client::new(here)?;
    client.exchange(10, 1000)?;
    ensure!(node.does(&format!("echo kept >{MOUNT}/file && sync"))?);
    let first = node.asks("docker ps --no-trunc --format '{{.ID}} {{.Names}}'")?;
    ensure!(first.contains("cairn-cdn"), "{first}");

    // Nobody is there to ask when it comes back.
    site.kill();
    drop(registry);
    node.cut_power();
    node.start_with(|machine| with_disk(machine, &disk))?;
    node.is_up(DOCKER, "good")?;
    client.until_answered(BOOT)?;
    client.exchange(10, 1000)?;
    ensure!(node.does(&format!("findmnt {MOUNT} && grep kept {MOUNT}/file"))?);
    let unit =
        node.asks("systemctl show --property=ActiveState,FragmentPath var-mnt-cache.mount")?;
    ensure!(
        unit.contains("ActiveState=active") && unit.contains("/etc/systemd/system/"),
        "{unit}"
    );
    // What the agent itself has put into /etc is no sign of tampering.
    let status = node.asks("cairn-agent status")?;
    ensure!(
        node.does(r#"cairn-agent status --json | grep -Eq '"tamper.etc": 0,?$'"#)?,
        "{status}"
    );
    // It is the same Docker container, not one made anew: nobody could have pulled its image.
    let second = node.asks("docker ps --no-trunc --format '{{.ID}} {{.Names}}'")?;
    ensure!(second.contains(id(&first)?), "{first} became {second}");

    // And it says so when there is somebody again.
    site.serve()?;
    ensure!(site.online(&node)? == device);
    runs(&site, &device)?;
    client.exchange(10, 1000)?;
    node.power_off()?;
    node.disk().fsck()
}

fn with_disk(machine: VmBuilder, disk: &Path) -> VmBuilder {
    machine
        .arg("-drive")
        .arg(format!(
            "if=none,id=cache,format=raw,file={}",
            disk.display()
        ))
        .arg("-device")
        .arg("virtio-blk-pci,drive=cache,serial=CACHE1")
}

fn layout() -> Value {
    let partition =
        json!({ "name": "objects", "size": "rest", "file_system": "ext4", "mount": MOUNT });
    json!([{ "name": "cache", "find": { "serial": "CACHE1" }, "partitions": [partition] }])
}

fn workload(device: &str, image: &str) -> Value {
    let place = json!({ "on": { "devices": [device] } });
    let mut workload = customer::workload(&place, "acme", "cdn", image, PORT);
    workload["volumes"] = json!([{ "host_path": MOUNT, "target": "/www" }]);
    workload
}

fn runs(site: &Site, device: &str) -> Result<()> {
    site.eventually("the workload runs", BOOT, |site| {
        let list = site.ctl(&["workload", "list", "--device", device])?;
        ensure!(items(&list)[0]["state"] == "running", "{list}");
        Ok(Some(()))
    })
}

/// The id of the workload's Docker container, in what `docker ps` printed.
fn id(listed: &str) -> Result<&str> {
    let line = listed.lines().find(|line| line.contains("cairn-cdn"));
    line.and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("no Docker container in {listed}"))
}
