/*!
The internet of a lab: name servers, web servers, echo and discard, on one thread in a
network namespace of their own.
*/

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use super::dns;
use super::namespace::Namespaces;
use super::web;

/// RFC 862.
pub const ECHO: u16 = 7;
/// RFC 863.
pub const DISCARD: u16 = 9;

/// What reached the servers.
#[derive(Default)]
pub struct Log {
    questions: Mutex<Vec<dns::Question>>,
    requests: Mutex<Vec<web::Request>>,
}

impl Log {
    pub fn question(&self, question: dns::Question) {
        // A soak asks for hours.
        if question.name.ends_with(".soak.load.example") {
            return;
        }
        self.questions.lock().unwrap().push(question);
    }

    pub fn request(&self, request: web::Request) {
        self.requests.lock().unwrap().push(request);
    }
}

/// Runs until dropped.
pub struct Internet {
    log: Arc<Log>,
    files: web::Files,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Internet {
    /// Start every server in `namespace`, whose addresses are configured.
    pub fn start(namespace: &Namespaces) -> Self {
        let log = Arc::new(Log::default());
        let files = web::Files::default();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let namespace = namespace.try_clone();
        let (thread_log, thread_files) = (Arc::clone(&log), Arc::clone(&files));
        let thread = std::thread::spawn(move || {
            namespace.enter().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                serve(&thread_log, &thread_files).await;
                ready.send(()).unwrap();
                // Dropped or sent, either ends the internet.
                stopped.await.ok();
            });
        });
        is_ready.recv().expect("the internet could not start");
        Self {
            log,
            files,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn publish(&self, files: HashMap<String, Vec<u8>>) {
        self.files.lock().unwrap().extend(files);
    }

    pub fn questions(&self) -> Vec<dns::Question> {
        self.log.questions.lock().unwrap().clone()
    }

    /// The questions for `name`, in whatever case, and for anything below it.
    pub fn questions_about(&self, name: &str) -> Vec<dns::Question> {
        let below = format!(".{name}");
        let mut questions = self.questions();
        questions.retain(|question| {
            let asked = question.name.to_ascii_lowercase();
            asked == name || asked.ends_with(&below)
        });
        questions
    }

    pub fn requests(&self) -> Vec<web::Request> {
        self.log.requests.lock().unwrap().clone()
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(
                joined.is_ok() || std::thread::panicking(),
                "a server of the lab panicked"
            );
        }
    }
}

async fn serve(log: &Arc<Log>, files: &web::Files) {
    for (address, temper) in dns::servers() {
        let udp = UdpSocket::bind((address, 53)).await.unwrap();
        tokio::spawn(dns::serve_udp(udp, temper, Arc::clone(log)));
        let tcp = listen(address, 53);
        tokio::spawn(dns::serve_tcp(tcp, temper, Arc::clone(log)));
    }
    // Bound to [::], the sockets answer for every address of both families.
    let any = Ipv6Addr::UNSPECIFIED.into();
    for (port, tls) in [(80, false), (8080, false), (443, true)] {
        let listener = listen(any, port);
        tokio::spawn(web::serve(
            listener,
            tls,
            Arc::clone(files),
            Arc::clone(log),
        ));
    }
    tokio::spawn(accept(listen(any, ECHO), true));
    tokio::spawn(accept(listen(any, DISCARD), false));
    for port in [ECHO, DISCARD] {
        for address in [
            IpAddr::from([203, 0, 113, 20]),
            IpAddr::from([203, 0, 113, 99]),
            IpAddr::from([198, 51, 100, 10]),
        ] {
            let socket = UdpSocket::bind((address, port)).await.unwrap();
            tokio::spawn(datagrams(socket));
        }
    }
}

fn listen(address: IpAddr, port: u16) -> TcpListener {
    let socket = match address {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((address, port).into()).unwrap();
    socket.listen(1024).unwrap()
}

async fn accept(listener: TcpListener, echo: bool) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(async move {
            // The client decides when it has had enough.
            drain(stream, echo).await.ok();
        });
    }
}

async fn drain(mut stream: TcpStream, echo: bool) -> std::io::Result<()> {
    let (mut from, mut to) = stream.split();
    if echo {
        tokio::io::copy(&mut from, &mut to).await?;
        return Ok(());
    }
    let mut buffer = vec![0; 256 * 1024];
    while from.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Echo what comes, unless it comes to the discard port.
async fn datagrams(socket: UdpSocket) {
    let echo = socket.local_addr().unwrap().port() == ECHO;
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error of an earlier echo surfaces here; the next datagram is unharmed.
        if let Ok((len, client)) = socket.recv_from(&mut buffer).await
            && echo
        {
            socket.send_to(&buffer[..len], client).await.ok();
        }
    }
}
