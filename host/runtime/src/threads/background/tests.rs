use super::*;

fn thread() -> (String, i32) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    (name, rustix::process::getpriority_process(None).unwrap())
}

#[tokio::test]
async fn quick_work_stays_where_it_is() {
    let background = Background::default();
    let here = thread();
    let (there, _) = background
        .run(Box::pin(async { thread() }), &Profile::beginning(Threads::Foreground))
        .await;
    assert_eq!(there.unwrap(), here);
    assert!(background.giving_way.get().is_none(), "no threads were needed");
}

#[tokio::test]
async fn work_that_computes_for_long_goes_on_with_a_lower_priority() {
    let background = Background::default();
    let (_, usual) = thread();
    let work = async {
        let before = thread();
        compute(FOREGROUND).await;
        (before, thread())
    };
    let (done, effort) =
        background.run(Box::pin(work), &Profile::beginning(Threads::Foreground)).await;
    let (before, after) = done.unwrap();
    assert_eq!(before.1, usual);
    assert!(effort.computed >= FOREGROUND);
    let lower = (usual + processors::NICENESS).min(19);
    assert_eq!(after, ("background".to_owned(), lower));
    assert_eq!(effort.threads(), Threads::Background);
}

#[tokio::test]
async fn work_that_cannot_yield_blocks_no_thread_that_others_need() {
    let background = Background::default();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let (done, ended) = tokio::sync::oneshot::channel();
    background.apart(move || {
        released.lock().unwrap().recv().ok();
        done.send(thread()).ok();
    });
    // More than there are threads.
    for _ in 0..2 * background.processors {
        let work = async { compute(FOREGROUND).await };
        background.run(Box::pin(work), &Profile::beginning(Threads::Background)).await;
    }
    drop(release);
    let (_, niceness) = ended.await.unwrap();
    assert_eq!(niceness, (thread().1 + processors::NICENESS).min(19));
}

/// Computes for so long, then yields.
async fn compute(time: Duration) {
    let begun = computed();
    while computed() - begun < time {}
    tokio::task::yield_now().await;
}

#[tokio::test]
async fn waiting_is_not_computing() {
    let background = Background::default();
    let here = thread();
    for _ in 0..20 {
        let work = async {
            tokio::time::sleep(20 * FOREGROUND).await;
            thread()
        };
        let (there, effort) =
            background.run(Box::pin(work), &Profile::beginning(Threads::Foreground)).await;
        assert!(effort.computed < 20 * FOREGROUND, "{effort:?}");
        if effort.computed < FOREGROUND {
            assert_eq!(there.unwrap(), here);
            return;
        }
    }
    panic!("the machine was never idle enough");
}

#[tokio::test]
async fn a_panic_there_is_one_here() {
    let work: Work<()> = Box::pin(async { panic!("so it was") });
    let caller = tokio::spawn(async move {
        Background::default().run(work, &Profile::beginning(Threads::Background)).await
    });
    let panic = caller.await.unwrap_err().into_panic();
    assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "so it was");
}

#[tokio::test]
async fn work_ends_with_its_caller() {
    let background = Background::default();
    let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let work: Work<()> = Box::pin(async move {
        let _alive = alive;
        std::future::pending::<()>().await;
    });
    let left = tokio::time::timeout(
        Duration::from_millis(50),
        background.run(work, &Profile::beginning(Threads::Background)),
    )
    .await;
    assert!(left.is_err());
    assert_eq!(ended.recv().await, None);
}

#[tokio::test]
async fn attempts_that_are_under_way_go_on_in_the_background_when_one_blocks_a_thread() {
    let background = Background::default();
    let profile = Profile::beginning(Threads::Foreground);
    let (begun, mut begins) = tokio::sync::mpsc::channel(1);
    let (go_on, goes_on) = tokio::sync::oneshot::channel::<()>();
    // It waits, as an attempt does for a host call, and then goes on.
    let waits = async move {
        begun.send(thread().0).await.unwrap();
        goes_on.await.unwrap();
        thread().0
    };
    let blocks = async move {
        let before = begins.recv().await.unwrap();
        compute(BLOCKED).await;
        go_on.send(()).unwrap();
        (before, thread().0)
    };
    let (waited, blocked) = tokio::join!(
        background.run(Box::pin(waits), &profile),
        background.run(Box::pin(blocks), &profile),
    );
    let (before, after) = blocked.0.unwrap();
    assert_eq!((before, after.as_str()), (thread().0, "background"));
    assert_eq!(waited.0.as_deref(), Some("background"));
    assert_ne!(profile.threads(), Threads::Foreground, "nor does the next begin there");
}
