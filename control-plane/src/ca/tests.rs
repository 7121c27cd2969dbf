//! What is believed of a signing request, and what isn't.

use super::request::RequestError;
use super::*;

fn request(key: &KeyPair) -> String {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .pem()
        .unwrap()
}

#[test]
fn every_kind_of_key_that_is_strong_enough_is_signed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::open(&dir.path().join("ca"), 90).unwrap();
    for kind in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let key = KeyPair::generate_for(kind).unwrap();
        let csr = SigningRequest::from_pem(&request(&key)).unwrap();
        let issued = ca.issue_device("a", &csr).unwrap();
        let der = pem::parse(issued.pem).unwrap().into_contents();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(certificate.public_key().raw, csr.public_key());
        assert_eq!(hex::encode(certificate.raw_serial()), issued.serial);
        let (_, root) = x509_parser::parse_x509_certificate(ca.ca_der()).unwrap();
        certificate
            .verify_signature(Some(root.public_key()))
            .unwrap();
    }
}

#[test]
fn a_request_that_is_not_signed_by_its_key_is_refused() {
    let key = KeyPair::generate().unwrap();
    let good = pem::parse(request(&key)).unwrap().into_contents();
    let read = |der: Vec<u8>| {
        SigningRequest::from_pem(&pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der)))
    };
    assert!(read(good.clone()).is_ok());
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(
        read(forged),
        Err(RequestError::Signature | RequestError::Unreadable(_))
    ));
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(read(longer), Err(RequestError::Unreadable(_))));
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        assert!(read(good[..cut].to_vec()).is_err(), "{cut}");
    }
    assert!(SigningRequest::from_pem(&"x".repeat(100_000)).is_err());
    assert!(
        SigningRequest::from_pem(&key.serialize_pem()).is_err(),
        "a key is no request"
    );
}

#[test]
fn an_authority_of_two_halves_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ca");
    Ca::open(&folder, 90).unwrap();
    let other = KeyPair::generate().unwrap();
    std::fs::write(folder.join("ca.key"), other.serialize_pem()).unwrap();
    assert!(matches!(
        Ca::open(&folder, 90),
        Err(CaError::Damaged { .. })
    ));
    std::fs::remove_file(folder.join("ca.key")).unwrap();
    assert!(matches!(Ca::open(&folder, 90), Err(CaError::Missing(_))));
}
