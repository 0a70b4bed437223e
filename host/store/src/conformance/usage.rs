//! What attempts used adds up.

use super::*;
use taskforge_domain::{VersionId, VersionUsage};

/// What so many attempts used that began with this value, each fifth of which failed.
fn used(first: u64, count: u64) -> VersionUsage {
    let mut usage = VersionUsage::default();
    for n in 0..count {
        usage.attempts += 1;
        usage.failed += u64::from(n % 5 == 0);
        usage.fuel.record(first * 1_000_000 + n * 7_919);
        usage.memory.record((first + n) << 16);
        usage.wall_micros.record(n * n);
        usage.output.record(0);
    }
    usage
}

fn sum(usages: &[VersionUsage]) -> VersionUsage {
    let mut sum = VersionUsage::default();
    usages.iter().for_each(|usage| sum.merge(usage));
    sum
}

impl World {
    async fn use_up(&self, used: &[(VersionId, i64, VersionUsage)]) {
        self.plugins.add_usage(used).await.unwrap();
    }

    async fn usage(&self, version: VersionId, phase: Option<i64>) -> VersionUsage {
        self.plugins.usage(version, phase).await.unwrap()
    }
}

pub async fn usage_is_counted_by_version_and_phase(world: World) {
    let [x, y] = [VersionId::generate(), VersionId::generate()];
    assert_eq!(world.usage(x, None).await, VersionUsage::default());
    world.use_up(&[]).await;
    world.use_up(&[(x, 0, VersionUsage::default())]).await;
    world
        .use_up(&[
            (y, 1, used(5, 10)),
            (x, 2, used(3, 20)),
            (x, 1, used(1, 100)),
            (x, 2, used(90, 3)),
        ])
        .await;
    world.use_up(&[(x, 1, used(2, 50))]).await;
    let first = sum(&[used(1, 100), used(2, 50)]);
    let second = sum(&[used(3, 20), used(90, 3)]);
    assert_eq!(world.usage(x, Some(1)).await, first);
    assert_eq!(world.usage(x, Some(2)).await, second);
    assert_eq!(world.usage(x, Some(3)).await, VersionUsage::default());
    assert_eq!(world.usage(x, None).await, sum(&[first, second]));
    assert_eq!(world.usage(y, None).await, used(5, 10));
}

/// Every worker of a fleet adds to the same numbers, each second.
pub async fn what_many_add_at_once_adds_up(world: World) {
    let versions: Vec<_> = (0..5).map(|_| VersionId::generate()).collect();
    let adders: Vec<_> = (0..6)
        .map(|n| {
            let plugins = Arc::clone(&world.plugins);
            let mut batch: Vec<_> =
                versions.iter().map(|version| (*version, 1, used(n, 40))).collect();
            // Not in step, so that they would wait in a circle if they could.
            batch.rotate_left(usize::try_from(n).unwrap() % 5);
            if n % 2 == 0 {
                batch.reverse();
            }
            tokio::spawn(async move {
                for _ in 0..5 {
                    plugins.add_usage(&batch).await.unwrap();
                }
            })
        })
        .collect();
    for adder in adders {
        adder.await.unwrap();
    }
    let once = sum(&(0..6).map(|n| used(n, 40)).collect::<Vec<_>>());
    let expected = sum(&vec![once; 5]);
    for version in versions {
        assert_eq!(world.usage(version, Some(1)).await, expected);
    }
}

pub async fn the_greatest_value_is_kept_exactly(world: World) {
    let version = VersionId::generate();
    for value in [17, 1_000_003, 999_999] {
        let mut usage = VersionUsage::default();
        usage.fuel.record(value);
        world.use_up(&[(version, 1, usage)]).await;
    }
    let mut huge = VersionUsage::default();
    huge.memory.record(u64::MAX);
    world.use_up(&[(version, 2, huge)]).await;
    let usage = world.usage(version, None).await;
    assert_eq!((usage.fuel.count(), usage.fuel.max()), (3, 1_000_003));
    assert_eq!(usage.memory.max(), u64::MAX / 2, "the largest that a column holds");
}
