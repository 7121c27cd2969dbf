//! Nodes that don't know the time, and certificates that have ended.

use super::*;
use cairn_system::Command;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SubjectPublicKeyInfo};
use std::path::Path;

const CERTIFICATE: &str = "/agent/identity/certificate.pem";

#[test]
fn a_node_in_1970_enrols_and_one_whose_certificate_has_ended_recovers() -> Result<()> {
    let site = Site::start(&Fleet::ensure()?, "clock")?;
    let mut node = Node::flash(&site, "node-clock", &[FIRST])?;
    node.start_with(|machine| machine.clock("1970-01-01T00:00:00"))?;
    node.is_up(FIRST, "good")?;
    let device = site.online(&node)?;
    // It knows the time now, and so does what it sends.
    let year = node.asks("echo the year: $(date +%Y)")?;
    assert!(!year.contains("the year: 1970"), "{year}");
    site.eventually("telemetry of today", SOON, |site| {
        let last = site.ctl(&["device", "telemetry", &device])?;
        let last = last.to_string();
        ensure!(!last.contains("\"ts\":0"), "{last}");
        Ok(last.contains("\"ts\":1").then_some(()))
    })?;
    node.power_off()?;

    // As if it had been off for long: its certificate has ended, its key has not.
    let before = node.disk().read_data_file(CERTIFICATE)?;
    let ended = ended(&before, &site.data().join("ca"), &device)?;
    node.disk().write_data_file(CERTIFICATE, ended.as_bytes())?;
    node.start()?;
    node.is_up(FIRST, "good")?;
    assert_eq!(site.online(&node)?, device);
    node.power_off()?;
    let after = node.disk().read_data_file(CERTIFICATE)?;
    assert!(
        after != before && after != ended.as_bytes(),
        "it was not renewed"
    );
    Ok(())
}

/// A certificate for the same device and key, that ended last year.
fn ended(certificate: &[u8], ca: &Path, device: &str) -> Result<String> {
    let key = Command::new("openssl").args(["x509", "-noout", "-pubkey"]);
    let key = SubjectPublicKeyInfo::from_pem(&key.stdin(certificate).run()?.text())?;
    let ca_key = KeyPair::from_pem(&std::fs::read_to_string(ca.join("ca.key"))?)?;
    let ca_certificate = std::fs::read_to_string(ca.join("ca.pem"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca_certificate, ca_key)?;
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2025, 4, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, device);
    params.extended_key_usages = [rcgen::ExtendedKeyUsagePurpose::ClientAuth].to_vec();
    Ok(params.signed_by(&key, &issuer)?.pem())
}
