//! The local socket as a file: made, handed to its group, taken away again; and who is known over it.
//!
//! Who may *connect* is decided by the file's mode and the directory's, who may *do* something by the kernel's word of who
//! connected ([`LocalUsers`]). Between the two steps that make the file its mode is wider than meant; whoever slips in then
//! is asked who they are like everybody else.
//!
//! Names are looked up in `/etc/passwd` and `/etc/group` alone, once, at start: a directory service that is down must not
//! be in the way of a kill.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::api::{Caller, LocalUsers};
use crate::app::config::{Group, LocalOperator};

/// The file of a socket that is listened on, as long as this lives.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: what is at the path later may be somebody else's.
    id: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`, for this process's user and `group`. What a process that is gone has left there is replaced.
    ///
    /// # Errors
    /// If somebody answers at `path`, if there is something that is not a socket, if the group is not known, or the
    /// system says no.
    pub(super) fn listen(path: &Path, group: Option<&Group>) -> anyhow::Result<(UnixListener, SocketFile)> {
        let gid = group.map(gid_of).transpose()?;
        clear(path)?;
        let listener = UnixListener::bind(path)?;
        let made = fs::symlink_metadata(path)?;
        let file = SocketFile { path: path.to_owned(), id: (made.dev(), made.ino()) };
        if let Some(gid) = gid {
            chown(path, None, Some(gid)).context("cannot hand it to its group")?;
        }
        fs::set_permissions(path, Permissions::from_mode(if gid.is_some() { 0o660 } else { 0o600 }))?;
        Ok((listener, file))
    }
}

/// Takes the file away, if it is still this one.
impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.id);
        if same && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the local socket's file could not be removed");
        }
    }
}

/// Makes sure that nothing is at `path`: a socket where nobody answers is taken away, anything else is left alone.
fn clear(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(there) if !there.file_type().is_socket() => bail!("there is something that is not a socket"),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("it is in use: somebody answers there"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context("cannot remove what another process has left there")
        }
        Err(error) => Err(error).context("cannot tell whether somebody answers there"),
    }
}

fn gid_of(group: &Group) -> anyhow::Result<u32> {
    match group {
        Group::Gid(gid) => Ok(*gid),
        Group::Name(name) => {
            let table = fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
            let found = entries(&table).find(|(known, _)| known == name);
            found.map(|(_, gid)| gid).with_context(|| format!("no group {name} in /etc/group; its number will do"))
        }
    }
}

/// Name and number of each line of `/etc/passwd` or `/etc/group`; lines that make no sense are left out.
fn entries(table: &str) -> impl Iterator<Item = (&str, u32)> {
    table.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

/// Everybody who may call over the local socket: `configured`, this process's own user, and root.
pub(super) fn users(configured: &[LocalOperator]) -> LocalUsers {
    let passwd = fs::read_to_string("/etc/passwd");
    if let Err(error) = &passwd {
        tracing::warn!(%error, "cannot read /etc/passwd: users are called by their numbers");
    }
    let passwd = passwd.unwrap_or_default();
    let trusted = [rustix::process::geteuid().as_raw(), 0].map(|uid| {
        let name = entries(&passwd).find(|(_, known)| *known == uid).map(|(name, _)| name.to_owned());
        (uid, name.unwrap_or_else(|| uid.to_string()))
    });
    let caller = |o: &LocalOperator| (o.uid, Caller { name: o.name.clone(), role: o.role, scopes: o.scopes.clone() });
    LocalUsers::new(configured.iter().map(caller).collect(), trusted.into())
}

/// Allows this process as many open files as the system lets it have. With fewer than `needed` a crowd of connections could
/// leave none for whoever comes to kill, or for the latch.
pub(super) fn allow_open_files(needed: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit).map_err(io::Error::from);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if allowed < needed {
        tracing::warn!(
            event = "config",
            allowed,
            needed,
            ?raised,
            "fewer open files are allowed than connections may need: raise the hard limit or lower max_connections"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced_and_one_that_answers_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (first, file) = SocketFile::listen(&path, None).unwrap();
        let error = SocketFile::listen(&path, None).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error:#}");
        drop(first);
        // Left behind, as by a process that was killed.
        std::mem::forget(file);
        assert!(path.exists());
        let (_second, file) = SocketFile::listen(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(SocketFile::listen(&path, None).unwrap_err().to_string().contains("not a socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let (_listener, file) = SocketFile::listen(&dir.path().join("t"), None).unwrap();
        // Somebody put another file there in the meantime.
        fs::remove_file(&file.path).unwrap();
        fs::write(&file.path, "another").unwrap();
        drop(file);
        assert!(dir.path().join("t").exists());
    }

    #[test]
    fn the_group_may_connect_if_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        // A group that this process is in, so that it may hand files to it.
        let own = rustix::process::getegid().as_raw();
        let (_listener, _file) = SocketFile::listen(&path, Some(&Group::Gid(own))).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.mode() & 0o7777, made.gid()), (0o660, own));
        let none = Group::Name("no-such-group-here".into());
        let error = SocketFile::listen(&dir.path().join("t"), Some(&none)).unwrap_err();
        assert!(error.to_string().contains("no group no-such-group-here"), "{error:#}");
    }

    #[test]
    fn names_come_from_the_tables_and_odd_lines_are_left_out() {
        let table = "root:x:0:0:root:/root:/bin/sh\n\nodd\nodd:x:y\nadm:x:4:\n";
        assert_eq!(entries(table).collect::<Vec<_>>(), [("root", 0), ("adm", 4)]);
    }
}
