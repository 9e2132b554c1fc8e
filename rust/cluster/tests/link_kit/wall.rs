//! A wire to a node that can be cut as a dead switch cuts it: nothing comes through, nobody is told,
//! and no new connection opens.

use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Stands before a node. What was under way when it closed goes on when it opens, as TCP does.
pub struct Wall {
    pub address: String,
    is_closed: watch::Sender<bool>,
    fillers: Mutex<Vec<TcpStream>>,
    runtime: Runtime,
}

impl Wall {
    pub fn start(target: String) -> Self {
        let runtime = super::one_thread();
        let listener = runtime.block_on(async {
            let socket = TcpSocket::new_v4().expect("socket");
            let any = "127.0.0.1:0".parse().expect("address");
            socket.bind(any).expect("bind");
            // A full queue drops the SYN of whoever comes next.
            socket.listen(1).expect("listen")
        });
        let address = listener.local_addr().expect("address").to_string();
        let (is_closed, closed) = watch::channel(false);
        runtime.spawn(accept(listener, target, closed));
        Self {
            address,
            is_closed,
            fillers: Mutex::default(),
            runtime,
        }
    }

    /// Nothing comes through; connections still open, as with a stopped process.
    pub fn stall(&self) {
        self.is_closed.send_replace(true);
    }

    /// Nothing comes through.
    pub fn close(&self) {
        self.stall();
        let mut fillers = self.fillers.lock().expect("fillers");
        self.runtime.block_on(async {
            loop {
                let opened = TcpStream::connect(&self.address);
                let opened = tokio::time::timeout(Duration::from_millis(300), opened);
                let Ok(Ok(filler)) = opened.await else { return };
                fillers.push(filler);
            }
        });
    }

    /// All is well.
    pub fn open(&self) {
        self.fillers.lock().expect("fillers").clear();
        self.is_closed.send_replace(false);
    }
}

async fn accept(listener: TcpListener, target: String, mut closed: watch::Receiver<bool>) {
    loop {
        if closed.wait_for(|is_closed| !is_closed).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            changed = closed.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            accepted = listener.accept() => {
                let (near, _) = accepted.expect("accepted");
                let (target, closed) = (target.clone(), closed.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let (near_from, near_into) = near.into_split();
                    let (far_from, far_into) = far.into_split();
                    tokio::select! {
                        () = copy(near_from, far_into, closed.clone()) => {}
                        () = copy(far_from, near_into, closed) => {}
                    }
                });
            }
        }
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut into: tokio::net::tcp::OwnedWriteHalf,
    mut closed: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut bytes).await;
        if closed.wait_for(|is_closed| !is_closed).await.is_err() {
            return;
        }
        match read {
            Ok(read) if read > 0 => {
                if into.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
