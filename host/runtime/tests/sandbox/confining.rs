//! What the compiler gives up, tried out in a process that has given it up.

use std::{
    fs::File,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    process::Command,
};

use taskforge_runtime::confinement;

/// Runs a test that is ignored otherwise, in a process of its own.
fn run(name: &str) -> String {
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{text}{}", String::from_utf8_lossy(&ran.stderr));
    text
}

#[cfg(target_os = "linux")]
#[test]
fn a_compiler_opens_nothing_starts_nothing_and_touches_nobody() {
    let text = run("confining::confined");
    let expected = [
        "a file",
        "a new file",
        "a folder",
        "the host's variables",
        "its own memory",
        "a TCP socket",
        "a TCP listener",
        "a UDP socket",
        "a socket of the machine",
        "a process",
        "a thread",
        "a signal",
    ];
    for what in expected {
        assert!(text.contains(&format!("{what}: refused")), "{what} in: {text}");
    }
    assert!(text.contains("memory: 16 MiB"), "{text}");
    assert!(!text.contains("not given up"), "{text}");
}

#[test]
#[ignore = "gives up what the other tests need; run by the test above"]
fn confined() {
    let host = rustix::process::getppid().unwrap();
    let kept = [confinement::before_compiling()].concat();
    for what in kept {
        println!("not given up: {what}");
    }
    let tell = |what: &str, done: bool| {
        println!("{what}: {}", if done { "done" } else { "refused" });
    };
    tell("a file", File::open("/etc/hostname").is_ok());
    tell("a new file", File::create("/tmp/taskforge-confined").is_ok());
    tell("a folder", std::fs::read_dir("/").is_ok());
    let variables = format!("/proc/{}/environ", host.as_raw_nonzero());
    tell("the host's variables", std::fs::read(variables).is_ok());
    tell("its own memory", File::open("/proc/self/mem").is_ok());
    tell("a TCP socket", TcpStream::connect("127.0.0.1:9").is_ok_and(|_| true));
    tell("a TCP listener", TcpListener::bind("127.0.0.1:0").is_ok());
    tell("a UDP socket", UdpSocket::bind("127.0.0.1:0").is_ok());
    tell("a socket of the machine", UnixStream::pair().is_ok());
    tell("a process", Command::new("/bin/true").spawn().is_ok());
    tell("a thread", std::thread::Builder::new().spawn(|| ()).is_ok());
    tell("a signal", rustix::process::test_kill_process(host).is_ok());
    let memory = vec![1_u8; 16 << 20];
    println!("memory: {} MiB", memory.iter().map(|byte| usize::from(*byte)).sum::<usize>() >> 20);
}
