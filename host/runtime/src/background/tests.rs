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
        .run(
            Box::pin(async { thread() }),
            &Lane::beginning(Threads::Foreground),
            &Untouched::default(),
        )
        .await;
    assert_eq!(there.unwrap(), here);
    assert!(background.giving_way.get().is_none(), "no threads were needed");
}

#[tokio::test]
async fn work_that_computes_for_long_goes_on_with_a_lower_priority() {
    let background = Background::default();
    let (_, usual) = thread();
    // Again if the machine itself stood still for a moment, which looks like work that does not come back.
    for _ in 0..20 {
        let work = async {
            let before = thread();
            compute(FOREGROUND).await;
            (before, thread())
        };
        let (done, effort) = background
            .run(
                Box::pin(work),
                &Lane::beginning(Threads::Foreground),
                &Untouched::default(),
            )
            .await;
        let (before, after) = done.unwrap();
        assert_eq!(before.1, usual);
        assert!(effort.computed >= FOREGROUND);
        if effort.longest < STUBBORN {
            assert_eq!(
                after,
                ("background".to_owned(), (usual + processors::NICENESS).min(19))
            );
            assert_eq!(effort.threads(), Threads::Background);
            return;
        }
    }
    panic!("it never came back in time");
}

#[tokio::test]
async fn what_confined_work_asks_for_runs_on_all_processors() {
    let background = Arc::new(Background::default());
    let asking = Arc::clone(&background);
    let work = async move {
        let asked = async { (thread(), rustix::thread::sched_getaffinity(None).unwrap()) };
        (thread().0, asking.continued(Box::pin(asked)).await.unwrap())
    };
    let (done, _) = background
        .run(
            Box::pin(work),
            &Lane::beginning(Threads::Confined),
            &Untouched::default(),
        )
        .await;
    let (name, ((other, niceness), allowed)) = done.unwrap();
    assert_eq!((name.as_str(), other.as_str()), ("confined", "background"));
    assert_eq!(niceness, (thread().1 + processors::NICENESS).min(19));
    assert_eq!(allowed, rustix::thread::sched_getaffinity(None).unwrap());
}

/// Computes for so long, then lets others run.
async fn compute(time: Duration) {
    let begun = computed();
    while computed() - begun < time {}
    tokio::task::yield_now().await;
}

#[tokio::test]
async fn work_that_is_granted_memory_is_confined_until_it_has_had_the_time_to_touch_it() {
    let background = Background::default();
    // Again if the machine itself stood still for a moment, which looks like work that computes.
    for _ in 0..20 {
        let untouched = Untouched::default();
        let granted = untouched.clone();
        let work = async move {
            granted.add(40 << 20);
            tokio::task::yield_now().await;
            let (at_first, mut took) = (thread().0, Duration::ZERO);
            for _ in 0..4 {
                let begun = std::time::Instant::now();
                compute(FOREGROUND).await;
                took += begun.elapsed();
            }
            let meanwhile = thread().0;
            for _ in 0..200 {
                compute(FOREGROUND).await;
            }
            (took, [at_first, meanwhile, thread().0])
        };
        let (done, effort) = background
            .run(Box::pin(work), &Lane::beginning(Threads::Foreground), &untouched)
            .await;
        let (took, there) = done.unwrap();
        if effort.longest < STUBBORN && took < 20 * TOUCH {
            assert_eq!(there, ["confined", "confined", "background"]);
            assert!(effort.computed >= 40 * TOUCH, "{effort:?}");
            return;
        }
    }
    panic!("it never came back in time");
}

#[tokio::test]
async fn work_that_does_not_come_back_is_confined_for_good() {
    let background = Background::default();
    let work = async {
        compute(STUBBORN).await;
        for _ in 0..100 {
            compute(FOREGROUND).await;
        }
        (
            thread().0,
            rustix::thread::sched_getaffinity(None).unwrap().count(),
        )
    };
    let (there, effort) = background
        .run(
            Box::pin(work),
            &Lane::beginning(Threads::Foreground),
            &Untouched::default(),
        )
        .await;
    let half = (rustix::thread::sched_getaffinity(None).unwrap().count() / 2).max(1);
    assert_eq!(there.unwrap(), ("confined".to_owned(), half));
    assert!(effort.longest >= STUBBORN);
    assert_eq!(effort.threads(), Threads::Confined);
}

#[tokio::test]
async fn what_waits_does_not_compute() {
    let background = Background::default();
    let here = thread();
    for _ in 0..20 {
        let work = async {
            tokio::time::sleep(20 * FOREGROUND).await;
            thread()
        };
        let (there, effort) = background
            .run(
                Box::pin(work),
                &Lane::beginning(Threads::Foreground),
                &Untouched::default(),
            )
            .await;
        assert!(effort.computed < 20 * FOREGROUND, "{effort:?}");
        if effort.computed < FOREGROUND {
            assert_eq!(there.unwrap(), here);
            return;
        }
    }
    panic!("the machine never stood still for less");
}

#[tokio::test]
async fn a_panic_there_is_one_here() {
    let work: Work<()> = Box::pin(async { panic!("so it was") });
    let caller = tokio::spawn(async move {
        Background::default()
            .run(work, &Lane::beginning(Threads::Background), &Untouched::default())
            .await
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
        background.run(work, &Lane::beginning(Threads::Background), &Untouched::default()),
    )
    .await;
    assert!(left.is_err());
    assert_eq!(ended.recv().await, None);
}

#[tokio::test]
async fn attempts_that_are_under_way_go_on_in_the_background_when_one_holds_a_thread() {
    let background = Background::default();
    let lane = Lane::beginning(Threads::Foreground);
    let (begun, mut begins) = tokio::sync::mpsc::channel(1);
    let (go_on, goes_on) = tokio::sync::oneshot::channel::<()>();
    // It waits for something, as an attempt does for a host call, and then goes on in a place of its choice.
    let waits = async move {
        begun.send(thread().0).await.unwrap();
        goes_on.await.unwrap();
        thread().0
    };
    let holds = async move {
        let before = begins.recv().await.unwrap();
        compute(STUBBORN).await;
        go_on.send(()).unwrap();
        (before, thread().0)
    };
    let untouched = Untouched::default();
    let (waited, held) = tokio::join!(
        background.run(Box::pin(waits), &lane, &untouched),
        background.run(Box::pin(holds), &lane, &untouched),
    );
    let (before, held) = held.0.unwrap();
    assert_eq!((before, held.as_str()), (thread().0, "confined"));
    assert_eq!(waited.0.as_deref(), Some("background"));
    assert_ne!(
        lane.threads(),
        Threads::Foreground,
        "nor does the next begin there"
    );
}
