use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::*;

fn named(tenant: u32) -> TenantId {
    TenantId::new(&tenant.to_string()).unwrap()
}

type Waiting = Pin<Box<dyn Future<Output = Result<Permit, TooManyWaiting>>>>;

fn call(semaphore: &FairSemaphore, tenant: u32) -> Waiting {
    let semaphore = semaphore.clone();
    Box::pin(async move { semaphore.acquire(&named(tenant)).await })
}

fn poll(call: &mut Waiting) -> Option<Result<Permit, TooManyWaiting>> {
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ended) => Some(ended),
        Poll::Pending => None,
    }
}

/// As many permits as the tenant gets without waiting.
fn greedy(semaphore: &FairSemaphore, tenant: u32) -> Vec<Permit> {
    std::iter::from_fn(|| semaphore.try_acquire(&named(tenant))).collect()
}

#[test]
fn a_greedy_tenant_leaves_permits_to_the_next() {
    let semaphore = FairSemaphore::new(64, 10);
    let first = greedy(&semaphore, 1);
    assert_eq!(first.len(), 32);
    let second = greedy(&semaphore, 2);
    assert_eq!(second.len(), 16);
    // With so many tenants as that, each still finds its first.
    let rest: Vec<_> =
        (3..=18).map(|tenant| semaphore.try_acquire(&named(tenant)).unwrap()).collect();
    assert_eq!((rest.len(), semaphore.available()), (16, 0));
    assert!(semaphore.try_acquire(&named(99)).is_none());
    drop((first, second, rest));
    assert_eq!(semaphore.available(), 64);
    assert!(semaphore.0.lock().tenants.is_empty());
}

#[test]
fn one_permit_is_for_everybody() {
    let semaphore = FairSemaphore::new(1, 10);
    let held = semaphore.try_acquire(&named(1)).unwrap();
    let mut next = call(&semaphore, 1);
    assert!(poll(&mut next).is_none());
    drop(held);
    assert!(poll(&mut next).unwrap().is_ok());
}

#[test]
fn tenants_that_wait_take_turns() {
    let semaphore = FairSemaphore::new(1, 100);
    let mut held = semaphore.try_acquire(&named(9)).unwrap();
    // Fifty calls of the first tenant come before the first one of the others.
    let mut calls: Vec<_> = (0..50).map(|_| (1, call(&semaphore, 1))).collect();
    calls.extend([2, 2, 3].map(|tenant| (tenant, call(&semaphore, tenant))));
    for (_, call) in &mut calls {
        assert!(poll(call).is_none());
    }
    let mut served = Vec::new();
    for _ in 0..6 {
        drop(held);
        let ready = calls
            .iter_mut()
            .enumerate()
            .find_map(|(index, (tenant, call))| Some((index, *tenant, poll(call)?.unwrap())));
        let (index, tenant, permit) = ready.unwrap();
        drop(calls.remove(index));
        served.push(tenant);
        held = permit;
    }
    assert_eq!(served, [1, 2, 3, 1, 2, 1]);
}

#[test]
fn more_than_may_wait_is_refused_and_others_may_still() {
    let semaphore = FairSemaphore::new(1, 2);
    let _held = semaphore.try_acquire(&named(1)).unwrap();
    let mut waiting = [call(&semaphore, 1), call(&semaphore, 1)];
    for call in &mut waiting {
        assert!(poll(call).is_none());
    }
    assert_eq!(poll(&mut call(&semaphore, 1)).unwrap().unwrap_err(), TooManyWaiting(2));
    let mut other = call(&semaphore, 2);
    assert!(poll(&mut other).is_none());
    // Whoever gives up makes room.
    drop(waiting);
    let mut next = call(&semaphore, 1);
    assert!(poll(&mut next).is_none());
}

#[test]
fn whoever_goes_away_loses_no_permit() {
    let semaphore = FairSemaphore::new(1, 10);
    let held = semaphore.try_acquire(&named(1)).unwrap();
    let (mut gone, mut granted, mut last) =
        (call(&semaphore, 2), call(&semaphore, 3), call(&semaphore, 4));
    for call in [&mut gone, &mut granted, &mut last] {
        assert!(poll(call).is_none());
    }
    drop(gone);
    drop(held);
    // It was granted and has not looked yet.
    drop(granted);
    assert!(poll(&mut last).unwrap().is_ok());
    drop(last);
    assert_eq!(semaphore.available(), 1);
    let state = semaphore.0.lock();
    assert!(state.tenants.is_empty() && state.turns.is_empty());
}

#[test]
fn whatever_is_done_every_permit_is_somewhere_and_nobody_waits_beside_a_free_one() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let permits = random.usize(1..8);
        let semaphore = FairSemaphore::new(permits, 5);
        let (mut held, mut waiting) = (Vec::new(), Vec::<Waiting>::new());
        for _ in 0..300 {
            match random.u8(0..4) {
                0 | 1 => {
                    let mut new = call(&semaphore, random.u32(0..4));
                    match poll(&mut new) {
                        Some(Ok(permit)) => held.push(permit),
                        Some(Err(_)) => {}
                        None => waiting.push(new),
                    }
                }
                2 if !held.is_empty() => drop(held.swap_remove(random.usize(0..held.len()))),
                3 if !waiting.is_empty() => {
                    drop(waiting.swap_remove(random.usize(0..waiting.len())));
                }
                _ => {}
            }
            if random.bool() {
                waiting.retain_mut(|call| match poll(call) {
                    Some(permit) => {
                        held.push(permit.unwrap());
                        false
                    }
                    None => true,
                });
            }
            let state = semaphore.0.lock();
            let counted: usize = state.tenants.values().map(|tenant| tenant.held).sum();
            assert_eq!(counted + state.free, permits);
            for tenant in &state.turns {
                assert!(!state.may_take(tenant), "{tenant} waits beside a free permit");
            }
        }
        drop((held, waiting));
        assert_eq!(semaphore.available(), permits);
    }
}
