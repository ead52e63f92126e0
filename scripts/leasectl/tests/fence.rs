// SPDX-License-Identifier: GPL-2.0
//! The scripts that lock managers and file systems run when they lose the right to write, on a
//! faked host. `selftests/09-messages.sh` tests the tool itself, on real devices.

mod scratch;

use scratch::Scratch;
use std::fs;
use std::process::{Command, Output};

/// Records the devices to fence; knows no device called `plain`.
const LEASECTL: &str = "#!/bin/sh\necho $* >>told\ncase $* in *plain*) exit 1 ;; esac\n";

/// One group with two volumes, and two groups without a volume; other groups are unknown.
const DMSETUP: &str = r#"#!/bin/sh
case $* in
*" -o name -S subsystem=LVM && vg_name=vg") printf 'vg-a\nvg-b--c\n' ;;
*"vg_name=none") ;;
*"vg_name=nowhere") echo "No devices found" ;;
*) exit 3 ;;
esac
"#;

struct Machine(Scratch);

impl Machine {
    fn new() -> Machine {
        let scratch = Scratch::new();
        scratch.put("leasectl", LEASECTL, 0o755);
        scratch.put("dmsetup", DMSETUP, 0o755);
        Machine(scratch)
    }

    fn run(&self, script: &str, words: &[&str], set: &[(&str, &str)]) -> Output {
        let path = std::env::var("PATH").unwrap();
        let script = format!("{}/../fence/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(script);
        command.current_dir(&*self.0).args(words);
        command.env("PATH", format!("{}:{path}", self.0.display()));
        command.envs(set.iter().copied());
        command.output().unwrap()
    }

    fn told(&self) -> String {
        fs::read_to_string(self.0.join("told")).unwrap_or_default()
    }

    /// The answer to GFS2 for a file system on this device, and the fenced devices.
    fn withdraw(&self, id: &str) -> (String, String) {
        let lock = self.0.join("fs/gfs2/a:b/lock_module");
        fs::create_dir_all(&lock).unwrap();
        fs::write(self.0.join("fs/gfs2/a:b/id"), id).unwrap();
        let sysfs = self.0.display().to_string();
        let set = [("DEVPATH", "/fs/gfs2/a:b"), ("SYSFS", sysfs.as_str())];
        let output = self.run("gfs2", &[], &set);
        assert!(output.status.success(), "{output:?}");
        let answer = fs::read_to_string(lock.join("withdraw")).unwrap();
        (answer, self.told())
    }
}

#[test]
fn gfs2_is_told_whether_its_device_was_fenced() {
    let fenced = "fence /dev/block/253:7\n".to_owned();
    assert_eq!(Machine::new().withdraw("253:7\n"), ("0\n".into(), fenced));
    let (answer, _) = Machine::new().withdraw("plain\n");
    assert_eq!(answer, "1\n");
    assert!(!Machine::new().run("gfs2", &[], &[]).status.success());
}

#[test]
fn lvmlockd_fences_all_volumes_of_a_group_at_once() {
    let machine = Machine::new();
    assert!(machine.run("lvmlockd", &["vg"], &[]).status.success());
    assert_eq!(
        machine.told(),
        "fence /dev/mapper/vg-a /dev/mapper/vg-b--c\n"
    );
}

#[test]
fn lvmlockd_needs_no_fence_for_a_group_without_active_volumes() {
    let machine = Machine::new();
    for group in ["none", "nowhere"] {
        assert!(machine.run("lvmlockd", &[group], &[]).status.success());
    }
    assert_eq!(machine.told(), "");
    // An unknown group is not a success: lvmlockd must keep the locks.
    assert_eq!(
        machine.run("lvmlockd", &["other"], &[]).status.code(),
        Some(3)
    );
    assert_eq!(machine.run("lvmlockd", &[], &[]).status.code(), Some(2));
}
