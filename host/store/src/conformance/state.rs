//! The states of a task and the moves between them.

use super::*;

#[derive(Debug, Clone, Copy)]
enum Operation {
    Enqueue,
    Claim,
    Complete(Next),
    Resolve(Next),
    Promote,
    Cancel,
    Retry,
}

async fn carry_out(world: &World, operation: Operation, task: &Task) {
    // The lease that the row names: what fences here is the state alone.
    let claimed = ClaimedTask {
        id: task.id,
        tenant: task.tenant.clone(),
        task_type: task.task_type.clone(),
        priority: task.priority,
        input: task.input.clone(),
        attempt: task.attempt.max(1),
        run_lease: RunLease(task.run_lease.0.max(1)),
        retry: task.retry,
        started_at: at(1),
    };
    match operation {
        Operation::Enqueue => drop(world.add(NewTask { id: task.id, ..new_task() }).await),
        Operation::Claim => drop(world.claim_as(world.worker, &[task.id], 6).await),
        // Another worker's, so that it is no repeat of the attempt that a completed task has.
        Operation::Complete(next) => {
            let _committed = world.complete(ended(&claimed, WorkerId::generate(), next, 6)).await;
        }
        Operation::Resolve(next) => drop(world.resolve(task.id, task.run_lease, next).await),
        Operation::Promote => drop(world.promote(at(1000), 1000).await),
        Operation::Cancel => drop(world.cancel(task.id).await),
        Operation::Retry => drop(world.retry(task.id).await),
    }
}

pub async fn no_operation_takes_an_illegal_arrow(world: World) {
    let later = Next::RetryAt(at(500));
    let operations = [
        Operation::Enqueue,
        Operation::Claim,
        Operation::Complete(Next::Complete),
        Operation::Complete(later),
        Operation::Complete(Next::DeadLetter),
        Operation::Complete(Next::HandBack),
        Operation::Complete(Next::Cancelled),
        Operation::Resolve(later),
        Operation::Resolve(Next::DeadLetter),
        Operation::Resolve(Next::HandBack),
        Operation::Promote,
        Operation::Cancel,
        Operation::Retry,
    ];
    let mut taken = std::collections::HashSet::new();
    for from in TaskState::ALL {
        for operation in operations {
            let before = world.task_in(from).await;
            carry_out(&world, operation, &before).await;
            let after = world.get(before.id).await;
            if after.state == from {
                assert_eq!(after, before, "{operation:?} of a {from} task that moved nothing");
            } else {
                assert!(from.can_become(after.state), "{operation:?}: {from} -> {}", after.state);
                assert!(
                    after.run_lease >= before.run_lease,
                    "{operation:?} gave an old lease to a {from} task"
                );
                taken.insert((from, after.state));
            }
        }
    }
    for from in TaskState::ALL {
        for to in TaskState::ALL.into_iter().filter(|to| from.can_become(*to)) {
            assert!(taken.contains(&(from, to)), "nothing takes {from} -> {to}");
        }
    }
}
