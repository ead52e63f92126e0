// SPDX-License-Identifier: GPL-2.0
//! The metrics of the tool; alerts and the dashboard name only metrics that exist.

mod scratch;

use scratch::Scratch;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

/// A `dmsetup` of a host with an owner and a secondary.
const DMSETUP: &str = r#"#!/bin/sh
case $* in
"status --target lease")
    echo "a-0: 0 8 lease alpha 0/3 owner 7 1 412 9 1/2 3 4 5 2 exhausted unlimited 2"
    echo "a-1: 0 8 lease alpha 1/3 owner 7 1 412 9 1/2 3 4 5 2 exhausted unlimited 2"
    echo "b-0: 0 8 lease beta 0/1 secondary - - - - 0/unlimited 0 0 0 1 lapse 0 0" ;;
"targets")
    echo "lease            v1.0.0" ;;
"table --target lease")
    echo "a-0: 0 8 lease 8:16 1"
    echo "a-1: 0 8 lease 8:32 1"
    echo "b-0: 0 8 lease 8:48 2" ;;
"message a-0 0 histogram" | "message b-0 0 histogram")
    echo "timing 1751000000 1855000000 500000000"
    echo "lost 3"
    echo "latency 6 7500000 0 1 2 3 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"
    echo "margin 1 70000000000 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1"
    echo "check 5 5000000 0 0 0 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0" ;;
*) exit 9 ;;
esac
"#;

struct Lab(Scratch);

impl Lab {
    fn new() -> Lab {
        let scratch = Scratch::new();
        scratch.put("dmsetup", DMSETUP, 0o755);
        Lab(scratch)
    }

    fn tool(&self, words: &[&str]) -> Command {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_leasectl"));
        let path = format!("{}:{}", self.0.display(), std::env::var("PATH").unwrap());
        tool.current_dir(&*self.0).env("PATH", path).args(words);
        tool
    }

    fn metrics(&self) -> String {
        let output = self.tool(&["metrics"]).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A process that ends with the test, also after a failure.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn r47_metrics_say_what_status_and_module_say() {
    let text = Lab::new().metrics();
    for line in [
        "# TYPE dm_lease_epoch gauge",
        "dm_lease_epoch{portion=\"alpha\",controller=\"1\"} 7",
        "dm_lease_remaining_seconds{portion=\"alpha\",controller=\"1\"} 0.412",
        "dm_lease_remaining_seconds{portion=\"beta\",controller=\"2\"} 0",
        "dm_lease_limit_operations{portion=\"alpha\",controller=\"1\"} 2",
        "dm_lease_limit_operations{portion=\"beta\",controller=\"2\"} +Inf",
        "dm_lease_charged_operations{portion=\"alpha\",controller=\"1\"} +Inf",
        "dm_lease_exhausted{portion=\"alpha\",controller=\"1\"} 1",
        "dm_lease_exhausted{portion=\"beta\",controller=\"2\"} 0",
        "dm_lease_role{portion=\"alpha\",controller=\"1\",role=\"owner\"} 1",
        "dm_lease_role{portion=\"alpha\",controller=\"1\",role=\"secondary\"} 0",
        "dm_lease_reason{portion=\"beta\",controller=\"2\",reason=\"lapse\"} 1",
        "# TYPE dm_lease_lost_total counter",
        "dm_lease_lost_total{portion=\"beta\",controller=\"2\"} 3",
        "dm_lease_duration_seconds{portion=\"alpha\",controller=\"1\"} 1.751",
        "# TYPE dm_lease_heartbeat_latency_seconds histogram",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}: {text}");
    }
    assert!(!text.contains("dm_lease_epoch{portion=\"beta\""), "{text}");
    assert_eq!(
        text.matches("dm_lease_epoch{").count(),
        1,
        "one per session"
    );
}

#[test]
fn r47_a_histogram_counts_all_up_to_a_limit() {
    let text = Lab::new().metrics();
    let latency = "dm_lease_heartbeat_latency_seconds";
    let of = |name: &str, le: &str| {
        let labels = "portion=\"alpha\",controller=\"1\"";
        let line = format!("{name}_bucket{{{labels},le=\"{le}\"}} ");
        let line = text.lines().find_map(|told| told.strip_prefix(&line));
        line.unwrap().parse::<u64>().unwrap()
    };
    let limits = ["0.000001", "0.000002", "0.000004", "0.000008", "+Inf"];
    assert_eq!(limits.map(|le| of(latency, le)), [0, 1, 3, 6, 6]);
    let sum = format!("{latency}_sum{{portion=\"alpha\",controller=\"1\"}} 0.0075\n");
    let count = format!("{latency}_count{{portion=\"alpha\",controller=\"1\"}} 6\n");
    assert!(text.contains(&sum) && text.contains(&count), "{text}");
    let margin = "dm_lease_heartbeat_margin_seconds";
    assert_eq!((of(margin, "67.108864"), of(margin, "+Inf")), (0, 1));
    let check = "dm_lease_check_margin_seconds";
    assert_eq!((of(check, "0.000512"), of(check, "0.001024")), (0, 5));
}

#[test]
fn r47_a_file_is_replaced_and_an_address_answers() {
    let lab = Lab::new();
    let written = lab.tool(&["metrics", "--textfile", "lease.prom"]).status();
    assert!(written.unwrap().success());
    let text = fs::read_to_string(lab.0.join("lease.prom")).unwrap();
    assert_eq!(text, lab.metrics());
    assert!(!lab.0.join("lease.prom.part").exists());

    // This port was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let words = ["metrics", "--listen", &address.to_string()];
    let _server = Running(lab.tool(&words).spawn().unwrap());
    let answer = get(address, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("version=0.0.4") && answer.contains("\ndm_lease_epoch{"));
    assert!(get(address, "/").starts_with("HTTP/1.1 404"));
    fs::write(lab.0.join("dmsetup"), "#!/bin/sh\nexit 1\n").unwrap();
    assert!(get(address, "/metrics").starts_with("HTTP/1.1 500"));
}

/// A `dmsetup` of a host whose kernel does not have the target.
const WITHOUT_MODULE: &str = "#!/bin/sh\n[ \"$1\" != targets ] || echo \"linear v1.5.0\"\n";

#[test]
fn r47_metrics_without_the_module_are_refused_once_and_reported_for_ever() {
    let lab = Lab::new();
    lab.0.put("dmsetup", WITHOUT_MODULE, 0o755);
    for words in [&["metrics"][..], &["metrics", "--textfile", "lease.prom"]] {
        let output = lab.tool(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("the module dm_lease is not loaded"), "{said}");
    }
    assert!(!lab.0.join("lease.prom").exists());
    lab.0.put("dmsetup", DMSETUP, 0o755);
    assert!(lab.metrics().contains("\ndm_lease_module_loaded 1\n"));
}

/// Requests a page as soon as the server accepts connections.
fn get(address: SocketAddr, page: &str) -> String {
    let mut tries = 0;
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) if tries > 600 => panic!("{error}"),
            Err(_) => tries += 1,
        }
        sleep(Duration::from_millis(50));
    };
    let request = format!("GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_lowercase() || c == '_');
    let words = text.split(word);
    words.filter(|name| name.starts_with("dm_lease_")).collect()
}

#[test]
fn r47_alerts_and_dashboard_name_metrics_that_there_are() {
    let text = Lab::new().metrics();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples: Vec<&str> = samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let there: BTreeSet<&str> = samples.into_iter().collect();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../monitoring");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let (rules, dashboard) = (read("dm-lease.rules.yml"), read("dm-lease.grafana.json"));
    for (what, text) in [("rules", &rules), ("dashboard", &dashboard)] {
        let unknown: Vec<_> = names(text).difference(&there).copied().collect();
        assert!(unknown.is_empty(), "{what}: {unknown:?}");
        assert!(names(text).len() > 5, "{what}");
    }
    let json: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert_eq!(json["panels"].as_array().unwrap().len(), 8);
    let alerts = rules.matches("- alert: ").count();
    for key in ["expr: ", "summary: ", "description: ", "severity: "] {
        assert_eq!(rules.matches(key).count(), alerts, "{key}");
    }
}
