//! Who listens at an address, from the kernel's tables of sockets.
//!
//! `/proc/net/tcp` and `tcp6` have every listening socket with its number, and each process
//! has its sockets among its open files, which root and their owner may see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use doctor::{Holder, Port};
use hardware::Root;

/// The state of a socket that waits for connections.
const LISTEN: &str = "0A";

/// Who listens where a server at `address` would; `None` where nobody does. Port 0 is any
/// that is free.
pub(super) fn taken(root: &Root, address: SocketAddr) -> Option<Port> {
    if address.port() == 0 {
        return None;
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text: String = tables.iter().filter_map(|path| root.text(path)).collect();
    let socket = text.lines().find_map(|line| listener(line, address))?;
    Some(Port {
        address,
        holder: holder(root, &format!("socket:[{socket}]")),
    })
}

/// The number of a listening socket that is in the way.
fn listener(line: &str, wanted: SocketAddr) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let is_listening = fields.nth(1)? == LISTEN;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = address(ip)?.to_canonical();
    let own = wanted.ip().to_canonical();
    let meets = ip == own || ip.is_unspecified() || own.is_unspecified();
    (is_listening && port == wanted.port() && meets)
        .then(|| fields.nth(5))
        .flatten()
}

/// Words of 32 bits, each as the processor has them in memory.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn holder(root: &Root, socket: &str) -> Option<Holder> {
    for name in root.names("/proc") {
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        let files = format!("/proc/{pid}/fd");
        let mut numbers = root.names(&files).into_iter();
        if numbers.any(|number| root.link(&format!("{files}/{number}")).as_deref() == Some(socket))
        {
            let program = root.line(&format!("/proc/{pid}/comm"));
            let program = program.unwrap_or_else(|| "an unnamed program".to_owned());
            return Some(Holder { pid, program });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use hardware::Recording;

    use super::*;

    const RECORDING: &str = "\
/proc/net/tcp:
|   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
|    0: 0100007F:2CC4 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1
|    1: 0100007F:2CC5 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4243 1
/proc/net/tcp6:
|   sl  local_address                         remote_address                        st
|    0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5151 1
/proc/77/fd/0 -> /dev/null
/proc/77/fd/9 -> socket:[4242]
/proc/77/comm = sextant
/proc/78/comm = other
";

    #[test]
    fn listeners_and_their_processes_are_found() {
        let root = Root::recorded(Recording::parse(RECORDING).unwrap());
        let taken = |address: &str| taken(&root, address.parse().unwrap());
        let holder = Holder {
            pid: 77,
            program: "sextant".to_owned(),
        };
        assert_eq!(taken("127.0.0.1:11460").unwrap().holder, Some(holder));
        // All addresses are that one too.
        assert!(taken("0.0.0.0:11460").is_some());
        assert!(taken("[::]:11460").is_some());
        assert_eq!(taken("127.0.0.2:11460"), None);
        // A connection is no listener.
        assert_eq!(taken("127.0.0.1:11461"), None);
        // Whose it is cannot be seen.
        assert_eq!(taken("127.0.0.1:8080").unwrap().holder, None);
        assert_eq!(taken("127.0.0.1:0"), None);
    }
}
