//! A stub of a venue: takes orders over TCP, says what became of them, and prints every order with the time at which it had
//! it, a line of JSON each: `{"id":…,"sent_ns":…,"received_ns":…,"gateway":"…"}`. Both times are `CLOCK_MONOTONIC`, so they compare
//! with each other and with haltline's receipts on the same host.
//!
//! `venue [ADDRESS]` (default 127.0.0.1:0); the first line says where it listens, others that a gateway's connection was closed.
//!
//! Orders are lines `new ID INSTRUMENT SIDE QTY PX SENT_NS`. Every one is answered by `ack ID`, and then by `fill ID EXEC QTY PX`
//! if the id can be divided by ten, else by `expired ID`: what does not trade at once expires. But the first orders of a
//! connection whose id ends with 5 rest: they work until a line `cancel ID`, which is answered by `canceled ID`.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

static EXECUTIONS: AtomicU64 = AtomicU64::new(1);
/// Orders of a connection that rest.
const RESTING: usize = 16;

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(&address)?;
    println!("{{\"listening\":\"{}\"}}", listener.local_addr()?);
    for gateway in listener.incoming() {
        let gateway = gateway?;
        std::thread::spawn(move || {
            let peer = gateway.peer_addr().map_or_else(|error| error.to_string(), |peer| peer.to_string());
            if let Err(error) = serve(gateway) {
                eprintln!("a gateway's connection ended: {error}");
            }
            println!("{{\"closed\":\"{peer}\"}}");
        });
    }
    Ok(())
}

fn serve(mut gateway: TcpStream) -> std::io::Result<()> {
    gateway.set_nodelay(true)?;
    let peer = gateway.peer_addr()?;
    let mut bytes = vec![0; 64 * 1024];
    let mut begun = Vec::new();
    let (mut resting, mut rested) = (HashSet::new(), 0);
    loop {
        let len = gateway.read(&mut bytes)?;
        let received_ns = clock();
        if len == 0 {
            return Ok(());
        }
        begun.extend_from_slice(&bytes[..len]);
        let Some(end) = begun.iter().rposition(|&b| b == b'\n') else { continue };
        let rest = begun.split_off(end + 1);
        let (mut captured, mut answers) = (String::new(), String::new());
        for line in String::from_utf8_lossy(&begun).lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["cancel", id] = words[..] {
                if resting.remove(id) {
                    answers += &format!("canceled {id}\n");
                }
                continue;
            }
            let ["new", id, _instrument, _side, qty, px, sent_ns] = words[..] else {
                eprintln!("{peer} sent what is no order: {line:?}");
                continue;
            };
            captured += &format!(
                "{{\"id\":{id},\"sent_ns\":{sent_ns},\"received_ns\":{received_ns},\"gateway\":\"{peer}\"}}\n"
            );
            answers += &format!("ack {id}\n");
            if id.ends_with('5') && rested < RESTING {
                rested += 1;
                resting.insert(id.to_owned());
            } else if id.ends_with('0') {
                answers += &format!("fill {id} {} {qty} {px}\n", EXECUTIONS.fetch_add(1, Ordering::Relaxed));
            } else {
                answers += &format!("expired {id}\n");
            }
        }
        begun = rest;
        // The capture first: whoever reads it misses nothing that the gateway knows of.
        std::io::stdout().lock().write_all(captured.as_bytes())?;
        gateway.write_all(answers.as_bytes())?;
    }
}

/// `CLOCK_MONOTONIC` in ns.
fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
