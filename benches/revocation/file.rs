//! How soon a gateway with many revocations in its file serves after a kill.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::field::{Connection, Running, SECRET, free_port, tokens, upstream, yaml};

/// Fills a file, kills the gateway that writes to it, and measures how soon the next one serves.
pub fn measure(count: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("secret"), SECRET).expect("a secret");
    let (port, admin) = (free_port(), free_port());
    let config = folder.path().join("gateway.yaml");
    std::fs::write(&config, yaml(port, admin, "file:store.db", upstream())).expect("a configuration");
    fill(&folder.path().join("store.db"), count);
    let [good, dead] = &tokens(2)[..] else { panic!("two tokens") };
    for turn in 0..5 {
        let started = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
        command.args(["run", "--workers", "1", "--config"]).arg(&config).stdout(Stdio::null());
        let running = Running(command.spawn().expect("it starts"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect(address);
        while stream.is_err() {
            std::thread::sleep(Duration::from_millis(1));
            stream = TcpStream::connect(address);
        }
        let mut connection = Connection::open(address);
        connection.ask(good);
        assert_eq!(connection.status(), 200);
        let ready = started.elapsed();
        connection.ask(dead);
        assert_eq!(connection.status(), if turn == 0 { 200 } else { 401 });
        println!("{count} revocations in the file: serves after {:.0} ms", ready.as_secs_f64() * 1000.0);
        let body = r#"{"jti":"t1"}"#;
        let head = "POST /revocations HTTP/1.1\r\nhost: admin\r\ncontent-type: application/json";
        let mut admin = Connection::open(SocketAddr::from(([127, 0, 0, 1], admin)));
        admin
            .stream
            .write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
            .expect("it is open");
        assert_eq!(admin.status(), 200);
        // Kill -9.
        drop(running);
    }
}

fn fill(path: &std::path::Path, count: usize) {
    let (file, writer) = bearward::store::File::new(path.to_owned());
    writer.start().expect("a file");
    let store = bearward::store::Store::File(std::sync::Arc::new(file));
    let ends =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_millis() as u64 + 3_600_000;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let started = Instant::now();
    let store = std::rc::Rc::new(store);
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let writers = (0..1024).map(|writer| {
            let store = std::rc::Rc::clone(&store);
            tokio::task::spawn_local(async move {
                for number in (writer..count).step_by(1024) {
                    let key = format!("blacklist:filled-{number:032x}");
                    store.mark(&key, bearward::store::Mark::Presence, ends).await.expect("written");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("it ends");
        }
    });
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(path).expect("a file").len() >> 20;
    println!("{count} revocations written by 1,024 at a time: {rate:.0} a second, {bytes} MiB");
}
