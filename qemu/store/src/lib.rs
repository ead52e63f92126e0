// SPDX-License-Identifier: GPL-2.0

//! The shared disks of the rig, as an nbdkit plugin.
//!
//! One server process plays the disk array. Every *member* is a raw image in one directory; every
//! controller reaches it under an export name of its own, `<controller>/<member>`, so that the
//! array knows who asks. It knows nothing else: not the module, not its formats. That is what
//! makes its log an arbiter (see [`log`]). Where one machine passes on what several controllers
//! write, the rig says how to tell them apart (see [`authors`]).
//!
//! The array is well-behaved by default: a write is on the medium when it is applied, there is no
//! volatile cache, so a flush and FUA only leave a trace in the log. Faults are added and removed
//! while it runs by *rules* (see [`rules`]).
//!
//! Parameters: `dir=` the images, `log=` the file to append to, `control=` a UNIX socket on which
//! the rig listens; the plugin connects to it when it serves, and ends when it is closed.
//! `author=`, any number of times, is described in [`authors`].
//!
//! Locking: a request takes, one after the other and never two at once, the lock of the rules, of
//! its member while it is applied, and of the log inside that one. Requests to one member are
//! therefore applied one at a time, and the order in the log is the order on the medium.

mod authors;
mod control;
mod log;
mod rules;

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        LazyLock,
        Mutex,
        MutexGuard,
        OnceLock,
        PoisonError, //
    },
};

use authors::{
    author,
    Author, //
};
use log::{
    Log,
    Request, //
};
use nbdkit::{
    plugin,
    Error,
    Flags,
    FuaFlags,
    Result,
    Server,
    ThreadModel, //
};
use nix::fcntl::{
    fallocate,
    FallocateFlags, //
};
use rules::{
    Fault,
    Point,
    Rules, //
};

/// A panic of one request must not silence the whole array: what a lock guards here is consistent
/// between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything the connections share.
pub(crate) struct Array {
    dir: PathBuf,
    pub(crate) log: Log,
    pub(crate) rules: Rules,
    authors: Vec<Author>,
    members: Mutex<BTreeMap<String, Arc<Member>>>,
}

struct Member {
    size: u64,
    medium: Mutex<File>,
}

static PARAMETERS: LazyLock<Mutex<BTreeMap<String, String>>> = LazyLock::new(Mutex::default);
static AUTHORS: Mutex<Vec<Author>> = Mutex::new(Vec::new());
static ARRAY: OnceLock<Array> = OnceLock::new();

fn invalid(message: impl Into<String>) -> Error {
    Error::new(libc::EINVAL, message.into())
}

fn parameter(name: &str) -> Result<String> {
    lock(&PARAMETERS)
        .get(name)
        .cloned()
        .ok_or_else(|| invalid(format!("{name}= is missing")))
}

fn array() -> Result<&'static Array> {
    ARRAY.get().ok_or_else(|| invalid("not configured"))
}

impl Array {
    fn member(&self, name: &str) -> Result<Arc<Member>> {
        let mut members = lock(&self.members);
        if let Some(member) = members.get(name) {
            return Ok(member.clone());
        }
        let path = self.dir.join(format!("{name}.raw"));
        let file = File::options().read(true).write(true).open(path)?;
        let member = Arc::new(Member {
            size: file.metadata()?.len(),
            medium: Mutex::new(file),
        });
        members.insert(name.to_owned(), member.clone());
        Ok(member)
    }
}

/// One connection: one controller's view of one member.
struct Export {
    array: &'static Array,
    controller: String,
    name: String,
    member: Arc<Member>,
}

impl Export {
    /// The life of every request: received, maybe hindered, applied, maybe hindered again, and
    /// answered.
    ///
    /// `data` is what is written, if it is a write.
    ///
    /// `apply` gets the number of bytes to apply, which only a torn write makes less than `len`,
    /// and returns what the log shall show of the data.
    fn serve(
        &self,
        op: char,
        fua: bool,
        offset: u64,
        len: u32,
        data: &[u8],
        apply: impl FnOnce(&File, u32) -> Result<String>,
    ) -> Result<()> {
        let request = Request {
            id: self.array.log.next_id(),
            controller: author(&self.array.authors, &self.controller, data, offset),
            member: &self.name,
            op,
            fua,
            offset,
            len,
        };
        self.array.log.received(&request);
        let result = self.perform(&request, apply);
        self.array
            .log
            .answered(&request, result.as_ref().err().copied());
        result.map_err(|errno| Error::new(errno, "by rule or by the medium"))
    }

    fn perform(
        &self,
        request: &Request<'_>,
        apply: impl FnOnce(&File, u32) -> Result<String>,
    ) -> std::result::Result<(), i32> {
        let fault = self
            .array
            .rules
            .obey(request, Point::Before, &self.array.log)?;
        let len = match fault {
            Fault::None => request.len,
            Fault::Torn(bytes) => bytes.min(request.len),
        };
        {
            let medium = lock(&self.member.medium);
            let heads = apply(&medium, len).map_err(|_| libc::EIO)?;
            self.array.log.applied(request, len, &heads);
        }
        if matches!(fault, Fault::Torn(_)) {
            return Err(libc::EIO);
        }
        self.array
            .rules
            .obey(request, Point::After, &self.array.log)?;
        Ok(())
    }
}

fn zeroes(medium: &File, offset: u64, len: u32) -> Result<String> {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    // A length beyond the signed range does not exist: requests have 32-bit lengths, images fit.
    let (offset, len) = (offset.try_into().unwrap_or(i64::MAX), i64::from(len));
    fallocate(medium, mode, offset, len).map_err(std::io::Error::from)?;
    Ok(String::new())
}

impl Server for Export {
    fn name() -> &'static str {
        "leasestore"
    }

    fn thread_model() -> Result<ThreadModel> {
        Ok(ThreadModel::Parallel)
    }

    fn config(key: &str, value: &str) -> Result<()> {
        if key == "author" {
            let author = value.parse().map_err(|reason: String| invalid(reason))?;
            lock(&AUTHORS).push(author);
        } else {
            lock(&PARAMETERS).insert(key.to_owned(), value.to_owned());
        }
        Ok(())
    }

    fn config_complete() -> Result<()> {
        let array = Array {
            dir: parameter("dir")?.into(),
            log: Log::open(&parameter("log")?)?,
            rules: Rules::default(),
            authors: std::mem::take(&mut lock(&AUTHORS)),
            members: Mutex::default(),
        };
        parameter("control")?;
        ARRAY.set(array).map_err(|_| invalid("configured twice"))
    }

    fn after_fork() -> Result<()> {
        control::start(array()?, &parameter("control")?)?;
        Ok(())
    }

    fn open(_readonly: bool) -> Result<Box<dyn Server>> {
        let array = array()?;
        let export = nbdkit::export_name().map_err(|e| invalid(e.to_string()))?;
        let (controller, name) = export
            .split_once('/')
            .ok_or_else(|| invalid("an export is <controller>/<member>"))?;
        let export = Export {
            array,
            controller: controller.to_owned(),
            name: name.to_owned(),
            member: array.member(name)?,
        };
        array
            .log
            .connection("open", &export.controller, &export.name);
        Ok(Box::new(export))
    }

    fn get_size(&self) -> Result<i64> {
        i64::try_from(self.member.size).map_err(|_| invalid("the image is too large"))
    }

    fn can_write(&self) -> Result<bool> {
        Ok(true)
    }

    fn can_flush(&self) -> Result<bool> {
        Ok(true)
    }

    fn can_fua(&self) -> Result<FuaFlags> {
        Ok(FuaFlags::Native)
    }

    fn can_trim(&self) -> Result<bool> {
        Ok(true)
    }

    fn can_zero(&self) -> Result<bool> {
        Ok(true)
    }

    fn can_multi_conn(&self) -> Result<bool> {
        Ok(true)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len() as u32;
        self.serve('R', false, offset, len, &[], |medium, len| {
            medium.read_exact_at(&mut buf[..len as usize], offset)?;
            Ok(String::new())
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64, flags: Flags) -> Result<()> {
        let fua = flags.contains(Flags::FUA);
        self.serve('W', fua, offset, buf.len() as u32, buf, |medium, len| {
            let data = &buf[..len as usize];
            medium.write_all_at(data, offset)?;
            Ok(log::heads(data, offset))
        })
    }

    fn flush(&self) -> Result<()> {
        self.serve('F', false, 0, 0, &[], |_, _| Ok(String::new()))
    }

    fn trim(&self, count: u32, offset: u64, flags: Flags) -> Result<()> {
        let fua = flags.contains(Flags::FUA);
        self.serve('T', fua, offset, count, &[], |medium, len| {
            zeroes(medium, offset, len)
        })
    }

    fn zero(&self, count: u32, offset: u64, flags: Flags) -> Result<()> {
        let fua = flags.contains(Flags::FUA);
        self.serve('Z', fua, offset, count, &[], |medium, len| {
            zeroes(medium, offset, len)
        })
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.array
            .log
            .connection("close", &self.controller, &self.name);
    }
}

plugin!(Export {
    after_fork,
    can_flush,
    can_fua,
    can_multi_conn,
    can_trim,
    can_write,
    can_zero,
    config,
    config_complete,
    flush,
    thread_model,
    trim,
    write_at,
    zero
});
