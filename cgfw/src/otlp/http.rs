//! How requests are sent: by a client that blocks, which the threads of the SDK may.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::books::Books;

#[derive(Clone, Debug)]
pub(super) struct Http {
    agent: Agent,
    books: Arc<Books>,
}

impl Http {
    /// `timeout` is that of one request. Certificates are judged by what the host trusts.
    pub(super) fn new(timeout: Duration, books: Arc<Books>) -> Self {
        let roots = RootCerts::PlatformVerifier;
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .user_agent(concat!("cgfw/", env!("CARGO_PKG_VERSION")))
            // What came back is for the exporter to judge.
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        Self { agent, books }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let response = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = response.into_parts();
        Ok(Response::from_parts(head, body.read_to_vec()?.into()))
    }
}

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let result = self.send(request);
        // The exporter keeps neither of these to itself.
        match &result {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self.books.fail(format!("it answers {}", response.status())),
            Err(error) => self.books.fail(error.to_string()),
        }
        Ok(result?)
    }
}
