//! Measures what runs behind a connection of this host: the SHA-256 of the process's executable.
//!
//! The process is known by the kernel's word: the credentials of a Unix socket, or the owner of the other end of a loopback TCP
//! connection. `/proc/PID/exe` is opened, not looked up by a name: what is read is the very file that runs, even if it was replaced
//! or removed since. A number that belongs to another process by then is found out with a descriptor of the process
//! ([pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)): while that process lives its number is its own.
//!
//! What this does not show: libraries that the process loads, scripts that an interpreter reads (the digest is the
//! interpreter's), and what a process that may write its own memory makes of itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sha2::{Digest as _, Sha256};

use crate::guard::attest::Measured;
use crate::guard::door::Peer;

/// Executables larger than this are not read.
const SIZE_MAX: u64 = 4 << 30;
/// Files whose digest is remembered.
const CACHED_MAX: usize = 1_024;

/// What a file is, short of its content. The time of the last change is the kernel's own: nobody can set it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileId {
    dev: u64,
    ino: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Takes digests, and remembers them by file.
#[derive(Debug, Default)]
pub(super) struct Measurer {
    cache: HashMap<FileId, [u8; 32]>,
}

impl Measurer {
    /// The digest of what runs at the other end, and who that is in words. Reads files: not for a thread that others wait for.
    pub(super) fn measure(&mut self, peer: &Peer) -> (Measured, String) {
        match peer {
            Peer::Process { pid, process } => (self.process(*pid, process), peer.to_string()),
            Peer::Tcp { remote, local } => self.tcp(*remote, *local),
            Peer::Unknown => (Measured::Not("it is not known who it is".to_owned()), peer.to_string()),
        }
    }

    fn process(&mut self, pid: u32, process: &OwnedFd) -> Measured {
        let exe = match File::open(format!("/proc/{pid}/exe")) {
            Ok(exe) => exe,
            Err(error) => return Measured::Not(format!("the executable of process {pid} cannot be read ({error})")),
        };
        // After it was opened: a process that lives now lived then, and the number was its own.
        if has_ended(process) {
            return Measured::Not(format!("process {pid} has ended"));
        }
        match self.digest(exe) {
            Ok(digest) => Measured::Digest(digest),
            Err(why) => Measured::Not(format!("the executable of process {pid} {why}")),
        }
    }

    fn tcp(&mut self, remote: SocketAddr, local: SocketAddr) -> (Measured, String) {
        let from = remote.to_string();
        let here = remote.ip().to_canonical();
        if !here.is_loopback() && here != local.ip().to_canonical() {
            return (Measured::Not("it is on another host".to_owned()), from);
        }
        let Some(inode) = socket_inode(remote, local) else {
            return (Measured::Not("the other end of its connection was not found on this host".to_owned()), from);
        };
        let owners = owners_of(inode);
        let mut found: Option<(Measured, u32)> = None;
        for (pid, process) in owners {
            let measured = self.process(pid, &process);
            match &found {
                Some((before, _)) if *before != measured => {
                    let why = "several processes that run different executables hold its connection";
                    return (Measured::Not(why.to_owned()), from);
                }
                Some(_) => {}
                None => found = Some((measured, pid)),
            }
        }
        match found {
            Some((measured, pid)) => (measured, format!("pid {pid}")),
            None => (Measured::Not("the process at the other end may not be looked at".to_owned()), from),
        }
    }

    fn digest(&mut self, mut file: File) -> Result<[u8; 32], String> {
        let id = FileId::of(&file)?;
        if let Some(digest) = self.cache.get(&id) {
            return Ok(*digest);
        }
        if id.size > SIZE_MAX {
            return Err(format!("has {} bytes, more than {SIZE_MAX}", id.size));
        }
        let mut hasher = Sha256::new();
        let mut bytes = vec![0; 1 << 16];
        loop {
            match file.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => hasher.update(&bytes[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("cannot be read ({error})")),
            }
        }
        if FileId::of(&file)? != id {
            return Err("changed while it was read".to_owned());
        }
        let digest = hasher.finalize().into();
        if self.cache.len() >= CACHED_MAX {
            self.cache.clear();
        }
        self.cache.insert(id, digest);
        Ok(digest)
    }
}

impl FileId {
    fn of(file: &File) -> Result<FileId, String> {
        let found = file.metadata().map_err(|error| format!("cannot be looked at ({error})"))?;
        if !found.is_file() {
            return Err("is not a file".to_owned());
        }
        Ok(FileId {
            dev: found.dev(),
            ino: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// The SHA-256 of the file at `path`, as a pipeline wants it in a manifest.
///
/// # Errors
/// Why it cannot be read, in words.
pub fn digest_of(path: &Path) -> Result<[u8; 32], String> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Measurer::default().digest(file).map_err(|why| format!("{} {why}", path.display()))
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    // If the kernel does not say, it may have.
    rustix::event::poll(&mut fds, Some(&now)).map_or(true, |n| n > 0)
}

/// The number of the socket at `remote` that is connected to `local`.
fn socket_inode(remote: SocketAddr, local: SocketAddr) -> Option<u64> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    tables.iter().find_map(|table| inode_in(&std::fs::read_to_string(table).ok()?, remote, local))
}

/// The same in the text of a table, where ours is theirs: its local address is our remote one.
fn inode_in(table: &str, remote: SocketAddr, local: SocketAddr) -> Option<u64> {
    let same = |text: &str, address: SocketAddr| {
        parse_address(text).is_some_and(|(ip, port)| ip == address.ip().to_canonical() && port == address.port())
    };
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (own, other) = (words.nth(1)?, words.next()?);
        let inode: u64 = words.nth(6)?.parse().ok()?;
        (same(own, remote) && same(other, local) && inode != 0).then_some(inode)
    })
}

/// `0100007F:1F90`: the words of the address as the host holds them, then the port.
fn parse_address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((ip, port))
}

/// The processes that hold the socket with this number, as far as we may look.
fn owners_of(inode: u64) -> Vec<(u32, OwnedFd)> {
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
    };
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds(*pid))
        .filter_map(|pid| {
            let process = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
            // Once more, now that the number can be no other's.
            holds(pid).then_some((pid, process))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use super::*;

    fn process(pid: u32) -> OwnedFd {
        pidfd_open(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), PidfdFlags::empty()).unwrap()
    }

    #[test]
    fn the_digest_is_that_of_the_file_that_runs_also_when_another_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway");
        std::fs::copy("/bin/cat", &path).unwrap();
        let expected = digest_of(&path).unwrap();
        assert_eq!(digest_of(Path::new("/bin/cat")), Ok(expected));
        let mut command = Command::new(&path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // The file counts as being written as long as a process that another test starts has not let go of what it inherited.
        let mut child = loop {
            match command.spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                started => break started.unwrap(),
            }
        };
        let fd = process(child.id());
        // A new build in its place, of which nothing runs yet.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another build").unwrap();
        let mut measurer = Measurer::default();
        assert_eq!(measurer.process(child.id(), &fd), Measured::Digest(expected));
        assert_ne!(digest_of(&path), Ok(expected));
        assert_eq!(measurer.cache.len(), 1);
        drop(child.stdin.take());
        child.wait().unwrap();
        let Measured::Not(why) = measurer.process(child.id(), &fd) else { panic!("nobody is there") };
        assert!(why.contains(&child.id().to_string()), "{why}");
    }

    #[test]
    fn a_number_that_another_process_has_by_now_is_not_believed() {
        let mut ended = Command::new("/bin/true").spawn().unwrap();
        let fd = process(ended.id());
        ended.wait().unwrap();
        // The number of a process that lives, with the descriptor of one that does not.
        let measured = Measurer::default().process(std::process::id(), &fd);
        assert_eq!(measured, Measured::Not(format!("process {} has ended", std::process::id())));
    }

    #[test]
    fn the_process_behind_a_loopback_connection_is_found() {
        let own = digest_of(&std::env::current_exe().unwrap()).unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, remote) = listener.accept().unwrap();
            let peer = Peer::Tcp { remote, local: server.local_addr().unwrap() };
            let mut measurer = Measurer::default();
            let mut found = measurer.measure(&peer);
            // A process that another test starts has our files as well until it runs: then there are two behind it.
            for _ in 0..10_000 {
                if matches!(found.0, Measured::Digest(_)) {
                    break;
                }
                std::thread::yield_now();
                found = measurer.measure(&peer);
            }
            let (measured, from) = found;
            assert_eq!((measured, from), (Measured::Digest(own), format!("pid {}", std::process::id())), "{address}");
            drop(client);
            let gone = Peer::Tcp { remote: "127.0.0.1:1".parse().unwrap(), local: server.local_addr().unwrap() };
            assert!(matches!(measurer.measure(&gone).0, Measured::Not(_)));
        }
        let far = Peer::Tcp { remote: "192.0.2.1:5".parse().unwrap(), local: "192.0.2.2:6".parse().unwrap() };
        assert_eq!(Measurer::default().measure(&far).0, Measured::Not("it is on another host".to_owned()));
    }

    #[test]
    fn addresses_of_the_kernels_tables_are_read_in_both_forms() {
        if cfg!(target_endian = "big") {
            return;
        }
        assert_eq!(parse_address("0100007F:1F90"), Some(("127.0.0.1".parse().unwrap(), 8080)));
        let mapped = parse_address("0000000000000000FFFF00000100007F:0050");
        assert_eq!(mapped, Some(("127.0.0.1".parse().unwrap(), 80)));
        assert_eq!(parse_address("00000000000000000000000001000000:0050"), Some(("::1".parse().unwrap(), 80)));
        for wrong in ["", "0100007F", "0100007:0050", "x100007F:0050", "ä00007F:0050"] {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
    }
}
