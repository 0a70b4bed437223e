//! Twenty swaps of a version under a load of 2,000 tasks a second, beside the same load without
//! any; and what another type's tasks feel of it.

use std::time::Duration;

use taskforge_testing::guests;

use crate::{
    bed::Bed,
    latency::{self, Load},
};

const RATE: u32 = 2_000;
const BYSTANDERS: u32 = 100;
const SWAPS: usize = 20;
const BETWEEN: Duration = Duration::from_millis(750);

pub(crate) async fn measure() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let _workers = [bed.start_worker(&[]), bed.start_worker(&[])];
    let (status, answer) = bed.push("activate=true", guests::variant("swapped01", "1.0.0")).await;
    assert!(status < 300, "{status} {answer}");
    tokio::time::sleep(Duration::from_secs(3)).await;

    println!("{RATE} tasks a second of one type and {BYSTANDERS} of another, two workers:");
    for swapping in [false, true, false, true] {
        let moment = latency::now(&bed);
        let load = Load::start(&bed, "swapped01", RATE);
        let bystanders = Load::start(&bed, "fibonacci", BYSTANDERS);
        // What a cold start costs is not the question here.
        tokio::time::sleep(Duration::from_secs(2)).await;
        for n in 0..SWAPS {
            if swapping {
                let version = format!("{}.{}.{}", 2 + n / 10, n % 10, fastrand::u8(0..10));
                let (status, answer) =
                    bed.push("activate=true", guests::variant("swapped01", &version)).await;
                assert!(status < 300 || status == 409, "{status} {answer}");
            }
            tokio::time::sleep(BETWEEN).await;
        }
        load.finish(&bed, "swapped01").await;
        bystanders.finish(&bed, "fibonacci").await;
        let what = if swapping { "20 pushes, each activated" } else { "quiet" };
        println!("  {what}: {}", latency::since(&bed, "swapped01", &moment));
        println!("    the other type: {}", latency::since(&bed, "fibonacci", &moment));
    }
    let versions = bed.sql("select count(distinct plugin_version) from attempts");
    println!("  versions on the record of attempts: {versions}");
}
