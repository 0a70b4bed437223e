//! The fleet's database: its schema, and what is forgotten.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use taskforge_store::{Store as _, StoreClock as _, Upkeep, postgres};

use crate::{
    args::{DatabaseArgs, DbCommand, RetainArgs},
    confirm, fleet, output,
};

/// Brings the schema to this version's. Several at once are harmless.
pub(crate) async fn run(args: DatabaseArgs, json: bool) -> anyhow::Result<ExitCode> {
    let config = fleet::config(&args);
    let migrated = fleet::patiently(args.startup_timeout, || postgres::migrate(&config))
        .await
        .context("the database was not migrated (--database-url, DATABASE_URL)")?;
    let postgres::Migrated { from, to, applied } = migrated;
    if json {
        output::json(&serde_json::json!({ "from": from, "to": to, "applied": applied }))?;
    } else if applied == 0 {
        output::line(&format!("the schema is up to date, at version {to}"));
    } else {
        output::line(&format!("the schema was at version {from} and is now at {to}"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn db(command: DbCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        DbCommand::Retain(args) => retain(args, json).await,
    }
}

/// What a retention did, all its rounds together.
#[derive(Debug, Default, Serialize)]
struct Retained {
    partitions_made: u32,
    partitions_dropped: u32,
    tasks_deleted: u64,
    tasks_moved: u64,
}

/// Does the sweeper's upkeep until there is nothing left to do.
async fn retain(args: RetainArgs, json: bool) -> anyhow::Result<ExitCode> {
    let store = fleet::connect(&args.database).await?;
    let clock = store.clock();
    if !args.confirm.yes {
        let before = clock.now().checked_sub(jiff::SignedDuration::try_from(args.keep)?)?;
        let would = store.count_ended_before(before).await?;
        let what = format!("delete up to {would} tasks that ended before {before}");
        if !confirm::is_confirmed(&args.confirm, &what)? {
            store.close().await;
            return match json {
                true => output::json(&serde_json::json!({ "would_delete_up_to": would })),
                false => {
                    output::line(&format!("this would {what}"));
                    Ok(())
                }
            }
            .map(|()| ExitCode::SUCCESS);
        }
    }
    let mut done = Retained::default();
    loop {
        let upkeep = store.upkeep(None, clock.now(), args.keep).await?;
        done.add(upkeep);
        if upkeep == Upkeep::default() {
            break;
        }
    }
    store.close().await;
    if json {
        output::json(&done)?;
    } else {
        output::pairs(&[
            ("partitions dropped", done.partitions_dropped.to_string()),
            ("finished tasks deleted one by one", done.tasks_deleted.to_string()),
            ("tasks kept from dropped partitions", done.tasks_moved.to_string()),
            ("partitions made", done.partitions_made.to_string()),
        ]);
    }
    Ok(ExitCode::SUCCESS)
}

impl Retained {
    fn add(&mut self, upkeep: Upkeep) {
        self.partitions_made += upkeep.partitions_made;
        self.partitions_dropped += upkeep.partitions_dropped;
        self.tasks_deleted += upkeep.tasks_deleted;
        self.tasks_moved += upkeep.tasks_moved;
    }
}
