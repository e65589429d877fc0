//! TLS to PostgreSQL with libpq's checks of certificates. The only file that names `rustls`.
//!
//! The TLS is that of the HTTP clients, so the program needs no other library.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;
use super::url::{Roots, SslMode, Tls};

/// The CAs that a Debian system trusts (package ca-certificates). Like OpenSSL, the environment
/// variable `SSL_CERT_FILE` names another file.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Makes what encrypts connections. Reads the certificates anew, so that a new CA needs no restart.
pub(super) fn connector(tls: &Tls) -> Result<MakeRustlsConnect, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier {
        provider: Arc::clone(&provider),
        roots: tls.roots.as_ref().map(read_roots).transpose()?,
        names: tls.mode == SslMode::VerifyFull,
    };
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = versions
        .map_err(|error| Error::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

/// Returns the file of the CAs that may have signed the server's certificate.
pub(super) fn roots_file(tls: &Tls) -> Option<String> {
    let roots = tls.roots.as_ref()?;
    Some(match roots {
        Roots::File(path) => path.display().to_string(),
        Roots::System => system_roots().to_string_lossy().into_owned(),
    })
}

fn system_roots() -> OsString {
    std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| SYSTEM_ROOTS.into())
}

fn read_roots(roots: &Roots) -> Result<RootCertStore, Error> {
    let system = system_roots();
    let (path, advice) = match roots {
        Roots::File(path) => (
            &**path,
            "write the certificate of the server's CA into it, in PEM",
        ),
        Roots::System => (Path::new(&system), "install the package ca-certificates"),
    };
    let wrong =
        |what: String| Error::Tls(format!("sslrootcert {}: {what}; {advice}", path.display()));
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    let (added, _) = store.add_parsable_certificates(certificates);
    match added {
        0 => Err(wrong("no certificate in it".to_owned())),
        _ => Ok(store),
    }
}

/// Checks a server's certificate as far as `sslmode` asks for.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None`: every certificate is accepted.
    roots: Option<RootCertStore>,
    /// The certificate must be valid for the server's name.
    names: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                algorithms,
            )?;
            if self.names {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Returns what to do about a failed handshake, for a message; empty if the error is no such
/// failure.
pub(super) fn advice(error: &postgres::Error) -> String {
    let Some(source) = std::error::Error::source(error).filter(|_| is_of_handshake(error)) else {
        return String::new();
    };
    if source.to_string() == "server does not support TLS" {
        return "; set `ssl = on` in the server's postgresql.conf, or write sslmode=disable to \
                connect without TLS"
            .to_owned();
    }
    let cause = source
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(problem)) = cause else {
        return String::new();
    };
    match problem {
        CertificateError::UnknownIssuer => {
            "; the CA of sslrootcert has not signed the server's certificate: let sslrootcert name \
             the certificate of its CA"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "; write a host name into the URL that the server's certificate has as \
             subjectAltName, or use sslmode=verify-ca"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "; renew the server's certificate, or correct the clock of this host"
        }
        _ => {
            "; give the server a certificate of X.509 version 3 that is not one of a CA \
             (basicConstraints=CA:FALSE), with its host name as subjectAltName"
        }
    }
    .to_owned()
}

/// Returns whether the server has no TLS, or a handshake failed.
pub(super) fn is_of_handshake(error: &postgres::Error) -> bool {
    error
        .to_string()
        .starts_with("error performing TLS handshake")
}
