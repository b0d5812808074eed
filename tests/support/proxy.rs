//! A proxy between a process and a server, to cut and delay their traffic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards everything until it is cut.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    /// Ended with the proxy.
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    /// Delay before each piece is forwarded, in milliseconds.
    delay: AtomicU64,
    /// Incremented to end all connections.
    cuts: watch::Sender<u64>,
    /// For one commit.
    trap: Mutex<Option<Trap>>,
}

/// Cuts a database connection at the commit of the transaction that contains a text.
struct Trap {
    text: &'static str,
    /// Whether the server receives the commit, so that only its answer is lost.
    reaches: bool,
}

impl State {
    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Proxy {
    /// A proxy for the host and port of a URL.
    pub async fn to(address: &str) -> Self {
        let url = url::Url::parse(address).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let cut = state.cuts.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if shared.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let (target, shared, mut cut) = (target.clone(), Arc::clone(&shared), cut.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    let is_deaf = AtomicBool::new(false);
                    tokio::select! {
                        () = pass(near_in, far_out, &shared, Direction::There { is_deaf: &is_deaf }) => {}
                        () = pass(far_in, near_out, &shared, Direction::Back { is_deaf: &is_deaf }) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, state, task }
    }

    /// The same URL, through the proxy.
    pub fn address(&self, address: &str) -> String {
        let mut url = url::Url::parse(address).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.to_string()
    }

    /// Ends all connections, and new ones too, until `mend`.
    pub fn cut(&self) {
        self.state.cut();
    }

    /// Ends all connections at the next commit of a transaction in which `text` was sent, and new ones too, until
    /// `mend`. `reaches`: the database receives the commit, and only its answer is lost.
    pub fn cut_at_commit(&self, text: &'static str, reaches: bool) {
        *self.state.trap.lock().unwrap() = Some(Trap { text, reaches });
    }

    /// Whether the commit has arrived.
    pub fn is_cut(&self) -> bool {
        self.state.is_cut.load(Ordering::SeqCst)
    }

    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }

    pub fn delay(&self, by: Duration) {
        self.state.delay.store(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

/// The direction, and whether data from the server is dropped.
enum Direction<'a> {
    There { is_deaf: &'a AtomicBool },
    Back { is_deaf: &'a AtomicBool },
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    state: &State,
    way: Direction<'_>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut is_meant = false;
    while let Ok(count) = from.read(&mut buffer).await {
        let delay = state.delay.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        match way {
            Direction::There { is_deaf } => {
                if let Some(reaches) = springs(&buffer[..count], &mut is_meant, state) {
                    if !reaches {
                        state.cut();
                        return;
                    }
                    is_deaf.store(true, Ordering::SeqCst);
                }
            }
            // The answer to the commit: its outcome is certain now.
            Direction::Back { is_deaf } if is_deaf.load(Ordering::SeqCst) => {
                state.cut();
                return;
            }
            Direction::Back { .. } => {}
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Whether this is the commit that the trap waits for; the value tells whether the commit reaches the database.
/// `is_meant`: the text was sent in this connection.
fn springs(sent: &[u8], is_meant: &mut bool, state: &State) -> Option<bool> {
    let mut trap = state.trap.lock().unwrap();
    let wanted = trap.as_ref()?;
    let has = |text: &str| sent.windows(text.len()).any(|part| part == text.as_bytes());
    *is_meant |= has(wanted.text);
    if !*is_meant || !has("COMMIT") {
        return None;
    }
    trap.take().map(|trap| trap.reaches)
}
