// SPDX-License-Identifier: GPL-2.0
//! A directory for one test, which goes with it, and programs in it that play others.

use std::fs::{self, Permissions};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let binary = env!("CARGO_CRATE_NAME");
        let name = format!("leasectl-{binary}-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// Puts a file there; one with mode 0o755 is a program.
    pub fn put(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.join(name), text).unwrap();
        fs::set_permissions(self.join(name), Permissions::from_mode(mode)).unwrap();
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
