//! What a customer of the tests and the demo runs: it sends each datagram back to where it came from.

use std::net::UdpSocket;

fn main() -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:9000")?;
    println!("echoing on port 9000");
    let mut datagram = vec![0; 65536];
    loop {
        let (length, from) = socket.recv_from(&mut datagram)?;
        socket.send_to(&datagram[..length], from)?;
    }
}
