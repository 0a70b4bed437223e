//! Texts as the toolchains write them. Those of Go 1.27, Zig's C++ 0.17, Rust 1.95, componentize-py
//! 0.25 and componentize-js 0.23 were recorded; the others are from their documentation and
//! sources.

use super::*;

fn end_of(written: &str) -> (Option<Report>, Option<String>) {
    let mut words = Words::default();
    words.write(written.as_bytes());
    let (report, last) = words.end();
    (report.cloned(), last.map(str::to_owned))
}

/// The line that tells a failure's group, from a report.
fn exception(written: &str) -> String {
    match end_of(written) {
        (Some(Report::Exception(line)), _) => line,
        other => panic!("{other:?} of {written}"),
    }
}

fn panicked(written: &str) -> String {
    match end_of(written) {
        (Some(Report::Panic(text)), _) => text,
        other => panic!("{other:?} of {written}"),
    }
}

/// The last line, where there is no report.
fn last(written: &str) -> String {
    match end_of(written) {
        (None, Some(line)) => line,
        other => panic!("{other:?} of {written}"),
    }
}

#[test]
fn python_names_its_exception_after_the_frames() {
    let frames = "Traceback (most recent call last):\n  File \"/0/app.py\", line 17, in handle\n    raise ValueError(message)\n";
    for (after, line) in [
        ("ValueError: boom\n", "ValueError: boom"),
        ("KeyError: 'missing'\n", "KeyError: 'missing'"),
        ("app.Mine\n", "app.Mine"),
        ("ValueError: first line\nsecond line\n", "ValueError: first line"),
        ("ValueError: with note\nthe note\n", "ValueError: with note"),
        ("ValueError: no end of line", "ValueError: no end of line"),
        (
            "  File \"<string>\", line 1\n    1 +\n       ^\nSyntaxError: invalid syntax\n",
            "SyntaxError: invalid syntax",
        ),
    ] {
        assert_eq!(exception(&format!("warning: x\n{frames}{after}")), line);
    }
    // The shell around the interpreter panics afterwards, and what has no memory left is dumped.
    let shell = "\nthread '<unnamed>' (1) panicked at runtime/src/lib.rs:1293:29:\nPython function threw an unexpected \
                 exception\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
    assert_eq!(exception(&format!("{frames}ValueError: boom\n{shell}")), "ValueError: boom");
    let dump = "object address  : 0x4823a8\nobject refcount : 2\nobject type     : 0x373230\n\
                object type name: MemoryError\nobject repr     : MemoryError()\nlost sys.stderr\n";
    assert_eq!(exception(&format!("{frames}{dump}{shell}")), "MemoryError");
    let chained = format!(
        "{frames}ZeroDivisionError: division by zero\n\nThe above exception was the direct cause of the following \
         exception:\n\n{frames}RuntimeError: outer\n"
    );
    assert_eq!(exception(&chained), "RuntimeError: outer");
    // What an interpreter ignores ends nothing, with frames or without.
    let finalizer = "<function Pool.__del__ at 0x2a40>";
    for ignored in [
        format!("Exception ignored in: {finalizer}\n{frames}TypeError: x\n"),
        "Exception ignored in: <_io.TextIOWrapper name='<stdout>'>\nOSError: bad file\n".to_owned(),
        format!(
            "Exception ignored while calling deallocator {finalizer}:\n  + Exception Group Traceback \
             (most recent call last):\n  |   File \"app.py\", line 1\n  | ExceptionGroup: x\n"
        ),
    ] {
        let boom = format!("{frames}ValueError: boom\n");
        assert_eq!(exception(&format!("{boom}{ignored}")), "ValueError: boom");
        assert_eq!(exception(&format!("{ignored}{boom}")), "ValueError: boom");
        assert_eq!(last(&format!("gone\n{ignored}")), "gone");
    }
    let fatal = "Fatal Python error: f: why\nPython runtime state: initialized\n\n\
                 Current thread 0x00000001 (most recent call first):\n  File \"app.py\", line 3\n\n\
                 Thread 0x00000002 (most recent call first):\n  <no Python frame>\n\n\
                 Extension modules: numpy.core, _cffi (total: 2)\n";
    assert_eq!(exception(fatal), "Fatal Python error: f: why");
    let group = "  + Exception Group Traceback (most recent call last):\n  |   File \"/0/app.py\", line 26, in handle\n  \
                 |     raise ExceptionGroup(\"several\", [ValueError(\"a\")])\n  | ExceptionGroup: several (1 sub-exception)\n  \
                 +-+---------------- 1 ----------------\n    | ValueError: a\n    +------------------------------------\n";
    assert_eq!(exception(group), "ExceptionGroup: several (1 sub-exception)");
}

#[test]
fn a_rust_panic_is_what_it_says_and_where() {
    let at = "thread 'main' (1) panicked at src/lib.rs:3:5:\n";
    let note = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
    for (written, text) in [
        (format!("{at}oops\n{note}"), "oops (src/lib.rs:3:5)"),
        (format!("{at}{note}"), "(src/lib.rs:3:5)"),
        (format!("{at}\n{note}"), "(src/lib.rs:3:5)"),
        (
            format!("{at}assertion `left == right` failed: sums\n  left: 1\n right: 2\n{note}"),
            "assertion `left == right` failed: sums (src/lib.rs:3:5)",
        ),
        (
            "thread '<unnamed>' panicked at 'it's old', src/main.rs:2:9\n".to_owned(),
            "it's old (src/main.rs:2:9)",
        ),
        (
            format!("{at}oops\nstack backtrace:\n   0: rust_begin_unwind\n{note}"),
            "oops (src/lib.rs:3:5)",
        ),
    ] {
        assert_eq!(panicked(&written), text);
    }
    assert_eq!(
        last("memory allocation of 67108864 bytes failed\n"),
        "memory allocation of 67108864 bytes failed"
    );
    assert_eq!(
        last("Error: the ledger is locked\n\nCaused by:\n    0: connecting\n    1: refused\n"),
        "Error: the ledger is locked"
    );
}

#[test]
fn go_says_it_before_the_trace() {
    let trace = "\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:26 +0x9a\nexit status 2\n";
    for (written, line) in [
        ("panic: boom\n", "panic: boom"),
        (
            "panic: runtime error: invalid memory address or nil pointer dereference\n[signal 0xb code=0x0 addr=0x0 pc=0x0]\n",
            "panic: runtime error: invalid memory address or nil pointer dereference",
        ),
        ("panic: first [recovered]\n\tpanic: again: first\n", "panic: again: first"),
        (
            "fatal error: all goroutines are asleep - deadlock!\n",
            "fatal error: all goroutines are asleep - deadlock!",
        ),
        (
            "fatal error: grew heap, but no adequate free space found\n",
            "fatal error: grew heap, but no adequate free space found",
        ),
        (
            "runtime: out of memory: cannot allocate 4194304-byte block (58720256 in use)\nfatal error: out of memory\n",
            "fatal error: out of memory",
        ),
    ] {
        assert_eq!(exception(&format!("{written}{trace}")), line);
        let many =
            "\ngoroutine 7 [select]:\nmain.worker({0x1b7e48, 0x14db0})\n\t/src/main.go:9 +0x1c\n"
                .repeat(1000);
        assert_eq!(exception(&format!("{written}{trace}{many}")), line, "however long the trace");
    }
    assert_eq!(last("2026/11/30 06:58:46 cannot go on\n"), "2026/11/30 06:58:46 cannot go on");
    assert_eq!(last("goroutine 3: started\nledger locked\n"), "ledger locked");
    assert_eq!(last("goroutine pool [full]:\nledger locked\n"), "ledger locked");
    let waiting = "goroutine 1 gp=0x2a0 m=0 [select, 2 minutes]:\nmain.main()\n\t/main.go:2\n";
    assert_eq!(last(&format!("ledger locked\n{waiting}")), "ledger locked");
    // TinyGo
    assert_eq!(
        exception("panic: runtime error at 0x00001f5c: index out of range\n"),
        "panic: runtime error at 0x00001f5c: index out of range"
    );
}

#[test]
fn c_and_cpp_say_it_in_one_line_or_two() {
    for (written, line) in [
        ("libc++abi: terminating\n", "libc++abi: terminating"),
        (
            "libc++abi: terminating due to uncaught exception of type std::runtime_error: boom\n",
            "libc++abi: terminating due to uncaught exception of type std::runtime_error: boom",
        ),
        (
            "terminate called after throwing an instance of 'std::runtime_error'\n  what():  boom\n",
            "std::runtime_error: boom",
        ),
        ("terminate called after throwing an instance of 'int'\n", "int"),
        ("terminate called after throwing an instance of 'int'", "int"),
    ] {
        assert_eq!(exception(written), line);
    }
    for written in [
        "out_of_range was thrown in -fno-exceptions mode with message \"vector\"",
        "Assertion failed: in.empty() (main.cpp: main: 19)",
        "fopen: No such file or directory",
    ] {
        assert_eq!(last(&format!("starting\n{written}\n")), written);
        assert_eq!(last(&format!("starting\n{written}")), written);
    }
}

#[test]
fn what_stands_at_the_margin_before_a_trace_is_the_exception() {
    for (written, line) in [
        (
            "Error: boom\n    at handle (app.js:3:11)\n    at <anonymous> (app.js:9)\n",
            "Error: boom",
        ),
        (
            "boom\nStack:\n  handle@initializer.js:1896:15\n\nRedirecting call to abort() to mozalloc_abort\n\n",
            "boom",
        ),
        (
            "app.rb:1:in 'handle': boom (RuntimeError)\n\tfrom app.rb:3:in '<main>'\n",
            "app.rb:1:in 'handle': boom (RuntimeError)",
        ),
        ("lua: app.lua:1: boom\nstack traceback:\n\t[C]: in ?\n", "lua: app.lua:1: boom"),
        ("tool: boom\nCallStack (from HasCallStack):\n  error, called at app.hs:1\n", "tool: boom"),
        (
            "tool: boom\nHasCallStack backtrace:\n  error, called at app.hs:1:8 in main:Main\n",
            "tool: boom",
        ),
        ("error: Locked\nUnable to dump stack trace: not implemented for Wasm\n", "error: Locked"),
        (
            "starting\nError: boom\nand why\n    at handle (app.js:3:11)\n    at app.js:9\n",
            "Error: boom",
        ),
        ("TypeError: early\nstarting\n1\n2\n3\n4\nboom\n    at handle (app.js:3:11)\n", "boom"),
        ("TypeError: boom\nand why\nStack:\n  handle@initializer.js:1896:15\n", "TypeError: boom"),
        ("Error: handled\n    at handle (app.js:3:11)\nledger locked\n", "ledger locked"),
        (
            "Unhandled exception. System.InvalidOperationException: boom\nand why\n   at Work()\n\
             --- End of stack trace from previous location ---\n   at Program.Main()\n",
            "Unhandled exception. System.InvalidOperationException: boom",
        ),
        (
            "Unhandled exception. System.InvalidOperationException: boom\n   at Program.Main() in app.cs:line 3\n",
            "Unhandled exception. System.InvalidOperationException: boom",
        ),
        (
            "Exception in thread \"main\" java.lang.IllegalStateException: boom\n\tat Main.main(Main.java:3)\n",
            "Exception in thread \"main\" java.lang.IllegalStateException: boom",
        ),
    ] {
        assert_eq!(last(written), line);
    }
    for (written, line) in [
        (
            "PHP Fatal error:  Uncaught Exception: boom in app.php:3\nStack trace:\n#0 {main}\n  thrown in app.php on line 3\n",
            "PHP Fatal error:  Uncaught Exception: boom in app.php:3",
        ),
        (
            "Unhandled exception:\nFormatException: boom\n#0      main (app.dart:3)\n",
            "FormatException: boom",
        ),
        ("Fatal error: exception Failure(\"boom\")\n", "Fatal error: exception Failure(\"boom\")"),
        ("thread 1 panic: reached unreachable code\n", "thread 1 panic: reached unreachable code"),
        (
            "Uncaught Kotlin exception: kotlin.IllegalStateException: boom\n    at 0  app.kexe\n",
            "Uncaught Kotlin exception: kotlin.IllegalStateException: boom",
        ),
    ] {
        assert_eq!(exception(written), line);
    }
}

#[test]
fn a_report_that_much_was_written_after_is_not_the_end() {
    let handled = "Traceback (most recent call last):\n  File \"app.py\", line 1\nOSError: gone\n";
    assert_eq!(exception(&format!("{handled}giving up\n")), "OSError: gone");
    let later = format!("{handled}{}giving up\n", "going on\n".repeat(30));
    assert_eq!(last(&later), "giving up");
}

#[test]
fn whatever_comes_in_whatever_pieces_is_short_and_the_same() {
    let written = "thread 'main' panicked at src/lib.rs:3:5:\noops\nTraceback (most recent call last):\n  File\nE: x\nend";
    let whole = end_of(written);
    for size in 1..20 {
        let mut words = Words::default();
        for piece in written.as_bytes().chunks(size) {
            words.write(piece);
        }
        let (report, last) = words.end();
        assert_eq!((report.cloned(), last.map(str::to_owned)), whole, "{size}");
    }
    let mut words = Words::default();
    words.write(&[0xff; 100_000]);
    words.write(b"\npanicked at ");
    words.write("ü".repeat(100_000).as_bytes());
    words.write(b"\n");
    words.write(&[b'x'; 100_000]);
    let (report, last) = words.end();
    let Some(Report::Panic(text)) = report else { panic!("{report:?}") };
    assert!(text.len() < 10_000);
    assert!(last.unwrap().len() < 10_000);
    assert_eq!(end_of(""), (None, None));
    assert_eq!(end_of("\n \n\t\n"), (None, None));
}
