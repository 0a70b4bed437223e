//! The two brokers, compared.

use jiff::{SignedDuration, Timestamp};
use taskforge_broker::{QueuedTask, ShortLane};
use taskforge_domain::{Clock, LaneLimits, QueuePolicy, TaskId, TenantId, TypePolicy};

use crate::{
    fixture::{Dyn, local, redis, weight},
    hints::{hint, kind, overdue, pop_within},
};

/// Random calls get the same answers from both, so the rules are the same in both languages.
#[tokio::test(flavor = "multi_thread")]
async fn both_brokers_answer_alike() {
    // Stopped, so that both see the same time.
    let clock = Clock::stopped(Timestamp::now());
    let (one, two) = (local(6, &clock).await, redis(6, &clock).await);
    let (local, redis) = (&one.broker, &two.broker);
    for seed in 0..16 {
        same_answers(local, redis, &clock, seed).await;
    }
}

async fn same_answers(local: &Dyn, redis: &Dyn, clock: &Clock, seed: u64) {
    const TYPES: [&str; 4] = ["w", "x", "y", "z"];
    // More than Redis reads ahead.
    const TENANTS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let mut random = fastrand::Rng::with_seed(seed);
    let mut taken: Vec<QueuedTask> = Vec::new();
    for step in 0..250 {
        let at = format!("seed {seed}, step {step}");
        match random.u8(0..20) {
            0..8 => {
                let pushed: Vec<_> = (0..random.usize(1..20))
                    .map(|_| {
                        let new = hint(
                            TENANTS[random.usize(0..12)],
                            TYPES[random.usize(0..4)],
                            [1, 1, 3, 5][random.usize(0..4)],
                        );
                        if random.u8(0..4) == 0 { overdue(new) } else { new }
                    })
                    .collect();
                local.push(&pushed).await.unwrap();
                redis.push(&pushed).await.unwrap();
            }
            8..14 => {
                let types: Vec<_> = TYPES.into_iter().filter(|_| random.u8(0..3) > 0).collect();
                let max = random.usize(0..9);
                let mut lanes = LaneLimits::default();
                for _ in 0..random.usize(0..2) * random.usize(0..12) {
                    let (task_type, tenant) = (random.choice(TYPES), random.choice(TENANTS));
                    let tenant = TenantId::new(tenant.unwrap()).unwrap();
                    let most = [0, 1, 3, usize::MAX][random.usize(0..4)];
                    lanes.name(&kind(task_type.unwrap()), &tenant, most);
                }
                if random.u8(0..8) == 0 {
                    lanes.only_named();
                }
                let popped = pop_within(&**local, &types, &lanes, max).await;
                let other = pop_within(&**redis, &types, &lanes, max).await;
                assert_eq!(other, popped, "{at}: {types:?} {lanes:?}");
                taken.extend(popped.hints);
            }
            14..16 => {
                random.shuffle(&mut taken);
                let over = taken.split_off(taken.len().saturating_sub(random.usize(0..6)));
                local.set_aside(&over).await.unwrap();
                redis.set_aside(&over).await.unwrap();
            }
            16 => {
                let mut policy = QueuePolicy::default();
                for name in TYPES {
                    let rule = TypePolicy { paused: random.u8(0..5) == 0, ..TypePolicy::default() };
                    policy.types.insert(kind(name), rule);
                }
                for name in TENANTS {
                    let weight = weight(random.u32(1..8));
                    policy.tenants.insert(TenantId::new(name).unwrap(), weight);
                }
                local.set_policy(&policy).await.unwrap();
                redis.set_policy(&policy).await.unwrap();
            }
            17 => clock.shift(SignedDuration::from_millis(random.i64(0..30))),
            _ => {
                let sorted = |mut lanes: Vec<ShortLane>| {
                    lanes.sort_by(|a, b| a.lane.cmp(&b.lane));
                    lanes
                };
                let short = sorted(local.short_lanes().await.unwrap());
                assert_eq!(sorted(redis.short_lanes().await.unwrap()), short, "{at}");
                for lane in short {
                    let mut tasks: Vec<_> =
                        (0..random.usize(0..5)).map(|_| TaskId::generate()).collect();
                    tasks.sort_unstable();
                    let is_all = random.bool();
                    local.refill(&lane.lane, lane.after, &tasks, is_all).await.unwrap();
                    redis.refill(&lane.lane, lane.after, &tasks, is_all).await.unwrap();
                }
            }
        }
        assert_eq!(redis.depth().await.unwrap(), local.depth().await.unwrap(), "{at}");
    }
}
