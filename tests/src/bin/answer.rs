//! A customer's service in a container: it answers each datagram at port 7000 as that asks for. Its first byte says by how
//! many datagrams, the next two how long they are.

use std::net::UdpSocket;

fn main() -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:7000")?;
    println!("ready");
    let mut datagram = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut datagram)?;
        let [count, high, low] = [datagram[0], datagram[1], datagram[2]];
        let answer = vec![7; usize::from(u16::from_be_bytes([high, low]))];
        for _ in 0..if length < 3 { 0 } else { count } {
            socket.send_to(&answer, from)?;
        }
    }
}
