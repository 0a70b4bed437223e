use std::time::{Duration, Instant};

use serde_json::json;
use taskforge_domain::TaskId;
use taskforge_store::Store;

use crate::harness::{Api, TEST_DEADLINE, now};

#[tokio::test]
async fn a_long_poll_is_answered_when_the_task_ends() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    let path = format!("/tasks/{id}?wait=20s");
    let begin = Instant::now();
    let (answer, ()) = tokio::join!(api.get(&path), api.complete(id));
    assert_eq!(answer.json()["status"], "completed");
    assert!(begin.elapsed() < Duration::from_secs(15), "it did not wait for its time to be over");
}

#[tokio::test]
async fn a_long_poll_notices_an_end_that_no_signal_told_of() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    let path = format!("/tasks/{id}?wait=20s");
    let begin = Instant::now();
    // The store alone knows of this cancel.
    let cancel = async {
        api.store.cancel(&taskforge_domain::TenantId::default(), id, now()).await.unwrap()
    };
    let (answer, _) = tokio::join!(api.get(&path), cancel);
    assert_eq!(answer.json()["status"], "cancelled");
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_long_poll_that_sees_no_end_is_answered_in_time_with_what_is() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    let begin = Instant::now();
    let answer = api.get(&format!("/tasks/{id}?wait=300ms")).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("pending")));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    api.complete(id).await;
    assert_eq!(
        api.get(&format!("/tasks/{id}?wait=60")).await.json()["status"],
        "completed",
        "an ended task is not waited for"
    );
}

#[tokio::test]
async fn a_wait_is_a_duration_up_to_a_minute() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    for bad in ["61s", "-1", "soon", "1e999", "", "NaN"] {
        let problem =
            api.get(&format!("/tasks/{id}?wait={bad}")).await.problem(400, "invalid-parameter");
        assert_eq!(problem["errors"][0]["parameter"], "wait", "{bad}");
    }
    let missing = TaskId::generate();
    api.get(&format!("/tasks/{missing}?wait=60s")).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_shutdown_answers_those_who_wait() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    let path = format!("/tasks/{id}?wait=60s");
    let shutdown = async {
        let waiting = async {
            while api.get("/metrics").await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        waiting.await;
        api.shutdown.cancel();
    };
    let (answer, ()) =
        tokio::time::timeout(TEST_DEADLINE, async { tokio::join!(api.get(&path), shutdown) })
            .await
            .unwrap();
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("pending")));
    tokio::time::timeout(TEST_DEADLINE, api.serving).await.unwrap().unwrap().unwrap();
}
