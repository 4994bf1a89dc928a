/*!
The lab's web servers: HTTP and HTTPS on every address of the internet side, under the
lab's own certificate authority.
*/

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::internet::Log;

/// The names and addresses that the web servers can prove to be.
const SUBJECTS: [&str; 14] = [
    "github.com",
    "api.github.com",
    "notgithub.com",
    "example.com",
    "allowed.example",
    "v6only.example",
    "alias.example",
    "cdn.example",
    "chain.example",
    "shared.example",
    "update.example",
    "big.example",
    "203.0.113.20",
    "198.51.100.10",
];

/// The certificate authority of this test process.
struct Authority {
    root_pem: String,
    config: Arc<ServerConfig>,
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    // A root and a leaf of the same name would look like one self-signed certificate.
    params
        .distinguished_name
        .push(DnType::CommonName, "lab root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(SUBJECTS.map(str::to_owned))
        .unwrap()
        .signed_by(&key, &root)
        .unwrap();
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    Authority {
        root_pem: root.pem(),
        config: Arc::new(config),
    }
});

/// What the clients of the lab must trust, as PEM.
pub fn root_certificate() -> &'static str {
    &AUTHORITY.root_pem
}

/// One HTTP request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
}

/// Files by path, for what is more than a greeting.
pub type Files = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Serve HTTP, or HTTPS, until the runtime ends.
pub async fn serve(listener: TcpListener, tls: bool, files: Files, log: Arc<Log>) {
    let acceptor = TlsAcceptor::from(Arc::clone(&AUTHORITY.config));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, files, log) = (acceptor.clone(), Arc::clone(&files), Arc::clone(&log));
        tokio::spawn(async move {
            let visit = Visit { files, log };
            if tls {
                visit.answer(acceptor.accept(stream).await?).await
            } else {
                visit.answer(stream).await
            }
        });
    }
}

struct Visit {
    files: Files,
    log: Arc<Log>,
}

impl Visit {
    /// Answer one request and close.
    async fn answer(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < 16 * 1024 {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        let path = head.split_whitespace().nth(1).unwrap_or("/").to_owned();
        let host = head
            .lines()
            .find_map(|line| line.strip_prefix("Host: "))
            .unwrap_or_default()
            .to_owned();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, length)| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        let (status, body) = self.page(&path, &host);
        self.log.request(Request { path });
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await
    }

    fn page(&self, path: &str, host: &str) -> (&'static str, Vec<u8>) {
        let bare = path.split('?').next().unwrap_or(path);
        if let Some(file) = self.files.lock().unwrap().get(bare) {
            return ("200 OK", file.clone());
        }
        if bare.starts_with("/repository.git/") {
            return ("404 Not Found", Vec::new());
        }
        ("200 OK", format!("hello from {host}\n").into_bytes())
    }
}
