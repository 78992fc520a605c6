//! A stub resolver that asks fast: `dns_load SERVER:PORT FIRST COUNT OUT_OF WINDOW`.
//!
//! Asks for the A records of COUNT names `n<i>.ok.test`, i from FIRST on, modulo OUT_OF, with WINDOW
//! queries on their way, and prints queries/s, the 50th and 99th percentile in microseconds, and
//! how many got no address. Standard library only: `rustc -O benches/dns_load.rs`.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message[..2].copy_from_slice(&id.to_be_bytes());
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |n: usize| arguments[n].parse::<usize>().expect("a number");
    let (first, count, out_of, window) = (number(2), number(3), number(4), number(5));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(&arguments[1]).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(1000)))
        .unwrap();
    let mut sent_at = vec![Instant::now(); 65_536];
    let mut times = Vec::with_capacity(count);
    let (mut sent, mut done, mut bad) = (0, 0, 0);
    let mut buffer = [0; 4096];
    let begun = Instant::now();
    while done < count {
        while sent < count && sent - done < window {
            let name = format!("n{}.ok.test", (first + sent) % out_of);
            sent_at[sent % 65_536] = Instant::now();
            socket.send(&query(sent as u16, &name)).unwrap();
            sent += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                times.push(sent_at[id].elapsed());
                bad += usize::from(buffer[3] & 15 != 0 || buffer[7] == 0);
                done += 1;
            }
            Err(_) => {
                bad += sent - done;
                done = sent;
            }
        }
    }
    let took = begun.elapsed();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_micros();
    println!(
        "{:.0} {} {} {bad}",
        count as f64 / took.as_secs_f64(),
        at(50),
        at(99)
    );
}
