// SPDX-License-Identifier: GPL-2.0
//! The resource agent, as a cluster calls it, on a host with a fake `dmsetup`.

mod scratch;

use scratch::Scratch;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The role is in a file; `claim` takes effect at the next event, `release` at once or never.
const DMSETUP: &str = r#"#!/bin/sh
left=-
[ "$(cat role)" != owner ] || left=400
case $* in
"status --target lease")
    [ -e unmapped ] || echo "a-0: 0 8 lease alpha 0/1 $(cat role) 1 1 $left 9 0/1 0 0 0 1 -" ;;
"info -c --noheadings -o events a-0")
    cat events ;;
"message a-0 0 "*)
    echo "$4" >>told
    [ "$4" = claim ] || [ ! -e hung ] || [ "$4" = fence ] || exit 1
    [ "$4" = claim ] || echo secondary >role ;;
"wait --noflush a-0 "*)
    [ "$4" = "$(cat events)" ] || exit 1
    echo $(($4 + 1)) >events
    [ "$(cat events)" -lt 5 ] || echo owner >role ;;
*) exit 9 ;;
esac
"#;

struct Node(Scratch);

impl Node {
    fn new(role: &str) -> Node {
        let scratch = Scratch::new();
        scratch.put("dmsetup", DMSETUP, 0o755);
        fs::write(scratch.join("role"), role).unwrap();
        fs::write(scratch.join("events"), "3").unwrap();
        Node(scratch)
    }

    fn agent(&self, action: &str, portion: Option<&str>) -> Output {
        let tool = Path::new(env!("CARGO_BIN_EXE_leasectl")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let agent = concat!(env!("CARGO_MANIFEST_DIR"), "/../pacemaker/lease");
        let mut agent = Command::new(agent);
        agent.current_dir(&*self.0).arg(action);
        agent.env(
            "PATH",
            format!("{}:{}:{path}", self.0.display(), tool.display()),
        );
        if let Some(portion) = portion {
            agent.env("OCF_RESKEY_portion", portion);
        }
        agent.output().unwrap()
    }

    fn code(&self, action: &str) -> i32 {
        self.agent(action, Some("alpha")).status.code().unwrap()
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

#[test]
fn r47_a_resource_runs_where_the_portion_is_owned() {
    assert_eq!(Node::new("owner").code("monitor"), 0);
    assert_eq!(Node::new("secondary").code("monitor"), 7);
    let unmapped = Node::new("owner");
    fs::write(unmapped.0.join("unmapped"), "").unwrap();
    assert_eq!(unmapped.code("monitor"), 7);
    assert_eq!((unmapped.code("start"), unmapped.code("stop")), (5, 0));
    let unreadable = Node::new("king");
    assert_eq!(unreadable.code("monitor"), 1);
}

#[test]
fn r28_start_claims_until_this_node_owns() {
    let node = Node::new("secondary");
    assert_eq!(node.code("start"), 0);
    assert_eq!(node.file("told"), "claim\nclaim\n");
    // A second start sends no message.
    assert_eq!(node.code("start"), 0);
    assert_eq!(node.file("told"), "claim\nclaim\n");
}

#[test]
fn r34_stop_releases_and_latches_what_cannot_be_released() {
    let node = Node::new("owner");
    assert_eq!((node.code("stop"), node.code("monitor")), (0, 7));
    assert_eq!(node.file("told"), "release\n");
    let node = Node::new("owner");
    fs::write(node.0.join("hung"), "").unwrap();
    assert_eq!((node.code("stop"), node.code("monitor")), (0, 7));
    assert_eq!(node.file("told"), "release\nfence\n");
}

#[test]
fn the_agent_describes_itself() {
    let node = Node::new("owner");
    let text = String::from_utf8(node.agent("meta-data", None).stdout).unwrap();
    for part in ["start", "stop", "monitor", "validate-all", "meta-data"] {
        assert!(
            text.contains(&format!("<action name=\"{part}\" timeout=")),
            "{part}"
        );
    }
    assert_eq!(node.agent("monitor", None).status.code(), Some(6));
    assert_eq!(node.code("promote"), 3);
    assert_eq!(node.code("validate-all"), 0);
}
